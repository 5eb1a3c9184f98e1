"""Reading a watch's body."""

import itertools
import json
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifestry.adapters.kube import apierrors, watchevents

EVENTS = [{"type": "ADDED", "object": {"metadata": {"name": f"o{n}", "x": "\u2028ä" * n}}} for n in range(5)]
BODY = b"".join(json.dumps(event, ensure_ascii=False).encode() + b"\n" for event in EVENTS)


async def chunked(chunks: list[bytes]) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


@given(st.lists(st.integers(0, len(BODY)), max_size=20))
async def test_events_are_read_wherever_the_body_is_cut(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(BODY)]
    chunks = [BODY[start:end] for start, end in itertools.pairwise(edges)]
    read = [event async for event in watchevents.parse_events(chunked(chunks))]
    assert [{"type": event.type, "object": event.object} for event in read] == EVENTS


async def test_empty_lines_are_nothing() -> None:
    read = [event async for event in watchevents.parse_events(chunked([b"\n\n", BODY, b"\n"]))]
    assert len(read) == len(EVENTS)


@pytest.mark.parametrize("line", [b"{", b"[]", b"1", b'{"type": "ADDED"}', b'{"type": "X", "object": 1}'])
def test_what_is_no_event_is_an_error(line: bytes) -> None:
    with pytest.raises(apierrors.UnavailableError):
        watchevents.parse_event(line)


@pytest.mark.parametrize(("code", "kind"), [(410, apierrors.GoneError), (500, apierrors.UnavailableError)])
def test_an_error_event_is_raised(code: int, kind: type[Exception]) -> None:
    line = json.dumps({"type": "ERROR", "object": {"kind": "Status", "code": code, "message": "old"}})
    with pytest.raises(kind, match="old"):
        watchevents.parse_event(line.encode())


async def test_a_line_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchevents, "MAX_LINE_BYTES", 100)
    with pytest.raises(apierrors.UnavailableError, match="over 100 bytes"):
        async for _ in watchevents.parse_events(chunked([b"x" * 60, b"x" * 60])):
            pass
