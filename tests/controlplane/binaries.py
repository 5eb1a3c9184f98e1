"""Find the programs that hack/kind builds from Go modules, building them where they have never been built."""

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
    """There is neither a built program nor a Go to build it with."""


class BuildError(RuntimeError):
    """There is a Go, but the build failed."""


@functools.cache
def _outcome(name: str) -> Path | NoGoError | BuildError:
    variable = f"MANIFESTRY_{name.upper()}"
    given = os.environ.get(variable)
    if given:
        return Path(given) if Path(given).is_file() else BuildError(f"{variable}={given}: no such file")
    argv = [sys.executable, str(ROOT / "hack" / "kind"), "binaries", name]
    # Its standard error is the progress of the first build, and stays visible.
    done = subprocess.run(
        argv, stdout=subprocess.PIPE, text=True, timeout=_BUILD_SECONDS, cwd=ROOT, check=False
    )
    if done.returncode == 0:
        return Path(json.loads(done.stdout)[name])
    if shutil.which("go") is None:
        return NoGoError("needs Go for the control-plane-only profile")
    return BuildError(f"`{' '.join(argv)}` ended with {done.returncode}: {done.stdout}")


def program(name: str) -> Path:
    """Return the absolute path of a program such as `kb` or `helm`; the first call may take minutes.

    `MANIFESTRY_<NAME>` names one that is there already.

    Raises:
        NoGoError: it was never built, and there is no Go.
        BuildError: the build failed, or the variable names no file.
    """
    outcome = _outcome(name)
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
