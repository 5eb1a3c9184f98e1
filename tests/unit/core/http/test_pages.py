"""Keyset pages."""

import base64
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifestry.core import errors
from manifestry.core.http import pages

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
FILTERS = {"list": "jobs", "tenant": "acme"}


def made(name: str, second: int = 0) -> dict[str, Any]:
    return {"metadata": {"name": name, "creationTimestamp": f"2026-11-23T10:00:{second:02}Z"}}


def names_of(page: pages.Page[dict[str, Any]]) -> list[str]:
    return [each["metadata"]["name"] for each in page.items]


def take(
    objects: list[dict[str, Any]], limit: int, token: str | None = None, **filters: Any
) -> pages.Page[dict[str, Any]]:
    return pages.take(objects, pages.newest_first, pages.Query(limit, token, FILTERS | filters), NOW)


def test_the_newest_come_first_and_equal_times_go_by_name() -> None:
    objects = [made("b", 1), made("a", 1), made("old", 0), made("new", 2)]
    page = take(objects, 10)
    assert names_of(page) == ["new", "a", "b", "old"]
    assert page.token is None


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 99)), unique=True, max_size=40), st.integers(1, 7)
)
def test_the_pages_together_are_the_list(keys: list[tuple[int, int]], limit: int) -> None:
    objects = [made(f"n{number:02}-{second}", second) for second, number in keys]
    found: list[str] = []
    token: str | None = None
    while True:
        page = take(objects, limit, token)
        found += names_of(page)
        if (token := page.token) is None:
            break
        assert len(page.items) == limit
    assert found == [each["metadata"]["name"] for each in sorted(objects, key=pages.newest_first)]


def test_what_is_created_or_deleted_between_two_pages_neither_hides_nor_repeats_another() -> None:
    objects = [made(name, second) for second, name in enumerate("abcdef")]
    first = take(objects, 3)
    assert names_of(first) == ["f", "e", "d"]
    changed = [made("new", 30), *[each for each in objects if each["metadata"]["name"] != "d"]]
    assert names_of(take(changed, 3, first.token)) == ["c", "b", "a"]


KEYS = st.tuples(st.integers(0, 4), st.sampled_from("abcdefgh"))


@given(
    st.sets(KEYS, max_size=20),
    st.lists(st.tuples(st.sets(KEYS, max_size=4), st.sets(KEYS, max_size=4)), max_size=12),
    st.integers(1, 4),
)
def test_whoever_stays_is_shown_once_whatever_comes_and_goes(
    there: set[tuple[int, str]], events: list[tuple[set[tuple[int, str]], set[tuple[int, str]]]], limit: int
) -> None:
    """`events` are what is made and what is deleted between two pages; a key is an object's time and name."""
    alive, stayed = set(there), set(there)
    seen: list[tuple[int, str]] = []
    token: str | None = None
    for born, gone in [*events, *[(set(), set())] * 40]:
        page = take([made(f"{name}-{second}", second) for second, name in alive], limit, token)
        seen += [(int(found[2:]), found[0]) for found in names_of(page)]
        if (token := page.token) is None:
            break
        alive = (alive | born) - gone
        stayed &= alive - (born & gone)
        stayed -= gone
    assert len(seen) == len(set(seen))
    assert stayed <= set(seen)
    assert seen == sorted(seen, key=lambda key: (-key[0], key[1]))


def test_an_object_without_a_time_comes_last() -> None:
    assert names_of(take([{"metadata": {"name": "x"}}, made("y")], 5)) == ["y", "x"]


def token_of(limit: int = 1) -> str:
    token = take([made("a"), made("b")], limit).token
    assert token is not None
    return token


def test_a_token_with_other_filters_is_a_bad_request() -> None:
    with pytest.raises(errors.Problem) as caught:
        take([made("a")], 1, token_of(), jobType="render")
    assert caught.value.kind is errors.BAD_REQUEST
    assert caught.value.errors[0].pointer == "query:continue"


def test_an_absent_filter_and_none_are_the_same() -> None:
    assert names_of(take([made("a"), made("b")], 1, token_of(), project=None)) == ["b"]


def test_a_token_expires_after_an_hour() -> None:
    query = pages.Query(1, token_of(), FILTERS)
    in_time = NOW + timedelta(seconds=pages.TOKEN_LIFETIME_SECONDS)
    assert pages.take([made("b")], pages.newest_first, query, in_time).items
    with pytest.raises(errors.Problem) as caught:
        pages.take([made("b")], pages.newest_first, query, in_time + timedelta(seconds=1))
    assert caught.value.kind is errors.GONE


def _encoded(content: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(content).encode()).decode().rstrip("=")


@pytest.mark.parametrize(
    "token",
    [
        "",
        "?",
        "a",
        "bm90IGpzb24",
        _encoded({"a": 1}),
        _encoded([2, 0, "x", [1, "a"]]),
        _encoded([1, 0, "x", []]),
        _encoded([1, 0, "x", [True]]),
        _encoded([1, 0, "x", [[1]]]),
        _encoded([1, 10**400, "x", [1, "a"]]),
        _encoded([1, -(10**400), "x", [1, "a"]]),
        _encoded([1, 0, "x", [10**400, "a"]]),
        "A" * (pages.TOKEN_MAX_LENGTH + 1),
        base64.urlsafe_b64encode(b"[" * 700).decode(),
        "\xe4\xf6",
    ],
)
def test_a_malformed_token_is_a_bad_request(token: str) -> None:
    with pytest.raises(errors.Problem) as caught:
        take([made("a")], 1, token)
    assert caught.value.kind is errors.BAD_REQUEST


@given(st.text(max_size=60))
def test_no_text_is_more_than_a_bad_request(token: str) -> None:
    with pytest.raises(errors.Problem) as caught:
        take([made("a")], 1, token)
    assert caught.value.kind is errors.BAD_REQUEST


def test_a_key_of_another_shape_is_a_bad_request() -> None:
    issued = json.loads(base64.urlsafe_b64decode(token_of() + "=="))
    issued[3] = ["text", 5]
    with pytest.raises(errors.Problem) as caught:
        take([made("a")], 1, _encoded(issued))
    assert caught.value.kind is errors.BAD_REQUEST
