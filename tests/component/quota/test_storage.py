"""The operator's side of the storage quota, the API server in memory: what is stored, fetched, woken."""

import contextlib
import copy
import itertools
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from manifestry.adapters.kube import apierrors
from manifestry.adapters.quota.storagebooks import StorageBooks
from manifestry.adapters.store.local import blobs
from manifestry.core.fetching.fetches import Failure, Fetched, Pending
from manifestry.core.kube import conditions, names
from manifestry.core.quota.storage.charges import LEDGER, landed
from manifestry.core.quota.storage.grants import Wanted
from manifestry.core.quota.storage.limits import Limits
from manifestry.handlers.artifacts import reconciler
from manifestry.handlers.quota import storagequotas
from manifestry.handlers.runtime import caches
from manifestry.handlers.runtime.registry import Context
from manifestry.handlers.runtime.storagestates import Storage

NAMESPACE = "team"
UID = "0a1b2c3d-0000-4000-8000-00000000000f"
NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
Object = dict[str, Any]


@dataclass
class Api:
    """The calls that the handlers make, for one namespace."""

    objects: dict[tuple[str, str], Object] = field(default_factory=dict)
    ledger_writes: int = 0
    versions: Any = field(default_factory=lambda: itertools.count(1))

    def put(self, kind: str, body: Object) -> Object:
        made = copy.deepcopy(body)
        made["metadata"] = {"generation": 1, **made["metadata"], "resourceVersion": str(next(self.versions))}
        self.objects[kind, made["metadata"]["name"]] = made
        return copy.deepcopy(made)

    async def get(self, resource: names.Resource, name: str, _: str | None = None) -> Object:
        found = self.objects.get((resource.kind, name))
        if found is None:
            raise apierrors.NotFoundError(404, "NotFound", "not found")
        return copy.deepcopy(found)

    async def list(
        self, resource: names.Resource, _: str | None = None, **selectors: str
    ) -> tuple[list[Object], str]:
        found = [copy.deepcopy(body) for (kind, _), body in self.objects.items() if kind == resource.kind]
        wanted = selectors.get("field_selector", "").removeprefix("metadata.name=")
        return [each for each in found if not wanted or each["metadata"]["name"] == wanted], "9"

    async def create(self, resource: names.Resource, body: Object, _: str) -> Object:
        self.ledger_writes += 1
        return self.put(resource.kind, body)

    async def replace(self, resource: names.Resource, body: Object, *, subresource: str) -> Object:
        assert subresource == "status"
        current = await self.get(resource, body["metadata"]["name"])
        if current["metadata"]["resourceVersion"] != body["metadata"]["resourceVersion"]:
            raise apierrors.ConflictError(409, "Conflict", "the object has been modified")
        self.ledger_writes += resource == names.QUOTA_LEDGERS
        return self.put(resource.kind, {**current, "status": body["status"]})

    async def delete(self, resource: names.Resource, name: str, _: str) -> None:
        self.ledger_writes += 1
        del self.objects[resource.kind, name]


@dataclass
class Fetches:
    """Downloads that end when the test says so."""

    outcome: Any = field(default_factory=Pending)
    looks: int = 0
    forgotten: int = 0

    def look(self, _: Any) -> dict[str, Any]:
        self.looks += 1
        return {"": self.outcome}

    def forget(self, *_: str) -> None:
        self.forgotten += 1

    def holds(self, *_: str) -> bool:
        return not isinstance(self.outcome, Failure)


@dataclass
class World:
    api: Api
    ctx: Context
    storage: Storage
    fetches: Fetches
    woken: list[tuple[str, str, str]]
    seconds: float = 100.0

    def limit(self, **storage: int) -> None:
        spec = {"tenants": ["acme"], "storage": storage}
        body = self.api.put("TenantQuota", {"metadata": {"name": "q"}, "spec": spec})
        self.ctx.caches.put("TenantQuota", body)

    def artifact(self, name: str, uid: str = "", **spec: Any) -> None:
        meta = {
            "name": name,
            "namespace": NAMESPACE,
            "uid": uid or f"uid-{name}",
            "creationTimestamp": "2026-01-01T12:00:00Z",
        }
        self.api.put("Artifact", {"metadata": meta, "spec": {"mediaType": "a/b", **spec}})

    async def reconcile(self, name: str) -> tuple[str, str]:
        await reconciler.reconcile(self.ctx, NAMESPACE, name)
        return self.condition(name, "Ready")

    def condition(self, name: str, kind: str) -> tuple[str, str]:
        found = conditions.find(self.api.objects["Artifact", name]["status"]["conditions"], kind) or {}
        return str(found.get("status")), str(found.get("reason"))

    async def ledger(self) -> float | None:
        return await storagequotas.reconcile(self.ctx, NAMESPACE, LEDGER)

    @property
    def totals(self) -> tuple[int, int, int]:
        status = self.api.objects["QuotaLedger", LEDGER]["status"]
        storage = status["storage"]
        return storage["committedBytes"], storage["artifactCount"], len(status["holders"])


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with opened(Api(), tmp_path) as found:
        yield found


@contextlib.asynccontextmanager
async def opened(api: Api, tmp_path: Path) -> AsyncIterator[World]:
    """Give an operator at an API server, which may have known another one before."""
    fetches = Fetches()
    woken: list[tuple[str, str, str]] = []
    found: World
    clock = SimpleNamespace(now=lambda: NOW, monotonic=lambda: found.seconds)
    books = StorageBooks(cast("Any", api), now=clock.now, deadline_seconds=1)
    queue = SimpleNamespace(add=woken.append)
    unused = cast("Any", None)
    ctx = Context(
        cast("Any", api),
        blobs.LocalStore(tmp_path, timeout_seconds=5),
        cast("Any", SimpleNamespace(primed=True)),
        caches.Caches(),
        cast("Any", queue),
        cast("Any", clock),
        unused,
        unused,
        cast("Any", fetches),
        Storage(books),
    )
    labels = {names.TENANT_LABEL: "acme"}
    made = api.put("Namespace", {"metadata": {"name": NAMESPACE, "uid": UID, "labels": labels}})
    ctx.caches.put("Namespace", made)
    if ("TenantQuota", "q") in api.objects:
        ctx.caches.put("TenantQuota", api.objects["TenantQuota", "q"])
    assert ctx.storage is not None
    found = World(api, ctx, ctx.storage, fetches, woken)
    yield found
    await books.close()


def files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


async def test_without_a_quota_there_is_no_ledger_and_no_condition(world: World) -> None:
    world.artifact("a", inline={"text": "hello"})
    assert await world.reconcile("a") == ("True", "Stored")
    assert world.condition("a", "QuotaReserved") == ("None", "None")
    assert await world.ledger() is None
    await storagequotas.resync(world.ctx)
    assert (world.api.ledger_writes, world.woken) == (0, [])


async def test_an_artifact_is_charged_stored_and_counted(world: World) -> None:
    world.limit(maxBytes=10)
    world.artifact("a", inline={"text": "hello"})
    assert await world.reconcile("a") == ("True", "Stored")
    assert world.condition("a", "QuotaReserved") == ("True", "Reserved")
    assert (world.totals, world.api.ledger_writes) == ((5, 1, 0), 4)
    await world.reconcile("a")
    assert world.api.ledger_writes == 4


async def test_over_the_quota_nothing_is_stored_and_room_wakes(world: World, tmp_path: Path) -> None:
    world.limit(maxBytes=10)
    world.artifact("a", inline={"text": "0123456"})
    world.artifact("b", inline={"text": "abcdefg"})
    await world.reconcile("a")
    before = files(tmp_path)
    assert await world.reconcile("b") == ("Unknown", "WaitingForQuota")
    assert files(tmp_path) == before
    assert world.condition("b", "QuotaReserved") == ("False", "WaitingForQuota")
    await world.ledger()
    assert ("Artifact", NAMESPACE, "b") not in world.woken
    del world.api.objects["Artifact", "a"]
    await reconciler.reconcile(world.ctx, NAMESPACE, "a")
    assert world.woken[-1] == (storagequotas.KIND, NAMESPACE, LEDGER)
    again = await world.ledger()
    assert again is not None, "a count has just been made"
    world.seconds += again
    assert await world.ledger() is None
    assert world.woken[-1] == ("Artifact", NAMESPACE, "b")
    assert await world.reconcile("b") == ("True", "Stored")
    assert world.totals == (7, 1, 0)


async def test_what_can_never_fit_is_refused_until_the_quota_is_raised_or_lifted(world: World) -> None:
    world.limit(maxBytes=3)
    for name in ("a", "b"):
        world.artifact(name, inline={"text": "hello"})
        assert await world.reconcile(name) == ("False", "ExceedsMaxQuota")
        assert world.condition(name, "Stalled") == ("True", "ExceedsMaxQuota")
    world.limit(maxBytes=5)
    await world.ledger()
    assert ("Artifact", NAMESPACE, "a") in world.woken
    assert await world.reconcile("a") == ("True", "Stored")
    del world.api.objects["TenantQuota", "q"]
    world.ctx.caches.drop("TenantQuota", "q")
    await world.ledger()
    assert ("QuotaLedger", LEDGER) not in world.api.objects
    assert await world.reconcile("b") == ("True", "Stored")
    assert world.condition("b", "QuotaReserved") == ("True", "Unlimited")
    world.limit(maxBytes=5)
    await storagequotas.resync(world.ctx)
    assert world.totals == (10, 2, 0)
    assert "acme" in storagequotas.over_limit(world.ctx, NAMESPACE, "acme")


async def test_what_is_too_large_is_not_fetched_once_more_before_there_is_room(world: World) -> None:
    world.limit(maxBytes=10)
    world.artifact("big", inline={"text": "01234567"})
    await world.reconcile("big")
    world.artifact("u", url={"url": "https://example.org/x"})
    assert (await world.reconcile("u"))[0] == "Unknown"
    assert world.condition("u", "QuotaReserved") == ("True", "Reserved")
    world.fetches.forgotten = 0
    world.fetches.outcome = Fetched("id", f"sha256:{'0' * 64}", 5)
    assert await world.reconcile("u") == ("Unknown", "WaitingForQuota")
    assert world.fetches.looks == 2
    assert world.fetches.forgotten >= 1
    await world.reconcile("u")
    assert world.fetches.looks == 2, "what it needs is known now"
    world.artifact("stated", url={"url": "https://example.org/x"}, sizeBytes=9)
    assert await world.reconcile("stated") == ("Unknown", "WaitingForQuota")
    assert world.fetches.looks == 2
    assert world.storage.remembered(NAMESPACE, "u", "uid-u") == 5
    assert world.storage.remembered(NAMESPACE, "u", "other") == 0


async def test_a_crash_before_the_commit_is_found_by_the_next_look(world: World) -> None:
    world.limit(maxBytes=10)
    world.artifact("a", inline={"text": "hello"})
    await world.reconcile("a")
    world.api.objects["QuotaLedger", LEDGER]["status"]["storage"].update(committedBytes=0, artifactCount=0)
    await world.storage.books.reserve(
        NAMESPACE, Wanted("uid-a", "a", 5), storagequotas.limits_of(world.ctx, "acme")
    )
    world.woken.clear()
    await reconciler.reconcile(world.ctx, NAMESPACE, "a")
    assert world.woken == [(storagequotas.KIND, NAMESPACE, LEDGER)]
    world.seconds += 60
    await world.ledger()
    assert world.totals == (5, 1, 0)


async def test_an_artifact_whose_charge_was_lost_is_counted(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.limit(maxBytes=10)
    world.artifact("a", inline={"text": "hello"})
    write = world.api.replace

    async def losing(resource: names.Resource, body: Object, *, subresource: str) -> Object:
        if resource == names.ARTIFACTS:
            world.api.objects["QuotaLedger", LEDGER]["status"]["holders"].clear()
        return await write(resource, body, subresource=subresource)

    monkeypatch.setattr(world.api, "replace", losing)
    assert await world.reconcile("a") == ("True", "Stored")
    assert world.woken[-1] == (storagequotas.KIND, NAMESPACE, LEDGER)
    world.seconds += 60
    await world.ledger()
    assert world.totals == (5, 1, 0)


async def test_those_under_way_are_looked_at_when_a_quota_is_new(world: World) -> None:
    world.artifact("a", upload={})
    await world.reconcile("a")
    world.limit(maxArtifacts=1)
    await world.ledger()
    assert ("Artifact", NAMESPACE, "a") in world.woken
    await world.reconcile("a")
    assert world.totals == (0, 0, 1)


async def test_one_tenants_failure_stops_no_other_and_is_told(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.limit(maxBytes=1)

    async def fail(*_: Any, **__: Any) -> Any:
        raise apierrors.UnavailableError(503, "down", "down")

    monkeypatch.setattr(world.storage.books, "recount", fail)
    with pytest.raises(apierrors.UnavailableError):
        await storagequotas.resync(world.ctx)
    assert NAMESPACE in world.storage.stale


async def test_uploads_are_covered_by_what_the_facade_has_charged(world: World) -> None:
    world.limit(maxBytes=10)
    await world.ledger()
    digests = {}
    for name, data in (("one", b"hello"), ("two", b"world")):
        blob = await world.ctx.store.put(UID, data)
        digests[name] = blob.digest
        wanted = Wanted("uid-a", "a", 5, upload=name)
        assert (await world.storage.books.reserve(NAMESPACE, wanted, Limits(10))).reason == "Reserved"
        key = landed("uid-a", name, blob.digest)
        assert (await world.storage.books.land(NAMESPACE, wanted, key, Limits(10))).reason == "Reserved"
    one = {"name": "one", "mediaType": "a/b", "upload": {"digest": digests["one"], "sizeBytes": 5}}
    two = {"name": "two", "mediaType": "a/b", "upload": {}}
    world.artifact("a", files=[one, two])
    before = world.api.ledger_writes
    assert await world.reconcile("a") == ("Unknown", "AwaitingUpload")
    two["upload"] = {"digest": digests["two"], "sizeBytes": 5}
    world.artifact("a", files=[one, two])
    assert await world.reconcile("a") == ("True", "Stored")
    assert (world.totals, world.api.ledger_writes) == ((10, 1, 0), before + 1)
