"""Collector and scrub in one process against real stores (a folder, SeaweedFS), an API server in memory."""

import asyncio
import copy
import json
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import obstore
import pytest
from obstore.store import LocalStore as Folder
from obstore.store import ObjectStore, S3Store

from manifestry.adapters import cluster, inventory, store, store_claims
from manifestry.core import blobkeys, conditions, digests, garbagekeys, names
from manifestry.handlers import artifacts, caches, collector, scrubber
from manifestry.handlers.registry import Context
from manifestry.settings import OperatorSettings, StoreSettings
from tests.seaweed.server import S3Server

GRACE_SECONDS = 1.0
Object = dict[str, Any]


@dataclass
class Api:
    """The calls that collector, scrub and the Artifact handler make."""

    objects: dict[tuple[str, str, str], Object] = field(default_factory=dict)
    events: list[Object] = field(default_factory=list)
    lists: int = 0

    def put(self, resource: names.Resource, body: Object) -> Object:
        meta = body["metadata"]
        meta["resourceVersion"] = str(int(meta.get("resourceVersion", "0")) + 1)
        self.objects[resource.kind, meta.get("namespace", ""), meta["name"]] = body
        return body

    async def get(self, resource: names.Resource, name: str, namespace: str | None = None) -> Object:
        found = self.objects.get((resource.kind, namespace or "", name))
        if found is None:
            raise cluster.NotFoundError(404, "NotFound", "not found")
        return copy.deepcopy(found)

    async def pages(
        self, resource: names.Resource, namespace: str | None = None, **_: Any
    ) -> AsyncIterator[list[Object]]:
        self.lists += 1
        for (kind, where, _name), body in list(self.objects.items()):
            if kind == resource.kind and namespace in {None, where}:
                yield [copy.deepcopy(body)]

    async def replace(self, resource: names.Resource, body: Object, **_: Any) -> Object:
        meta = body["metadata"]
        current = await self.get(resource, meta["name"], meta["namespace"])
        if current["metadata"]["resourceVersion"] != meta["resourceVersion"]:
            raise cluster.ConflictError(409, "Conflict", "modified")
        return self.put(resource, copy.deepcopy(body))

    async def create(self, resource: names.Resource, body: Object, *_: Any) -> Object:
        assert resource == names.EVENTS
        self.events.append(body)
        return body


@dataclass
class Clock:
    """The machine's time, which a test moves on without waiting."""

    ahead: timedelta = timedelta()

    def now(self) -> datetime:
        return datetime.now(UTC) + self.ahead

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(min(seconds, 0.01))


class World:
    """An operator's storage parts."""

    def __init__(self, used: store.Store, behind: ObjectStore) -> None:
        self.api, self.clock, self.store, self.behind = Api(), Clock(), used, behind
        self.uid = str(uuid.uuid4())
        unused = cast("Any", None)
        settings = OperatorSettings(
            gc_grace_seconds=GRACE_SECONDS, scrub_bytes_per_second=1 << 30, identity="op"
        )
        self.ctx = Context(
            cast("Any", self.api),
            used,
            unused,
            caches.Caches(),
            unused,
            cast("Any", self.clock),
            settings,
            unused,
        )
        self.api.put(names.NAMESPACES, {"metadata": {"name": "kube-system", "uid": "this-cluster"}})
        self.add_namespace("team", self.uid)
        self.collector, self.scrubber = collector.Collector(self.ctx), scrubber.Scrubber(self.ctx)
        self.inventory = inventory.Inventory(used)

    def add_namespace(self, name: str, uid: str) -> None:
        meta = {"name": name, "uid": uid, "labels": {names.TENANT_LABEL: name}}
        self.ctx.caches.put(names.NAMESPACES.kind, self.api.put(names.NAMESPACES, {"metadata": meta}))

    def delete_namespace(self, name: str) -> None:
        for key in [key for key in self.api.objects if name in key[1:]]:
            del self.api.objects[key]

    async def artifact(
        self, name: str = "a", namespace: str = "team", generation: int = 1, **spec: Any
    ) -> Object:
        """Apply an Artifact and reconcile it."""
        uid = str(uuid.uuid5(uuid.NAMESPACE_OID, name))
        meta = {"name": name, "namespace": namespace, "uid": uid, "generation": generation}
        meta["creationTimestamp"] = "2026-01-01T00:00:00Z"
        known = self.api.objects.get(("Artifact", namespace, name), {})
        body = {"metadata": meta, "spec": {"mediaType": "a/b", **spec}, "status": known.get("status", {})}
        self.api.put(names.ARTIFACTS, body)
        await artifacts.reconcile(self.ctx, namespace, name)
        return self.api.objects["Artifact", namespace, name]

    async def uploaded(self, data: bytes, name: str = "a", **spec: Any) -> Object:
        blob = await self.upload(data)
        return await self.artifact(name, upload={"digest": blob.digest, "sizeBytes": len(data)}, **spec)

    async def upload(self, data: bytes) -> store.Blob:
        async def chunks() -> AsyncIterator[bytes]:
            yield data

        return await self.store.publish(self.uid, await self.store.stage(chunks(), limit_bytes=len(data)))

    def delete(self, name: str = "a", namespace: str = "team") -> None:
        del self.api.objects["Artifact", namespace, name]

    def ready(self, name: str = "a") -> tuple[str, str]:
        status = self.api.objects["Artifact", "team", name]["status"]
        found = conditions.find(status["conditions"], "Ready") or {}
        return str(found["status"]), str(found["reason"])

    async def has(self, data: bytes) -> bool:
        return await self.store.head(self.uid, digests.of(data)) is not None

    def keys(self, prefix: str = "") -> list[str]:
        return sorted(item["path"] for page in obstore.list(self.behind, prefix) for item in page)

    def damage(self, data: bytes) -> None:
        obstore.put(self.behind, blobkeys.blob(self.uid, digests.of(data)), bytes([data[0] ^ 1]) + data[1:])

    async def grace(self) -> None:
        """Let the grace period pass; S3 knows whole seconds only."""
        await asyncio.sleep(GRACE_SECONDS + 1.1)

    async def collected(self) -> None:
        """Do the two runs that remove what nothing refers to."""
        await self.grace()
        assert await self.collector.once()
        await self.grace()
        assert await self.collector.once()

    async def scrubbed(self) -> None:
        self.clock.ahead += timedelta(days=2)
        self.scrubber = scrubber.Scrubber(self.ctx)
        await self.scrubber.once()


@pytest.fixture(params=["local", "s3"])
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    settings, behind = {"MANIFESTRY_STORE_PATH": str(tmp_path)}, cast("ObjectStore", Folder(tmp_path))
    if request.param == "s3":
        server: S3Server = request.getfixturevalue("s3")
        prefix = f"world-{uuid.uuid4()}"  # what a collector does not know it takes for garbage
        settings = server.settings() | {"MANIFESTRY_STORE_PREFIX": prefix}
        behind = S3Store(
            bucket=server.bucket,
            prefix=prefix,
            endpoint=server.endpoint,
            region=server.region,
            access_key_id=server.access_key,
            secret_access_key=server.secret_key,
            client_options={"allow_http": True},
        )
    used = store.open_store(StoreSettings.from_mapping(settings | {"MANIFESTRY_GC_GRACE_SECONDS": "1"}))
    yield World(used, behind)
    await used.close()


async def test_a_deleted_artifacts_bytes_stay_for_the_grace_and_then_go(world: World) -> None:
    await world.uploaded(b"payload")
    assert world.ready() == ("True", "Stored")
    manifest = world.api.objects["Artifact", "team", "a"]["status"]["manifest"]["digest"]
    await world.collected()
    assert await world.has(b"payload")
    assert world.keys(garbagekeys.marks(world.uid)) == []
    world.delete()
    assert await world.collector.once()
    assert len(world.keys(garbagekeys.marks(world.uid))) == 2
    assert await world.collector.once()
    assert await world.has(b"payload")
    await world.grace()
    assert await world.collector.once()
    assert not await world.has(b"payload")
    assert await world.store.head(world.uid, manifest) is None
    assert world.keys() == [garbagekeys.OWNER]


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
    assert world.keys(garbagekeys.marks(world.uid)) == []
    await world.grace()
    assert await world.collector.once()
    assert len(world.keys(garbagekeys.marks(world.uid))) == 1
    await world.artifact(object={"digest": blob.digest})
    await world.grace()
    assert await world.collector.once()
    assert world.keys(garbagekeys.marks(world.uid)) == []
    assert await world.has(b"in between")


async def test_bytes_that_are_published_again_begin_a_new_life(world: World) -> None:
    await world.upload(b"again")
    await world.grace()
    assert await world.collector.once()
    await world.grace()
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
    assert world.keys(garbagekeys.marks(world.uid)) == []
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
    assert len(world.keys(garbagekeys.marks(world.uid))) == 40 - len(kept)
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
    assert await world.inventory.reap(world.clock.now() - inventory.CLAIM_STALE) == 0
    assert await world.inventory.reap(world.clock.now() + timedelta(seconds=5)) == 1
    assert (await waiting).digest == digests.of(b"contested")
    assert await confirming is not None
    monkeypatch.setattr(store_claims, "WAIT_SECONDS", 0.1)
    obstore.put(world.behind, key, b"")
    with pytest.raises(store.StoreUnavailableError, match="removing older bytes"):
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


@pytest.mark.parametrize("source", ["upload", "inline"])
async def test_a_flipped_byte_is_found_said_and_healed(world: World, source: str) -> None:
    if source == "upload":
        await world.uploaded(b"precious")
    else:
        await world.artifact(inline={"text": "precious"})
    await world.uploaded(b"sound", "b")
    world.damage(b"precious")
    await world.scrubbed()
    assert world.ready("b") == ("True", "Stored")
    assert world.ready() == ("False", "Damaged")
    assert conditions.kstatus(world.api.objects["Artifact", "team", "a"]) == "Failed"
    (event,) = world.api.events
    assert (event["reason"], event["regarding"]["name"]) == ("Damaged", "a")
    assert len(world.keys(garbagekeys.damaged(world.uid))) == 1
    if source == "upload":
        assert await artifacts.reconcile(world.ctx, "team", "a") == 30
        assert world.ready() == ("False", "Damaged")
        await world.upload(b"precious")
    await artifacts.reconcile(world.ctx, "team", "a")
    assert world.ready() == ("True", "Stored")
    assert await world.store.read(world.uid, digests.of(b"precious"), limit_bytes=99) == b"precious"
    await world.scrubbed()
    assert "lastVerifiedTime" in world.api.objects["Artifact", "team", "a"]["status"]
    assert len(world.api.events) == 1


async def test_a_missing_file_is_said_of_every_artifact_that_has_it(world: World) -> None:
    for name in ("a", "b"):
        await world.uploaded(b"precious", name, annotations={"who": name})
    await world.store.delete(world.uid, digests.of(b"precious"))
    await world.scrubbed()
    assert world.ready("a") == world.ready("b") == ("False", "Missing")
    assert {event["regarding"]["name"] for event in world.api.events} == {"a", "b"}
    await world.upload(b"precious")
    for name in ("a", "b"):
        await artifacts.reconcile(world.ctx, "team", name)
        assert world.ready(name) == ("True", "Stored")


async def test_a_lost_manifest_is_made_anew(world: World) -> None:
    await world.uploaded(b"payload")
    pointer = world.api.objects["Artifact", "team", "a"]["status"]["manifest"]
    await world.store.delete(world.uid, pointer["digest"])
    await world.scrubbed()
    assert world.ready() == ("False", "Missing")
    await artifacts.reconcile(world.ctx, "team", "a")
    assert world.ready() == ("True", "Stored")
    assert await world.store.head(world.uid, pointer["digest"]) is not None
    assert world.api.objects["Artifact", "team", "a"]["status"]["manifest"] == pointer


async def test_sound_bytes_cost_one_write_a_day_and_shared_ones_one_read(world: World) -> None:
    for name in ("a", "b", "c"):
        await world.uploaded(b"shared", name)
    versions = {
        name: world.api.objects["Artifact", "team", name]["metadata"]["resourceVersion"] for name in "abc"
    }
    world.clock.ahead += timedelta(days=2)
    for _ in range(3):
        await world.scrubber.once()
    for name, version in versions.items():
        found = world.api.objects["Artifact", "team", name]
        assert int(found["metadata"]["resourceVersion"]) == int(version) + 1
        assert "lastVerifiedTime" in found["status"]


async def test_damaged_bytes_are_kept_for_a_week(world: World) -> None:
    await world.uploaded(b"precious")
    world.damage(b"precious")
    await world.scrubbed()
    assert await world.collector.once()
    assert len(world.keys(garbagekeys.damaged(world.uid))) == 1
    world.clock.ahead += collector.QUARANTINE
    assert await world.collector.once()
    assert world.keys(garbagekeys.damaged(world.uid)) == []


async def test_bytes_that_change_while_they_are_looked_at_are_not_set_aside(world: World) -> None:
    blob = await world.upload(b"precious")
    seen = await world.inventory.blob(world.uid, blob.digest)
    assert seen is not None
    older = seen._replace(modified=seen.modified - timedelta(seconds=5))
    assert not await world.inventory.quarantine(world.uid, older)
    assert await world.has(b"precious")
    obstore.put(world.behind, garbagekeys.claim(world.uid, blob.digest), b"")
    assert not await world.inventory.quarantine(world.uid, seen)
    assert await world.has(b"precious")


@pytest.mark.parametrize("fails", ["live", "delete"])
async def test_a_failure_in_the_middle_leaves_the_rest_for_the_next_run(
    world: World, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    for number in range(30):
        await world.store.put(world.uid, b"%d" % number)
    wanted = [digests.of(b"%d" % number) for number in range(30)]

    async def broken(*_: Any) -> set[str]:
        raise store.StoreUnavailableError("down")

    async def live(_: frozenset[str]) -> set[str]:
        return set()

    with monkeypatch.context() as patch:
        if fails == "delete":
            patch.setattr(world.store, "delete", broken)
        none = timedelta(microseconds=-1)
        with pytest.raises(store.StoreUnavailableError):
            await world.inventory.remove(world.uid, wanted, broken if fails == "live" else live, none)
    left = len([key for key in world.keys(garbagekeys.CLAIMS) if garbagekeys.parse_claim(key)])
    assert left <= inventory.IN_FLIGHT if fails == "delete" else left == 0
    assert len(await world.inventory.blobs(world.uid)) == 30
