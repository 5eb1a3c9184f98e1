"""The files of a resumable upload on a local volume: `uploads/<uuid>` holds the bytes, `.json` says whose.

The lock is the kernel's (`flock`) on the file of bytes: it is held for one write only, it ends with its
process, and on a shared volume it holds between nodes. The bytes' file is renamed when it is published, so
whoever still has it open would write into a published blob: therefore the seal is made, and looked for, under
that lock.
"""

import contextlib
import fcntl
import os
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Final

from manifestry.adapters.store.contract.ports import Chunk
from manifestry.adapters.store.contract.session_ports import OffsetError, SessionNotFoundError
from manifestry.adapters.store.local import files
from manifestry.core.artifacts import uploads
from manifestry.core.blobs import keys

RECORD: Final = ".json"
SEAL: Final = ".sealed"
_DRAFT: Final = ".sealed.new"
SUFFIXES: Final = (RECORD, SEAL, _DRAFT)
_FLAGS: Final = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_FOLDER: Final = PurePosixPath(keys.UPLOADS)


class Parts:
    """The bytes of one session, open for an append or for hashing; threads may share it.

    Args:
        root: the store's folder.
        session_id: the session.
    """

    def __init__(self, root: Path, session_id: str) -> None:
        self._root = root
        self._name = PurePosixPath(keys.upload(session_id)).name
        self._lock = threading.Lock()
        self._fd = -1
        self._unsynced_bytes = 0

    def open(self) -> int:
        """Open the file and return its size in bytes.

        Raises:
            SessionNotFoundError: there is none.
        """
        with self._lock, folder(self._root) as where:
            try:
                self._fd = os.open(self._name, os.O_RDWR | _FLAGS, dir_fd=where)
            except FileNotFoundError:
                raise SessionNotFoundError("the upload is gone") from None
            return os.fstat(self._fd).st_size

    def write(self, offset: int, data: Chunk) -> None:
        """Write at the end, if `offset` is the end and the session is not sealed.

        Raises:
            OffsetError: it is not, or it is.
        """
        with self._lock:
            with self._locked(offset):
                view = memoryview(data)
                while view:  # a write may be short, just before the disk is full
                    written = os.pwrite(self._fd, view, offset)
                    view, offset = view[written:], offset + written
            self._unsynced_bytes += len(data)
            if self._unsynced_bytes >= files.SYNC_EVERY_BYTES:
                os.fdatasync(self._fd)
                self._unsynced_bytes = 0

    def sync(self) -> None:
        """Make what was written durable."""
        with self._lock:
            os.fdatasync(self._fd)

    def read(self, offset: int, count: int) -> bytes:
        """Return some bytes; fewer at the end."""
        with self._lock:
            return os.pread(self._fd, count, offset)

    def seal(self, seal: uploads.Seal) -> None:
        """Let no more bytes come; their time becomes new, so that nobody takes the blob for an old one.

        Raises:
            OffsetError: more came since they were hashed, or somebody else has sealed them.
        """
        with self._lock, self._locked(seal.size_bytes), folder(self._root) as where:
            os.utime(self._fd)
            os.fsync(self._fd)
            with contextlib.suppress(FileNotFoundError):  # of a process that was killed here
                os.unlink(self._name + _DRAFT, dir_fd=where)
            write_new(where, self._name + _DRAFT, uploads.to_bytes(seal))
            os.rename(self._name + _DRAFT, self._name + SEAL, src_dir_fd=where, dst_dir_fd=where)
            os.fsync(where)

    def close(self) -> None:
        """Close the file; safe to repeat, and safe while another thread is at work."""
        with self._lock:
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1

    @contextlib.contextmanager
    def _locked(self, end: int) -> Iterator[None]:
        fcntl.flock(self._fd, fcntl.LOCK_EX)
        try:
            with folder(self._root) as where:
                is_sealed = files.size_in(where, self._name + SEAL) is not None
            if is_sealed or os.fstat(self._fd).st_size != end:
                raise OffsetError("the stored bytes do not end there")
            yield
        finally:
            fcntl.flock(self._fd, fcntl.LOCK_UN)


@contextlib.contextmanager
def folder(root: Path, *, create: bool = False) -> Iterator[int]:
    """Open the folder of the uploads.

    Raises:
        SessionNotFoundError: there is none yet, and so no session.
    """
    try:
        opened = contextlib.ExitStack()
        where = opened.enter_context(files.open_folder(root, _FOLDER, create=create))
    except FileNotFoundError:
        raise SessionNotFoundError("the upload is gone") from None
    with opened:
        yield where


def create(root: Path, session: uploads.Session) -> None:
    """Make the files of a session, durably; the record is the last, so that a cut leaves only a leftover."""
    with folder(root, create=True) as where:
        write_new(where, keys.parse_uuid(session.session_id), b"")
        write_new(where, session.session_id + RECORD, uploads.to_bytes(session))
        os.fsync(where)


def head(root: Path, session_id: str) -> uploads.State | None:
    """Return how far a session is, None when there is no such session.

    Raises:
        KeyPartError: `session_id` is not a UUID.
    """
    keys.parse_uuid(session_id)
    try:
        with folder(root) as where:
            return _head(where, session_id)
    except SessionNotFoundError:
        return None


def _head(where: int, session_id: str) -> uploads.State | None:
    record, seal = read(where, session_id + RECORD), read(where, session_id + SEAL)
    session = None if record is None else uploads.session_from(record[0])
    if record is None or session is None:
        return None
    found = _durable(where, session_id) if seal is None else None
    if found is None:  # sealed, perhaps since we looked: then the bytes may be published
        seal = seal or read(where, session_id + SEAL)
        sealed = None if seal is None else uploads.seal_from(seal[0])
        if seal is None or sealed is None:
            return None
        return uploads.State(session, sealed.size_bytes, max(record[1], seal[1]), sealed)
    return uploads.State(session, found[0], max(record[1], found[1]))


def _durable(where: int, name: str) -> tuple[int, datetime] | None:
    try:
        fd = os.open(name, os.O_RDWR | _FLAGS, dir_fd=where)
    except FileNotFoundError:
        return None
    try:
        # Under the lock nobody is in the middle of a write; synced, because who hears of it relies on it.
        fcntl.flock(fd, fcntl.LOCK_EX)
        os.fdatasync(fd)
        status = os.fstat(fd)
        return status.st_size, datetime.fromtimestamp(status.st_mtime, UTC)
    finally:
        os.close(fd)


def read(where: int, name: str) -> tuple[bytes, datetime] | None:
    """Return a small file and when it was written, None when there is none."""
    try:
        fd = os.open(name, os.O_RDONLY | _FLAGS, dir_fd=where)
    except FileNotFoundError:
        return None
    try:
        written = datetime.fromtimestamp(os.fstat(fd).st_mtime, UTC)
        return os.pread(fd, 1 << 16, 0), written
    finally:
        os.close(fd)


def write_new(where: int, name: str, data: bytes) -> None:
    """Make a small file, durably.

    Raises:
        FileExistsError: there is one.
    """
    fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _FLAGS, 0o600, dir_fd=where)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        os.fsync(fd)
    finally:
        os.close(fd)


def remove(root: Path, upload_id: str, suffixes: tuple[str, ...]) -> None:
    """Remove files of an upload; nothing happens when they are gone."""
    keys.parse_uuid(upload_id)
    with contextlib.suppress(SessionNotFoundError), folder(root) as where:
        for suffix in suffixes:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(upload_id + suffix, dir_fd=where)
        os.fsync(where)


def listing(where: int) -> list[str]:
    """Return the names in an open folder."""
    with os.scandir(where) as entries:
        return [entry.name for entry in entries]


def names(root: Path) -> dict[str, datetime]:
    """Return every upload that has a file, with the time of its last change."""
    found: dict[str, datetime] = {}
    with contextlib.suppress(SessionNotFoundError), folder(root) as where:
        for name in listing(where):
            upload_id = name
            for suffix in SUFFIXES:
                upload_id = upload_id.removesuffix(suffix)
            try:
                written = os.stat(name, dir_fd=where, follow_symlinks=False).st_mtime
                key = keys.parse_uuid(upload_id)
            except (FileNotFoundError, keys.KeyPartError):
                continue
            changed = datetime.fromtimestamp(written, UTC)
            found[key] = max(found.get(key, changed), changed)
    return found
