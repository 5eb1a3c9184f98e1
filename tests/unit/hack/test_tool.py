"""The rest of the tool's decisions: prerequisites, the machine, the engine's arguments, the shell exports."""

import shlex
from pathlib import Path

import pytest

import cli
import engine
import host
import prerequisites
import progress
import shell
import tools
import verbs


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
