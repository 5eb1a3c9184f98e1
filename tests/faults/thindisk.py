"""A real ext4 on a device that promises more blocks than it has, as thin volumes do: it can be squeezed.

While it is squeezed a write of a new block fails only when it is written back: the system tells whoever
syncs, once, and goes on to show the bytes, from memory. Needs root, and a kernel that mounts from a file.
"""

import functools
import os
import subprocess
import tempfile
from pathlib import Path

DEVICE_BYTES = 64 << 20
BACKING_BYTES = 32 << 20
METADATA_BYTES = 12 << 20


@functools.cache
def available() -> bool:
    """Tell whether this machine lets us make one."""
    if os.geteuid() != 0:
        return False
    with tempfile.TemporaryDirectory() as folder:
        try:
            ThinDisk(Path(folder) / "disk").dispose()
        except (OSError, subprocess.CalledProcessError):
            return False
    return True


class ThinDisk:
    """An ext4 of 64 MiB over a file on a tmpfs of 32 MiB.

    Args:
        folder: made here; the file system is mounted in it, see `root`.
    """

    def __init__(self, folder: Path) -> None:
        self._backing, self.root = folder / "backing", folder / "root"
        for each in (self._backing, self.root):
            each.mkdir(parents=True)
        _run("mount", "-t", "tmpfs", "-o", f"size={BACKING_BYTES}", "tmpfs", str(self._backing))
        try:
            self._make()
        except BaseException:
            _run("umount", str(self._backing))
            raise

    def _make(self) -> None:
        image = self._backing / "image"
        image.touch()
        os.truncate(image, DEVICE_BYTES)
        _run("mkfs.ext4", "-q", "-m", "0", "-E", "nodiscard,packed_meta_blocks=1", str(image))
        with image.open("r+b") as file:  # the file system's own blocks are there: only those of files fail
            head = file.read(METADATA_BYTES)
            file.seek(0)
            file.write(head)
        self._mount()

    def _mount(self) -> None:
        _run("mount", "-o", "loop", str(self._backing / "image"), str(self.root))

    def squeeze(self) -> None:
        """Let the device refuse blocks that were never written."""
        block = bytes(4096)
        with (self._backing / "ballast").open("ab", buffering=0) as ballast:
            try:
                while ballast.write(block) == len(block):
                    pass
            except OSError:
                return

    def relieve(self) -> None:
        """Let it have blocks again."""
        (self._backing / "ballast").unlink()

    def forget(self) -> None:
        """Let nothing be in memory: what is read from now on is on the device."""
        _run("umount", str(self.root))
        self._mount()

    def dispose(self) -> None:
        """Let it go."""
        for each in (self.root, self._backing):
            _run("umount", str(each))


def _run(*argv: str) -> None:
    subprocess.run(argv, check=True, capture_output=True, timeout=60)
