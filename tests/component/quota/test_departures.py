"""What stays counted of an Artifact that is deleted: its pin, by the policy that it had last."""

import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest

from manifestry.adapters.store import pins
from manifestry.adapters.store.contract import ports
from manifestry.adapters.telemetry import quota_metrics
from manifestry.core.kube import names
from manifestry.core.quota.storage.charges import LEDGER
from manifestry.handlers import feeds
from manifestry.handlers.artifacts import reconciler
from manifestry.handlers.quota import storagequotas
from tests.component.quota.test_storage import NAMESPACE, UID, Api, Object, World, opened
from tests.component.quota.test_tenantquotas import summary


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with opened(Api(), tmp_path) as found:
        yield found


async def recounted(world: World) -> None:
    """Count once more, when it is time."""
    world.seconds += 60
    assert await world.ledger() is None


def deleted(world: World, name: str) -> Object:
    """Delete an Artifact, and tell its watch."""
    body = world.api.objects.pop(("Artifact", name))
    feed = feeds.Feed(world.ctx.caches, world.ctx.queue, cast("Any", None))
    feed.take(names.ARTIFACTS, "DELETED", body)
    return body


async def test_upload_retain_and_delete_in_a_loop_ends_at_the_quota(world: World, tmp_path: Path) -> None:
    world.limit(maxBytes=10)
    said = []
    for number in range(5):
        name, text = f"a{number}", f"hell{number}"
        world.artifact(name, uid=str(uuid.UUID(int=number)), inline={"text": text}, deletionPolicy="Retain")
        said.append(await world.reconcile(name))
        deleted(world, name)
        await reconciler.reconcile(world.ctx, NAMESPACE, name)
        await recounted(world)
    assert said == [("True", "Stored")] * 2 + [("Unknown", "WaitingForQuota")] * 3
    assert world.totals == (10, 2, 0)
    storage = world.api.objects["QuotaLedger", LEDGER]["status"]["storage"]
    assert (storage["retainedBytes"], storage["retainedCount"]) == (10, 2)
    assert quota_metrics.METRICS.storage.labels("acme", "retained")._value.get() == 10
    stored = {"usedBytes": 10, "artifacts": 2, "retainedBytes": 10}
    assert (await summary(world))[0]["storage"] == stored
    await pins.Pins(world.ctx.store).remove(UID, str(uuid.UUID(int=0)))
    await storagequotas.resync(world.ctx)
    assert world.totals == (5, 1, 0)


async def test_what_is_retained_stays_counted_while_the_store_does_not_answer(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.limit(maxBytes=10)
    world.artifact("a", uid=str(uuid.UUID(int=1)), inline={"text": "hello"}, deletionPolicy="Retain")
    await world.reconcile("a")
    deleted(world, "a")
    with monkeypatch.context() as patch:
        patch.setattr(world.ctx.store, "records", unavailable)
        with pytest.raises(ports.StoreUnavailableError):
            await storagequotas.resync(world.ctx)
        assert world.totals == (5, 1, 0)
        assert NAMESPACE in world.storage.stale
    await storagequotas.resync(world.ctx)
    assert world.totals == (5, 1, 0)


def unavailable() -> Any:
    raise ports.StoreUnavailableError("the store does not answer")


@pytest.mark.parametrize(
    ("first", "last", "kept"),
    [("Retain", "Delete", False), ("Delete", "Retain", True), ("Retain", "Retain", True)],
)
async def test_the_last_policy_holds_even_if_the_deletion_comes_before_the_operator_has_seen_it(
    world: World, first: str, last: str, kept: bool
) -> None:
    world.limit(maxBytes=10)
    uid = str(uuid.UUID(int=3))
    world.artifact("a", uid=uid, inline={"text": "hello"}, deletionPolicy=first)
    assert await world.reconcile("a") == ("True", "Stored")
    body = world.api.objects["Artifact", "a"]
    body["spec"]["deletionPolicy"] = last
    body["metadata"]["generation"] += last != first
    deleted(world, "a")
    world.artifact("a", uid=str(uuid.UUID(int=4)), upload={})  # another one of the name
    await reconciler.reconcile(world.ctx, NAMESPACE, "a")
    found = await pins.Pins(world.ctx.store).find(UID, uid)
    assert (found is not None) == kept
    assert world.ctx.caches.departed(NAMESPACE, "a") == []
    storagequotas.count_soon(world.ctx, NAMESPACE)
    await recounted(world)
    assert world.totals == ((5, 1, 1) if kept else (0, 0, 1))


async def test_what_the_last_policy_asks_for_is_done_when_the_store_answers_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    uid = str(uuid.UUID(int=3))
    world.artifact("a", uid=uid, inline={"text": "hello"}, deletionPolicy="Retain")
    await world.reconcile("a")
    body = world.api.objects["Artifact", "a"]
    body["spec"]["deletionPolicy"] = "Delete"
    body["metadata"]["generation"] += 1
    deleted(world, "a")
    with monkeypatch.context() as patch:
        patch.setattr(world.ctx.store, "records", unavailable)
        with pytest.raises(ports.StoreUnavailableError):
            await reconciler.reconcile(world.ctx, NAMESPACE, "a")
    await reconciler.reconcile(world.ctx, NAMESPACE, "a")
    assert await pins.Pins(world.ctx.store).find(UID, uid) is None


async def test_nothing_is_pinned_for_an_artifact_that_has_gone_meanwhile(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    uid = str(uuid.UUID(int=3))
    world.artifact("a", uid=uid, inline={"text": "hello"}, deletionPolicy="Retain")
    put = world.ctx.store.put

    async def deleting(tenant_uid: str, data: bytes) -> ports.Blob:
        world.api.objects.pop(("Artifact", "a"), None)
        return await put(tenant_uid, data)

    monkeypatch.setattr(world.ctx.store, "put", deleting)
    await reconciler.reconcile(world.ctx, NAMESPACE, "a")
    assert await pins.Pins(world.ctx.store).find(UID, uid) is None
