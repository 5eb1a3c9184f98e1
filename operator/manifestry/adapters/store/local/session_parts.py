"""The bytes of one session on a volume, open: written, recorded, undone, sealed; see `session_files`."""

import contextlib
import errno
import hashlib
import os
import threading
from collections.abc import Iterator
from concurrent.futures import Executor
from pathlib import Path
from typing import Final

from manifestry.adapters.store.contract.ports import Chunk
from manifestry.adapters.store.contract.session_ports import (
    OffsetError,
    SessionLostError,
    SessionNotFoundError,
)
from manifestry.adapters.store.local import files, pagecache, session_files, session_logs
from manifestry.adapters.store.local import room as local_room
from manifestry.core.artifacts import receipts, uploads
from manifestry.core.blobs import keys

# How much a crash may take of an append, and what the two syncs of a record are for: 8 MiB at 100 MiB/s take
# 80 ms, two syncs 2 ms.
SYNC_EVERY_BYTES: Final = 8 << 20
_PAGE_BYTES: Final = 64 << 10  # the largest that any of our machines has
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_SEALER: Final = bytes(receipts.TOKEN_BYTES)  # of all who seal: they do not get into each other's way


class Parts:
    """The bytes of one session, open for an append or for hashing; threads may share it.

    Args:
        root: the store's folder.
        session_id: the session.
        room: what an append may take of the volume; None for all of it.
        hashers: threads that hash while another one writes; without, one is done after the other.
    """

    def __init__(
        self,
        root: Path,
        session_id: str,
        room: local_room.Room | None = None,
        hashers: Executor | None = None,
    ) -> None:
        self._root = root
        self._allowance = local_room.Allowance(room)
        self._hashers = hashers
        self._id = keys.parse_uuid(session_id)
        self._lock = threading.Lock()
        self._fd = -1
        self._log: session_logs.Log | None = None
        self._writer = os.urandom(receipts.TOKEN_BYTES)
        self._tail: session_logs.Tail | None = None  # None while we may not write
        self._start = self._end = 0
        self._hash = hashlib.sha256()
        self._direct = pagecache.DirectWriter()

    def open(self) -> int:
        """Open the files and return how many bytes are durable.

        Raises:
            SessionNotFoundError: there is none.
        """
        with self._lock, session_files.folder(self._root) as where:
            try:
                self._fd = os.open(self._id, os.O_RDWR | session_files.FLAGS, dir_fd=where)
            except FileNotFoundError:
                raise SessionNotFoundError("the upload is gone") from None
            with session_logs.flocked(self._fd):
                self._log = session_logs.open_log(where, self._id)
                return self._recorded().end

    def write(self, offset: int, data: Chunk) -> None:
        """Write at the end, if `offset` is the end and nobody else has begun to write there since.

        Raises:
            OffsetError: it is not, or somebody has, or the session is sealed.
            SessionNotFoundError: the session is gone.
            StoreFullError: the volume has no room for the bytes.
            SessionLostError: the disk has failed, and what was durable could not be kept.
        """
        with self._lock:
            self._allowance.take(len(data))
            with self._locked() as where:
                self._check_writable()
                tail = self._tail or self._claim(where, offset)
                self._check_claim(offset)
                with self._hashing(data), self._undoing():
                    self._direct.write(self._fd, data, offset)
            self._end += len(data)
            if self._end - tail.end >= SYNC_EVERY_BYTES:
                self._commit(tail)

    def commit(self) -> None:
        """Make what was written durable, and record it.

        Raises:
            OffsetError: somebody else writes here, or the session is sealed.
            SessionNotFoundError: the session is gone: nobody will ever see the bytes.
            SessionLostError: the disk has failed, and what was durable could not be kept.
        """
        with self._lock:
            if self._tail is not None and self._end > self._tail.end:
                self._commit(self._tail)

    def halt(self) -> int:
        """Stop whoever appends, let go what is not recorded, and return how many bytes are durable.

        The next reads are of the disk, as far as the system allows: memory may have what the disk has not.

        Raises:
            OffsetError: the session is sealed.
            SessionNotFoundError: the session is gone.
        """
        with self._lock, self._locked() as where:
            self._writer = _SEALER
            self._claim(where, None)
            pagecache.forget(self._fd)
            return self._end

    def read(self, offset: int, count: int) -> bytes:
        """Return some bytes; fewer at the end."""
        with self._lock:
            return os.pread(self._fd, count, offset)

    def expect(self, offset: int, count: int) -> None:
        """Let the system begin to read what will be wanted next."""
        with self._lock:
            pagecache.expect(self._fd, offset, count)

    def records(self, first: int, count: int) -> list[receipts.Receipt | None]:
        """Return some records of what was received, None for one that is damaged; fewer at the end."""
        with self._lock:
            if self._log is None or self._tail is None:
                return []
            data = self._log.read(first, min(count, self._tail.count - first))
        check, size = receipts.CHECK_BYTES, receipts.SIZE_BYTES
        return [
            receipts.decode(data[at + check : at + check + size], self._id, data[at : at + check])
            for at in range(0, len(data) - check, size)
        ]

    def cut(self, offset: int) -> int:
        """Let the bytes from the record's end on go that is the last up to `offset`; return where that is.

        Raises:
            OffsetError: the session is sealed.
            SessionNotFoundError: the session is gone.
            SessionLostError: the disk has failed, and what was durable could not be kept.
        """
        with self._lock, self._locked():
            self._check_writable()
            tail = self._recorded(offset)
            self._undo(tail)
            return tail.end

    def seal(self, seal: uploads.Seal) -> None:
        """Let no more bytes come; their time becomes new, so that nobody takes the blob for an old one.

        Raises:
            OffsetError: more came since they were hashed, or somebody else has sealed them.
        """
        with self._lock, self._locked() as where:
            self._check_claim(seal.size_bytes)
            os.utime(self._fd)
            os.fsync(self._fd)
            with contextlib.suppress(FileNotFoundError):  # of a process that was killed here
                os.unlink(self._id + session_files.DRAFT, dir_fd=where)
            session_files.write_new(where, self._id + session_files.DRAFT, uploads.to_bytes(seal))
            os.rename(
                self._id + session_files.DRAFT,
                self._id + session_files.SEAL,
                src_dir_fd=where,
                dst_dir_fd=where,
            )
            os.fsync(where)

    def close(self) -> None:
        """Close the files; safe to repeat, and safe while another thread is at work."""
        with self._lock:
            self._tail = None
            if self._log is not None:
                self._log.close()
                self._log = None
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1

    @contextlib.contextmanager
    def _locked(self) -> Iterator[int]:
        """Hold the session, unsealed and with these bytes; give its folder."""
        with session_logs.flocked(self._fd), session_files.folder(self._root) as where:
            self._check_place(where)
            with self._log.locked() if self._log else contextlib.nullcontext():
                yield where

    def _check_place(self, where: int) -> None:
        if files.size_in(where, self._id + session_files.SEAL) is not None:
            raise OffsetError("the upload is complete")
        ours = os.fstat(self._fd)
        try:
            named = os.stat(self._id, dir_fd=where, follow_symlinks=False)
            os.stat(self._id + session_files.RECORD, dir_fd=where, follow_symlinks=False)
        except FileNotFoundError:
            raise SessionNotFoundError("the upload is gone") from None
        if (named.st_dev, named.st_ino) != (ours.st_dev, ours.st_ino):
            raise SessionNotFoundError("the upload is gone")

    def _check_writable(self) -> None:
        """Refuse bytes that have a second name: they are published, and only their seal was lost."""
        if os.fstat(self._fd).st_nlink != 1:
            raise OffsetError("the upload is complete")

    def _check_claim(self, offset: int) -> None:
        """Refuse to go on where somebody else has begun to write, or has let bytes go."""
        log, tail = self._log, self._tail
        is_ours = log is not None and tail is not None and log.is_claimed(tail, self._writer)
        if not is_ours or not offset == self._end == os.fstat(self._fd).st_size:
            raise OffsetError("the stored bytes do not end there")

    def _recorded(self, limit_bytes: int | None = None) -> session_logs.Tail:
        size_bytes = os.fstat(self._fd).st_size
        limit = size_bytes if limit_bytes is None else min(limit_bytes, size_bytes)
        return self._log.tail(limit) if self._log else session_logs.Tail()

    def _claim(self, where: int, offset: int | None) -> session_logs.Tail:
        """Take over from whoever writes, and let go what is not recorded."""
        tail = self._recorded()
        if offset not in {None, tail.end}:
            raise OffsetError("the stored bytes do not end there")
        if self._log is None:  # of an earlier version, which did not know what was durable
            self._log = session_logs.make_log(where, self._id)
        self._log.claim(tail, self._writer)
        if os.fstat(self._fd).st_size != tail.end:
            self._check_writable()
            with self._dropping():
                _rewind(self._fd, tail.end)
        self._tail, self._start, self._end = tail, tail.end, tail.end
        self._hash = hashlib.sha256()
        return tail

    def _commit(self, tail: session_logs.Tail) -> None:
        with self._locked() as where:
            self._check_claim(self._end)
            assert self._log is not None  # noqa: S101 - there is no claim without it
            with self._undoing():
                os.fdatasync(self._fd)
                said = self._hash.digest()
                receipt = receipts.Receipt(self._start, self._end, said, session_logs.boot_id(), self._writer)
                self._tail = self._log.add(tail, receipt)
            self._check_place(where)  # an append that nobody will see is not acknowledged

    @contextlib.contextmanager
    def _hashing(self, data: Chunk) -> Iterator[None]:
        hashed = self._hashers.submit(self._hash.update, data) if self._hashers else None
        try:
            yield
        finally:
            if hashed is not None:
                hashed.result()  # before the buffer is used again
        if hashed is None:
            self._hash.update(data)

    @contextlib.contextmanager
    def _undoing(self) -> Iterator[None]:
        """Go back to what is recorded when a write or a sync fails: it is not tried again."""
        tail = self._tail or session_logs.Tail()
        try:
            yield
        except OSError:
            self._undo(tail)
            raise

    def _undo(self, tail: session_logs.Tail) -> None:
        self._tail = None
        with self._dropping():
            if self._log is not None:
                self._log.cut(tail)
            self._direct.rest(self._fd)
            _rewind(self._fd, tail.end)

    @contextlib.contextmanager
    def _dropping(self) -> Iterator[None]:
        """Give the session up when it cannot go back: nobody knows what the disk has of it."""
        try:
            yield
        except OSError as error:
            if error.errno in _FULL:  # it refuses what is new, and has what was there
                raise
            with contextlib.suppress(OSError):
                session_files.remove(self._root, self._id, session_files.EVERYTHING)
            with session_files.folder(self._root) as where:
                if files.size_in(where, self._id + session_files.RECORD) is not None:
                    raise
            raise SessionLostError("the disk has failed, the upload is gone; begin a new one") from error


def _rewind(fd: int, end: int) -> None:
    """Let everything from `end` on go, and write the last page again that has bytes before it.

    Its other bytes may have been in a write that failed: then memory has them, and is believed to be as the
    disk, which need not be so.
    """
    os.ftruncate(fd, end)
    rest = end % _PAGE_BYTES
    session_logs.write_all(fd, os.pread(fd, rest, end - rest), end - rest)
    os.fsync(fd)
