"""A file system of a few MiB for whole processes: full, read-only, and well again at a word."""

import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from tests.controlplane.children import Child, Program

_UNSHARE = ("unshare", "--user", "--map-root-user", "--mount")


def available() -> bool:
    """Tell whether this machine lets us mount a file system in a namespace of our own."""
    try:
        return all(
            subprocess.run(argv, capture_output=True, check=False).returncode == 0
            for argv in ([*_UNSHARE, "true"], ["nsenter", "--version"])
        )
    except FileNotFoundError:
        return False


class SmallDisk:
    """A tmpfs in a mount namespace that a sleeping process holds; others join it by `wrap`.

    No root is needed, and it is gone with that process.

    Args:
        folder: the mount point, made here; the log is beside it.
        size_bytes: all the room there is.
    """

    def __init__(self, folder: Path, size_bytes: int) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        mount = f'mount -t tmpfs -o size={size_bytes} tmpfs "$0" && touch "$0"/.mounted && exec sleep 3600'
        argv = [shutil.which("unshare") or "unshare", *_UNSHARE[1:], "sh", "-c", mount, str(folder)]
        program = Program("small-disk", argv, self._is_mounted, ready_seconds=10)
        self._holder = Child(program, folder.with_name(f"{folder.name}.log"))
        self._holder.start()

    @property
    def inside(self) -> Path:
        """Return the folder as it is seen from outside of the namespace."""
        return Path(f"/proc/{self._holder.pid}/root{self.folder}")

    def wrap(self, argv: Sequence[str]) -> list[str]:
        """Return the command that runs `argv` where the disk is mounted."""
        nsenter = shutil.which("nsenter") or "nsenter"
        target = str(self._holder.pid)
        return [nsenter, "--target", target, "--user", "--mount", "--preserve-credentials", "--", *argv]

    def fill(self) -> None:
        """Take all the room that is left."""
        block = bytes(4096)
        with (self.inside / "ballast").open("ab", buffering=0) as ballast:
            try:
                while ballast.write(block) == len(block):
                    pass
            except OSError:
                return

    def free(self) -> None:
        """Give the room back."""
        (self.inside / "ballast").unlink(missing_ok=True)

    def remount(self, option: str) -> None:
        """Mount it again, as with `ro` or `rw`."""
        argv = ["mount", "-o", f"remount,{option}", str(self.folder)]
        deadline = time.monotonic() + 5
        while True:  # a file that is just being written keeps it busy
            done = subprocess.run(self.wrap(argv), capture_output=True, text=True, check=False)
            if done.returncode == 0:
                return
            if time.monotonic() > deadline:
                raise OSError(done.stderr)
            time.sleep(0.05)

    def dispose(self) -> None:
        """Let it go."""
        self._holder.dispose()

    def _is_mounted(self) -> bool:
        return self._holder.running and os.path.lexists(self.inside / ".mounted")
