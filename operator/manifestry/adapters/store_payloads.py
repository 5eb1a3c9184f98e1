"""Published files that are sent from where they lie, without ever waiting for a disk on the event loop.

Opening a file and sending from it need no thread when the kernel has the path and the pages in memory, and
it tells so: `openat2` with `RESOLVE_CACHED`, `preadv2` with `RWF_NOWAIT`. A thread costs 70 us of CPU each
time, as much as half of everything else in a request. What is not in memory, and every file system that does
not answer the second question (NFS and other networks), is left to a thread.

References: openat2(2), preadv2(2).
"""

import contextlib
import ctypes
import errno
import os
import stat
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

from manifestry.adapters import store_files
from manifestry.adapters.store_port import BATCH_BYTES, BlobDamagedError, StoreError

# The kernel drops pages by their age, so that neighbours mostly go together: one byte of 256 KiB will do.
PROBE_BYTES: Final = 256 << 10

_OPENAT2: Final = 437  # the same number on every architecture
_RESOLVE_NO_MAGICLINKS, _RESOLVE_NO_SYMLINKS, _RESOLVE_BENEATH, _RESOLVE_CACHED = 0x02, 0x04, 0x08, 0x20
_OPEN_FLAGS: Final = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
_HOW: Final = struct.pack(  # struct open_how: flags, mode, resolve
    "QQQ",
    _OPEN_FLAGS,
    0,
    _RESOLVE_NO_MAGICLINKS | _RESOLVE_NO_SYMLINKS | _RESOLVE_BENEATH | _RESOLVE_CACHED,
)
T = TypeVar("T")
_syscall = ctypes.CDLL(None, use_errno=True).syscall


class Run(Protocol):
    """Runs a function in one of the store's threads, in the store's time, with the store's errors."""

    async def __call__(self, operation: str, function: Callable[..., T], *args: Any) -> T:
        """Return what the function returns."""
        ...


class LocalPayload(store_files.BlobFile):
    """An open file of published bytes, sent by its descriptor; see `store_port.Payload`.

    Args:
        root: the store's folder.
        key: of the blob.
        run: for what may wait for the disk.
    """

    def __init__(self, root: Path, key: str, run: Run) -> None:
        super().__init__(root, key)
        self._run = run
        self.size_bytes = 0

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._fd

    def open(self) -> int:
        """Open the file in a thread, and return its size in bytes.

        Raises:
            BlobDamagedError: it is not a regular file.
        """
        self.size_bytes = super().open()
        return self.size_bytes

    def adopt(self, fd: int) -> None:
        """Take over an open file.

        Raises:
            BlobDamagedError: it is not a regular file.
        """
        self._fd = fd
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise BlobDamagedError("the stored blob is not a regular file")
        self.size_bytes = status.st_size

    async def load(self, offset: int, count: int) -> None:
        """Bring a part into memory.

        Raises:
            BlobDamagedError: the file ends before.
        """
        if not self.is_in_memory(offset, count):
            await self._run("stream", self._read, offset, count)

    async def aclose(self) -> None:
        """Close the file; one that a thread reads from is closed when that has ended."""
        if self._fd >= 0 and self._lock.acquire(blocking=False):
            self._lock.release()
            self.close()
        else:
            with contextlib.suppress(StoreError):
                await self._run("stream", self.close)

    def is_in_memory(self, offset: int, count: int) -> bool | None:
        """Tell whether reading this part would not wait for the disk; None when the kernel cannot tell."""
        try:
            for at in (*range(offset, offset + count, PROBE_BYTES), offset + count - 1):
                if not os.preadv(self._fd, [_unread], at, os.RWF_NOWAIT):
                    raise BlobDamagedError("the blob is shorter than its size")
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise
            return None
        return True

    def _read(self, offset: int, count: int) -> None:
        os.posix_fadvise(self._fd, offset, 2 * count, os.POSIX_FADV_WILLNEED)  # and begin with what follows
        for start in range(offset, offset + count, BATCH_BYTES):
            self.window(start, offset + count)


class Opener:
    """Opens the blobs of one store for sending.

    Args:
        root: the store's folder.
        run: for what may wait for the disk.
    """

    def __init__(self, root: Path, run: Run) -> None:
        self._root = root
        self._run = run
        self._is_near = False  # the file system has told at least once what it has in memory

    async def open(self, key: str) -> LocalPayload:
        """Return an open file.

        Raises:
            FileNotFoundError: there is none.
            BlobDamagedError: it is not a regular file.
        """
        payload = LocalPayload(self._root, key, self._run)
        fd = open_cached(self._root, key) if self._is_near else None
        try:
            if fd is not None:
                payload.adopt(fd)
            elif await self._run("stream", payload.open):
                self._is_near = payload.is_in_memory(0, 1) is not None
        except BaseException:
            await payload.aclose()
            raise
        return payload


_unread = bytearray(1)  # one byte of each place that is asked for, never looked at


def open_cached(root: Path, key: str) -> int | None:
    """Open a file below `root` without waiting for the disk; None when that cannot be, for whatever reason.

    No link is followed, at any level. A file that is absent is not told from one that is not in memory: the
    ordinary way decides.
    """
    folder = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fd = _syscall(_OPENAT2, folder, key.encode(), _HOW, len(_HOW))
    finally:
        os.close(folder)
    return int(fd) if fd >= 0 else None
