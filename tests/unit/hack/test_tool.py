"""The rest of the tool's decisions: prerequisites, the machine, the engine's arguments, the shell exports."""

import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest

import cli
import engine
import host
import prerequisites
import processes
import progress
import readiness
import shell
import tools
import verbs
import versions
from layout import Layout


def test_only_missing_packages_are_named() -> None:
    there = {"dockerd"}.__contains__
    assert prerequisites.missing(prerequisites.ENGINE, there) == ["iptables"]


@pytest.mark.parametrize(("mask", "held"), [("000001ffffffffff", True), ("000001fffeffffff", False)])
def test_a_capability_is_read_from_the_bounding_set(mask: str, held: bool) -> None:
    assert host.has_capability(f"Name:\tx\nCapBnd:\t{mask}\n", host.CAP_SYS_RESOURCE) is held


def test_the_engine_writes_only_below_its_folder() -> None:
    args = engine.daemon_args(engine.OwnPaths(Path("/c/engine")), sys_resource=True)
    paths = [arg.removeprefix("unix://") for arg in args if "/" in arg]
    assert paths
    assert all(path.startswith("/c/engine/") for path in paths)
    assert "--default-runtime" not in args


def test_without_the_capability_the_engine_wraps_runc() -> None:
    args = engine.daemon_args(engine.OwnPaths(Path("/c/engine")), sys_resource=False)
    assert args[args.index("--default-runtime") + 1] == "wrap"


@pytest.mark.parametrize(
    ("output", "matches"),
    [
        ("kind v0.33.0 go1.26 linux/amd64", True),
        ("v0.33.0+g123", True),
        ("v0.33.01", False),
        ("v10.33.0", False),
    ],
)
def test_a_tool_on_the_path_must_be_of_the_pinned_version(output: str, matches: bool) -> None:
    assert tools.states_version(output, "v0.33.0") is matches


@pytest.mark.parametrize(
    ("has_client", "refusal", "advice"),
    [
        (False, "", "https://docs.docker.com"),
        (True, "permission denied while trying to connect to the Docker daemon socket", "usermod -aG docker"),
        (True, "Cannot connect to the Docker daemon", "systemctl start docker"),
    ],
)
def test_advice_fits_what_keeps_docker_from_answering(has_client: bool, refusal: str, advice: str) -> None:
    assert advice in readiness.engine_lack(has_client, refusal)


def test_without_root_all_that_is_missing_is_found_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(host, "is_root", lambda: False)
    monkeypatch.setattr(host, "features", lambda: host.Features(sys_resource=True, cgroup_v2=False))
    docker, root, go = readiness.cluster_lacks(Layout(tmp_path), versions.load())
    assert docker.startswith("Docker")
    assert "cgroup v1" in root
    assert go.startswith("Go")
    assert all(word in go for word in ("kind v", "helm v"))


def test_everything_that_is_missing_is_told_at_once() -> None:
    with pytest.raises(shell.MissingError, match=r"first:\n  - Docker\n  - Go$") as failure:
        readiness.require(["Docker", "Go"])
    assert failure.value.exit_code == 2
    readiness.require([])


def test_a_build_ends_with_the_tool_that_is_told_to_end(tmp_path: Path) -> None:
    go, pid_file = tmp_path / "bin" / "go", tmp_path / "pid"
    go.parent.mkdir()
    go.write_text(f"#!/bin/sh\necho $$ > {pid_file}.draft\nmv {pid_file}.draft {pid_file}\nexec sleep 60\n")
    go.chmod(0o755)
    env = {**os.environ, "PATH": f"{go.parent}:{os.environ['PATH']}", "MANIFESTRY_CACHE": str(tmp_path)}
    argv = [sys.executable, str(Path(cli.__file__).parent), "binaries", "kwok"]
    with subprocess.Popen(argv, env=env, stderr=subprocess.DEVNULL) as tool:
        deadline = time.monotonic() + 20
        while not pid_file.exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        tool.terminate()
        assert tool.wait(20) == 130
    assert processes.wait_ended([int(pid_file.read_text())])


@pytest.mark.parametrize(
    ("output", "matches"),
    [
        ("v4.3.1+g123", True),
        ("v4.4.0", True),
        ("kind v4.10.0 go1.26", True),
        ("v4.3.0", False),
        ("v5.0.0", False),
        ("nonsense", False),
    ],
)
def test_without_go_a_later_tool_of_the_major_version_will_do(output: str, matches: bool) -> None:
    assert tools.states_version_since(output, "v4.3.1") is matches


def test_exports_survive_a_shell() -> None:
    text = verbs.render_exports({"B": "x y", "A": "1"}, Path("/c/to ols"))
    assert text.splitlines()[:2] == ["export A=1", "export B='x y'"]
    assert shlex.split(text.splitlines()[2])[1] == "PATH=/c/to ols:$PATH"


@pytest.mark.parametrize(("seconds", "text"), [(0.2, "0 s"), (59.4, "59 s"), (125, "2 min 05 s")])
def test_durations_are_short(seconds: float, text: str) -> None:
    assert progress.elapsed(seconds) == text


@pytest.mark.parametrize("verb", list(cli.ACTIONS))
def test_every_verb_parses_without_options(verb: str) -> None:
    assert cli.parser().parse_args([verb]).verb == verb


def test_a_failed_job_shows_the_end_of_its_log(tmp_path: Path) -> None:
    job = shell.Job(["sh", "-c", "echo one; exit 3"], tmp_path / "logs" / "x.log", 10)
    with pytest.raises(shell.UserError, match=r"failed \(3\)") as failure:
        shell.run(job)
    assert "one" in str(failure.value)
    assert str(job.log) in str(failure.value)


def test_the_output_of_a_job_goes_where_it_is_asked_to(tmp_path: Path) -> None:
    args = ["sh", "-c", "echo data; echo note >&2"]
    shell.run(shell.Job(args, tmp_path / "x.log", 10, output=tmp_path / "out"))
    assert (tmp_path / "out").read_text() == "data\n"
    assert "note" in (tmp_path / "x.log").read_text()
    assert "data\n" not in (tmp_path / "x.log").read_text().splitlines(keepends=True)


def test_a_job_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    with pytest.raises(shell.UserError, match="took more than"):
        shell.run(shell.Job(["sleep", "60"], tmp_path / "x.log", 0.1))


def test_a_missing_program_is_an_answer() -> None:
    assert not shell.ask(["no-such-program-anywhere"]).ok


def test_an_unknown_program_ends_with_a_message(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MANIFESTRY_CACHE", str(tmp_path))
    assert cli.main(["binaries", "nonsense"]) == 1
    assert "unknown program `nonsense`" in capsys.readouterr().err


def test_a_job_whose_program_is_missing_says_so(tmp_path: Path) -> None:
    with pytest.raises(shell.UserError, match="cannot be run"):
        shell.run(shell.Job(["no-such-program-anywhere"], tmp_path / "x.log", 1))


def test_our_own_folder_is_not_searched_for_tools() -> None:
    assert tools.other_folders("/c/tools/:/usr/bin::/bin", Path("/c/tools")) == "/usr/bin:/bin"
