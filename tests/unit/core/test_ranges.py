"""Ranges: the table of RFC 9110 section 14."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifestry.core import errors, ranges
from manifestry.core.ranges import Span


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


def test_only_a_single_range_is_answered_in_part() -> None:
    assert ranges.single((Span(1, 2),)) == Span(1, 2)
    assert ranges.single((Span(1, 2), Span(5, 1))) is None
    assert ranges.single(None) is None


@given(st.text(alphabet="bytes=0123456789-, ", max_size=40), st.integers(0, 100))
def test_every_part_lies_within_the_payload(header: str, size: int) -> None:
    try:
        spans = ranges.parse(header, size) or ()
    except errors.Problem:
        return
    assert all(span.count >= 1 and span.offset >= 0 and span.offset + span.count <= size for span in spans)
