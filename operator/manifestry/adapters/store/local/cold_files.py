"""Stored files read from the medium, past what the machine remembers of them.

A page in memory says nothing about the disk: a bit may have flipped in either, and after a failed write the
page is right and the disk is not. So the pages are dropped first, which also lets the next download read
what was verified; then the file is read directly, as pages that somebody else uses stay. ext4, xfs and NFS
do both. Where a file system cannot read directly (some files of ext4, FUSE) the first must do; on tmpfs
memory is the medium.

References: open(2) O_DIRECT, posix_fadvise(2).
"""

import errno
import fcntl
import mmap
import os
from pathlib import Path
from typing import Final

from manifestry.adapters.store.contract.ports import BATCH_BYTES, BlobDamagedError
from manifestry.adapters.store.local import files

_DIRECT: Final = getattr(os, "O_DIRECT", 0)


class ColdFile(files.BlobFile):
    """A stored file, read by position from the medium.

    Args:
        root: the store's folder.
        key: the file's.
    """

    def __init__(self, root: Path, key: str) -> None:
        super().__init__(root, key)
        self._buffer = mmap.mmap(-1, BATCH_BYTES)  # begins at a page, as a disk wants it

    def open(self) -> int:
        """Open the file, forget its pages, and return its size in bytes.

        Raises:
            BlobDamagedError: it is not a regular file.
        """
        size_bytes = super().open()
        with self._lock:
            os.fdatasync(self._fd)  # what is not written yet would stay
            os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_DONTNEED)
            self._direct(wanted=True)
        return size_bytes

    def cold(self, start: int, end: int) -> memoryview:
        """Return the next `BATCH_BYTES` from `start`, or as many as there are up to `end`.

        Args:
            start: a multiple of `BATCH_BYTES`.
            end: the file's size.

        Returns:
            A view that is good until the next call.

        Raises:
            BlobDamagedError: there are fewer.
        """
        length = min(BATCH_BYTES, end - start)
        with self._lock:
            found = self._read(start)
            while found < length and (more := self._rest(start, found)):
                found += more
        if found < length:
            raise BlobDamagedError("the blob is shorter than its size")
        return memoryview(self._buffer)[:length]

    def _read(self, start: int) -> int:
        try:
            return os.preadv(self._fd, [self._buffer], start)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
        return 0  # the file system cannot read this directly after all

    def _rest(self, start: int, found: int) -> int:
        self._direct(wanted=False)  # what is left does not begin at a block
        return os.preadv(self._fd, [memoryview(self._buffer)[found:]], start + found)

    def _direct(self, *, wanted: bool) -> None:
        flags = fcntl.fcntl(self._fd, fcntl.F_GETFL) & ~_DIRECT
        try:
            fcntl.fcntl(self._fd, fcntl.F_SETFL, flags | _DIRECT if wanted else flags)
        except OSError as error:
            if error.errno not in {errno.EINVAL, errno.ENOTSUP}:
                raise
