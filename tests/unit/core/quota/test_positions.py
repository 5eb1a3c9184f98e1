"""Usage and queue positions."""

from datetime import UTC, datetime, timedelta

from manifestry.core.http import pages
from manifestry.core.quota import holders, ledgers, positions, quotas
from manifestry.core.quota.holders import Holder, State
from manifestry.core.quota.storage import limits as storage_limits

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


def holder(uid: str, state: State, age: int = 0, priority: int = 0) -> Holder:
    return Holder(uid, f"job-{uid}", state, NOW - timedelta(seconds=age), priority)


LEDGER = holders.build(
    [
        holder("a", State.QUEUED, age=5),
        holder("b", State.QUEUED, age=9),
        holder("c", State.QUEUED, age=1, priority=10),
        holder("d", State.ADMITTED),
        holder("e", State.RESERVED),
    ]
)


def test_positions_are_in_the_order_of_admission() -> None:
    found = positions.waiting(LEDGER)
    assert [(each.position, each.holder.uid) for each in found] == [(1, "c"), (2, "b"), (3, "a")]
    assert [each.holder for each in found] == list(ledgers.queue(LEDGER))


def test_the_page_key_keeps_the_order() -> None:
    found = positions.waiting(LEDGER)
    page = pages.take(reversed(found), positions.Waiting.key, pages.Query(10, None, {}), NOW)
    assert page.items == found


def test_usage_names_only_the_limits_there_are() -> None:
    limits = quotas.Limits(max_running=2, max_queued=None)
    assert positions.usage("acme", "render", LEDGER, limits) == {
        "tenant": "acme",
        "jobType": "render",
        "running": 1,
        "queued": 3,
        "reserved": 1,
        "maxRunning": 2,
        "initialized": True,
    }


def test_usage_without_a_ledger_is_zero_and_not_initialized() -> None:
    row = positions.usage("acme", "render", None, quotas.UNLIMITED)
    assert (row["running"], row["queued"], row["reserved"], row["initialized"]) == (0, 0, 0, False)


def test_storage_counts_what_is_stored() -> None:
    artifacts = [{"status": {"artifact": {"sizeBytes": 5}}}, {"status": {"artifact": {"sizeBytes": 7}}}, {}]
    quota = {"metadata": {"name": "q"}, "spec": {"tenants": ["acme"], "storage": {"maxBytes": 100}}}
    mine, other = (
        storage_limits.limits_for(tenant, quotas.Table.of([quota])) for tenant in ("acme", "other")
    )
    used = {"usedBytes": 12, "reservedBytes": 0, "artifacts": 3, "maxBytes": 100}
    assert storage_limits.storage(artifacts, mine, None) == used
    assert storage_limits.storage([], other, None) == {"usedBytes": 0, "reservedBytes": 0, "artifacts": 0}
