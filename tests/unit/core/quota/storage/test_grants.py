"""The transitions of the storage ledger, one table for each."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from manifestry.core.quota import quotas
from manifestry.core.quota.storage import grants, lives, recounts
from manifestry.core.quota.storage import limits as storage_limits
from manifestry.core.quota.storage.charges import (
    LEASE,
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
from manifestry.core.quota.storage.grants import STEP_BYTES, Wanted
from manifestry.core.quota.storage.limits import UNLIMITED, Limits
from manifestry.core.quota.storage.lives import Live, State

pytestmark = pytest.mark.unit
NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
LATER = NOW + LEASE + timedelta(seconds=1)
LIMITS = Limits(100, 3)
LANDED = frozenset({landed("u1", "x", "d")})


def charge(uid: str = "u1", size_bytes: int = 10, **changes: Any) -> Charge:
    return Charge(uid, changes.pop("name", "a"), changes.pop("since", NOW), size_bytes, **changes)


def reserve(
    account: Account, size_bytes: int, limits: Limits = LIMITS, **changes: Any
) -> tuple[Account, grants.Grant]:
    wanted = Wanted(changes.pop("uid", "u1"), changes.pop("name", "a"), size_bytes, **changes)
    return grants.reserve(account, wanted, limits, LATER)


@pytest.mark.parametrize(
    ("committed", "held", "size_bytes", "limits", "reason"),
    [
        (0, 0, 100, LIMITS, "Reserved"),
        (0, 0, 101, LIMITS, "ExceedsMaxQuota"),
        (1, 0, 100, LIMITS, "WaitingForQuota"),
        (40, 40, 20, LIMITS, "Reserved"),
        (40, 40, 21, LIMITS, "WaitingForQuota"),
        (40, 40, 10**15, Limits(None, 3), "Reserved"),
        (40, 40, 10**15, UNLIMITED, "Reserved"),
        (0, 0, 0, Limits(0, None), "Reserved"),
        (0, 0, 1, Limits(0, None), "ExceedsMaxQuota"),
        (0, 0, 0, Limits(None, 0), "ExceedsMaxQuota"),
        (500, 0, 0, LIMITS, "Reserved"),  # lowered below usage: what needs no bytes is still let in
        (500, 0, 1, LIMITS, "WaitingForQuota"),
    ],
)
def test_what_fits_is_reserved(
    committed: int, held: int, size_bytes: int, limits: Limits, reason: str
) -> None:
    account = build([charge("other", held, name="b")] if held else [], Totals(committed, 1, NOW))
    after, grant = reserve(account, size_bytes, limits)
    assert grant.reason == reason
    assert after.reserved_bytes == held + (size_bytes if reason == "Reserved" else 0)
    assert (after is account) == (reason != "Reserved")


def test_the_number_of_artifacts_is_limited_too() -> None:
    full = build([charge("x", 0, name="x"), charge("y", 0, name="y")], Totals(0, 1, NOW))
    assert reserve(full, 0)[1].reason == "WaitingForQuota"
    assert reserve(full, 0, uid="x", name="x")[1].reason == "Reserved"
    assert reserve(full, 5, uid="x", name="x")[1].reason == "Reserved"
    most = build(charge(str(number), 0, name=f"n{number}") for number in range(grants.MAX_CHARGES))
    assert reserve(most, 0, UNLIMITED)[1].reason == "WaitingForQuota"


def test_a_charge_is_raised_and_never_lowered_by_its_owner() -> None:
    account = build([charge(size_bytes=10)])
    after, grant = reserve(account, 30)
    assert (after.reserved_bytes, grant.before) == (30, charge(size_bytes=10))
    same, grant = reserve(after, 20)
    assert same is after
    assert grant.charge == charge(size_bytes=30, since=LATER), "a change is later than what stood before"
    assert reserve(after, 101)[1].reason == "ExceedsMaxQuota"


def test_a_lease_renews_the_charge() -> None:
    after, grant = reserve(build([charge(unused=NOW)]), 10, lease=LEASE)
    assert grant.charge == charge(since=LATER) == after.charges["u1"]
    long, _ = reserve(after, 10, lease=timedelta(hours=1))
    assert long.charges["u1"].expires == LATER + timedelta(hours=1)
    assert not long.charges["u1"].is_expired(LATER + timedelta(minutes=59))
    assert long.charges["u1"].is_expired(LATER + timedelta(minutes=61))


def test_the_charge_of_a_name_is_taken_over_when_it_has_a_uid() -> None:
    account, _ = reserve(build([]), 10, uid="")
    assert [*account.charges] == [provisional("a")]
    after, grant = reserve(account, 20)
    assert [*after.charges] == ["u1"]
    assert grant.before == replace(account.charges[provisional("a")], uid="u1")
    both = changed(after, put=(charge(provisional("a"), 5),))
    assert {*reserve(both, 30)[0].charges} == {"u1", provisional("a")}, "another Artifact's"


@pytest.mark.parametrize(
    ("limits", "held", "wanted", "expected"),
    [
        (UNLIMITED, 0, 0, STEP_BYTES),
        (UNLIMITED, 7, 7, 7 + STEP_BYTES),
        (UNLIMITED, 8, 7, 8),
        (Limits(10 * STEP_BYTES), 0, 5, 5 + STEP_BYTES),
        (Limits(80), 0, 0, 10),
        (Limits(80), 40, 40, 45),
        (Limits(80), 80, 80, 80),
    ],
)
def test_a_stream_of_unknown_length_goes_in_steps(
    limits: Limits, held: int, wanted: int, expected: int
) -> None:
    _, grant = reserve(build([charge(size_bytes=held)]), wanted, limits, step=True, lease=LEASE)
    assert grant.charge is not None
    assert grant.charge.size_bytes == expected


def test_only_an_unchanged_charge_is_taken_back() -> None:
    account, grant = reserve(build([]), 10, lease=LEASE)
    assert grant.charge is not None
    assert grants.restore(account, grant.charge, None)[0].charges == {}
    before = charge(size_bytes=3, unused=NOW)
    assert grants.restore(account, grant.charge, before)[0].charges == {"u1": charge(size_bytes=3)}
    other = changed(account, put=(charge(size_bytes=11),))
    assert grants.restore(other, grant.charge, None) == (other, False)


@pytest.mark.parametrize(
    ("held", "size_bytes", "recorded", "left"),
    [
        ([charge(size_bytes=10)], 4, (), 4),
        ([charge(size_bytes=10, unused=NOW)], 0, (), 0),
        ([charge(size_bytes=10)], 10, (), None),
        ([charge(size_bytes=10)], 11, (), None),
        ([charge(size_bytes=10), charge(landed("u1", "f", "d"), 3)], 5, (landed("u1", "f", "d"),), 2),
        ([charge(size_bytes=10), charge(landed("u1", "f", "d"), 3)], 2, (landed("u1", "f", "d"),), 0),
        ([charge("u2", 10)], 0, (), None),
        ([charge(provisional("a"), 10)], 0, (), None),
        ([], 0, (), None),
    ],
)
def test_what_has_not_come_is_given_back(
    held: list[Charge], size_bytes: int, recorded: tuple[str, ...], left: int | None
) -> None:
    account = build(held)
    wanted = Wanted("u1", "a", size_bytes, recorded=frozenset(recorded))
    after, done = grants.trim(account, wanted, NOW)
    if left is None:
        assert (after, done) == (account, False)
        return
    assert done
    found = after.charges["u1"]
    assert (found.size_bytes, found.unused) == (left, None)
    assert found.since > held[0].since, "whoever relies on it sees the change"
    assert after.reserved_bytes == account.reserved_bytes - held[0].size_bytes + left


def test_an_answer_tells_how_much_is_charged() -> None:
    key = landed("u1", "f", "d")
    account = build([charge(size_bytes=10), charge(key, 3)])
    recorded = frozenset({key})
    assert reserve(account, 13, recorded=recorded)[1].size_bytes == 13
    assert reserve(account, 20, recorded=recorded)[1].size_bytes == 20
    assert reserve(account, 20, recorded=recorded, step=True)[1].size_bytes == 20 + 80 // 8
    assert reserve(account, 101)[1].size_bytes == 0
    assert grants.held_bytes(account, Wanted("u1", "a", 1, recorded=recorded)) == 13


def test_a_commit_happens_once() -> None:
    account = build([charge(size_bytes=10)], Totals(5, 1, NOW))
    after, done = grants.commit(account, charge(size_bytes=10), 8)
    assert (after.used_bytes, after.artifacts, after.reserved_bytes, done) == (13, 2, 0, True)
    assert grants.commit(after, charge(size_bytes=10), 8) == (after, False)
    assert grants.commit(account, charge(size_bytes=11), 8) == (account, False)


def live(
    state: State,
    size_bytes: int = 0,
    uid: str = "u1",
    since: datetime | None = None,
    recorded: frozenset[str] = frozenset(),
) -> Live:
    return Live(uid, "a", state, size_bytes, since, recorded)


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


QUOTA = {"metadata": {"name": "q"}, "spec": {"tenants": ["acme"], "storage": {"maxBytes": 5}}}


@pytest.mark.parametrize(
    ("found", "limits"),
    [
        ([], UNLIMITED),
        ([QUOTA], Limits(5, None)),
        (
            [{"metadata": {"name": "q"}, "spec": {"tenants": ["*"], "storage": {"maxArtifacts": 0}}}],
            Limits(None, 0),
        ),
        (
            [{"metadata": {"name": "q"}, "spec": {"tenants": ["acme"], "storage": {"maxBytes": "x"}}}],
            Limits(0, None),
        ),
        ([{"metadata": {"name": "q"}, "spec": {"tenants": ["acme"]}}], UNLIMITED),
    ],
)
def test_the_governing_quota_has_the_limits(found: Any, limits: Limits) -> None:
    assert storage_limits.limits_for("acme", quotas.Table.of(found)) == limits
    assert limits.is_set == (limits != UNLIMITED)


def test_what_users_are_told() -> None:
    account = build([charge(size_bytes=10)], Totals(5, 2, NOW))
    usage = storage_limits.usage(account, Limits(100, None))
    assert usage == {"usedBytes": 5, "reservedBytes": 10, "maxBytes": 100, "artifacts": 3}
    text = 'tenant "acme", storage: bytes 5 stored and 10 reserved of 100, artifacts 3 of unlimited'
    assert storage_limits.describe("acme", usage) == text
    assert storage_limits.describe("acme", {}).endswith("0 reserved of unlimited, artifacts 0 of unlimited")
    for reason, status in (("Reserved", "True"), ("WaitingForQuota", "False"), ("ExceedsMaxQuota", "False")):
        found = grants.condition(reason, 7, LIMITS)  # type: ignore[arg-type]
        assert (found.type, found.status, found.reason) == ("QuotaReserved", status, reason)
    assert "100 bytes and 3 artifacts" in grants.condition("WaitingForQuota", 7, LIMITS).message
    assert "must not be greater than" in grants.condition("ExceedsMaxQuota", 7, Limits(5)).message


@pytest.mark.parametrize(
    ("limits", "over"), [(UNLIMITED, False), (LIMITS, False), (Limits(14), True), (Limits(None, 2), True)]
)
def test_usage_may_be_above_a_limit_that_was_lowered(limits: Limits, over: bool) -> None:
    account = build([charge(size_bytes=10)], Totals(5, 2, NOW))
    assert storage_limits.is_over(account, limits) == over


def test_who_waits_is_asked_before_it_is_woken() -> None:
    account = build([charge(size_bytes=90, name="b", uid="u2")], Totals(0, 0, NOW))
    assert grants.fits(account, Wanted("u1", "a", 10), LIMITS)
    assert not grants.fits(account, Wanted("u1", "a", 11), LIMITS)


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
