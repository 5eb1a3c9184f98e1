"""The receipts of a resumable upload on a volume: which of its bytes are durable, and what they were.

A file's size says nothing after a crash, and what a disk has lost nobody is told twice. So what is durable is
written down, in records of one size that follow each other in a log beside the bytes. A record is made when
its bytes are synced, and counts when it is whole: its last 32 bytes are a hash over itself, the session
and the record before it, so that neither half a record nor zeros nor one that stood there earlier counts.

A record's digest is that of a run: all bytes of one append up to the record's end. One pass of hashing then
gives every record of the append, and one that compares them finds the first that is wrong.
"""

import hashlib
import struct
from dataclasses import dataclass
from typing import Final, NamedTuple

from manifestry.core.blobs import keys

SIZE_BYTES: Final = 128  # four in a sector of 512 bytes, so none lies in two of them
CHECK_BYTES: Final = 32
TOKEN_BYTES: Final = 16
ORIGIN: Final = bytes(CHECK_BYTES)  # what the first record has before it
# A log has 32 MiB at most. In records of 8 MiB this is more than any upload, in appends of 64 KiB 16 GiB.
MAX_COUNT: Final = 1 << 18

_RECEIPT: Final = b"mfpiece1"
_CLAIM: Final = b"mfclaim1"
_FORM: Final = struct.Struct("<8sQQ32s16s16s8x")


@dataclass(frozen=True)
class Receipt:
    """What is said of bytes that are durable.

    Args:
        start: where the run begins, in bytes from the upload's first.
        end: up to where the bytes are durable.
        sha256: of the bytes from `start` to `end`, as they were received.
        boot: 16 bytes; of the machine that wrote them, new at each of its starts.
        writer: 16 bytes; of the append.
    """

    start: int
    end: int
    sha256: bytes
    boot: bytes
    writer: bytes


class Place(NamedTuple):
    """A record's number in what was looked at, and what it says."""

    number: int
    receipt: Receipt


def encode(receipt: Receipt, session_id: str, before: bytes) -> bytes:
    """Return a receipt's record.

    Args:
        receipt: what to write.
        session_id: whose it is.
        before: the last `CHECK_BYTES` of the record before it, or `ORIGIN`.
    """
    fields = (receipt.start, receipt.end, receipt.sha256, receipt.boot, receipt.writer)
    head = _FORM.pack(_RECEIPT, *fields)
    return head + _check(head, session_id, before)


def decode(record: bytes, session_id: str, before: bytes) -> Receipt | None:
    """Return what a record says; None when it is torn, empty, or not one that belongs there."""
    if len(record) != SIZE_BYTES:
        return None
    head = record[:-CHECK_BYTES]
    if not head.startswith(_RECEIPT) or record[-CHECK_BYTES:] != _check(head, session_id, before):
        return None
    return Receipt(*_FORM.unpack(head)[1:])


def claim(writer: bytes) -> bytes:
    """Return what stands behind the last record: who may add the next one. It is no record itself."""
    return (_CLAIM + writer).ljust(SIZE_BYTES, b"\0")


def last(window: bytes, session_id: str, before: bytes, limit_bytes: int) -> Place | None:
    """Return the last whole record in a part of the log, None when there is none.

    Args:
        window: a part that begins with a record.
        session_id: whose log it is.
        before: the last `CHECK_BYTES` before the window, or `ORIGIN`.
        limit_bytes: how many bytes there are; what says that more are durable does not count.
    """
    for number in reversed(range(len(window) // SIZE_BYTES)):
        start = number * SIZE_BYTES
        check = window[start - CHECK_BYTES : start] if number else before
        found = decode(window[start : start + SIZE_BYTES], session_id, check)
        if found is not None and found.end <= limit_bytes:
            return Place(number, found)
    return None


def follows(receipt: Receipt, run_start: int, end: int) -> bool:
    """Tell whether a record can come after one of a run that began at `run_start` and ended at `end`.

    It goes on with that run, or begins another one where that ended; and it has at least one byte.
    """
    return receipt.end > end and receipt.start in {run_start, end}


def _check(head: bytes, session_id: str, before: bytes) -> bytes:
    return hashlib.sha256(keys.parse_uuid(session_id).encode() + before + head).digest()
