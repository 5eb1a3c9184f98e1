"""What is ordered from other servers, when, and what becomes of the fetched bytes."""

from typing import Any

import pytest

from manifestry.core.artifacts import steps
from manifestry.core.artifacts.plans import DropFetched, Lookups, PublishStaged
from manifestry.core.fetching.fetches import Fetched, Order
from tests.unit.core.artifacts.observations import (
    ABSENT,
    ACME,
    CREATED,
    FETCHED,
    HELLO,
    INLINE,
    NOW,
    OTHER,
    PRIVATE,
    UPLOADED,
    body,
    observe,
    planned,
    summary,
)


def test_fetched_bytes_are_published_before_the_manifest_that_names_them() -> None:
    plan = planned(body(**FETCHED), downloads={"": Fetched("u", HELLO, 5)})
    assert plan.actions[0] == PublishStaged(ACME.uid, "u", HELLO, 5)
    assert plan.status is not None
    again = body(status=plan.status, generation=2, **FETCHED)
    assert steps.orders(observe(again), NOW) == {}
    assert steps.lookups(again) == Lookups(frozenset({HELLO}))


@pytest.mark.parametrize("promise", [{"digest": OTHER}, {"sizeBytes": 6}])
def test_fetched_bytes_that_are_not_what_was_promised_are_dropped_and_not_fetched_again(
    promise: dict[str, Any],
) -> None:
    made = body(**FETCHED, **promise)
    plan = planned(made, downloads={"": Fetched("u", HELLO, 5)})
    assert summary(plan)[2] == "Failed"
    assert plan.actions == (DropFetched(),)
    assert steps.lookups(made | {"status": plan.status}) is None
    edited = body(status=plan.status, generation=2, **FETCHED, **promise)
    assert steps.lookups(edited) == Lookups()
    inline = planned(body(**INLINE, **promise))
    assert steps.lookups(body(status=inline.status, **INLINE, **promise)) == Lookups()
    assert steps.lookups(body(status=plan.status)) == Lookups()


def file(name: str, **spec: Any) -> dict[str, Any]:
    return {"name": name, "mediaType": "a/b", **spec}


@pytest.mark.parametrize(
    ("spec", "evidence", "expected"),
    [
        (FETCHED, {}, {"": Order("https://example.org/")}),
        (
            {"files": [file("a", **FETCHED, digest=HELLO, sizeBytes=5), file("b", **INLINE)]},
            {},
            {"a": Order("https://example.org/", HELLO, 5)},
        ),
        ({"files": [file("a", **FETCHED), file("b", upload={})]}, {}, {}),
        ({"files": [file("a", **FETCHED), file("b", **INLINE, digest=OTHER)]}, {}, {}),
        (
            {"files": [file("a", **FETCHED), file("b", **UPLOADED)]},
            {"blobs": {HELLO: 5}},
            {"a": Order("https://example.org/")},
        ),
        ({**FETCHED, "subjectRef": {"name": "absent"}}, {}, {}),
        (INLINE, {}, {}),
        ({}, {}, {}),
    ],
)
def test_nothing_is_fetched_before_all_else_is_there(
    spec: dict[str, Any], evidence: dict[str, Any], expected: dict[str, Order]
) -> None:
    assert steps.orders(observe(body(**spec), **evidence), NOW) == expected


def test_a_url_has_no_printable_form() -> None:
    url = "https://example.org/?signature=canary"
    made = observe(body(url={"url": url}))
    shown = (repr(steps.orders(made, NOW)), repr(steps.plan(made, NOW)))
    assert "canary" not in "".join(shown)


def test_of_several_waits_the_nearest_one_decides_when_to_look() -> None:
    files = [file("a", **FETCHED), file("b", upload={}), file("c", object={"digest": OTHER})]
    plan = planned(body(files=files), CREATED)
    assert summary(plan)[1] == "AwaitingUpload"
    assert plan.again_seconds == 1
    assert planned(body(files=files[:1]), CREATED).again_seconds is None


def test_a_refused_fetch_stands_until_the_next_one_has_ended() -> None:
    made = body(**FETCHED)
    refused = made | {"status": planned(made, downloads={"": PRIVATE}).status}
    assert planned(refused).status is None
    assert summary(planned(refused, downloads={"": ABSENT})) == ("Unknown", "SourceNotFound", "InProgress")
    waiting = made | {"status": planned(made, downloads={"": ABSENT}).status}
    assert summary(planned(waiting))[1] == "Fetching"
