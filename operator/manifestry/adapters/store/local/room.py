"""Room on a volume: new bytes leave a part of it free, so that a full store can be emptied again.

Removing takes room itself: a claim is two folders, a mark a file, and a journal wants its blocks. Uploads,
downloads for Artifacts and manifests stop at the floor; claims, marks, pins, seals and removals do not ask.
"""

import os
import sys
from pathlib import Path
from typing import Final

from manifestry.adapters.store.contract.ports import StoreFullError

RESERVE_BYTES: Final = 64 << 20
RESERVE_INODES: Final = 1024
_SHARE: Final = 100  # or one per cent, if that is more
_MOST: Final = 8  # but of a small volume no more than an eighth, or it would be of no use

# Whoever writes asks again after so much, sooner when little is left: many who write at once then pass the
# floor by a few batches, and a far one costs one system call for 64 MiB (on NFS a request).
LOOK_EVERY_BYTES: Final = 64 << 20
_WRITERS: Final = 64


class Room:
    """The room for new bytes on one volume; threads may share it.

    Args:
        root: the store's folder.
        reserve_bytes: what new bytes leave free; None for the larger of 64 MiB and 1 % of the volume, at most
            an eighth of it; 0 for nothing, inodes included.
    """

    def __init__(self, root: Path, reserve_bytes: int | None = None) -> None:
        self._root = root
        self._reserve_bytes = reserve_bytes

    def look(self, wanted_bytes: int) -> int:
        """Return how many bytes may be written before the next look; at least `wanted_bytes`.

        Raises:
            StoreFullError: they would reach into the reserve.
        """
        if self._reserve_bytes == 0:
            return sys.maxsize
        found = self._status()
        spare_bytes = found.f_bavail * found.f_frsize - self._floor_bytes(found) - wanted_bytes
        if spare_bytes < 0 or _is_short_of_inodes(found):
            raise StoreFullError("the object store is full")
        return wanted_bytes + min(spare_bytes // _WRITERS, LOOK_EVERY_BYTES)

    def _floor_bytes(self, found: os.statvfs_result) -> int:
        if self._reserve_bytes is not None:
            return self._reserve_bytes
        return floor(found.f_blocks * found.f_frsize, RESERVE_BYTES)

    def _status(self) -> os.statvfs_result:
        try:
            return os.statvfs(self._root)
        except FileNotFoundError:  # the first bytes ever
            self._root.mkdir(parents=True, exist_ok=True)
            return os.statvfs(self._root)


class Allowance:
    """What one writer may write before it looks again; for one thread at a time.

    Args:
        room: where it looks; None when the bytes are needed to free some.
    """

    def __init__(self, room: Room | None) -> None:
        self._room = room
        self._left_bytes = -1

    def take(self, count: int = 0) -> None:
        """Ask for the room for some more bytes, or for a new file.

        Raises:
            StoreFullError: there is none.
        """
        if self._room is None:
            return
        if count > self._left_bytes:
            self._left_bytes = self._room.look(max(count, 1))  # a new file is for some bytes
        self._left_bytes -= count


def floor(total: int, least: int) -> int:
    """Return how much of `total` stays free: `least` or 1 %, whichever is more, and an eighth at most."""
    return min(max(least, total // _SHARE), total // _MOST)


def _is_short_of_inodes(found: os.statvfs_result) -> bool:
    """Tell so; a file system that counts none, such as btrfs or FAT, says 0 of 0."""
    return found.f_files > 0 and found.f_favail <= floor(found.f_files, RESERVE_INODES)
