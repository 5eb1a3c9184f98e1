"""Comparing what lies on a volume with what was received, while it is hashed for its digest."""

import hashlib
from typing import Final

from manifestry.adapters.store.contract.ports import BATCH_BYTES
from manifestry.adapters.store.local import session_parts
from manifestry.core.artifacts import receipts
from manifestry.core.blobs import digests

HOP_BYTES: Final = 64 << 20  # hashed in one thread hop: 0.4 s at 150 MiB/s of disk, far below the timeout
_AHEAD_BYTES: Final = 8 << 20
_RECORDS: Final = 1024  # read from the log at once


class Comparison:
    """One pass over a session's bytes, record by record.

    Args:
        parts: open, and halted.
        size_bytes: how many bytes are recorded.
    """

    def __init__(self, parts: session_parts.Parts, size_bytes: int) -> None:
        self._parts = parts
        self._size_bytes = size_bytes
        self._whole = self._run = hashlib.sha256()
        self._run_start = self._at = self._count = 0
        self.is_damaged = False
        self.end = 0

    @property
    def digest(self) -> str:
        """Return the digest of all bytes up to `end`, where all that was compared is right."""
        return f"{digests.ALGORITHM}:{self._whole.hexdigest()}"

    def advance(self) -> bool:
        """Compare some more; tell whether that was all, or something is damaged."""
        until = self.end + HOP_BYTES
        while not self.is_damaged and self.end < min(until, self._size_bytes):
            found = self._parts.records(self._count, _RECORDS)
            self.is_damaged = not found
            for receipt in found:
                if self.is_damaged or self.end >= until:
                    break
                self._compare(receipt)
        return self.is_damaged or self.end >= self._size_bytes

    def _compare(self, receipt: receipts.Receipt | None) -> None:
        if receipt is None or not receipts.follows(receipt, self._run_start, self.end):
            self.is_damaged = True
            return
        if receipt.start == self.end:
            self._run_start = self.end
            self._run = hashlib.sha256() if self.end else self._whole
        if not self._hash(receipt.end) or self._run.digest() != receipt.sha256:
            self.is_damaged = True
            return
        self.end, self._count = receipt.end, self._count + 1

    def _hash(self, end: int) -> bool:
        while self._at < end:
            data = self._parts.read(self._at, min(BATCH_BYTES, end - self._at))
            if not data:
                return False
            self._parts.expect(self._at + len(data), _AHEAD_BYTES)
            self._whole.update(data)
            if self._run is not self._whole:
                self._run.update(data)
            self._at += len(data)
        return True
