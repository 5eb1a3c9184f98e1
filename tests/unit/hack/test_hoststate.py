"""What the container engine changed on the machine is found, and nothing else."""

from pathlib import Path

import pytest

import hoststate

CLEAN = ("-P INPUT ACCEPT", "-P FORWARD ACCEPT", "-P OUTPUT ACCEPT")
BRIDGE = "br-0123456789ab"


@pytest.mark.parametrize(
    ("rule", "ours"),
    [
        ("-N DOCKER", True),
        ("-N DOCKER-ISOLATION-STAGE-1", True),
        ("-A FORWARD -j DOCKER-USER", True),
        (f"-A POSTROUTING -s 172.18.0.0/16 ! -o {BRIDGE} -j MASQUERADE", True),
        ("-A FORWARD -i docker0 ! -o docker0 -j ACCEPT", True),
        ("-A POSTROUTING -s 172.18.0.2/32 -d 172.18.0.2/32 -p tcp -m tcp --dport 6443 -j MASQUERADE", True),
        ("-A POSTROUTING -s 172.18.0.2/32 -d 172.18.0.3/32 -p tcp -m tcp --dport 6443 -j MASQUERADE", False),
        ("-A FORWARD -i br-lan -j ACCEPT", False),
        ("-A INPUT -p tcp -m tcp --dport 22 -j ACCEPT", False),
        ("-N MYDOCKER", False),
        ("-P FORWARD DROP", False),
    ],
)
def test_the_engines_rules_are_recognised(rule: str, ours: bool) -> None:
    assert hoststate.is_engine_rule(rule) is ours


def test_rules_go_before_chains_and_policies_come_back() -> None:
    after = (
        "-P INPUT ACCEPT",
        "-P FORWARD DROP",
        "-P OUTPUT ACCEPT",
        "-N DOCKER",
        "-A FORWARD -j DOCKER",
        "-A INPUT -p tcp -m tcp --dport 22 -j ACCEPT",
    )
    assert hoststate.undo_rules(CLEAN, after) == [
        ["-D", "FORWARD", "-j", "DOCKER"],
        ["-F", "DOCKER"],
        ["-X", "DOCKER"],
        ["-P", "FORWARD", "ACCEPT"],
    ]


def test_what_was_there_before_stays() -> None:
    before = (*CLEAN, "-N DOCKER-USER", "-A FORWARD -j DOCKER-USER")
    assert hoststate.undo_rules(before, before) == []


def test_a_quoted_comment_is_one_argument() -> None:
    rule = '-A DOCKER -m comment --comment "two words" -j ACCEPT'
    assert hoststate.undo_rules((), [rule]) == [
        ["-D", "DOCKER", "-m", "comment", "--comment", "two words", "-j", "ACCEPT"]
    ]


def test_only_changed_settings_are_written_back() -> None:
    before = {"net/ipv4/ip_forward": "0", "kernel/panic": "1", "vm/gone": "3"}
    after = {"net/ipv4/ip_forward": "1", "kernel/panic": "1", "vm/new": "2"}
    assert hoststate.undo_sysctls(before, after) == {"net/ipv4/ip_forward": "0"}


def test_only_new_bridges_of_the_engine_are_removed() -> None:
    assert hoststate.new_links(["docker0"], ["docker0", BRIDGE, "br-lan", "eth0"]) == [BRIDGE]


def test_a_saved_state_is_read_back(tmp_path: Path) -> None:
    state = hoststate.HostState("b", {"kernel/panic": "1"}, {"iptables/filter": CLEAN}, ("lo",), ("/run/x",))
    hoststate.save(state, tmp_path / "deep" / "state.json")
    assert hoststate.load(tmp_path / "deep" / "state.json") == state


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"rules": {}}'])
def test_a_broken_state_counts_as_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "state.json").write_text(text)
    assert hoststate.load(tmp_path / "state.json") is None
