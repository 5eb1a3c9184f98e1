"""What is counted in the storage ledger: charges, what is stored or retained, and what it is read from."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from manifestry.core.quota.storage import grants, lives, recounts
from manifestry.core.quota.storage import limits as storage_limits
from manifestry.core.quota.storage.charges import (
    Account,
    Charge,
    Totals,
    build,
    changed,
    landed,
    parse,
    provisional,
    render,
    upload,
)
from manifestry.core.quota.storage.limits import Limits
from manifestry.core.quota.storage.lives import Live, State
from tests.unit.core.quota.storage.samples import LATER, NOW, charge, live

pytestmark = pytest.mark.unit
LANDED = frozenset({landed("u1", "x", "d")})


@pytest.mark.parametrize(
    ("held", "artifact", "cause", "left"),
    [
        (charge(), live(State.PENDING), None, 10),
        (charge(), live(State.AWAITING), "abandoned", 0),
        (charge(), live(State.AWAITING, 4), "abandoned", 4),
        (charge(), live(State.AWAITING, 10), None, 10),
        (charge(expires=LATER), live(State.AWAITING), None, 10),
        (charge(since=LATER), live(State.AWAITING), None, 10),
        (charge(), live(State.ENDED), "ended", None),
        (charge(), live(State.ENDED, since=LATER), None, 10),
        (charge(), None, "absent", None),
        (charge(since=LATER), None, None, 10),
        (charge(expires=LATER), None, "absent", None),
        (charge(provisional("a")), live(State.PENDING), None, 10),
        (charge(provisional("a")), live(State.STORED), "absent", None),
        (charge(provisional("a")), None, "absent", None),
        (charge("old"), live(State.PENDING), "absent", None),
        (charge(provisional("a")), live(State.RETAINED, 0, "u0"), "absent", None),
        (charge(upload("u1", "t")), live(State.RETAINED), "absent", None),
        (charge(upload("u1", "t"), since=LATER), live(State.RETAINED), None, 10),
        (charge(landed("u1", "x", "d")), live(State.ENDED, recorded=LANDED), None, 10),  # the spec has it
        (charge(landed("u1", "y", "d")), live(State.ENDED, recorded=LANDED), "ended", None),
        (charge(), replace(live(State.ENDED), is_pinned=True), None, 10),
        (charge(upload("u1", "t")), replace(live(State.ENDED), is_pinned=True), "ended", None),
    ],
)
def test_what_nobody_uses_is_marked_first_and_given_back_next(
    held: Charge, artifact: Live | None, cause: str | None, left: int | None
) -> None:
    found = [] if artifact is None else [artifact]
    stored = [each for each in found if each.state in {State.STORED, State.RETAINED}]
    retained = [each for each in found if each.state is State.RETAINED]
    account = build([held], Totals(0, len(stored), NOW, 0, len(retained)))
    marked, report = recounts.recount(account, account, found, LATER)
    assert report is not None
    assert (report.released, report.marked) == ({}, 1 if cause else 0)
    assert marked.reserved_bytes == held.size_bytes
    if not cause:
        assert marked is account
        return
    after, report = recounts.recount(marked, marked, found, LATER)
    assert report is not None
    assert report.released == {held.uid: cause}
    assert {each.size_bytes for each in after.charges.values()} == (set() if left is None else {left})
    assert all(each.unused is None for each in after.charges.values())


def test_a_charge_that_is_used_again_loses_its_mark() -> None:
    account = build([charge(unused=NOW)], Totals(0, 0, NOW))
    after, report = recounts.recount(account, account, [live(State.PENDING)], LATER)
    assert (after.charges["u1"].unused, report) == (None, recounts.Recount(changed=True))


def test_a_charge_that_changed_since_is_left_alone() -> None:
    seen = build([charge(unused=NOW)], Totals(0, 0, NOW))
    account = changed(seen, put=(charge(since=LATER),))
    assert recounts.recount(account, seen, [], LATER) == (account, recounts.Recount())


def test_marks_of_one_write_are_bounded() -> None:
    account = build(
        (charge(str(number), 0, name=f"n{number}") for number in range(recounts.MAX_MARKS + 1)),
        Totals(0, 0, NOW),
    )
    _, report = recounts.recount(account, account, [], LATER)
    assert report is not None
    assert report.marked == recounts.MAX_MARKS


def test_stored_artifacts_are_counted_and_lose_their_charges() -> None:
    account = build([charge(), charge("u2", 20, name="b")], Totals(7, 1, NOW))
    found = [live(State.STORED, 9), live(State.STORED, 30, "u3"), live(State.PENDING, 0, "u2")]
    after, report = recounts.recount(account, account, found, NOW)
    assert report is not None
    assert report.released == {"u1": "stored"}
    assert (after.totals.committed_bytes, after.totals.artifact_count, after.reserved_bytes) == (39, 2, 20)
    assert after.totals.observed == NOW + timedelta(microseconds=1), "two counts are never equal"
    assert recounts.recount(after, after, found, LATER) == (after, recounts.Recount())


def test_what_is_retained_counts_as_before_and_not_beside_its_charges() -> None:
    held = [charge(), charge(landed("u1", "x", "d"), 4), charge(upload("u1", "t"), 3)]
    account = build([*held, charge(provisional("a"), 2, since=NOW)], Totals(30, 1, NOW))
    pins = [live(State.RETAINED, 10), live(State.RETAINED, 30, "u3"), live(State.RETAINED, 5, "u4")]
    found = lives.with_retained([live(State.STORED, 5, "u4")], pins)
    after, report = recounts.recount(account, account, found, NOW)
    assert report is not None
    assert {*report.released.values()} == {"stored"}
    assert {*after.charges} == {upload("u1", "t"), provisional("a")}, "another one may have the name now"
    totals = after.totals
    assert (totals.committed_bytes, totals.artifact_count) == (45, 3)
    assert (totals.retained_bytes, totals.retained_count) == (40, 2)
    assert parse({"status": {"initializedTime": "x", **render(after)}}) == after
    shown = storage_limits.usage(after, Limits(100))
    assert (shown["usedBytes"], shown["retainedBytes"], shown["retainedArtifacts"]) == (45, 40, 2)
    assert "45 stored (40 of them retained)" in storage_limits.describe("a", shown)
    removed, _ = recounts.recount(after, after, found[:1], NOW)
    assert (removed.totals.committed_bytes, removed.totals.retained_count) == (5, 0)
    assert "retainedBytes" not in storage_limits.usage(removed, Limits(100))


def test_a_count_of_what_is_retained_alone_is_written() -> None:
    account = build([], Totals(10, 1, NOW))
    after, report = recounts.recount(account, account, [live(State.RETAINED, 10)], LATER)
    assert report == recounts.Recount(changed=True)
    assert (after.totals.committed_bytes, after.totals.retained_bytes) == (10, 10)


def test_a_count_that_a_commit_has_overtaken_is_done_again() -> None:
    seen = build([charge()], Totals(0, 0, NOW))
    account, _ = grants.commit(seen, charge(), 10)
    assert recounts.recount(account, seen, [], LATER) == (account, None)
    assert recounts.recount(replace(seen, initialized=False), seen, [], LATER)[1] is None


def test_the_first_count_makes_the_account_usable() -> None:
    account, report = recounts.recount(Account(), Account(), [], NOW)
    assert report == recounts.Recount(changed=True)
    assert (account.initialized, account.totals) == (True, Totals(0, 0, NOW))


def test_an_account_reads_back_as_it_was_written() -> None:
    account = build(
        [charge(), charge(provisional("b"), 0, name="b", expires=LATER, unused=NOW)], Totals(5, 2, NOW)
    )
    body = {"status": {"initializedTime": "x", **render(account)}}
    assert parse(body) == account
    assert render(account)["holders"]["u1"] == {
        "name": "a",
        "state": "Reserved",
        "since": "2026-01-01T12:00:00.000000Z",
        "sizeBytes": 10,
    }
    assert render(Account())["storage"] == {"committedBytes": 0, "artifactCount": 0}


@pytest.mark.parametrize(
    "status",
    [None, 3, {"holders": 3, "storage": 3}, {"holders": {"u": 3}}, {"holders": {"u": {"name": ""}}}],
)
def test_a_ledger_that_cannot_be_read_is_empty_and_not_ready(status: Any) -> None:
    account = parse({"status": status})
    assert (account.charges, account.initialized) == ({}, False)


def test_an_unreadable_charge_is_noted_and_dropped() -> None:
    body = {
        "status": {
            "holders": {"u": {"name": "a", "since": "never"}, "v": {"name": "a", "since": NOW.isoformat()}}
        }
    }
    account = parse(body)
    assert ([*account.charges], account.notes) == (["v"], ("holder 'u' cannot be read",))
    naive = parse(
        {"status": {"holders": {"v": {"name": "a", "since": "2026-01-01T12:00:00", "sizeBytes": -1}}}}
    )
    assert naive.charges["v"] == charge("v", 0)
    assert recounts.recount(account, account, [], NOW)[0].notes == ()


def artifact(spec: Any = None, status: Any = None, generation: int = 1) -> dict[str, Any]:
    meta = {"name": "a", "uid": "u1", "generation": generation}
    return {"metadata": meta, "spec": spec or {}, "status": status}


STALLED = {"type": "Stalled", "status": "True", "lastTransitionTime": "2026-01-01T12:00:00Z"}
MANIFEST = {"manifest": {"digest": "sha256:0"}}


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (artifact({"inline": {}}), live(State.PENDING)),
        (artifact({"upload": {}}), live(State.AWAITING)),
        (
            artifact({"upload": {"digest": "d", "sizeBytes": 3}}),
            live(State.PENDING, 3, recorded=frozenset({landed("u1", "", "d")})),
        ),
        (
            artifact(
                {"files": [{"name": "f", "upload": {"digest": "d", "sizeBytes": 3}}, {"upload": {}}, 7]}
            ),
            live(State.AWAITING, 3, recorded=frozenset({landed("u1", "f", "d")})),
        ),
        (artifact(status={"observedGeneration": 1, "conditions": [STALLED]}), live(State.ENDED, since=NOW)),
        (artifact(status={"observedGeneration": 0, "conditions": [STALLED]}), live(State.PENDING)),
        (artifact(status={**MANIFEST, "artifact": {"sizeBytes": 4}}), live(State.STORED, 4)),
        (artifact(status={**MANIFEST, "files": [{"sizeBytes": 4}, {"sizeBytes": 5}]}), live(State.STORED, 9)),
        (
            artifact(
                status={
                    **MANIFEST,
                    "observedGeneration": 1,
                    "conditions": [STALLED],
                    "artifact": {"sizeBytes": 4},
                }
            ),
            live(State.STORED, 4),
        ),
        (
            artifact(
                status={
                    "observedGeneration": 1,
                    "conditions": [{**STALLED, "lastTransitionTime": "2026-01-01T12:00:00"}],
                }
            ),
            live(State.ENDED, since=NOW),
        ),
        (
            artifact(status={"observedGeneration": 1, "conditions": [{"type": "Stalled", "status": "True"}]}),
            live(State.ENDED),
        ),
        ({"metadata": 3, "spec": 3, "status": 3}, Live("", "", State.PENDING)),
    ],
)
def test_where_an_artifact_is(body: Any, expected: Live) -> None:
    assert lives.live(body) == expected
