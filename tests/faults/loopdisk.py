"""A real file system in a file: with so many blocks and inodes, a disk to put wrong bytes on, a power cut.

What the file holds at a moment is what a disk would hold after the power failed then.
"""

import contextlib
import itertools
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Self


def available() -> bool:
    """Tell whether this machine lets us mount a file as a disk."""
    tools = ("mkfs.ext4", "mkfs.xfs", "mount", "umount", "losetup")
    if os.geteuid() != 0 or not all(map(shutil.which, tools)):
        return False
    return subprocess.run(["losetup", "-f"], capture_output=True, check=False).returncode == 0


_SIZES_BYTES: Mapping[str, int] = {"ext4": 16 << 20, "xfs": 320 << 20}
_MAKE: Mapping[str, tuple[str, ...]] = {"ext4": ("-q", "-F", "-m", "0", "-N", "1024"), "xfs": ("-q",)}


class LoopDisk:
    """A small disk; use it as a context.

    Args:
        folder: where the image and the mount point are made.
        kind: an ext4 with 1024 inodes and no reserved blocks, as CSI drivers make it; or an xfs.
    """

    def __init__(self, folder: Path, kind: Literal["ext4", "xfs"] = "ext4") -> None:
        self._image, self.folder = folder / "disk.img", folder / "disk"
        self._kind = kind
        self.folder.mkdir(parents=True)
        with self._image.open("wb") as image:
            image.truncate(_SIZES_BYTES[kind])
        _run(f"mkfs.{kind}", *_MAKE[kind], str(self._image))

    def __enter__(self) -> Self:
        # Nothing is written by itself within the test: what is on the disk was synced.
        options = "loop,commit=300" if self._kind == "ext4" else "loop"
        _run("mount", "-o", options, str(self._image), str(self.folder))
        return self

    def __exit__(self, *_: object) -> None:
        _run("umount", "--lazy", str(self.folder))

    def fill(self) -> None:
        """Take all there is: an xfs makes inodes of blocks, an ext4 has so many."""
        ballast = self.folder / "ballast"
        ballast.mkdir()
        for number in range(64):
            (ballast / str(number)).touch()
        if self._kind == "ext4":
            _touch_all(ballast)
        for number, size_bytes in ((0, 1 << 20), *((number, 4096) for number in range(64))):
            with contextlib.suppress(OSError), (ballast / str(number)).open("ab", buffering=0) as file:
                for start in itertools.count(file.tell(), size_bytes):
                    os.posix_fallocate(file.fileno(), start, size_bytes)
        _touch_all(ballast)

    def has_room(self) -> bool:
        """Tell whether a folder can be made; an xfs keeps a few blocks for itself."""
        probe = self.folder / "ballast" / "probe"
        try:
            probe.mkdir()
        except OSError:
            return self._kind == "ext4" and any(self.free())
        probe.rmdir()
        return True

    def free(self) -> tuple[int, int]:
        """Return how many blocks and inodes are free."""
        found = os.statvfs(self.folder)
        return found.f_bavail, found.f_favail

    def overwrite(self, old: bytes, new: bytes) -> None:
        """Change bytes on the disk behind the file system's back; they must be there once."""
        content = self._image.read_bytes()
        assert content.count(old) == 1
        with self._image.open("r+b") as image:
            image.seek(content.index(old))
            image.write(new)

    def forget(self) -> None:
        """Drop what the machine remembers of the files, and only of these."""
        for path in self.folder.rglob("*"):
            if path.is_file():
                with path.open("rb") as file:
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    def cut(self, folder: Path) -> "LoopDisk":
        """Return the disk as it is after a power cut now; it is not mounted yet."""
        after = LoopDisk.__new__(LoopDisk)
        after._image, after.folder = folder / "disk.img", folder / "disk"
        after._kind = self._kind
        after.folder.mkdir(parents=True)
        shutil.copyfile(self._image, after._image)
        return after


def _touch_all(folder: Path) -> None:
    with contextlib.suppress(OSError):
        for number in itertools.count(64):
            (folder / f"more-{number}").open("x").close()


def _run(*argv: str) -> None:
    subprocess.run(argv, check=True, capture_output=True, timeout=60)
