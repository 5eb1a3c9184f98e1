"""Find the multi-call Kubernetes binary, building it where it has never been built."""

import functools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Kubernetes from an empty Go cache on two busy cores.
_BUILD_SECONDS = 3600.0


class NoGoError(RuntimeError):
    """There is neither a built binary nor a Go to build it with."""


class BuildError(RuntimeError):
    """There is a Go, but the build failed."""


@functools.cache
def _outcome() -> Path | Exception:
    given = os.environ.get("MANIFESTRY_KB")
    if given:
        return (
            Path(given)
            if Path(given).is_file()
            else BuildError(f"MANIFESTRY_KB={given}: there is no such file")
        )
    argv = [sys.executable, str(ROOT / "hack" / "kind"), "binaries", "kb"]
    # Its standard error is the progress of the first build, and stays visible.
    done = subprocess.run(
        argv, stdout=subprocess.PIPE, text=True, timeout=_BUILD_SECONDS, cwd=ROOT, check=False
    )
    if done.returncode == 0:
        return Path(json.loads(done.stdout)["kb"])
    if shutil.which("go") is None:
        return NoGoError("needs Go for the control-plane-only profile")
    return BuildError(f"`{' '.join(argv)}` ended with {done.returncode}: {done.stdout}")


def kb() -> Path:
    """Return the binary's path; the first call may take minutes.

    Raises:
        NoGoError: it was never built, and there is no Go.
        BuildError: the build failed, or MANIFESTRY_KB names no file.
    """
    outcome = _outcome()
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def kubectl_argv() -> list[str]:
    """Return how kubectl is run without the multi-call binary.

    Raises:
        NoGoError: there is none on PATH.
    """
    found = shutil.which("kubectl")
    if found is None:
        raise NoGoError("needs kubectl on PATH, or Go for the control-plane-only profile")
    return [found]
