"""Ranges: the table of RFC 9110 section 14."""

import email
import email.policy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifestry.core import errors
from manifestry.core.http import ranges
from manifestry.core.http.ranges import Span


@pytest.mark.parametrize(
    ("header", "size", "expected"),
    [
        ("bytes=0-499", 10000, (Span(0, 500),)),
        ("bytes=500-999", 10000, (Span(500, 500),)),
        ("bytes=-500", 10000, (Span(9500, 500),)),
        ("bytes=9500-", 10000, (Span(9500, 500),)),
        ("bytes=0-0,-1", 10000, (Span(0, 1), Span(9999, 1))),
        ("bytes= 0-999, 4500-5499, -1000", 10000, (Span(0, 1000), Span(4500, 1000), Span(9000, 1000))),
        ("BYTES=0-0", 10, (Span(0, 1),)),
        ("bytes=0-99", 10, (Span(0, 10),)),
        ("bytes=-99", 10, (Span(0, 10),)),
        ("bytes=0-0,,2-2", 10, (Span(0, 1), Span(2, 1))),
        ("bytes=5-6,99-", 10, (Span(5, 2),)),
    ],
)
def test_satisfiable_ranges(header: str, size: int, expected: tuple[Span, ...]) -> None:
    assert ranges.parse(header, size) == expected


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "bytes",
        "bytes=",
        "bytes=,",
        "bytes=-",
        "bytes=a-b",
        "bytes=1",
        "bytes=5-2",
        "bytes=+1-2",
        "bytes=1-2-3",
        "bytes=\u0661-",
        "lines=0-1",
        "bytes=" + "9" * 20 + "-",
        "bytes=" + ",".join(["0-0"] * (ranges.RANGES_MAX + 1)),
        "bytes=0-0" + " " * 600,
    ],
)
def test_headers_that_are_ignored(header: str | None) -> None:
    assert ranges.parse(header, 10) is None


@pytest.mark.parametrize(
    ("header", "size"), [("bytes=10-", 10), ("bytes=-0", 10), ("bytes=0-", 0), ("bytes=-5", 0)]
)
def test_nothing_satisfiable_says_the_size(header: str, size: int) -> None:
    with pytest.raises(errors.Problem) as caught:
        ranges.parse(header, size)
    assert caught.value.kind is errors.RANGE_NOT_SATISFIABLE
    assert caught.value.headers["Content-Range"] == f"bytes */{size}"


def test_content_range_counts_inclusively() -> None:
    assert Span(500, 500).content_range(1234) == "bytes 500-999/1234"


@pytest.mark.parametrize(
    ("spans", "expected"),
    [
        ((Span(5, 1),), (Span(5, 1),)),
        ((Span(0, 10), Span(5, 10)), (Span(0, 15),)),  # overlapping
        ((Span(5, 10), Span(0, 10)), (Span(0, 15),)),  # in any order
        ((Span(0, 10), Span(10, 10)), (Span(0, 20),)),  # touching
        ((Span(0, 10), Span(90, 10)), (Span(0, 100),)),  # a gap no longer than a part's frame
        ((Span(0, 10), Span(91, 10)), (Span(0, 10), Span(91, 10))),
        ((Span(900, 10), Span(0, 10)), (Span(900, 10), Span(0, 10))),  # the request's order is kept
        ((Span(900, 10), Span(0, 10), Span(905, 50)), (Span(900, 55), Span(0, 10))),
        ((Span(0, 1000), Span(5, 5), Span(500, 1)), (Span(0, 1000),)),  # one within another
        ((Span(0, 1),) * 16, (Span(0, 1),)),
    ],
)
def test_parts_that_overlap_or_nearly_touch_are_sent_as_one(
    spans: tuple[Span, ...], expected: tuple[Span, ...]
) -> None:
    assert ranges.merged(spans) == expected


@given(
    st.lists(st.tuples(st.integers(0, 3000), st.integers(1, 500)), min_size=1, max_size=16),
)
def test_merged_parts_hold_all_that_was_asked_for_and_no_byte_twice(asked: list[tuple[int, int]]) -> None:
    spans = tuple(Span(offset, count) for offset, count in asked)
    merged = ranges.merged(spans)
    sent = [byte for span in merged for byte in range(span.offset, span.end)]
    assert len(sent) == len(set(sent))
    assert set(sent) >= {byte for span in spans for byte in range(span.offset, span.end)}
    assert len(merged) <= len(spans)


def test_a_multipart_body_is_what_a_mime_reader_expects() -> None:
    data = bytes(range(256)) * 4
    spans = (Span(1000, 24), Span(0, 3))
    pieces = ranges.multipart(spans, len(data), "application/zip", "b0undary")
    body = b"".join(p if isinstance(p, bytes) else data[p.offset : p.end] for p in pieces)
    assert ranges.length(pieces) == len(body)
    head = b"Content-Type: multipart/byteranges; boundary=b0undary\r\n\r\n"
    read = email.message_from_bytes(head + body, policy=email.policy.HTTP)
    parts = list(read.iter_parts())
    assert [part["Content-Range"] for part in parts] == ["bytes 1000-1023/1024", "bytes 0-2/1024"]
    assert [part["Content-Type"] for part in parts] == ["application/zip"] * 2
    assert body.split(b"\r\n\r\n")[1].partition(b"\r\n--b0undary")[0] == data[1000:1024]
    assert not read.defects


@given(st.text(alphabet="bytes=0123456789-, ", max_size=40), st.integers(0, 100))
def test_every_part_lies_within_the_payload(header: str, size: int) -> None:
    try:
        spans = ranges.parse(header, size) or ()
    except errors.Problem:
        return
    assert all(span.count >= 1 and span.offset >= 0 and span.offset + span.count <= size for span in spans)
