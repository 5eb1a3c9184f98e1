"""Entity tags and the conditional headers that compare them.

References: RFC 9110 sections 8.8.3 and 13.1.
"""

import re

_TAGS = re.compile(r'\s*(?:,\s*)*((?:W/)?"[\x21\x23-\x7e\x80-\xff]*")\s*(?:,|$)')


def strong(value: str) -> str:
    """Return the strong entity tag for a digest or a resourceVersion."""
    return f'"{value}"'


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
    return [match.group(1) for match in _TAGS.finditer(header)]


def _opaque(tag: str) -> str:
    return tag.removeprefix("W/")
