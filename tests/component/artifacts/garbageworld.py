"""An operator's storage parts over real stores (a folder, SeaweedFS), with an API server in memory."""

import asyncio
import copy
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import obstore
import pytest
from obstore.store import LocalStore as Folder
from obstore.store import ObjectStore, S3Store

from manifestry.adapters.kube import apierrors
from manifestry.adapters.store import inventory, stores
from manifestry.adapters.store.contract import ports
from manifestry.adapters.store.ownership import guarded, homes, opening, tenants
from manifestry.core.blobs import digests, garbagekeys, ownership
from manifestry.core.blobs import keys as blob_keys
from manifestry.core.kube import conditions, names
from manifestry.handlers.artifacts import collector, reconciler, scrubber
from manifestry.handlers.runtime import caches
from manifestry.handlers.runtime.registry import Context
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
            raise apierrors.NotFoundError(404, "NotFound", "not found")
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
            raise apierrors.ConflictError(409, "Conflict", "modified")
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


@dataclass
class Cluster:
    """What a cluster says of itself: see `homes.Home`."""

    uid: str = "this-cluster"
    turns: tuple[str, ...] = ()

    async def look(self) -> homes.Noted:
        return homes.Noted(ownership.Home(self.uid, self.turns))

    async def note(self, seen: homes.Noted, turns: tuple[str, ...], leader: str) -> None:  # noqa: ARG002
        if seen.home.turns != self.turns:
            raise apierrors.ConflictError(409, "Conflict", "modified")
        self.turns = turns


class World:
    """An operator's storage parts; `raw` is the store without its guard."""

    def __init__(self, raw: ports.Store, behind: ObjectStore, home: Cluster | None = None) -> None:
        self.home = home or Cluster()
        self.api, self.clock, self.raw, self.behind = Api(), Clock(), raw, behind
        process = opening.Process(self.home, lambda _: "team", "op", leads=True)
        self.guard = opening.guard_of(raw, process, self.clock)
        marks = tenants.Tenants(raw.records(), lambda: self.guard.cluster_uid, lambda _: "team")
        used = self.store = guarded.GuardedStore(raw, self.guard, marks)
        self.uid = str(uuid.uuid4())
        unused = cast("Any", None)
        settings = OperatorSettings(
            gc_grace_seconds=GRACE_SECONDS,
            gc_tenant_grace_seconds=0,
            scrub_bytes_per_second=1 << 30,
            identity="op",
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
            guard=self.guard,
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
        await reconciler.reconcile(self.ctx, namespace, name)
        return self.api.objects["Artifact", namespace, name]

    async def uploaded(self, data: bytes, name: str = "a", **spec: Any) -> Object:
        blob = await self.upload(data)
        return await self.artifact(name, upload={"digest": blob.digest, "sizeBytes": len(data)}, **spec)

    async def upload(self, data: bytes) -> ports.Blob:
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

    def marks(self) -> list[str]:
        """Return the keys of the marks of the tenant."""
        return [key for key in self.keys(blob_keys.tenant(self.uid)) if garbagekeys.parse_mark(key)]

    def damage(self, data: bytes) -> None:
        obstore.put(self.behind, blob_keys.blob(self.uid, digests.of(data)), bytes([data[0] ^ 1]) + data[1:])

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


@asynccontextmanager
async def opened(request: pytest.FixtureRequest, folder: Path) -> AsyncIterator[World]:
    """Give a world on the kind of store that the fixture's parameter names: `local` or `s3`."""
    settings, behind = {"MANIFESTRY_STORE_PATH": str(folder)}, cast("ObjectStore", Folder(folder))
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
    used = stores.open_store(StoreSettings.from_mapping(settings | {"MANIFESTRY_GC_GRACE_SECONDS": "1"}))
    world = World(used, behind)
    assert await world.guard.check()
    yield world
    await used.close()
