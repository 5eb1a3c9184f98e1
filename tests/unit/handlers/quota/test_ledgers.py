"""T3 and T5: nobody is forgotten, whatever got lost, and one tenant's trouble is not another's."""

import asyncio
from typing import Any

import pytest

from manifestry.adapters.kube import apierrors
from manifestry.adapters.quota.books import LedgerError
from manifestry.core.kube import names
from manifestry.handlers.jobs import holders, reconciler
from manifestry.handlers.quota import ledgers
from manifestry.handlers.runtime import keys, namespaces
from tests.unit.handlers.fakeapi import NAMESPACE, TENANT, TYPE, World


async def test_who_got_a_slot_while_the_answer_was_lost_is_woken_by_the_next_repair() -> None:
    world = World()
    world.ledger(("0000done", "done", "Admitted"), ("0000wait", "wait", "Queued"))
    world.job("wait", "Queued")
    done = world.job("done", "Failed")
    world.api.lose.add(("update", "quotaledgers.manifestry.dev"))
    with pytest.raises(apierrors.UnavailableError):
        await reconciler.reconcile(world.ctx, NAMESPACE, "done")
    assert world.holders() == {"wait": "Admitted"}, "the write was done all the same"
    assert await reconciler.reconcile(world.ctx, NAMESPACE, "done") is None
    assert world.jobs_woken() == [], "nobody knows of the slot"
    assert done["metadata"]["uid"] == "0000done"
    await ledgers.resync(world.ctx)
    assert world.jobs_woken() == ["wait"]


async def test_who_gets_a_slot_after_the_giver_has_given_up_waiting_is_woken() -> None:
    world = World()
    world.ledger(("0000done", "done", "Admitted"), ("0000wait", "wait", "Queued"))
    world.job("wait", "Queued")
    world.job("done", "Failed")
    real, gate = world.api.replace, asyncio.Event()

    async def late(*args: Any, **options: Any) -> Any:
        await gate.wait()
        return await real(*args, **options)

    world.api.replace = late  # type: ignore[method-assign]
    world.books._deadline_seconds = 0.05
    assert await reconciler.reconcile(world.ctx, NAMESPACE, "done") == reconciler.CONFLICT_SECONDS
    assert world.jobs_woken() == []
    gate.set()
    await asyncio.sleep(0.05)
    assert world.holders() == {"wait": "Admitted"}
    assert world.jobs_woken() == ["wait"]


async def test_repair_leaves_resting_jobs_alone_and_reads_page_by_page() -> None:
    world = World(running=1)
    world.ledger(("0000run1", "run1", "Admitted"), ("0000wait", "wait", "Queued"))
    world.job("run1", "Running")
    world.job("wait", "Queued")
    for number in range(20):
        world.job(f"old{number}", "Succeeded")
    await ledgers.resync(world.ctx)
    assert world.jobs_woken() == ["run1"]
    assert world.holders() == {"run1": "Admitted", "wait": "Queued"}
    assert world.api.largest_page == 2
    assert world.api.writes(names.QUOTA_LEDGERS) == []


async def test_a_job_that_waits_for_its_type_goes_on_when_the_type_appears() -> None:
    world = World()
    world.ledger()
    world.job("early", job_type="later")
    assert await reconciler.reconcile(world.ctx, NAMESPACE, "early") is None
    (summary, *_) = world.api.peek(names.JOBS, "early")["status"]["conditions"]
    assert (summary["status"], summary["reason"]) == ("Unknown", "JobTypeNotFound")
    writes = len(world.api.writes(names.JOBS))
    await ledgers.resync(world.ctx)
    assert world.jobs_woken() == [], "it rests while there is no type"
    world.keep(names.JOB_TYPES, {"metadata": {"name": "later"}, "spec": {"image": "x"}})
    await ledgers.reconcile(world.ctx, NAMESPACE, "later")
    assert world.jobs_woken() == ["early"]
    await reconciler.reconcile(world.ctx, NAMESPACE, "early")
    assert world.holders("later") == {"early": "Admitted"}
    assert len(world.api.writes(names.JOBS)) > writes


async def test_a_ledger_that_was_deleted_unseen_is_made_again() -> None:
    world = World()
    world.ledger()
    await ledgers.resync(world.ctx)
    world.api.remove(names.QUOTA_LEDGERS, TYPE)
    await ledgers.resync(world.ctx)
    assert world.api.peek(names.QUOTA_LEDGERS, TYPE)["status"]["initializedTime"]


async def test_an_entry_of_any_state_whose_job_was_seen_to_go_is_cleared() -> None:
    world = World()
    world.ledger(("u1", "gone", "Queued"), ("u2", "here", "Queued"))
    world.caches.note_deleted("u1")
    world.books.observe(NAMESPACE, TYPE, world.api.peek(names.QUOTA_LEDGERS, TYPE))
    await ledgers.reconcile(world.ctx, NAMESPACE, TYPE)
    assert "gone" in world.jobs_woken()
    await reconciler.reconcile(world.ctx, NAMESPACE, "gone")
    assert "gone" not in world.holders()


async def test_a_repair_does_not_make_every_handler_read_the_limits_again() -> None:
    world = World()
    world.ledger()
    world.job("a")
    await ledgers.resync(world.ctx)
    world.api.calls.clear()
    await reconciler.reconcile(world.ctx, NAMESPACE, "a")
    assert [kind for verb, kind in world.api.calls if verb == "list"] == []


async def test_a_ledgers_event_costs_no_read() -> None:
    world = World()
    world.books.observe(NAMESPACE, TYPE, world.ledger())
    await ledgers.reconcile(world.ctx, NAMESPACE, TYPE)
    assert world.api.calls == []


async def test_one_slow_tenant_does_not_take_the_others_time(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    for name in ("slow", "other"):
        labels = {names.TENANT_LABEL: name}
        world.keep(names.NAMESPACES, {"metadata": {"name": name, "labels": labels}})
    asked: list[str] = []

    async def ensure_all(_: Any, namespace: str, __: str) -> None:
        asked.append(namespace)
        if namespace == "slow":
            await asyncio.sleep(60)

    monkeypatch.setattr(ledgers, "ensure_all", ensure_all)
    monkeypatch.setattr(ledgers, "REPAIR_SECONDS", 0.05)
    with pytest.raises(LedgerError, match="1 namespaces"):
        await ledgers.resync(world.ctx)
    assert sorted(asked) == [NAMESPACE, "other", "slow"]


async def test_who_was_not_reached_comes_first_the_next_time(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    world.keep(names.NAMESPACES, {"metadata": {"name": "b", "labels": {names.TENANT_LABEL: "b"}}})
    asked: list[str] = []

    async def ensure_all(_: Any, namespace: str, __: str) -> None:
        asked.append(namespace)
        await world.clock.sleep(0 if len(asked) > 1 else 1e9)

    monkeypatch.setattr(ledgers, "ensure_all", ensure_all)
    world.clock.seconds = 5.0
    first = asyncio.create_task(ledgers.resync(world.ctx))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    second = asyncio.create_task(ledgers.resync(world.ctx))
    await world.clock.advance(1)
    await second
    assert asked == [NAMESPACE, "b", NAMESPACE]


LEDGERS = (names.QUOTA_LEDGERS.kind, keys.STORAGE_LEDGER)


async def test_a_namespace_wakes_its_own_ledgers_and_those_of_its_rivals() -> None:
    world = World()
    for number in range(5):
        labels = {names.TENANT_LABEL: f"t{number}"}
        world.keep(names.NAMESPACES, {"metadata": {"name": f"n{number}", "labels": labels}})

    async def woken(name: str) -> list[str]:
        world.woken.clear()
        await namespaces.reconcile(world.ctx, "", name)
        kinds = {kind: [key[1] for key in world.woken if key[0] == kind] for kind in LEDGERS}
        assert sorted(kinds[LEDGERS[0]]) == sorted(kinds[LEDGERS[1]]), "of jobs and of storage"
        return sorted(kinds[LEDGERS[0]])

    assert await woken("n1") == ["n1"]
    world.keep(names.NAMESPACES, {"metadata": {"name": "n1", "labels": {names.TENANT_LABEL: TENANT}}})
    assert await woken("n1") == ["n1", NAMESPACE], "now two claim it"
    assert await woken("n1") == ["n1"]
    world.caches.drop("Namespace", "n1")
    assert await woken("n1") == ["n1", NAMESPACE], "now one does"


async def test_a_pod_that_never_goes_is_asked_for_seldomer() -> None:
    world = World()
    world.ledger(("00000gon", "gon", "Admitted"))
    await world.books.read(NAMESPACE, TYPE)
    pod = {
        "metadata": {
            "name": "p",
            "labels": {names.JOB_UID_LABEL: "00000gon"},
            "deletionTimestamp": "2026-08-30T12:00:00Z",
        },
        "status": {"phase": "Running"},
    }
    world.api.put(names.PODS, pod)
    held = world.books.named(NAMESPACE, "gon")
    waits = []
    for seconds in (0, 60, 3600):
        world.clock.seconds = float(seconds)
        waits.append(await holders.clear(world.ctx, NAMESPACE, held, None))
    assert waits == [1.0, 12.0, 30.0]
    assert world.holders() == {"gon": "Admitted"}
