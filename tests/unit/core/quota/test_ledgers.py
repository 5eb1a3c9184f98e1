from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifestry.core.quota import holders, ledgers
from manifestry.core.quota.holders import Holder, LiveJob, Outcome, State
from manifestry.core.quota.quotas import UNLIMITED, Limits, Usage

NOW = datetime(2026, 1, 1, 12, 0, 0, 123456, UTC)
ONE = Limits(1, 1)


def holder(uid: Any, state: Any = State.QUEUED, *, age: Any = 0, priority: Any = 0, name: Any = None) -> Any:
    return Holder(uid, name or f"job-{uid}", state, NOW - timedelta(seconds=age), priority)


def states(ledger: Any) -> Any:
    return {uid: entry.state.value for uid, entry in ledger.holders.items()}


def test_reserve_adds_until_the_submit_gate_is_full() -> None:
    ledger = holders.build(())
    ledger, first = ledgers.reserve(ledger, "1", "a", ONE, NOW)
    ledger, second = ledgers.reserve(ledger, "2", "b", ONE, NOW)
    ledger, third = ledgers.reserve(ledger, "3", "c", ONE, NOW)
    assert [first, second, third] == [Outcome.CHANGED, Outcome.CHANGED, Outcome.OVER_LIMIT]
    assert ledger.usage == Usage(reserved=2)


def test_reserving_twice_changes_nothing() -> None:
    ledger = holders.build([holder("1", State.ADMITTED)])
    assert ledgers.reserve(ledger, "1", "job-1", ONE, NOW) == (ledger, Outcome.KEPT)


def test_a_reserved_name_is_taken_over_even_at_the_limit_and_made_young_again() -> None:
    ledger = holders.build([holder("1", State.RESERVED, age=100, name="a")])
    after, outcome = ledgers.reserve(ledger, "2", "a", Limits(1, 0), NOW)
    assert outcome is Outcome.CHANGED
    assert after.holders == {"2": Holder("2", "a", State.RESERVED, NOW)}
    assert after.usage == Usage(reserved=1)


def test_a_queued_entry_of_the_name_is_another_job_and_stays() -> None:
    ledger = holders.build([holder("1", State.QUEUED, name="a")])
    after, _ = ledgers.reserve(ledger, "2", "a", ONE, NOW)
    assert states(after) == {"1": "Queued", "2": "Reserved"}


@pytest.mark.parametrize(
    ("why", "before", "job", "expected", "outcome"),
    [
        (
            "a charge becomes a place",
            [holder("1", State.RESERVED)],
            LiveJob("1", "job-1"),
            "Queued",
            "Changed",
        ),
        ("no charge, room", [], LiveJob("1", "job-1"), "Queued", "Changed"),
        ("a place is kept", [holder("1", State.QUEUED)], LiveJob("1", "job-1"), "Queued", "Kept"),
        ("a slot is kept", [holder("1", State.ADMITTED)], LiveJob("1", "job-1"), "Admitted", "Kept"),
        ("parking keeps the charge", [], LiveJob("1", "job-1", parked=True), "Reserved", "Changed"),
        (
            "claiming does not park",
            [holder("1", State.QUEUED)],
            LiveJob("1", "job-1", parked=True),
            "Queued",
            "Kept",
        ),
        ("what runs is admitted", [], LiveJob("1", "job-1", running=True), "Admitted", "Changed"),
        (
            "another attempt's charge is taken over",
            [holder("9", State.RESERVED, name="job-1")],
            LiveJob("1", "job-1"),
            "Queued",
            "Changed",
        ),
    ],
)
def test_claim(why: Any, before: Any, job: Any, expected: Any, outcome: Any) -> None:
    after, found = ledgers.claim(holders.build(before), job, ONE, NOW)
    assert states(after) == {"1": expected}, why
    assert found.value == outcome, why


def test_the_charge_of_a_later_job_of_the_name_is_left_alone() -> None:
    ledger = holders.build([holder("9", State.RESERVED, name="a")])
    late = LiveJob("1", "a", created=NOW - timedelta(seconds=61))
    assert ledgers.claim(ledger, late, Limits(1, 0), NOW) == (ledger, Outcome.OVER_LIMIT)
    near = LiveJob("1", "a", created=NOW - timedelta(seconds=59))
    assert states(ledgers.claim(ledger, near, Limits(1, 0), NOW)[0]) == {"1": "Queued"}


def test_claim_without_a_charge_is_refused_when_full_but_what_runs_is_never_lost() -> None:
    full = holders.build([holder("1"), holder("2")])
    assert ledgers.claim(full, LiveJob("3", "c"), ONE, NOW) == (full, Outcome.OVER_LIMIT)
    after, _ = ledgers.claim(full, LiveJob("3", "c", running=True), ONE, NOW)
    assert after.usage == Usage(queued=2, admitted=1)


def test_claim_keeps_the_age_and_takes_the_new_priority() -> None:
    ledger = holders.build([holder("1", State.QUEUED, age=9)])
    after, outcome = ledgers.claim(ledger, LiveJob("1", "job-1", priority=7), ONE, NOW)
    assert outcome is Outcome.CHANGED
    assert after.holders["1"] == holder("1", State.QUEUED, age=9, priority=7)


def test_admit_flips_all_free_slots_by_priority_then_age_then_uid() -> None:
    waiting = [holder("d", age=1), holder("c", age=5), holder("b", age=5), holder("a", age=0, priority=1)]
    ledger = holders.build([*waiting, holder("r", State.ADMITTED), holder("s", State.RESERVED)])
    after, admitted = ledgers.admit(ledger, Limits(4, 9))
    assert [entry.uid for entry in admitted] == ["a", "b", "c"]
    assert after.usage == Usage(reserved=1, queued=1, admitted=4)
    assert [entry.uid for entry in ledgers.queue(after)] == ["d"]


@pytest.mark.parametrize(
    ("why", "ledger", "limits"),
    [
        ("nobody waits", holders.build([holder("1", State.RESERVED)]), UNLIMITED),
        ("no slot is free", holders.build([holder("1"), holder("2", State.ADMITTED)]), ONE),
        ("the limit was lowered", holders.build([holder("1"), holder("2", State.ADMITTED)]), Limits(0, 0)),
        ("repair has not run", holders.build([holder("1")], initialized=False), UNLIMITED),
    ],
)
def test_admit_does_nothing_when(why: Any, ledger: Any, limits: Any) -> None:
    after, admitted = ledgers.admit(ledger, limits)
    assert after is ledger, why
    assert admitted == ()


def test_unlimited_admits_everybody() -> None:
    after, _ = ledgers.admit(holders.build([holder("1"), holder("2")]), UNLIMITED)
    assert after.usage == Usage(admitted=2)


def test_park_and_release_are_idempotent() -> None:
    ledger = holders.build([holder("1", State.ADMITTED)])
    later = NOW + timedelta(seconds=9)
    parked, _ = ledgers.park(ledger, holder("1", State.ADMITTED), later)
    assert parked.holders == {"1": Holder("1", "job-1", State.RESERVED, later)}
    assert ledgers.park(parked, parked.holders["1"], later) == (parked, Outcome.KEPT)
    assert ledgers.park(parked, holder("2"), later) == (parked, Outcome.KEPT)
    gone, _ = ledgers.release(parked, "1")
    assert gone.usage == Usage()
    assert gone.reserved == {}
    assert ledgers.release(gone, "1") == (gone, Outcome.KEPT)


@pytest.mark.parametrize(
    ("why", "entry", "jobs", "unfinished", "cause"),
    [
        (
            "its Job has ended",
            holder("1", State.ADMITTED),
            [LiveJob("1", "a", terminal=True)],
            [],
            "terminal",
        ),
        ("its Job is gone", holder("1", State.QUEUED), [], [], "absent"),
        ("its create never came", holder("1", State.RESERVED, age=121), [], [], "expired"),
        ("its create may still come", holder("1", State.RESERVED, age=119), [], [], None),
        ("its pods still run", holder("1", State.ADMITTED), [], ["1"], None),
        (
            "it ended but a pod runs",
            holder("1", State.ADMITTED),
            [LiveJob("1", "a", terminal=True)],
            ["1"],
            None,
        ),
        ("its Job lives", holder("1", State.QUEUED), [LiveJob("1", "job-1")], [], None),
        ("it is suspended", holder("1", State.RESERVED, age=999), [LiveJob("1", "a", parked=True)], [], None),
    ],
)
def test_repair_drops_a_holder_when(why: Any, entry: Any, jobs: Any, unfinished: Any, cause: Any) -> None:
    after, report = ledgers.repair(holders.build([entry]), jobs, frozenset(unfinished), UNLIMITED, NOW)
    assert report.released == ({"1": cause} if cause else {}), why
    assert ("1" in after.holders) is (cause is None), why


def test_a_late_park_does_not_take_the_slot_of_a_resumed_job() -> None:
    seen = holder("1", State.ADMITTED)
    ledger, _ = ledgers.park(holders.build([seen]), seen, NOW + timedelta(seconds=1))
    ledger, _ = ledgers.claim(ledger, LiveJob("1", "job-1"), ONE, NOW)
    ledger, admitted = ledgers.admit(ledger, ONE)
    assert len(admitted) == 1
    assert ledgers.park(ledger, seen, NOW + timedelta(seconds=2)) == (ledger, Outcome.KEPT)


def test_repair_claims_what_runs_first_then_what_fits_and_names_the_rest() -> None:
    jobs = [
        LiveJob("1", "a"),
        LiveJob("2", "b", running=True),
        LiveJob("3", "c"),
        LiveJob("4", "d", terminal=True),
    ]
    before = holders.build((), initialized=False)
    after, report = ledgers.repair(before, jobs, frozenset(["2"]), ONE, NOW)
    assert states(after) == {"2": "Admitted", "1": "Queued"}
    assert report.claimed == ("b", "a")
    assert report.unplaced == ("c",)
    assert after.initialized


def test_a_full_object_takes_nobody_else_however_unlimited(monkeypatch: Any) -> None:
    monkeypatch.setattr(ledgers, "MAX_HOLDERS", 1)
    ledger = holders.build([holder("1")])
    assert ledgers.reserve(ledger, "2", "b", UNLIMITED, NOW) == (ledger, Outcome.OVER_LIMIT)


def test_parse_leaves_out_what_it_cannot_read_and_counts_unknown_states_as_running() -> None:
    body = {
        "status": {
            "initializedTime": "2026-01-01T00:00:00Z",
            "holders": {
                "ok": {"name": "a", "state": "Queued", "since": "2026-01-01T12:00:00.123456Z"},
                "odd": {"name": "b", "state": "Flying", "since": "2026-01-01T12:00:00", "priority": 3},
                "no-name": {"state": "Queued", "since": "2026-01-01T12:00:00Z"},
                "no-time": {"name": "c", "state": "Queued", "since": "yesterday"},
                "not-a-map": 7,
            },
        }
    }
    ledger = holders.parse(body)
    assert states(ledger) == {"ok": "Queued", "odd": "Admitted"}
    assert ledger.holders["odd"].since == datetime(2026, 1, 1, 12, tzinfo=UTC)
    assert len(ledger.notes) == 3
    assert ledger.initialized


@pytest.mark.parametrize("body", [{}, {"status": None}, {"status": {"holders": []}}, {"status": 3}])
def test_parse_of_an_empty_ledger(body: Any) -> None:
    assert holders.parse(body) == holders.Ledger()


HOLDERS = st.lists(
    st.builds(
        Holder,
        st.uuids().map(str),
        st.sampled_from(["a", "b", "c"]),
        st.sampled_from(State),
        st.datetimes(datetime(2020, 1, 1), datetime(2040, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
        st.integers(-1000, 1000),
    ),
    unique_by=lambda entry: entry.uid,
)


@given(HOLDERS)
def test_rendering_is_read_back_and_does_not_depend_on_the_order(entries: Any) -> None:
    ledger = holders.build(entries)
    rendered = holders.render(ledger)
    again = holders.parse({"status": {"initializedTime": "x", "holders": rendered}})
    assert again.holders == ledger.holders
    assert again.usage == ledger.usage
    assert repr(holders.render(holders.build(reversed(entries)))) == repr(rendered)
