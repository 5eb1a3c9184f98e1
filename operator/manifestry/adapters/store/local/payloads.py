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
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

from manifestry.adapters.store.contract.ports import BATCH_BYTES, BlobDamagedError, StoreError
from manifestry.adapters.store.local import files

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


class LocalPayload:
    """An open file of published bytes, sent by its descriptor; see `ports.Payload`.

    Args:
        fd: the descriptor, closed by `aclose`.
        run: for what may wait for the disk.

    Raises:
        BlobDamagedError: it is not a regular file.
    """

    def __init__(self, fd: int, run: Run) -> None:
        self._fd = fd
        self._run = run
        self._lock = threading.Lock()  # a descriptor is never closed under a thread that reads from it
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise BlobDamagedError("the stored blob is not a regular file")
        self.size_bytes = status.st_size

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._fd

    async def load(self, offset: int, count: int) -> None:
        """Bring a part into memory.

        Raises:
            BlobDamagedError: the file ends before.
        """
        if not self.is_in_memory(offset, count):
            await self._run("stream", self._read, offset, count)

    async def aclose(self) -> None:
        """Close the file; one that a thread still reads from is closed by another when that has ended."""
        if self._lock.acquire(blocking=False):
            self._lock.release()
            self._close()
        else:
            with contextlib.suppress(StoreError):
                await self._run("stream", self._close)

    def is_in_memory(self, offset: int, count: int) -> bool | None:
        """Tell whether reading this part would not wait for the disk; None when the kernel cannot tell.

        Raises:
            BlobDamagedError: the file ends before.
        """
        try:
            for at in (*range(offset, offset + count, PROBE_BYTES), offset + count - 1):
                if not os.preadv(self._fd, (_unread,), at, os.RWF_NOWAIT):
                    raise BlobDamagedError("the blob is shorter than its size")
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise
            return None
        return True

    def _read(self, offset: int, count: int) -> None:
        with self._lock:
            os.posix_fadvise(self._fd, offset, 2 * count, os.POSIX_FADV_WILLNEED)  # begin with what follows
            end = offset + count
            while offset < end:
                data = os.pread(self._fd, min(BATCH_BYTES, end - offset), offset)
                if not data:
                    raise BlobDamagedError("the blob is shorter than its size")
                offset += len(data)

    def _close(self) -> None:
        with self._lock:
            fd, self._fd = self._fd, -1
            if fd >= 0:
                os.close(fd)


class Opener:
    """Opens the blobs of one store for sending.

    Args:
        root: the store's folder.
        run: for what may wait for the disk.
    """

    def __init__(self, root: Path, run: Run) -> None:
        self._root = root
        self._run = run
        self._folder = -1  # the store's, once its file system has told what it has in memory

    async def open(self, key: str) -> LocalPayload:
        """Return an open file.

        Raises:
            FileNotFoundError: there is none.
            BlobDamagedError: it is not a regular file.
        """
        fd = open_cached(self._folder, key) if self._folder >= 0 else None
        if fd is None:
            fd = await self._open(key)
        try:
            payload = LocalPayload(fd, self._run)
        except BaseException:
            os.close(fd)
            raise
        if self._folder < 0 and payload.size_bytes and payload.is_in_memory(0, 1) is not None:
            self._folder = os.open(self._root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        return payload

    def close(self) -> None:
        """Close the store's folder."""
        folder, self._folder = self._folder, -1
        if folder >= 0:
            os.close(folder)

    async def _open(self, key: str) -> int:
        file = files.BlobFile(self._root, key)
        try:
            await self._run("stream", file.open)
        except BaseException:
            with contextlib.suppress(StoreError):
                await self._run("close", file.close)  # the thread may be at it still
            raise
        return file.detach()


_unread = bytearray(1)  # one byte of each place that is asked for, never looked at


def open_cached(folder: int, key: str) -> int | None:
    """Open a file below a folder without waiting for the disk; None when that cannot be, for whatever reason.

    No link is followed, at any level. A file that is absent is not told from one that is not in memory: the
    ordinary way decides.
    """
    fd = _syscall(_OPENAT2, folder, key.encode(), _HOW, len(_HOW))
    return int(fd) if fd >= 0 else None
