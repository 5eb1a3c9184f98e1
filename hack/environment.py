"""Make the virtual environment, or say clearly what is missing.

Debian splits `venv` and `ensurepip` into python3-venv; as root on Debian that package is installed here.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

MINIMUM = (3, 11)


def missing() -> str | None:
    """Return what keeps this interpreter from making an environment, or None."""
    if sys.version_info < MINIMUM:
        return f"Python {MINIMUM[0]}.{MINIMUM[1]} or newer (this is {sys.version.split()[0]})"
    return None if importlib.util.find_spec("ensurepip") else "the package python3-venv"


def install_venv_package() -> None:
    """Install python3-venv where that is ours to do: root on Debian."""
    if os.geteuid() == 0 and shutil.which("apt-get"):
        subprocess.run(["apt-get", "update", "-qq"], check=True, timeout=300)
        subprocess.run(["apt-get", "install", "-y", "-qq", "python3-venv"], check=True, timeout=600)


def main(target: Path) -> int:
    """Create or refresh the environment at `target`."""
    if missing() == "the package python3-venv":
        install_venv_package()
        importlib.invalidate_caches()
    if lack := missing():
        sys.stderr.write(f"Please install {lack}, then run make again.\n")
        return 2
    healthy = (target / "bin" / "python").exists() and not subprocess.run(
        [target / "bin" / "python", "-m", "pip", "--version"], capture_output=True, timeout=60, check=False
    ).returncode
    if not healthy:
        venv.create(target, clear=True, with_pip=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
