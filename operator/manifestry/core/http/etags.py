"""Entity tags and the conditional headers that compare them.

References: RFC 9110 sections 8.8.3 and 13.
"""

import re
from collections.abc import Iterator
from enum import Enum

_TAG = re.compile(r'(?:W/)?"[\x21\x23-\x7e\x80-\xff]*"')
_GAP = re.compile(r"[\s,]*")


class Outcome(Enum):
    """What the preconditions of a request mean for it."""

    PROCEED = "proceed"
    NOT_MODIFIED = "not modified"  # 304
    FAILED = "failed"  # 412


def evaluate(method: str, if_match: str | None, if_none_match: str | None, current: str) -> Outcome:
    """Evaluate the preconditions of a request for a resource that exists.

    Dates (`If-Modified-Since`, `If-Unmodified-Since`) are ignored, as they must be for a resource without a
    modification date.

    Args:
        method: GET and HEAD may be answered with 304.
        if_match: the header's lines joined by commas, None when there is none.
        if_none_match: likewise.
        current: the strong entity tag of the resource as it is now.

    References: RFC 9110 section 13.2.2 (the order).
    """
    if not match(if_match, current):
        return Outcome.FAILED
    if none_match(if_none_match, current):
        return Outcome.PROCEED
    return Outcome.NOT_MODIFIED if method in {"GET", "HEAD"} else Outcome.FAILED


def strong(value: str) -> str:
    """Return the strong entity tag for a digest or a resourceVersion."""
    return f'"{value}"'


def match(header: str | None, current: str) -> bool:
    """Tell whether `If-Match` lets a request go on. Compares strongly; what cannot be read never matches.

    References: RFC 9110 section 13.1.1.
    """
    if header is None or header.strip() == "*":
        return True
    return current in _parse(header) and not current.startswith("W/")


def none_match(header: str | None, current: str) -> bool:
    """Tell whether `If-None-Match` lets a GET go on; False means 304. Compares weakly.

    References: RFC 9110 section 13.1.2.
    """
    if header is None:
        return True
    return header.strip() != "*" and _opaque(current) not in map(_opaque, _parse(header))


def if_range_holds(header: str | None, current: str) -> bool:
    """Tell whether `If-Range` lets a Range stand; a date or a weak tag never does, for we send no dates.

    References: RFC 9110 section 13.1.5.
    """
    return header is None or (header.strip() == current and not current.startswith("W/"))


def _parse(header: str) -> list[str]:
    return list(_tags(header))


def _tags(header: str) -> Iterator[str]:
    """Yield the tags up to the first thing that is none; one pass, however long the header is."""
    end = 0
    while (found := _TAG.match(header, _after_gap(header, end))) is not None:
        end = found.end()
        if _after_gap(header, end) < len(header) and "," not in header[end : _after_gap(header, end)]:
            return
        yield found.group()


def _after_gap(header: str, position: int) -> int:
    found = _GAP.match(header, position)
    return found.end() if found else position


def _opaque(tag: str) -> str:
    return tag.removeprefix("W/")
