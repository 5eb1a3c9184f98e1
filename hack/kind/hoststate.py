"""Remember what the container engine will change on the machine, and put it back."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import shell

# The engine, kubelet and kube-proxy write these; all but the first few are not per network namespace.
SYSCTLS = (
    "net/ipv4/ip_forward",
    "net/ipv6/conf/all/forwarding",
    "net/ipv6/conf/default/forwarding",
    "net/bridge/bridge-nf-call-iptables",
    "net/bridge/bridge-nf-call-ip6tables",
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
)
FAMILIES = ("iptables", "ip6tables")
TABLES = ("filter", "nat", "raw", "mangle")
ENGINE_CHAIN = re.compile(r"^DOCKER(-.*)?$")
ENGINE_RULE = re.compile(r"\bDOCKER(-[\w-]+)?\b|\bdocker0\b|\bbr-[0-9a-f]{12}\b")
# Docker's own-address rule of a published port names no bridge, only one address twice.
HAIRPIN_RULE = re.compile(r"^-A POSTROUTING -s (\S+) -d \1 -p \w+ .*--dport \d+ -j MASQUERADE$")
ENGINE_LINK = re.compile(r"^(docker0|br-[0-9a-f]{12})$")


@dataclass(frozen=True)
class HostState:
    """The parts of the machine's state that the engine touches.

    Args:
        rules: `iptables -S` by family and table, for instance `iptables/nat`; absent where it has no answer.
        files: of the files and cgroups that the engine may create outside the cache, those that exist.
    """

    boot: str
    sysctls: Mapping[str, str] = field(default_factory=dict)
    rules: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    links: tuple[str, ...] = ()
    files: tuple[str, ...] = ()


ENGINE_FILES = ("/etc/docker/key.json", "/etc/docker", "/run/docker", "/run/containerd", "/var/lib/docker")
CGROUPS = Path("/sys/fs/cgroup")


def is_engine_rule(rule: str) -> bool:
    """Tell whether a line of `iptables -S` is the container engine's work."""
    words = rule.split()
    if words[0] == "-N":
        return bool(ENGINE_CHAIN.match(words[1]))
    return words[0] == "-A" and bool(ENGINE_RULE.search(rule) or HAIRPIN_RULE.match(rule))


def undo_rules(before: Iterable[str], after: Iterable[str]) -> list[list[str]]:
    """Return the iptables arguments that lead from `after` back to `before`.

    Rules which somebody else added meanwhile stay; policies go back.
    """
    old, current = set(before), list(after)
    ours = [rule for rule in current if rule not in old and is_engine_rule(rule)]
    deletions = [["-D", *_words(rule)[1:]] for rule in ours if rule.startswith("-A")]
    chains = [rule.split()[1] for rule in ours if rule.startswith("-N")]
    policies = sorted(rule.split() for rule in old - set(current) if rule.startswith("-P"))
    return [*deletions, *(["-F", name] for name in chains), *(["-X", name] for name in chains), *policies]


def _words(rule: str) -> list[str]:
    # A quoted comment is one argument.
    return [word.strip('"') for word in re.findall(r'"[^"]*"|\S+', rule)]


def undo_sysctls(before: Mapping[str, str], after: Mapping[str, str]) -> dict[str, str]:
    """Return the settings to write back."""
    return {name: value for name, value in before.items() if after.get(name, value) != value}


def new_links(before: Iterable[str], after: Iterable[str]) -> list[str]:
    """Return the engine's bridges that were not there before."""
    old = set(before)
    return [name for name in after if name not in old and ENGINE_LINK.match(name)]


def _sysctls() -> dict[str, str]:
    paths = {name: Path("/proc/sys") / name for name in SYSCTLS}
    return {name: path.read_text().strip() for name, path in paths.items() if path.exists()}


def _rules() -> dict[str, tuple[str, ...]]:
    found = {}
    for family in FAMILIES:
        for table in TABLES:
            answer = shell.ask([family, "-w", "-t", table, "-S"])
            if answer.ok:
                found[f"{family}/{table}"] = tuple(answer.out.splitlines())
    return found


def _files() -> tuple[str, ...]:
    cgroups = (*CGROUPS.glob("docker"), *CGROUPS.glob("*/docker"))
    return (*(name for name in ENGINE_FILES if Path(name).exists()), *sorted(map(str, cgroups)))


def observe() -> HostState:
    """Look at the machine."""
    links = sorted(entry.name for entry in Path("/sys/class/net").iterdir())
    return HostState(
        boot=Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
        sysctls=_sysctls(),
        rules=_rules(),
        links=tuple(links),
        files=_files(),
    )


def save(state: HostState, path: Path) -> None:
    """Write the state to a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".draft")
    draft.write_text(json.dumps(asdict(state), indent=1))
    draft.replace(path)


def load(path: Path) -> HostState | None:
    """Read a saved state; nothing where there is none that can be read."""
    try:
        data = json.loads(path.read_text())
        data["rules"] = {name: tuple(rules) for name, rules in data["rules"].items()}
        return HostState(**{**data, "links": tuple(data["links"]), "files": tuple(data["files"])})
    except (OSError, ValueError, KeyError, TypeError):
        return None


def remember(path: Path) -> None:
    """Save the state unless one of this boot is there already: that one is older and so the right one."""
    saved, now = load(path), observe()
    if saved is None or saved.boot != now.boot:
        save(now, path)


def _restore_rules(before: HostState, now: HostState) -> list[str]:
    problems = []
    for name, rules in now.rules.items():
        family, table = name.split("/")
        for args in undo_rules(before.rules.get(name, ()), rules):
            answer = shell.ask([family, "-w", "-t", table, *args])
            problems += [] if answer.ok else [f"{family} -t {table} {' '.join(args)}: {answer.err.strip()}"]
    return problems


def _remove(path: Path) -> None:
    if path.is_relative_to(CGROUPS):
        # A cgroup's files cannot be removed, and its folder only without children.
        for folder, _, _ in os.walk(path, topdown=False):
            Path(folder).rmdir()
    elif path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def _remove_new_files(before: HostState, now: HostState) -> list[str]:
    problems = []
    for name in sorted(set(now.files) - set(before.files), reverse=True):
        try:
            _remove(Path(name))
        except OSError as error:
            problems.append(f"{name}: {error.strerror}")
    return problems


def restore(path: Path) -> list[str]:
    """Put the saved state back, forget it, and return what could not be restored."""
    before = load(path)
    if before is None:
        return []
    now = observe()
    problems = _restore_rules(before, now)
    for link in new_links(before.links, now.links):
        shell.ask(["ip", "link", "delete", link])
    for name, value in undo_sysctls(before.sysctls, now.sysctls).items():
        (Path("/proc/sys") / name).write_text(value)
    problems += _remove_new_files(before, now)
    path.unlink()
    return problems
