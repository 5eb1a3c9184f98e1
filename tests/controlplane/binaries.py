"""Find the programs that hack/kind has, builds from Go modules or takes out of a kind node."""

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


# What hack/kind ends with where something has to be installed first.
_EXIT_MISSING = 2


class NoProgramError(RuntimeError):
    """A program is not there, and there is neither a Go to build it with nor a kind node to take it from."""


class BuildError(RuntimeError):
    """There is a Go or a node, but it did not give the program."""


@functools.cache
def _outcome(name: str) -> Path | NoProgramError | BuildError:
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
    if done.returncode == _EXIT_MISSING:
        return NoProgramError(missing_reason(name))
    return BuildError(f"`{' '.join(argv)}` ended with {done.returncode}: {done.stdout}")


def missing_reason(name: str) -> str:
    """Return why a test that needs the program cannot run."""
    if name == "kb":
        return "needs Go, or a kind node (`python3 hack/kind up`), for the control-plane-only profile"
    return f"needs {name} on PATH, or Go to build it"


def program(name: str) -> Path:
    """Return the absolute path of a program such as `kb` or `helm`; the first call may take minutes.

    `MANIFESTRY_<NAME>` names one that is there already.

    Raises:
        NoProgramError: it is not there, and cannot be had.
        BuildError: the build or the copy failed, or the variable names no file.
    """
    outcome = _outcome(name)
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def kubectl_argv() -> list[str]:
    """Return how kubectl is run without the multi-call binary.

    Raises:
        NoProgramError: there is none on PATH.
    """
    found = shutil.which("kubectl")
    if found is None:
        raise NoProgramError("needs kubectl on PATH")
    return [found]
