"""Entity tags: the table of RFC 9110 section 13.1."""

import pytest

from manifestry.core import etags

TAG = '"xyzzy"'


@pytest.mark.parametrize(
    ("header", "goes_on"),
    [
        (None, True),
        ("", True),
        ('"other"', True),
        ("xyzzy", True),
        ('"xyzz', True),
        (TAG, False),
        ('W/"xyzzy"', False),
        ('"a", "xyzzy"', False),
        ('"a" ,W/"b",, "xyzzy"', False),
        ('"a,b", "c"', True),
        ("*", False),
        (" * ", False),
    ],
)
def test_if_none_match_compares_weakly(header: str | None, goes_on: bool) -> None:
    assert etags.none_match(header, TAG) is goes_on


def test_a_comma_may_stand_in_a_tag() -> None:
    assert not etags.none_match('"a,b"', '"a,b"')


@pytest.mark.parametrize(
    ("header", "current", "holds"),
    [
        (None, TAG, True),
        (TAG, TAG, True),
        ('"other"', TAG, False),
        ('W/"xyzzy"', TAG, False),
        ('W/"xyzzy"', 'W/"xyzzy"', False),
        ("Mon, 23 Nov 2026 10:00:00 GMT", TAG, False),
    ],
)
def test_if_range_compares_strongly(header: str | None, current: str, holds: bool) -> None:
    assert etags.if_range_holds(header, current) is holds


def test_strong_tags_are_quoted() -> None:
    assert etags.strong("sha256:00") == '"sha256:00"'
