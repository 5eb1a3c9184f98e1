"""The documentation tells what the code does: links lead somewhere, tables are generated, blocks run."""

import re
import runpy
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
PAGES = sorted(
    Path(line)
    for line in subprocess.run(
        ["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=30
    ).stdout.split("\n")
    if line
)
_LINK = re.compile(r"(?<!!)\[[^\]]+\]\((?!https?:|#)([^)#]+)")


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_link_leads_to_a_file(page: Path) -> None:
    for target in _LINK.findall((ROOT / page).read_text()):
        assert (ROOT / page.parent / target).exists(), target


def test_generated_pages_are_up_to_date() -> None:
    generate = runpy.run_path(str(ROOT / "hack/generate.py"))
    for name in ("errors", "settings", "access"):
        assert (ROOT / "docs" / f"{name}.md").read_text() == generate[f"{name}_page"](), "run `make verify`"


def test_every_runtime_dependency_has_its_reason() -> None:
    declared = re.search(
        r"^dependencies = \[(.*?)^\]", (ROOT / "pyproject.toml").read_text(), re.MULTILINE | re.DOTALL
    )
    assert declared is not None
    names = {re.split(r"[>\[=]", entry)[0] for entry in re.findall(r'"([^"]+)"', declared[1])}
    rows = set(re.findall(r"^\| ([a-z0-9-]+) \|", (ROOT / "docs/dependencies.md").read_text(), re.MULTILINE))
    assert names == rows - {"package"}


def test_the_walkthrough_reads_the_quick_start() -> None:
    walkthrough = runpy.run_path(str(ROOT / "hack/walkthrough.py"))
    plan = list(walkthrough["steps"]((ROOT / "README.md").read_text(), "Quick start"))
    assert [step.title for step in plan][:2] == [
        "A tenant, its quota and two job types",
        "A token and the facade",
    ]
    assert not [step for step in plan if "make demo" in step.script]
    program = walkthrough["script"](plan)
    assert subprocess.run(["bash", "-n"], input=program, text=True, check=False, timeout=30).returncode == 0
