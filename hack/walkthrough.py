"""Run the code blocks of a Markdown document in one shell, as a reader would type them.

`make demo` runs README.md this way, and so does the test that keeps the README true: one text, two uses.
A block that is not to be run is fenced as `console` or carries `no-run` after the language.
"""

import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_FENCE = re.compile(r"^```(?P<info>[^\n`]*)\n(?P<body>.*?)^```\s*$", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^#{2,4} +(?P<text>.+)$", re.MULTILINE)
_TIMEOUT_SECONDS = 900


@dataclass(frozen=True)
class Step:
    """One runnable block and the heading it stands under."""

    title: str
    script: str


def steps(markdown: str, section: str | None = None) -> Iterator[Step]:
    """Yield the `bash` blocks in order; with `section`, only those under that second-level heading."""
    for fence in _FENCE.finditer(markdown):
        headings = list(_HEADING.finditer(markdown, 0, fence.start()))
        chapters = [h["text"] for h in headings if h[0].startswith("## ")]
        runnable = fence["info"].split()[:1] == ["bash"] and "no-run" not in fence["info"]
        if runnable and (section is None or chapters[-1:] == [section]):
            yield Step(headings[-1]["text"] if headings else "", fence["body"])


def script(plan: list[Step]) -> str:
    """Return one bash program that announces, shows and runs every step; background jobs die with it."""
    prologue = (
        "set -euo pipefail\n"
        "trap 'status=$?; trap - EXIT; kill $(jobs -p) 2>/dev/null || true; exit $status' EXIT\n"
        '__step() { printf \'\\n\\033[1m== %s\\033[0m  (%d s)\\n\' "$1" "$SECONDS"; }\n'
    )
    parts = [prologue]
    for number, step in enumerate(plan):
        shown = "".join(f"  $ {line}\n" if line.strip() else "\n" for line in step.script.splitlines())
        repeated = number > 0 and plan[number - 1].title == step.title
        parts.append("" if repeated else f"__step {shlex.quote(step.title)}\n")
        parts.append(f"cat <<'__SHOWN_{number}__'\n{shown}__SHOWN_{number}__\n{step.script}")
    return "".join(parts)


def main(arguments: list[str]) -> int:
    """Run `FILE [SECTION]`; the exit status is that of the first command that failed."""
    path, section = Path(arguments[0]), next(iter(arguments[1:]), None)
    plan = list(steps(path.read_text(), section))
    if not plan:
        sys.stderr.write(f"{path}: no runnable block{f' under {section!r}' if section else ''}\n")
        return 2
    started = time.monotonic()
    status = subprocess.run(["bash", "-c", script(plan)], timeout=_TIMEOUT_SECONDS, check=False).returncode
    words = "done" if status == 0 else f"FAILED with status {status}"
    sys.stdout.write(f"\n== {words}: {len(plan)} steps in {time.monotonic() - started:.0f} s\n")
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
