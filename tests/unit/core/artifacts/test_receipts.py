"""Receipts of durable bytes: whole records count, and nothing else that may stand in their place."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifestry.core.artifacts import receipts
from manifestry.core.artifacts.receipts import ORIGIN, SIZE_BYTES, Receipt
from manifestry.core.blobs import keys

ID, OTHER = "0a1b2c3d-0000-4000-8000-000000000001", "0a1b2c3d-0000-4000-8000-000000000002"
RECEIPT = Receipt(0, 7, b"d" * 32, b"b" * 16, b"w" * 16)
NO_LIMIT = 1 << 62


def log(*ends: int, session_id: str = ID, before: bytes = ORIGIN) -> bytes:
    """Return the records of one append with these ends."""
    data = b""
    for end in ends:
        receipt = dataclasses.replace(RECEIPT, end=end)
        data += receipts.encode(receipt, session_id, data[-receipts.CHECK_BYTES :] or before)
    return data


def last_end(data: bytes, limit_bytes: int = NO_LIMIT) -> int:
    found = receipts.last(data, ID, ORIGIN, limit_bytes)
    return 0 if found is None else found.receipt.end


@pytest.mark.parametrize("start", [0, 1, 1 << 40])
@pytest.mark.parametrize("end", [1, 8 << 20, (1 << 63) + 5])
def test_a_record_says_what_was_written(start: int, end: int) -> None:
    receipt = dataclasses.replace(RECEIPT, start=start, end=end)
    record = receipts.encode(receipt, ID, ORIGIN)
    assert len(record) == SIZE_BYTES
    assert receipts.decode(record, ID, ORIGIN) == receipt


@given(st.integers(0, SIZE_BYTES - 1), st.integers(1, 255))
def test_a_record_with_one_other_byte_is_none(at: int, change: int) -> None:
    record = bytearray(log(7))
    record[at] ^= change
    assert receipts.decode(bytes(record), ID, ORIGIN) is None


@pytest.mark.parametrize("size", range(SIZE_BYTES))
def test_a_torn_record_is_none(size: int) -> None:
    record = log(7)
    assert receipts.decode(record[:size], ID, ORIGIN) is None
    assert receipts.decode(record[:size].ljust(SIZE_BYTES, b"\0"), ID, ORIGIN) is None


def test_a_record_belongs_to_its_session_and_its_place() -> None:
    first, second = log(7), log(7, 9)[SIZE_BYTES:]
    assert receipts.decode(first, OTHER, ORIGIN) is None
    assert receipts.decode(second, ID, ORIGIN) is None
    assert receipts.decode(second, ID, first[-receipts.CHECK_BYTES :]) is not None
    with pytest.raises(keys.KeyPartError):
        receipts.decode(first, "../x", ORIGIN)


@pytest.mark.parametrize(
    ("data", "end"),
    [
        (b"", 0),
        (bytes(4096), 0),
        (log(7), 7),
        (log(7, 9), 9),
        (log(7, 9) + bytes(4096), 9),
        (log(7, 9) + log(11)[:100], 9),
        (log(7, 9)[:-1], 7),
        (log(7) + bytes(SIZE_BYTES) + log(7, 9)[SIZE_BYTES:], 7),  # a later one without the one before it
        (log(7) + log(9), 7),  # one that stood first
        (log(7, session_id=OTHER), 0),
        (log(7, 9) + receipts.claim(b"w" * 16), 9),
        (log(7, 9) + log(7, 8, 11)[2 * SIZE_BYTES :], 9),  # behind another record than it was written behind
    ],
)
def test_the_last_whole_record_counts(data: bytes, end: int) -> None:
    assert last_end(data) == end


def test_a_window_of_a_log_is_enough() -> None:
    data = log(7, 9, 11)
    rest = data[SIZE_BYTES:]
    assert receipts.last(rest, ID, ORIGIN, NO_LIMIT) is not None  # 11 is checked by 9, which stands there
    found = receipts.last(rest[:SIZE_BYTES], ID, data[:SIZE_BYTES][-receipts.CHECK_BYTES :], NO_LIMIT)
    assert found is not None
    assert (found.number, found.receipt.end) == (0, 9)


@pytest.mark.parametrize(("limit", "end"), [(6, 0), (7, 7), (8, 7), (9, 9), (100, 9)])
def test_more_than_there_is_is_not_believed(limit: int, end: int) -> None:
    assert last_end(log(7, 9), limit) == end


def test_a_claim_is_no_record() -> None:
    assert receipts.decode(receipts.claim(b"w" * 16), ID, ORIGIN) is None
    assert len(receipts.claim(b"w" * 16)) == SIZE_BYTES
    assert receipts.claim(b"w" * 16) != receipts.claim(b"v" * 16)


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [(0, 8, True), (7, 8, True), (3, 8, False), (0, 7, False), (7, 7, False), (0, 3, False), (8, 9, False)],
)
def test_runs_follow_each_other(start: int, end: int, expected: bool) -> None:
    receipt = dataclasses.replace(RECEIPT, start=start, end=end)
    assert receipts.follows(receipt, 0, 7) is expected
