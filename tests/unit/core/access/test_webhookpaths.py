"""Which path of the webhook counts when."""

import base64
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from manifestry.core.access import webhookpaths
from manifestry.core.access.webhookpaths import KNOWN_AFTER, LIFETIME, Tokens

NOW = datetime(2026, 5, 4, 3, 2, 1, tzinfo=UTC)
A, B, C = ("a" * 64, "b" * 64, "c" * 64)
SECOND = timedelta(seconds=1)


def secret(**parts: str) -> dict[str, Any]:
    return {"data": {name: base64.b64encode(text.encode()).decode() for name, text in parts.items()}}


def test_a_path_is_one_that_a_webhooks_service_may_have() -> None:
    assert webhookpaths.path(A) == f"/validate/{A}"
    assert webhookpaths.TOKEN_BYTES * 8 >= 256


@pytest.mark.parametrize(
    ("age", "expected"),
    [
        (timedelta(0), Tokens(A, B, NOW)),
        (LIFETIME - SECOND, Tokens(A, B, NOW)),
        (LIFETIME, Tokens(C, A, NOW + LIFETIME)),
        (-LIFETIME + SECOND, Tokens(A, B, NOW)),
        (-LIFETIME, Tokens(C, A, NOW - LIFETIME)),  # made by a clock that is ahead
    ],
)
def test_a_token_is_renewed_when_it_is_old(age: timedelta, expected: Tokens) -> None:
    assert webhookpaths.renew(Tokens(A, B, NOW), C, NOW + age) == expected


def test_without_tokens_there_is_a_first_one() -> None:
    assert webhookpaths.renew(None, C, NOW) == Tokens(C, "", NOW)


@pytest.mark.parametrize(
    ("age", "previous", "expected"),
    [
        (timedelta(0), B, B),
        (KNOWN_AFTER - SECOND, B, B),
        (KNOWN_AFTER, B, A),
        (timedelta(0), "", A),
        (-SECOND, B, B),
    ],
)
def test_a_token_is_published_when_every_facade_knows_it(
    age: timedelta, previous: str, expected: str
) -> None:
    assert webhookpaths.published(Tokens(A, previous, NOW), NOW + age) == expected


@pytest.mark.parametrize("previous", [B, ""])
def test_a_secret_holds_what_was_written(previous: str) -> None:
    tokens = Tokens(A, previous, NOW)
    written = {"data": webhookpaths.render(tokens)}
    assert webhookpaths.parse(written) == tokens
    assert webhookpaths.accepted(written) == ((A, previous) if previous else (A,))


@pytest.mark.parametrize(
    "damaged",
    [
        {},
        {"data": None},
        {"data": "x"},
        {"data": {"current": 5, "made": "x"}},
        {"data": {"current": "%%%"}},
        {"data": {"current": base64.b64encode(b"\xff" * 64).decode()}},
        secret(made=NOW.isoformat()),
        secret(current="", made=NOW.isoformat()),
        secret(current="A" * 64, made=NOW.isoformat()),
        secret(current=A + "\n", made=NOW.isoformat()),
        secret(current=A[1:], made=NOW.isoformat()),
        secret(current="../" + A[3:], made=NOW.isoformat()),
    ],
)
def test_what_is_no_token_is_never_accepted(damaged: dict[str, Any]) -> None:
    assert webhookpaths.accepted(damaged) == ()
    assert webhookpaths.parse(damaged) is None


@pytest.mark.parametrize(
    "damaged",
    [
        secret(current=A, previous=B),
        secret(current=A, made="yesterday"),
        secret(current=A, made="2026-05-04T03:02:01"),
        secret(current="x", previous=B, made=NOW.isoformat()),
    ],
)
def test_tokens_without_a_time_or_an_order_are_made_anew(damaged: dict[str, Any]) -> None:
    assert webhookpaths.parse(damaged) is None


def test_a_damaged_previous_token_is_none() -> None:
    damaged = secret(current=A, previous="x", made=NOW.isoformat())
    assert webhookpaths.parse(damaged) == Tokens(A, "", NOW)


def test_tokens_have_no_printable_form() -> None:
    assert A not in repr(Tokens(A, B, NOW))
    assert B not in repr(Tokens(A, B, NOW))
