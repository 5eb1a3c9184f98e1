"""The log beside a resumable upload's bytes: the receipts of what is durable, and who may add the next one.

Whoever appends puts a claim behind the last record, so that the one before it, stalled or forgotten, finds
out at its next write. The log is only read and written under the lock of the bytes' file, and its own.

Records that others rely on are written again before they are believed: a process that was killed may have
left them in memory only, and whether a sync of theirs has failed, nobody is told twice.
"""

import contextlib
import fcntl
import functools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from manifestry.core.artifacts import receipts

SUFFIX: Final = ".log"
_BLOCK_BYTES: Final = 4096  # the log grows by so much, so that most records change no size
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
_FLAGS: Final = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


@dataclass(frozen=True)
class Tail:
    """The end of what is recorded.

    Args:
        count: how many records there are up to here.
        record: the last one, empty when there is none.
        end: up to where the bytes are durable.
    """

    count: int = 0
    record: bytes = b""
    end: int = 0

    @property
    def check(self) -> bytes:
        """Return what the next record is bound to."""
        return self.record[-receipts.CHECK_BYTES :] or receipts.ORIGIN

    @property
    def position(self) -> int:
        """Return where the next record comes, in bytes."""
        return self.count * receipts.SIZE_BYTES


class Log:
    """An open log.

    Args:
        fd: of the file, closed by `close`.
        session_id: whose log it is.
    """

    def __init__(self, fd: int, session_id: str) -> None:
        self._fd = fd
        self._session_id = session_id

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the log, besides the bytes: on a shared volume a file's own lock shows what others wrote."""
        with flocked(self._fd):
            yield

    def tail(self, limit_bytes: int) -> Tail:
        """Return the last whole record for no more than `limit_bytes`."""
        blocks = -(-os.fstat(self._fd).st_size // _BLOCK_BYTES)
        for start in range((blocks - 1) * _BLOCK_BYTES, -1, -_BLOCK_BYTES):
            window = os.pread(self._fd, _BLOCK_BYTES, start)
            found = receipts.last(window, self._session_id, self._check_before(start), limit_bytes)
            if found is not None:
                at = found.number * receipts.SIZE_BYTES
                count = (start + at) // receipts.SIZE_BYTES + 1
                return Tail(count, window[at : at + receipts.SIZE_BYTES], found.receipt.end)
        return Tail()

    def affirm(self, tail: Tail) -> None:
        """Write the last record again, durably: whoever wrote it may not have come so far."""
        if tail.record:
            write_all(self._fd, tail.record, tail.position - receipts.SIZE_BYTES)
            os.fdatasync(self._fd)

    def claim(self, tail: Tail, writer: bytes) -> None:
        """Let nobody but `writer` add the next record, and let what stands behind it go."""
        start = tail.position - len(tail.record)
        end = self._write(start, tail.record + receipts.claim(writer))
        if os.fstat(self._fd).st_size > end:
            os.ftruncate(self._fd, end)

    def is_claimed(self, tail: Tail, writer: bytes) -> bool:
        """Tell whether `writer` may add the next record."""
        return os.pread(self._fd, receipts.SIZE_BYTES, tail.position) == receipts.claim(writer)

    def add(self, tail: Tail, receipt: receipts.Receipt) -> Tail:
        """Record more durable bytes, durably, and claim the next record."""
        record = receipts.encode(receipt, self._session_id, tail.check)
        self._write(tail.position, record + receipts.claim(receipt.writer))
        os.fdatasync(self._fd)
        return Tail(tail.count + 1, record, receipt.end)

    def cut(self, tail: Tail) -> None:
        """Let go what comes after a record, durably, claims as well."""
        os.ftruncate(self._fd, tail.position)
        write_all(self._fd, tail.record, tail.position - len(tail.record))
        os.fsync(self._fd)

    def read(self, first: int, count: int) -> bytes:
        """Return some records, fewer at the end; the check of the one before them stands in front."""
        start = first * receipts.SIZE_BYTES
        return self._check_before(start) + os.pread(self._fd, count * receipts.SIZE_BYTES, start)

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)

    def _check_before(self, start: int) -> bytes:
        if not start:
            return receipts.ORIGIN
        return os.pread(self._fd, receipts.CHECK_BYTES, start - receipts.CHECK_BYTES)

    def _write(self, start: int, data: bytes) -> int:
        """Write up to the end of a block, and return where that is."""
        end = start + len(data)
        end += -end % _BLOCK_BYTES
        write_all(self._fd, data.ljust(end - start, b"\0"), start)
        return end


def open_log(where: int, session_id: str) -> Log | None:
    """Open a session's log, None when it has none: it is one of an earlier version.

    Args:
        where: descriptor of the uploads' folder.
        session_id: whose.
    """
    try:
        return Log(os.open(session_id + SUFFIX, _FLAGS, dir_fd=where), session_id)
    except FileNotFoundError:
        return None


def make_log(where: int, session_id: str) -> Log:
    """Open a session's log, made durably if there is none."""
    fd = os.open(session_id + SUFFIX, _FLAGS | os.O_CREAT, 0o600, dir_fd=where)
    try:
        os.fsync(fd)
        os.fsync(where)
    except BaseException:
        os.close(fd)
        raise
    return Log(fd, session_id)


@contextlib.contextmanager
def opened(where: int, session_id: str) -> Iterator[Log | None]:
    """Open a session's log for a moment, and hold it."""
    log = open_log(where, session_id)
    if log is None:
        yield None
        return
    try:
        with log.locked():
            yield log
    finally:
        log.close()


@contextlib.contextmanager
def flocked(fd: int) -> Iterator[None]:
    """Hold the kernel's lock on a file."""
    fcntl.flock(fd, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(fd, fcntl.LOCK_UN)


@functools.cache
def boot_id() -> bytes:
    """Return which start of the machine this is, 16 bytes; zeros where the system does not say."""
    try:
        return bytes.fromhex(_BOOT_ID.read_text().strip().replace("-", ""))
    except (OSError, ValueError):
        return bytes(16)


def write_all(fd: int, data: bytes | memoryview, offset: int) -> None:
    """Write at a position; a single write may be short, just before the disk is full."""
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, offset)
        view, offset = view[written:], offset + written
