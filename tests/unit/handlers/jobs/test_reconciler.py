"""A Job's reconcile where the API server or the world is not as it should be."""

from typing import Any

import pytest

from manifestry.adapters.kube import apierrors
from manifestry.adapters.quota.books import LedgerError
from manifestry.core.jobs import steps
from manifestry.core.kube import conditions, names
from manifestry.handlers.jobs import reconciler as handler
from manifestry.handlers.quota import tenantquotas
from tests.unit.handlers.fakeapi import NAMESPACE, TYPE, World

BATCH_KIND = "jobs.batch"


def said(world: World, name: str) -> tuple[str, str]:
    """Return the reason and the message of a Job's summary."""
    found = conditions.find(world.api.peek(names.JOBS, name)["status"]["conditions"], "Succeeded")
    assert found is not None
    return found["reason"], found["message"]


def batch_of(world: World, name: str) -> dict[str, Any]:
    uid = world.api.peek(names.JOBS, name)["metadata"]["uid"]
    return world.api.peek(names.BATCH_JOBS, names.batch_job_name(name, uid))


async def look(world: World, name: str) -> float | None:
    return await handler.reconcile(world.ctx, NAMESPACE, name)


async def test_a_batch_job_that_vanishes_before_it_was_seen_to_run_is_not_made_again() -> None:
    world = World()
    world.ledger()
    world.job("a")
    await look(world, "a")
    assert batch_of(world, "a")["spec"]["suspend"] is False
    world.api.remove(names.BATCH_JOBS, batch_of(world, "a")["metadata"]["name"])
    await look(world, "a")
    assert said(world, "a")[0] == "Failed"
    assert world.api.writes(names.BATCH_JOBS) == ["create", "patch"]
    assert world.holders() == {}


async def test_an_operator_that_dies_after_making_the_batch_job_goes_on_with_it() -> None:
    world = World()
    world.ledger()
    world.job("a")
    world.api.refuse["update", "jobs.manifestry.dev"] = apierrors.unavailable("killed")
    with pytest.raises(apierrors.UnavailableError):
        await look(world, "a")
    assert batch_of(world, "a")["spec"]["suspend"] is True
    del world.api.refuse["update", "jobs.manifestry.dev"]
    await look(world, "a")
    assert world.api.calls.count(("create", BATCH_KIND)) == 1
    assert batch_of(world, "a")["spec"]["suspend"] is False


async def test_a_batch_job_that_is_forbidden_for_now_is_tried_again_and_told() -> None:
    world = World()
    world.ledger()
    world.job("a")
    world.api.refuse["create", BATCH_KIND] = apierrors.ForbiddenError(
        403, "Forbidden", "exceeded quota: pods"
    )
    assert await look(world, "a") == steps.PROBLEM_POLL_SECONDS
    assert said(world, "a") == ("Admitted", "the batch Job is refused for now: exceeded quota: pods")
    before = len(world.api.writes(names.JOBS))
    assert await look(world, "a") == steps.PROBLEM_POLL_SECONDS
    assert len(world.api.writes(names.JOBS)) == before, "the same again is no write"
    world.api.refuse.clear()
    await look(world, "a")
    assert batch_of(world, "a")["spec"]["suspend"] is False


@pytest.mark.parametrize("status", handler.REFUSED_FOR_GOOD)
async def test_a_batch_job_that_can_never_be_made_gives_its_slot_back(status: int) -> None:
    world = World()
    world.ledger()
    world.job("a")
    world.api.refuse["create", BATCH_KIND] = apierrors.from_status({"code": status, "message": "no"})
    await look(world, "a")
    assert said(world, "a") == ("Failed", "the batch Job was refused: no")
    assert world.holders() == {}


async def test_a_batch_job_whose_making_fails_is_tried_again() -> None:
    world = World()
    world.ledger()
    world.job("a")
    world.api.refuse["create", BATCH_KIND] = apierrors.unavailable("away")
    with pytest.raises(apierrors.UnavailableError):
        await look(world, "a")
    assert world.holders() == {"a": "Admitted"}
    assert world.api.writes(names.JOBS) == [], "mostly the next attempt succeeds"
    world.ctx.queue.add_backoff(("Job", NAMESPACE, "a"))
    with pytest.raises(apierrors.UnavailableError):
        await look(world, "a")
    assert said(world, "a") == ("Admitted", "the batch Job is refused for now: away")


async def test_a_changed_deadline_reaches_the_batch_job() -> None:
    world = World()
    world.ledger()
    world.job("a", activeDeadlineSeconds=600)
    await look(world, "a")
    changed = world.api.peek(names.JOBS, "a")
    changed["spec"]["activeDeadlineSeconds"] = 30
    changed["metadata"]["generation"] = 2
    batch = batch_of(world, "a")
    batch["status"] = {"active": 1, "ready": 1, "startTime": "2026-08-30T12:00:00Z"}
    await look(world, "a")
    assert batch_of(world, "a")["spec"]["activeDeadlineSeconds"] == 30
    status = world.api.peek(names.JOBS, "a")["status"]
    assert (status["effective"]["activeDeadlineSeconds"], status["observedGeneration"]) == (30, 2)


async def test_a_ledger_that_is_long_not_ready_is_asked_for_seldomer() -> None:
    world = World()
    world.job("a")
    waits = []
    for seconds in (0, 60, 3600):
        world.clock.seconds = float(seconds)
        waits.append(await look(world, "a"))
    assert waits == [1.0, 12.0, 30.0]
    assert ("QuotaLedger", NAMESPACE, TYPE) in world.woken


async def test_a_disputed_tenant_is_told_and_waited_for() -> None:
    world = World()
    world.ledger()
    world.job("a")
    rival = {"metadata": {"name": "rival", "labels": {names.TENANT_LABEL: "acme"}}}
    world.keep(names.NAMESPACES, rival)
    assert await look(world, "a") is None
    reason, message = said(world, "a")
    assert reason == "TenantNotFound"
    assert message.startswith("waiting: the tenant of namespace 'ns' is claimed by another")
    assert "rival" not in message
    assert conditions.kstatus(world.api.peek(names.JOBS, "a")) == "InProgress"


async def test_a_status_with_nonsense_for_a_time_fails_nothing() -> None:
    world = World()
    world.ledger()
    made = world.job("a")
    made["metadata"]["creationTimestamp"] = None
    assert handler._seconds_since("yesterday", world.clock.now()) == 0.0
    assert handler._seconds_since("2026-01-01T00:00:00", world.clock.now()) == 0.0
    assert handler._seconds_since(None, world.clock.now()) == 0.0
    assert handler._seconds_since("2026-08-30T11:59:00Z", world.clock.now()) == 60.0


async def test_a_defect_while_a_ledger_is_written_is_told_to_whoever_waits(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    world = World()
    world.ledger()

    def broken(*_: Any) -> Any:
        raise TypeError("a bug")

    monkeypatch.setattr(world.books, "_render", broken)
    world.job("a")
    with pytest.raises(LedgerError, match="closed"):
        await look(world, "a")
    assert "ledger task failed" in caplog.text
    monkeypatch.undo()
    await look(world, "a")
    assert world.holders() == {"a": "Admitted"}


async def test_usage_alone_is_written_at_most_once_a_minute() -> None:
    world = World(running=5)
    world.books.observe(NAMESPACE, TYPE, world.ledger(("u1", "a", "Admitted")))
    writes = []
    for number in range(2, 6):
        assert await tenantquotas.reconcile(world.ctx, "", "q") is not None
        writes.append(len(world.api.writes(names.TENANT_QUOTAS)))
        entries = tuple((f"u{each}", f"j{each}", "Admitted") for each in range(number))
        world.books.observe(NAMESPACE, TYPE, world.ledger(*entries))
    assert writes == [1, 1, 1, 1]
    world.clock.seconds += tenantquotas.SUMMARY_SECONDS
    await tenantquotas.reconcile(world.ctx, "", "q")
    status = world.api.peek(names.TENANT_QUOTAS, "q")["status"]
    assert status["tenants"] == [{"tenant": "acme", "jobs": [{"jobType": TYPE, "running": 5, "queued": 0}]}]
    assert len(world.api.writes(names.TENANT_QUOTAS)) == 2


async def test_a_quota_that_is_exceeded_says_so_at_once() -> None:
    world = World(running=1, queued=0)
    world.books.observe(NAMESPACE, TYPE, world.ledger(("u1", "a", "Admitted")))
    await tenantquotas.reconcile(world.ctx, "", "q")
    world.books.observe(NAMESPACE, TYPE, world.ledger(("u1", "a", "Admitted"), ("u2", "b", "Admitted")))
    await tenantquotas.reconcile(world.ctx, "", "q")
    found = world.api.peek(names.TENANT_QUOTAS, "q")["status"]["conditions"]
    assert conditions.is_status(found, "OverLimit", "True")
