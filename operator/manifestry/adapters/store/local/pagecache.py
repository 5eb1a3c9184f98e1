"""Past the page cache: long writes by position, and reads that are of the disk, not of what was written."""

import errno
import fcntl
import os

from manifestry.adapters.store.contract.ports import Chunk
from manifestry.adapters.store.local import files


class DirectWriter:
    """Writes to one file; what is long and lies in whole blocks goes to the disk without a copy."""

    def __init__(self) -> None:
        self._may_be_direct, self._is_direct = hasattr(os, "O_DIRECT"), False

    def write(self, fd: int, data: Chunk, offset: int) -> None:
        """Write all of `data` at `offset`.

        Args:
            fd: always the same file.
            data: best a memoryview that begins at a page.
            offset: in bytes from the file's first.
        """
        view = memoryview(data)
        while view:  # a write may be short, just before the disk is full
            is_long = offset >= files.DIRECT_FROM_BYTES
            is_whole = not (offset | len(view)) % files.DIRECT_BLOCK_BYTES
            self._direct(fd, wanted=is_long and is_whole)
            try:
                written = os.pwrite(fd, view, offset)
            except OSError as error:
                if error.errno != errno.EINVAL or not self._is_direct:
                    raise
                self._may_be_direct = False  # the bytes do not lie as the disk wants them
                continue
            view, offset = view[written:], offset + written

    def rest(self, fd: int) -> None:
        """Let reads and writes of any bytes be possible again."""
        self._direct(fd, wanted=False)

    def _direct(self, fd: int, *, wanted: bool) -> None:
        wanted = wanted and self._may_be_direct
        if wanted == self._is_direct:
            return
        flags = fcntl.fcntl(fd, fcntl.F_GETFL)
        try:
            fcntl.fcntl(fd, fcntl.F_SETFL, flags | os.O_DIRECT if wanted else flags & ~os.O_DIRECT)
        except OSError:
            if not wanted:
                raise
            self._may_be_direct = False
        else:
            self._is_direct = wanted


def forget(fd: int) -> None:
    """Let the next reads of a file be of the disk, as far as its system can: what is synced is not kept."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)


def expect(fd: int, offset: int, count: int) -> None:
    """Let the system begin to read what will be wanted next."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(fd, offset, count, os.POSIX_FADV_WILLNEED)
