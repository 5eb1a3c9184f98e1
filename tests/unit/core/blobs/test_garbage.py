"""Which blob may go: tables of what is known, no store, no cluster."""

import json
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifestry.core.blobs import digests, garbage, garbagekeys, keys
from manifestry.core.blobs.garbage import Blob, Named, Observed, Pin, Referrers

NOW = datetime(2026, 5, 4, 12, tzinfo=UTC)
GRACE = timedelta(hours=2)
HOUR = timedelta(hours=1)
A, B, C = (digests.of(text) for text in (b"a", b"b", b"c"))
TENANT, ARTIFACT = str(uuid.UUID(int=1)), str(uuid.UUID(int=2))
BY_ARTIFACT, BY_PIN = Referrers(("report",)), Referrers((), ("gone",))


def observed(age: timedelta, marked: timedelta | None = None, by: Referrers | None = None) -> Observed:
    return Observed(Blob(A, 1, NOW - age), by, None if marked is None else NOW - marked, NOW, GRACE)


@pytest.mark.parametrize(
    ("given_", "action", "reason", "until"),
    [
        (observed(9 * HOUR, 8 * HOUR, BY_ARTIFACT), "keep", "Referenced", None),
        (observed(9 * HOUR, 8 * HOUR, BY_PIN), "keep", "Pinned", None),
        (observed(9 * HOUR, 8 * HOUR, Referrers(("x",), ("gone",))), "keep", "Referenced", None),
        (observed(HOUR), "keep", "Young", NOW + HOUR),
        (observed(HOUR, 8 * HOUR), "keep", "Young", NOW + HOUR),
        (observed(GRACE), "mark", "Unreferenced", None),
        (observed(9 * HOUR), "mark", "Unreferenced", None),
        (observed(9 * HOUR, HOUR), "keep", "Marked", NOW + HOUR),
        (observed(9 * HOUR, GRACE), "remove", "Expired", None),
        (observed(9 * HOUR, 8 * HOUR), "remove", "Expired", None),
        (observed(3 * HOUR, 8 * HOUR), "mark", "Unreferenced", None),
        (observed(-HOUR, 8 * HOUR), "keep", "Young", NOW + 3 * HOUR),
    ],
)
def test_every_blob_has_a_verdict_and_a_reason(
    given_: Observed, action: str, reason: str, until: datetime | None
) -> None:
    verdict = garbage.explain(given_)
    assert (verdict.action, verdict.reason, verdict.until) == (action, reason, until)
    sentence = garbage.describe(verdict)
    assert sentence
    for name in verdict.referrers:
        assert name in sentence
    if until is not None:
        assert until.strftime("%Y-%m-%dT%H:%M:%SZ") in sentence


ages = st.timedeltas(-timedelta(days=1), timedelta(days=400))


@given(age=ages, marked=st.none() | ages, by=st.sampled_from([None, BY_ARTIFACT, BY_PIN]))
def test_nothing_goes_that_is_young_or_has_a_reference_or_is_not_marked_long_enough(
    age: timedelta, marked: timedelta | None, by: Referrers | None
) -> None:
    if garbage.explain(observed(age, marked, by)).action == "remove":
        assert by is None
        assert age >= GRACE
        assert marked is not None
        assert GRACE <= marked <= age


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ({}, set()),
        ({"spec": None, "status": []}, set()),
        ({"spec": {"object": {"digest": A}}}, {A}),
        ({"spec": {"upload": {"digest": A, "sizeBytes": 1}, "digest": B}}, {A, B}),
        ({"spec": {"files": [{"name": "x", "upload": {"digest": A}}, {"object": {"digest": B}}]}}, {A, B}),
        ({"status": {"artifact": {"digest": A}, "manifest": {"digest": B}}}, {A, B}),
        ({"status": {"files": [{"name": "x", "digest": A}, {"name": "y", "digest": C}]}}, {A, C}),
        ({"status": {"attestations": [{"digest": C, "predicateType": "x"}]}}, {C}),
        ({"spec": {"annotations": {"org.example.base": A}}}, {A}),
        ({"spec": {"later": [[{"deeper": A}]]}}, {A}),
        ({"spec": {"digest": A.upper(), "x": A[:-1], "inline": {"text": f"{A} in a text"}}}, set()),
        ({"metadata": {"annotations": {"x": A}}}, set()),
    ],
)  # fmt: skip
def test_a_digest_anywhere_in_spec_or_status_is_a_reference(body: dict[str, Any], found: set[str]) -> None:
    assert set(garbage.digests_of(body)) == found
    kept = garbage.references([body])
    assert {digest for digest in (A, B, C) if digest in kept} == found


def test_pins_are_references() -> None:
    kept = garbage.references([], [Pin(ARTIFACT, "report", frozenset({A, B}))])
    assert (A in kept, B in kept, C in kept, len(kept)) == (True, True, False, 2)
    assert None not in kept


@given(st.sets(st.binary(max_size=3), max_size=50), st.sets(st.binary(max_size=3), max_size=50))
def test_the_compact_set_forgets_no_reference(ours: set[bytes], others: set[bytes]) -> None:
    kept = garbage.references([{"spec": [digests.of(each) for each in ours]}])
    assert all(digests.of(each) in kept for each in ours)
    assert not any(digests.of(each) in kept for each in others - ours)


def test_who_refers_to_a_digest_is_named_up_to_a_number() -> None:
    named = Named(frozenset({A, B}))
    for number in range(30):
        named.add({"metadata": {"name": f"n{number}"}, "spec": {"object": {"digest": A}, "digest": C}})
    named.add_pin(Pin(ARTIFACT, "gone", frozenset({B, C})))
    assert named.of(A) == Referrers(tuple(f"n{number}" for number in range(garbage.REFERRERS_SHOWN)))
    assert named.of(B) == Referrers((), ("gone",))
    assert named.of(C) is None
    assert named.digests == {A, B}


def test_a_pin_says_what_it_keeps() -> None:
    body = {
        "metadata": {"name": "report", "namespace": "ns", "uid": ARTIFACT},
        "spec": {"deletionPolicy": "Retain"},
    }
    old = garbage.render_pin(body, [B, A, B])
    assert garbage.parse_pin(ARTIFACT, old) == Pin(ARTIFACT, "report", frozenset({A, B}), "ns")
    content = garbage.render_pin(body, [B, A, B], 7)
    assert garbage.parse_pin(ARTIFACT, content) == Pin(ARTIFACT, "report", frozenset({A, B}), "ns", 7)
    since = datetime(2026, 1, 2, tzinfo=UTC)
    weighed = garbage.weighed_pin(garbage.parse_pin(ARTIFACT, old), 7, since)
    assert garbage.parse_pin(ARTIFACT, weighed).since == since
    assert garbage.parse_pin(ARTIFACT, weighed).size_bytes == 7
    assert content == garbage.render_pin(body, [A, B], 7)
    assert garbage.is_retained(body)
    assert not garbage.is_retained({"spec": {"deletionPolicy": "Delete"}})
    assert not garbage.is_retained({"spec": None})


@pytest.mark.parametrize(
    "data",
    [
        None, b"", b"{", b"[]", b"{}", b"\xff", b'{"artifact": {"name": "x"}}',
        json.dumps({"artifact": {"name": "x"}, "digests": ["sha256:0"]}).encode(),
        json.dumps({"artifact": {"name": 1}, "digests": []}).encode(),
    ],
)  # fmt: skip
def test_a_damaged_pin_is_an_error_and_never_no_pin(data: bytes | None) -> None:
    with pytest.raises(garbage.PinError, match=ARTIFACT):
        garbage.parse_pin(ARTIFACT, data)


@pytest.mark.parametrize(
    ("blob", "may"),
    [
        (None, False),
        (Blob(A, 1, NOW - GRACE), True),
        (Blob(A, 1, NOW - GRACE + timedelta(microseconds=1)), False),
        (Blob(A, 1, NOW + HOUR), False),
    ],
)
def test_under_the_claim_only_an_old_blob_goes(blob: Blob | None, may: bool) -> None:
    assert garbage.may_remove(blob, NOW, GRACE) is may


def test_keys_are_read_back() -> None:
    assert garbagekeys.parse_mark(garbagekeys.mark(TENANT, A)) == A
    assert garbagekeys.parse_claim(garbagekeys.claim(TENANT, A)) == (TENANT, A)
    assert garbagekeys.parse_pin(garbagekeys.pin(TENANT, ARTIFACT)) == ARTIFACT
    assert garbagekeys.parse_old_mark(garbagekeys.old_mark(TENANT, A)) == A
    assert garbagekeys.quarantine(TENANT, A).startswith(garbagekeys.damaged(TENANT))
    for make in (garbagekeys.quarantine, garbagekeys.old_quarantine):
        assert garbagekeys.parse_quarantine(make(TENANT, A)) == A
    assert garbagekeys.parse_quarantine(f"{garbagekeys.damaged(TENANT)}md5/{A[7:]}") is None
    for key in (keys.blob(TENANT, A), garbagekeys.mark(TENANT, A) + "s", "x.mark"):
        assert garbagekeys.parse_mark(key) is None
    assert keys.parse_blob(garbagekeys.mark(TENANT, A)) is None
    assert garbagekeys.claim(TENANT, A).startswith(garbagekeys.claims(TENANT))
    assert keys.blob(TENANT, A).startswith(garbagekeys.prefix(TENANT))
    for key in (garbagekeys.OWNER, "gc/", "gc/x/y"):
        assert garbagekeys.parse_claim(key) is None
    for key in ("pins/x", "pins/x.json", f"pins/{ARTIFACT}"):
        assert garbagekeys.parse_pin(key) is None


@pytest.mark.parametrize("part", ["", "..", "A" * 36, "../x", "a\x00b"])
def test_a_key_is_never_built_from_anything_else(part: str) -> None:
    makers = (
        garbagekeys.mark,
        garbagekeys.old_mark,
        garbagekeys.claim,
        garbagekeys.quarantine,
        garbagekeys.old_quarantine,
    )
    for make in makers:
        for arguments in ((part, A), (TENANT, part)):
            with pytest.raises(ValueError, match="must be"):
                make(*arguments)
    for uids in ((part, ARTIFACT), (TENANT, part)):
        with pytest.raises(ValueError, match="must be"):
            garbagekeys.pin(*uids)
