"""What a collector on a full volume claims and marks with: made while there was room.

A claim is two folders and a mark one file; where there is no block and no inode left, neither can be made,
and so nothing removed. A spare claim becomes a claim by one rename, which needs no more than a name in a
folder. It is new to everybody: its token was never anyone's, and its time is made new before.
"""

import contextlib
import errno
import os
import time
import uuid
from pathlib import Path, PurePosixPath
from typing import Final

from manifestry.adapters.store.local import files
from manifestry.core.blobs import garbagekeys

FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
COUNT: Final = 16  # as many as are claimed at once; each removal makes room for more
SAME_MARK_SECONDS: Final = 60.0  # far below any grace
_CLAIMS: Final = PurePosixPath(garbagekeys.SPARES) / "claims"
_MARKS: Final = PurePosixPath(garbagekeys.SPARES) / "marks"


class Spares:
    """The spare claims and marks of one store.

    Args:
        root: the store's folder.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._used = ("", 0.0)

    def fill(self) -> None:
        """Make as many as are missing.

        Raises:
            OSError: there is no room for all; some may have been made.
        """
        with files.open_folder(self._root, _MARKS, create=True) as folder:
            _drop_used(folder)
            for _ in range(COUNT - _count(folder)):
                os.close(
                    os.open(str(uuid.uuid4()), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=folder)
                )
        with files.open_folder(self._root, _CLAIMS, create=True) as folder:
            for _ in range(COUNT - _count(folder)):
                self._make(folder, str(uuid.uuid4()))

    def _make(self, folder: int, name: str) -> None:
        os.mkdir(name, 0o700, dir_fd=folder)
        try:
            with files.open_folder(self._root, _CLAIMS / name) as claim:
                os.mkdir(str(uuid.uuid4()), 0o700, dir_fd=claim)
        except OSError:
            with contextlib.suppress(OSError):
                os.rmdir(name, dir_fd=folder)
            raise

    def claim(self, claims: int, name: str) -> str | None:
        """Make a spare a claim and return its token; None when there is no spare.

        Args:
            claims: the open folder of a tenant's claims.
            name: the claim's; somebody else's empty folder there is one that is being made or given back.

        Raises:
            OSError: ENOTEMPTY when there is a claim; ENOSPC when there is no room for a name.
        """
        with contextlib.suppress(FileNotFoundError), files.open_folder(self._root, _CLAIMS) as folder:
            for spare in os.listdir(folder):  # noqa: PTH208 - it is a descriptor
                with contextlib.suppress(FileNotFoundError):  # another one has taken it
                    return self._rename(folder, spare, claims, name)
        return None

    def _rename(self, folder: int, spare: str, claims: int, name: str) -> str:
        with files.open_folder(self._root, _CLAIMS / spare) as claim:
            tokens = os.listdir(claim)  # noqa: PTH208 - it is a descriptor
            if len(tokens) != 1:
                raise FileNotFoundError(spare)  # killed while it was made
            os.utime(tokens[0], dir_fd=claim, follow_symlinks=False)
            os.utime(claim)
        os.rename(spare, name, src_dir_fd=folder, dst_dir_fd=claims)
        return tokens[0]

    def mark(self, where: int, name: str) -> bool:
        """Make a mark of about this moment; tell whether there was something to make it of.

        One spare serves all marks of a minute: they are names of one file, so they cost no more of them.

        Args:
            where: the open folder of the blob.
            name: the mark's; there must be none.
        """
        with contextlib.suppress(FileNotFoundError), files.open_folder(self._root, _MARKS) as folder:
            for spare in self._marks(folder):
                with contextlib.suppress(FileNotFoundError):  # another one has taken it
                    if self._give(folder, spare, where, name):
                        return True
        return False

    def _marks(self, folder: int) -> list[str]:
        """Return the one that is in use first, while it is of this minute."""
        if time.monotonic() - self._used[1] > SAME_MARK_SECONDS:
            self._used = ("", 0.0)
        return sorted(os.listdir(folder), key=lambda name: name != self._used[0])

    def _give(self, folder: int, spare: str, where: int, name: str) -> bool:
        if spare != self._used[0]:
            if os.stat(spare, dir_fd=folder, follow_symlinks=False).st_nlink > 1:
                return False  # it says another time
            os.utime(spare, dir_fd=folder, follow_symlinks=False)
            self._used = (spare, time.monotonic())
        try:
            os.link(spare, name, src_dir_fd=folder, dst_dir_fd=where, follow_symlinks=False)
        except OSError as error:
            if error.errno not in files.NO_LINKS:
                raise
            os.rename(spare, name, src_dir_fd=folder, dst_dir_fd=where)
        return True


def _drop_used(folder: int) -> None:
    """Forget the files that have become marks; the marks stay."""
    for name in os.listdir(folder):
        with contextlib.suppress(FileNotFoundError):
            if os.stat(name, dir_fd=folder, follow_symlinks=False).st_nlink > 1:
                os.unlink(name, dir_fd=folder)


def _count(folder: int) -> int:
    return len(os.listdir(folder))
