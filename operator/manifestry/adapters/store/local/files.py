"""Files of the local store: opened below the root without following a link, shared safely by threads."""

import contextlib
import errno
import fcntl
import hashlib
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Final

from manifestry.adapters.store.contract.ports import BATCH_BYTES, BlobDamagedError, Chunk, Staged
from manifestry.adapters.store.local import room as local_room
from manifestry.core.blobs import digests, keys

# Dirty pages are flushed on the way, so that the last sync is short: 256 MiB at 100 MiB/s take 2.6 s.
SYNC_EVERY_BYTES: Final = 256 << 20

# From here on whole batches go to the disk without a copy in the page cache: a third of an upload's CPU, and
# as much of the pod's memory as the upload is long. What is shorter is likely to be read soon.
DIRECT_FROM_BYTES: Final = 8 << 20
DIRECT_BLOCK_BYTES: Final = 4096  # the largest of the disks' logical blocks

# What a file system says that has no second names for a file.
NO_LINKS: Final = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})

_FILE_FLAGS: Final = os.O_NOFOLLOW | os.O_CLOEXEC
_FOLDER_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | _FILE_FLAGS


class _Open:
    """One descriptor that threads share: an operation and `close` exclude each other.

    A cancelled or timed-out caller leaves its thread running. Closing the descriptor under it would let
    its next write go into whatever file gets the number next.
    """

    def __init__(self, root: Path, key: str) -> None:
        self._root, self._path = root, PurePosixPath(key)
        self._lock = threading.Lock()
        self._fd = -1
        self._is_closed = False

    def _open(self, flags: int, *, create: bool) -> int:
        with self._lock, open_folder(self._root, self._path.parent, create=create) as where:
            if self._is_closed:  # whoever wanted it has left while this thread waited for its turn
                raise OSError(errno.EBADF, "the file was closed before it was opened")
            self._fd = os.open(self._path.name, flags | _FILE_FLAGS, 0o600, dir_fd=where)
            return self._fd

    def detach(self) -> int:
        """Return the descriptor, which the caller closes from now on."""
        with self._lock:
            fd, self._fd = self._fd, -1
            return fd

    def close(self) -> None:
        """Close the file; safe to repeat, and safe while another thread is at work."""
        with self._lock:
            self._is_closed = True
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1


class StagingFile(_Open):
    """A new file under `uploads/` that is hashed as it is written.

    Args:
        root: the store's folder.
        upload_id: a UUID that nobody else has.
        room: what it may take of the volume; None for what must be written even when that is full.
    """

    def __init__(self, root: Path, upload_id: str, room: local_room.Room | None = None) -> None:
        super().__init__(root, keys.upload(upload_id))
        self._upload_id = upload_id
        self._allowance = local_room.Allowance(room)
        self._hash = hashlib.sha256()
        self._size_bytes = self._synced_bytes = 0
        self._may_be_direct, self._is_direct = hasattr(os, "O_DIRECT"), False

    def open(self) -> None:
        """Create the file; there must be none.

        Raises:
            StoreFullError: the volume has no room for new files.
        """
        self._allowance.take()
        self._open(os.O_WRONLY | os.O_CREAT | os.O_EXCL, create=True)

    def append(self, batch: Chunk) -> None:
        """Hash and write some bytes.

        Args:
            batch: best a memoryview that begins at a page.

        Raises:
            StoreFullError: the volume has no room for them.
        """
        with self._lock:
            self._allowance.take(len(batch))
            self._hash.update(batch)
            self._write(memoryview(batch))
            if self._size_bytes - self._synced_bytes >= SYNC_EVERY_BYTES:
                os.fdatasync(self._fd)
                self._synced_bytes = self._size_bytes

    def _write(self, view: memoryview) -> None:
        is_long = self._size_bytes >= DIRECT_FROM_BYTES
        self._direct(wanted=is_long and not (self._size_bytes | len(view)) % DIRECT_BLOCK_BYTES)
        while view:  # a write may be short, just before the disk is full
            try:
                written = os.write(self._fd, view)
            except OSError as error:
                if error.errno != errno.EINVAL or not self._is_direct:
                    raise
                self._may_be_direct = False  # the bytes do not lie as the disk wants them
                self._direct(wanted=False)
                continue
            view, self._size_bytes = view[written:], self._size_bytes + written

    def _direct(self, *, wanted: bool) -> None:
        """Turn writing past the page cache on or off, where the file system has it."""
        if wanted == self._is_direct or (wanted and not self._may_be_direct):
            return
        flags = fcntl.fcntl(self._fd, fcntl.F_GETFL)
        try:
            fcntl.fcntl(self._fd, fcntl.F_SETFL, flags | os.O_DIRECT if wanted else flags & ~os.O_DIRECT)
        except OSError:
            self._may_be_direct = False
        else:
            self._is_direct = wanted

    def finish(self) -> Staged:
        """Make the bytes durable and close the file."""
        with self._lock:
            os.fsync(self._fd)
        self.close()
        return Staged(self._upload_id, f"{digests.ALGORITHM}:{self._hash.hexdigest()}", self._size_bytes)

    def abandon(self) -> None:
        """Close and remove the file, whatever has happened to it."""
        self.close()
        with contextlib.suppress(FileNotFoundError), open_folder(self._root, self._path.parent) as where:
            os.unlink(self._path.name, dir_fd=where)


class BlobFile(_Open):
    """A published file, read by position."""

    def open(self) -> int:
        """Open the file and return its size in bytes.

        Raises:
            BlobDamagedError: it is not a regular file.
        """
        status = os.fstat(self._open(os.O_RDONLY | os.O_NONBLOCK, create=False))
        return _regular_size(status)

    def window(self, start: int, end: int) -> bytes:
        """Return the next `BATCH_BYTES` from `start`, or as many as there must be up to `end`.

        Raises:
            BlobDamagedError: there are fewer.
        """
        with self._lock:
            data = os.pread(self._fd, min(BATCH_BYTES, end - start), start)
        if len(data) < min(BATCH_BYTES, end - start):
            raise BlobDamagedError("the blob is shorter than its size")
        return data


@contextlib.contextmanager
def open_folder(root: Path, path: PurePosixPath, *, create: bool = False) -> Iterator[int]:
    """Open a folder below `root`, one level after the other, and give its descriptor.

    Args:
        root: the store's folder; it may itself be a link, what is below it may not.
        path: relative to it.
        create: make what is missing, durably.
    """
    if create:
        root.mkdir(parents=True, exist_ok=True)
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in path.parts:
            parent, fd = fd, _child(fd, part, create=create)
            os.close(parent)
        yield fd
    finally:
        os.close(fd)


def _child(parent: int, name: str, *, create: bool) -> int:
    try:
        return os.open(name, _FOLDER_FLAGS, dir_fd=parent)
    except FileNotFoundError:
        if not create:
            raise
    with contextlib.suppress(FileExistsError):
        os.mkdir(name, 0o700, dir_fd=parent)
        os.fsync(parent)
    return os.open(name, _FOLDER_FLAGS, dir_fd=parent)


def size_in(folder: int, name: str) -> int | None:
    """Return the size in bytes of a file in an open folder, None when there is none.

    Raises:
        BlobDamagedError: it is not a regular file.
    """
    try:
        return _regular_size(os.stat(name, dir_fd=folder, follow_symlinks=False))
    except FileNotFoundError:
        return None


def _regular_size(status: os.stat_result) -> int:
    if not stat.S_ISREG(status.st_mode):
        raise BlobDamagedError("the stored blob is not a regular file")
    return status.st_size
