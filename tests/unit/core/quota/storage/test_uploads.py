"""Uploads in the storage ledger: each is charged on its own until the whole artifact is stored."""

from datetime import UTC, datetime, timedelta

import pytest

from manifestry.core.quota.storage import charges as storage_charges
from manifestry.core.quota.storage import grants, lives, recounts
from manifestry.core.quota.storage.charges import LEASE, Account, Charge, Totals, build, landed, upload
from manifestry.core.quota.storage.grants import Grant, Wanted
from manifestry.core.quota.storage.limits import Limits
from manifestry.core.quota.storage.lives import Live, State

pytestmark = pytest.mark.unit
NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
LATER = NOW + LEASE + timedelta(seconds=1)
LIMITS = Limits(100, 2)
MAIN, ONE, TWO = "u", landed("u", "one", "d1"), landed("u", "two", "d2")


def begin(account: Account, token: str, size_bytes: int, **changes: object) -> tuple[Account, Grant]:
    wanted = Wanted("u", "a", size_bytes, lease=LEASE, upload=token)
    return grants.reserve(account, wanted, LIMITS, NOW)


def end(account: Account, token: str, size_bytes: int, key: str = ONE) -> tuple[Account, Grant]:
    return grants.land(account, Wanted("u", "a", size_bytes, upload=token), key, LIMITS, NOW)


def look(account: Account, size_bytes: int, *recorded: str) -> tuple[Account, Grant]:
    """Charge what the operator sees recorded."""
    wanted = Wanted("u", "a", size_bytes, recorded=frozenset(recorded))
    return grants.reserve(account, wanted, LIMITS, NOW)


def sizes(account: Account) -> dict[str, int]:
    return {key: each.size_bytes for key, each in account.charges.items()}


def count(account: Account, *live: Live, now: datetime = LATER) -> Account:
    """Do the two counts that give back what nobody uses."""
    for _ in range(2):
        account, report = recounts.recount(account, account, live, now)
        assert report is not None
    return account


def test_each_upload_counts_with_its_bytes_and_the_artifact_once() -> None:
    account, _ = begin(build([]), "t1", 40)
    account, _ = begin(account, "t2", 40)
    assert sizes(account) == {MAIN: 0, upload("u", "t1"): 40, upload("u", "t2"): 40}
    assert (account.artifacts, account.reserved_bytes) == (1, 80)
    refused, grant = begin(account, "t3", 21)
    assert (refused, grant.reason, grant.charge) == (account, "WaitingForQuota", None)
    assert begin(account, "t3", 101)[1].reason == "ExceedsMaxQuota"
    assert begin(account, "t2", 40)[1].reason == "Reserved", "the same one again"


def test_an_uploads_artifact_must_have_a_place() -> None:
    full = build([Charge("x", "x", NOW), Charge("y", "y", NOW)])
    assert begin(full, "t", 1)[1].reason == "WaitingForQuota"
    there = build([Charge("x", "x", NOW), Charge("u", "a", NOW)])
    assert begin(there, "t", 1)[1].reason == "Reserved"


def test_an_upload_finds_the_place_of_its_artifacts_creation() -> None:
    created = build([Charge(storage_charges.provisional("a"), "a", NOW, 30)])
    assert sizes(begin(created, "t", 40)[0]) == {MAIN: 30, upload("u", "t"): 40}


def test_giving_an_upload_back_leaves_its_artifact() -> None:
    account, grant = begin(build([]), "t", 40)
    assert grant.charge is not None
    assert sizes(grants.restore(account, grant.charge, grant.before)[0]) == {MAIN: 0}
    assert sizes(grants.release(account, upload("u", "t"))[0]) == {MAIN: 0}
    assert grants.release(account, "other") == (account, False)


def test_landing_moves_the_charge_and_never_adds_to_it() -> None:
    account, _ = begin(build([]), "t", 60)
    account, grant = end(account, "t", 50)
    assert (sizes(account), grant.reason) == ({MAIN: 0, ONE: 50}, "Reserved")
    account, _ = begin(account, "again", 50)
    assert sizes(end(account, "again", 50)[0]) == {MAIN: 0, ONE: 50}
    assert sizes(end(account, "again", 40, TWO)[0]) == {MAIN: 0, ONE: 50, TWO: 40}
    assert landed("u", "one", "d2") not in {ONE, TWO, landed("u", "two", "d1")}


def test_landing_what_was_given_back_meanwhile_needs_room() -> None:
    other = build([Charge("x", "x", NOW, 60)])
    assert end(other, "t", 41)[1].reason == "WaitingForQuota"
    assert sizes(end(other, "t", 40)[0]) == {"x": 60, MAIN: 0, ONE: 40}


def test_the_operator_charges_only_what_no_upload_was_charged_for() -> None:
    account = build([Charge("u", "a", NOW), Charge(ONE, "a", NOW, 60), Charge(TWO, "a", NOW, 40)])
    assert look(account, 100, ONE, TWO)[0] is account, "no write"
    assert look(account, 60, ONE)[0] is account
    small = build([Charge("u", "a", NOW), Charge(ONE, "a", NOW, 60)])
    assert sizes(look(small, 90, ONE, TWO)[0]) == {MAIN: 30, ONE: 60}
    assert look(small, 101, ONE, TWO)[1].reason == "ExceedsMaxQuota"


def test_a_stored_artifact_takes_its_landed_charges_along_and_no_others() -> None:
    running = Charge(upload("u", "late"), "a", NOW, 10)
    rival = Charge(landed("u", "one", "d2"), "a", NOW, 8)
    others = [Charge(landed("v", "one", "d1"), "v", NOW, 7), running, rival]
    main = Charge("u", "a", NOW)
    account = build([main, Charge(ONE, "a", NOW, 60), Charge(TWO, "a", NOW, 40), *others], Totals(5, 1, NOW))
    after, done = grants.commit(account, main, 100, (ONE, TWO))
    assert (after.totals.committed_bytes, after.totals.artifact_count, done) == (105, 2, True)
    assert sizes(after) == {landed("v", "one", "d1"): 7, running.uid: 10, rival.uid: 8}


@pytest.mark.parametrize(
    ("live", "left"),
    [
        ((), {}),
        ((Live("u", "a", State.ENDED, since=NOW),), {}),
        ((Live("u", "a", State.STORED, 60, recorded=frozenset({ONE})),), {}),
        ((Live("u", "a", State.STORED, 60),), {}),
        ((Live("u", "a", State.AWAITING, 60, recorded=frozenset({ONE})),), {MAIN: 0, ONE: 60}),
        ((Live("u", "a", State.PENDING, 60, recorded=frozenset({ONE})),), {MAIN: 0, ONE: 60}),
        ((Live("u", "a", State.AWAITING),), {MAIN: 0}),
    ],
)
def test_what_nobody_uses_is_given_back_after_its_lease(live: tuple[Live, ...], left: dict[str, int]) -> None:
    charges = [Charge("u", "a", NOW), Charge(ONE, "a", NOW, 60), Charge(upload("u", "t"), "a", NOW, 10)]
    account = build(charges, Totals(0, 0, NOW))
    assert sizes(count(account, *live)) == left
    young = count(account, *live, now=NOW)
    stored = {MAIN, *live[0].recorded} if live and live[0].state is State.STORED else set()
    assert set(young.charges) == set(account.charges) - stored


def test_a_session_keeps_its_bytes_as_long_as_it_may_rest() -> None:
    resting = Charge(upload("u", "t"), "a", NOW, 10, expires=NOW + timedelta(days=1))
    account = build([Charge("u", "a", NOW), resting], Totals(0, 0, NOW))
    for state in (State.AWAITING, State.PENDING, State.STORED):
        assert resting.uid in count(account, Live("u", "a", state)).charges
    assert sizes(count(account, Live("u", "a", State.AWAITING), now=NOW + timedelta(days=2))) == {MAIN: 0}


def test_what_is_recorded_has_the_keys_of_what_landed() -> None:
    done: dict[str, object] = {"digest": "d1", "sizeBytes": 4}
    open_: dict[str, object] = {}
    body: dict[str, object] = {"metadata": {"uid": "u", "name": "a"}, "spec": {"upload": done}}
    assert lives.live(body).recorded == {landed("u", "", "d1")}
    files: list[object] = [
        {"name": "one", "upload": done},
        {"name": "two", "upload": open_},
        {"name": "x", "inline": {}},
    ]
    body = {"metadata": {"uid": "u", "name": "a"}, "spec": {"files": files}}
    assert lives.live(body) == Live("u", "a", State.AWAITING, 4, recorded=frozenset({ONE}))
    failed = {"conditions": [{"type": "Stalled", "status": "True"}]}
    ended = lives.live({**body, "status": failed})
    assert (ended.state, ended.recorded) == (State.ENDED, frozenset({ONE})), "its bytes stay with the spec"
    assert len(landed("u" * 36, "x" * 255, "sha256:" + "0" * 64)) < 90


def test_a_ledger_with_uploads_is_read_as_it_was_written() -> None:
    account = build(
        [Charge("u", "a", NOW), Charge(ONE, "a", NOW, 6), Charge(upload("u", "t"), "a", NOW, 1)],
        Totals(0, 0, NOW),
    )
    body = {"status": {"initializedTime": "x", **storage_charges.render(account)}}
    assert storage_charges.parse(body) == account
