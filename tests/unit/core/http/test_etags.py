"""Entity tags: the table of RFC 9110 section 13.1."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifestry.core.http import etags
from manifestry.core.http.etags import Outcome

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


@pytest.mark.parametrize(
    ("header", "goes_on"),
    [
        (None, True),
        (TAG, True),
        (f" {TAG} ", True),
        (f'"a", {TAG}', True),
        (f'"a",,{TAG},', True),
        ("*", True),
        (" * ", True),
        ("", False),
        (",", False),
        ('"other"', False),
        (f"W/{TAG}", False),
        ("xyzzy", False),
        (f"junk {TAG}", False),
        (f"{TAG} junk", False),
        (f'"a" {TAG}', False),
        (f'"{TAG}"', False),
    ],
)
def test_if_match_compares_strongly(header: str | None, goes_on: bool) -> None:
    assert etags.match(header, TAG) is goes_on


def test_a_weak_tag_never_matches_strongly() -> None:
    assert not etags.match('W/"a"', 'W/"a"')


HIT, MISS = TAG, '"other"'
# RFC 9110 section 13.2.2: If-Match first; If-None-Match is 304 for reading and 412 for the rest.
PRECEDENCE = [
    ("GET", None, None, Outcome.PROCEED),
    ("GET", HIT, None, Outcome.PROCEED),
    ("GET", MISS, None, Outcome.FAILED),
    ("GET", None, HIT, Outcome.NOT_MODIFIED),
    ("GET", None, MISS, Outcome.PROCEED),
    ("GET", None, "*", Outcome.NOT_MODIFIED),
    ("GET", HIT, HIT, Outcome.NOT_MODIFIED),
    ("GET", MISS, HIT, Outcome.FAILED),
    ("GET", "*", MISS, Outcome.PROCEED),
    ("HEAD", None, HIT, Outcome.NOT_MODIFIED),
    ("HEAD", MISS, None, Outcome.FAILED),
    ("PATCH", HIT, None, Outcome.PROCEED),
    ("PATCH", MISS, None, Outcome.FAILED),
    ("PATCH", None, HIT, Outcome.FAILED),
    ("PATCH", None, "*", Outcome.FAILED),
    ("PATCH", None, MISS, Outcome.PROCEED),
    ("PATCH", HIT, MISS, Outcome.PROCEED),
    ("DELETE", "*", None, Outcome.PROCEED),
    ("DELETE", HIT, HIT, Outcome.FAILED),
]


@pytest.mark.parametrize(("method", "if_match", "if_none_match", "outcome"), PRECEDENCE)
def test_the_order_of_preconditions(
    method: str, if_match: str | None, if_none_match: str | None, outcome: Outcome
) -> None:
    assert etags.evaluate(method, if_match, if_none_match, TAG) is outcome


@pytest.mark.parametrize("piece", [",", '"', '"a"', " ", 'W/"a" ', '"a",'])
def test_a_long_header_costs_one_pass(piece: str) -> None:
    started = time.process_time()
    etags.match(piece * (64 << 10), TAG)
    etags.none_match(piece * (64 << 10), TAG)
    assert time.process_time() - started < 2  # two passes of a quadratic one are some minutes


@given(st.lists(st.from_regex(r'(W/)?"[!#-~]{0,5}"', fullmatch=True), max_size=5))
def test_every_tag_of_a_list_is_found(tags: list[str]) -> None:
    header = " , ".join(tags)
    for tag in tags:
        assert etags.match(header, tag) is not tag.startswith("W/")
        assert not etags.none_match(header, tag)
