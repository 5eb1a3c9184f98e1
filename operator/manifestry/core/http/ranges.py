"""Range requests for payloads whose size is known.

References: RFC 9110 section 14; CVE-2025-62727 (why the number of ranges is bounded before any work).
"""

from dataclasses import dataclass

from manifestry.core import errors

RANGES_MAX = 16
GAP_BYTES = 80  # what the frame of a part takes (RFC 9110 section 15.3.7.2)
_HEADER_MAX_LENGTH = 512
_DIGITS_MAX = 19  # more cannot be a size; also bounds int()


@dataclass(frozen=True)
class Span:
    """A satisfiable part of a payload.

    Args:
        offset: first byte.
        count: number of bytes, at least 1.
    """

    offset: int
    count: int

    @property
    def end(self) -> int:
        """Return the place after the last byte."""
        return self.offset + self.count

    def content_range(self, size_bytes: int) -> str:
        """Return the value of `Content-Range` for this part."""
        return f"bytes {self.offset}-{self.end - 1}/{size_bytes}"


def parse(header: str | None, size_bytes: int) -> tuple[Span, ...] | None:
    """Return the parts that a `Range` header asks for, in its order.

    None means that the header must be ignored (absent, another unit, not valid, over a bound): the answer is
    then the whole payload.

    Raises:
        Problem: range-not-satisfiable, when the header is valid but no part of it exists.
    References: RFC 9110 sections 14.1.2 and 14.2.
    """
    specs = _specs(header)
    if specs is None:
        return None
    spans = tuple(span for first, last in specs if (span := _resolve(first, last, size_bytes)) is not None)
    if not spans:
        raise errors.Problem(
            errors.RANGE_NOT_SATISFIABLE,
            f"`Range` must begin within the {size_bytes} bytes of the payload",
            headers={"Content-Range": f"bytes */{size_bytes}"},
        )
    return spans


def merged(spans: tuple[Span, ...]) -> tuple[Span, ...]:
    """Return the parts as they are sent: those that overlap, touch or nearly touch are sent as one.

    The order is that of the request, by the first range that went into a part. No byte is in two parts, so
    that an answer is never longer than the payload and the frames around at most `RANGES_MAX` parts.

    References: RFC 9110 section 15.3.7.2 (coalescing; order), section 17.15 (why).
    """
    joined: list[tuple[int, Span]] = []  # with the place in the request, by offset
    for place, span in sorted(enumerate(spans), key=lambda each: each[1].offset):
        if joined and span.offset - joined[-1][1].end <= GAP_BYTES:
            first, before = joined[-1]
            joined[-1] = min(first, place), Span(before.offset, max(before.end, span.end) - before.offset)
        else:
            joined.append((place, span))
    return tuple(span for _, span in sorted(joined, key=lambda each: each[0]))


def multipart(
    spans: tuple[Span, ...], size_bytes: int, media_type: str, boundary: str
) -> tuple[bytes | Span, ...]:
    """Return the body of a `multipart/byteranges` answer: frames, with the parts of the payload between them.

    Args:
        spans: at least two; a single part is never sent in this form.
        size_bytes: of the whole payload.
        media_type: of the payload.
        boundary: that the payload does not contain.

    References: RFC 9110 sections 14.6 and 15.3.7.2; RFC 2046 section 5.1.
    """
    pieces: list[bytes | Span] = []
    for number, span in enumerate(spans):
        head = "\r\n" if number else ""
        head += f"--{boundary}\r\nContent-Type: {media_type}\r\n"
        head += f"Content-Range: {span.content_range(size_bytes)}\r\n\r\n"
        pieces += [head.encode("latin-1"), span]
    return (*pieces, f"\r\n--{boundary}--\r\n".encode())


def length(pieces: tuple[bytes | Span, ...]) -> int:
    """Return how many bytes a body of these pieces has."""
    return sum(piece.count if isinstance(piece, Span) else len(piece) for piece in pieces)


def _specs(header: str | None) -> list[tuple[int | None, int | None]] | None:
    if header is None or len(header) > _HEADER_MAX_LENGTH:
        return None
    unit, equals, text = header.partition("=")
    items = [item.strip(" \t") for item in text.split(",")]
    if unit.strip().lower() != "bytes" or not equals or len(items) > RANGES_MAX:
        return None
    specs = [_spec(item) for item in items if item]
    return None if not specs or None in specs else [spec for spec in specs if spec is not None]


def _spec(item: str) -> tuple[int | None, int | None] | None:
    first, dash, last = item.partition("-")
    if not dash or not all(_is_number(part) for part in (first, last) if part) or not (first or last):
        return None
    start, end = (int(part) if part else None for part in (first, last))
    return None if start is not None and end is not None and end < start else (start, end)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= _DIGITS_MAX


def _resolve(first: int | None, last: int | None, size_bytes: int) -> Span | None:
    if first is None:
        count = min(last or 0, size_bytes)
        return Span(size_bytes - count, count) if count else None
    if first >= size_bytes:
        return None
    end = size_bytes - 1 if last is None else min(last, size_bytes - 1)
    return Span(first, end - first + 1)
