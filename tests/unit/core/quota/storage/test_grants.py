"""What a tenant is granted of its storage and told about it: one table for each transition."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from manifestry.core.quota import quotas
from manifestry.core.quota.storage import grants
from manifestry.core.quota.storage import limits as storage_limits
from manifestry.core.quota.storage.charges import (
    LEASE,
    Account,
    Charge,
    Totals,
    build,
    changed,
    landed,
    provisional,
)
from manifestry.core.quota.storage.grants import STEP_BYTES, Wanted
from manifestry.core.quota.storage.limits import UNLIMITED, Limits
from tests.unit.core.quota.storage.samples import LATER, NOW, charge

pytestmark = pytest.mark.unit
LIMITS = Limits(100, 3)


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
