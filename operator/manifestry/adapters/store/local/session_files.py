"""The files of a resumable upload on a local volume: `uploads/<uuid>` holds the bytes, `.json` says whose.

Which of the bytes are durable says the log beside them, never their file's size (`session_logs`): a record is
added when the bytes before its end are synced, and after any failed write or sync they go back to where the
last record ends. To sync again would prove nothing: the system tells of lost pages once, and shows them as
if they were on the disk.

The lock is the kernel's (`flock`) on the file of bytes: it is held for one write only, it ends with its
process, and on a shared volume it holds between nodes. The bytes' file is renamed or linked when it is
published, so whoever still has it open would write into a published blob: therefore each write looks, under
that lock, whether the session is there and not sealed, and whether the file it has open still is the
session's, and nobody else's.
"""

import contextlib
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Final

from manifestry.adapters.store.contract.session_ports import (
    SessionNotFoundError,
)
from manifestry.adapters.store.local import files, session_logs
from manifestry.core.artifacts import receipts, uploads
from manifestry.core.blobs import keys

RECORD: Final = ".json"
SEAL: Final = ".sealed"
DRAFT: Final = ".sealed.new"
SUFFIXES: Final = (RECORD, SEAL, DRAFT, session_logs.SUFFIX)
# Its bytes after its record: what is cut off here is no session. Its seal after its bytes, so that no moment
# is left in which somebody who has them open could take them for an upload that is under way.
EVERYTHING: Final = (RECORD, "", SEAL, DRAFT, session_logs.SUFFIX)
FLAGS: Final = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_FOLDER: Final = PurePosixPath(keys.UPLOADS)


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
        write_new(where, session.session_id + session_logs.SUFFIX, b"")
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
    tail, written = found
    touched = max(record[1], written)
    return uploads.State(session, tail.end, touched, None, tail.count, receipts.MAX_COUNT)


def _durable(where: int, name: str) -> tuple[session_logs.Tail, datetime] | None:
    """Return what is recorded, and when the last bytes came; None when there are no bytes."""
    try:
        fd = os.open(name, os.O_RDWR | FLAGS, dir_fd=where)
    except FileNotFoundError:
        return None
    try:
        with session_logs.flocked(fd), session_logs.opened(where, name) as log:
            if log is None and files.size_in(where, name) is None:
                return None  # removed since it was opened: the log goes after the bytes
            status = os.fstat(fd)
            tail = session_logs.Tail() if log is None else log.tail(status.st_size)
            if log is not None:
                log.affirm(tail)
            return tail, datetime.fromtimestamp(status.st_mtime, UTC)
    finally:
        os.close(fd)


def read(where: int, name: str) -> tuple[bytes, datetime] | None:
    """Return a small file and when it was written, None when there is none."""
    try:
        fd = os.open(name, os.O_RDONLY | FLAGS, dir_fd=where)
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
    fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | FLAGS, 0o600, dir_fd=where)
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
