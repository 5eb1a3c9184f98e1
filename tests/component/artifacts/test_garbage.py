"""The collector in one process against real stores (a folder, SeaweedFS), an API server in memory."""

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import obstore
import pytest

from manifestry.adapters.store.contract import bounded, holds, ports
from manifestry.core.blobs import digests, garbagekeys
from manifestry.handlers.artifacts import collector
from tests.component.artifacts.garbageworld import World, opened

AT_ONCE = timedelta(seconds=-5)  # whatever is there is as old as this


@pytest.fixture(params=["local", "s3"])
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    async with opened(request, tmp_path) as made:
        yield made


async def test_a_deleted_artifacts_bytes_stay_for_the_grace_and_then_go(world: World) -> None:
    await world.uploaded(b"payload")
    assert world.ready() == ("True", "Stored")
    manifest = world.api.objects["Artifact", "team", "a"]["status"]["manifest"]["digest"]
    await world.collected()
    assert await world.has(b"payload")
    assert world.marks() == []
    world.delete()
    assert await world.collector.once()
    assert len(world.marks()) == 2
    assert await world.collector.once()
    assert await world.has(b"payload")
    await world.grace()
    assert await world.collector.once()
    assert not await world.has(b"payload")
    assert await world.store.head(world.uid, manifest) is None
    left = {key for key in world.keys("") if garbagekeys.SPARES not in key}
    assert left == {garbagekeys.OWNER, garbagekeys.tenant(world.uid)}


async def test_a_digest_that_another_artifact_has_stays(world: World) -> None:
    await world.uploaded(b"shared", "a")
    await world.uploaded(b"shared", "b", annotations={"who": "b"})
    world.delete("a")
    await world.collected()
    assert await world.has(b"shared")
    world.delete("b")
    await world.collected()
    assert not await world.has(b"shared")


async def test_young_bytes_stay_even_without_a_reference_and_a_mark_is_taken_back(world: World) -> None:
    blob = await world.upload(b"in between")
    assert await world.collector.once()
    assert world.marks() == []
    await world.grace()
    assert await world.collector.once()
    assert len(world.marks()) == 1
    await world.artifact(object={"digest": blob.digest})
    await world.grace()
    assert await world.collector.once()
    assert world.marks() == []
    assert await world.has(b"in between")


async def test_bytes_that_are_published_again_begin_a_new_life(world: World) -> None:
    await world.upload(b"again")
    await world.grace()
    assert await world.collector.once()
    await world.grace()
    await asyncio.sleep(1 - time.time() % 1)  # S3 would say that it is a second older than it is
    await world.upload(b"again")
    assert await world.collector.once()
    assert await world.has(b"again")
    await world.grace()
    assert await world.collector.once()  # the old mark is from before: a new one
    assert await world.has(b"again")
    await world.grace()
    assert await world.collector.once()
    assert not await world.has(b"again")


async def test_retained_bytes_stay_after_the_artifact_and_after_its_tenant(world: World) -> None:
    await world.uploaded(b"kept", "a", deletionPolicy="Retain")
    await world.uploaded(b"gone", "b")
    pin = world.keys(garbagekeys.pins(world.uid))
    assert len(pin) == 1
    world.delete("a")
    world.delete("b")
    await world.collected()
    assert (await world.has(b"kept"), await world.has(b"gone")) == (True, False)
    world.delete_namespace("team")
    await world.collected()
    assert await world.has(b"kept")
    assert world.keys(garbagekeys.pins(world.uid)) == pin
    obstore.delete(world.behind, pin[0])
    await world.collected()
    assert not await world.has(b"kept")


async def test_a_policy_that_changes_back_takes_the_pin_away(world: World) -> None:
    await world.uploaded(b"kept", deletionPolicy="Retain")
    await world.uploaded(b"kept", deletionPolicy="Delete", generation=2)
    assert world.keys(garbagekeys.pins(world.uid)) == []


async def test_a_damaged_pin_stops_the_collection_of_its_tenant_only(world: World) -> None:
    other = str(uuid.uuid4())
    world.add_namespace("other", other)
    await world.store.put(other, b"theirs")
    await world.upload(b"ours")
    obstore.put(world.behind, garbagekeys.pin(world.uid, str(uuid.uuid4())), b"{")
    await world.grace()
    assert not await world.collector.once()
    await world.grace()
    assert not await world.collector.once()
    assert await world.has(b"ours")
    assert await world.store.head(other, digests.of(b"theirs")) is None


async def test_a_tenant_that_is_gone_leaves_nothing(world: World) -> None:
    await world.uploaded(b"payload")
    world.delete_namespace("team")
    assert await world.collector.once()
    assert await world.has(b"payload")
    await world.collected()
    assert world.keys("tenants/") == []
    if (
        world.store.local_path(world.uid, digests.of(b"")) is not None
    ):  # SeaweedFS lists empty folders for a while
        assert await world.inventory.tenants() == []


async def test_a_store_of_another_cluster_is_left_alone(world: World) -> None:
    await world.upload(b"theirs")
    obstore.put(world.behind, garbagekeys.OWNER, json.dumps({"clusterUid": "another"}).encode())
    await world.grace()
    for _ in range(3):
        assert not await world.collector.once()
    assert world.marks() == []
    obstore.put(world.behind, garbagekeys.OWNER, b"{")
    assert not await world.collector.once()


async def test_many_blobs_are_looked_at_in_pages_and_removed_in_batches(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collector, "PAGE", 7)
    monkeypatch.setattr(collector, "BATCH", 5)
    await asyncio.gather(*(world.store.put(world.uid, b"%d" % n) for n in range(40)))
    kept = {digests.of(b"%d" % n) for n in range(0, 40, 3)}
    await world.artifact(files=[
        {"name": f"f{n}", "mediaType": "a/b", "object": {"digest": digest}} for n, digest in enumerate(kept)
    ])  # fmt: skip
    await world.grace()
    assert await world.collector.once()
    assert len(world.marks()) == 40 - len(kept)
    await world.grace()
    before = world.api.lists
    assert await world.collector.once()
    assert world.api.lists - before <= 2 + (40 - len(kept)) // 5 + 1
    left = {blob.digest for blob in await world.inventory.blobs(world.uid)}
    assert kept <= left
    assert len(left) == len(kept) + 1  # and the manifest
    first = await world.inventory.blobs(world.uid, limit=4)
    then = await world.inventory.blobs(world.uid, after=first[-1].digest, limit=100)
    assert [blob.digest for blob in first + then] == sorted(left)


async def test_a_publisher_waits_for_a_claim_and_a_dead_collectors_claim_is_taken_away(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = garbagekeys.claim(world.uid, digests.of(b"contested"))
    obstore.put(world.behind, key, b"")
    waiting = asyncio.create_task(world.upload(b"contested"))
    confirming = asyncio.create_task(world.store.confirm(world.uid, digests.of(b"contested")))
    await asyncio.sleep(0.5)
    assert not waiting.done()
    assert not confirming.done()
    assert await world.inventory.reap() == 0
    assert await world.inventory.reap(AT_ONCE) == 1
    assert (await waiting).digest == digests.of(b"contested")
    assert await confirming is not None
    monkeypatch.setattr(holds, "WAIT_SECONDS", 0.1)
    obstore.put(world.behind, key, b"")
    with pytest.raises(ports.StoreUnavailableError, match="removing older bytes"):
        await world.upload(b"contested")


async def test_publishers_and_a_busy_collector_lose_nothing(world: World) -> None:
    """Sixteen publishers of the same few bytes, an eager collector: what was acknowledged is there."""
    contents = [b"one", b"two", b"three"]
    lost: list[bytes] = []
    stop = asyncio.Event()
    none = timedelta(microseconds=-1)  # the grace period of this test: everything is old at once

    async def collect() -> None:
        while not stop.is_set():
            await world.inventory.remove(world.uid, [digests.of(data) for data in contents], live, none)
            await asyncio.sleep(0.02)  # a publisher that waits looks now and then only

    referenced: dict[str, int] = {}

    async def live(asked: frozenset[str]) -> set[str]:
        return {digest for digest in asked if referenced.get(digest)}

    async def publish(number: int) -> None:
        data = contents[number % len(contents)]
        digest = digests.of(data)
        for _ in range(15):
            referenced[digest] = referenced.get(digest, 0) + 1
            await (world.upload(data) if number % 2 else world.store.put(world.uid, data))
            if not await world.has(data):
                lost.append(data)
            referenced[digest] -= 1

    collecting = asyncio.create_task(collect())
    await asyncio.gather(*(publish(number) for number in range(16)))
    stop.set()
    await collecting
    assert lost == []


@pytest.mark.parametrize("fails", ["live", "delete"])
async def test_a_failure_in_the_middle_leaves_the_rest_for_the_next_run(
    world: World, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    for number in range(30):
        await world.store.put(world.uid, b"%d" % number)
    wanted = [digests.of(b"%d" % number) for number in range(30)]

    async def broken(*_: Any) -> set[str]:
        raise ports.StoreUnavailableError("down")

    async def live(_: frozenset[str]) -> set[str]:
        return set()

    with monkeypatch.context() as patch:
        if fails == "delete":
            patch.setattr(world.inventory._claims, "remove", broken)
        none = timedelta(microseconds=-1)
        with pytest.raises(ports.StoreUnavailableError):
            await world.inventory.remove(world.uid, wanted, broken if fails == "live" else live, none)
    left = await world.inventory.reap(AT_ONCE)
    assert left <= bounded.IN_FLIGHT if fails == "delete" else left == 0
    assert len(await world.inventory.blobs(world.uid)) == 30
