"""The Artifact handler against a local store, with an API server that changes under its hands."""

import copy
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest

from manifestry.adapters.fetching.queues import Wanted
from manifestry.adapters.kube import apierrors
from manifestry.adapters.store.contract import ports
from manifestry.adapters.store.local import blobs
from manifestry.core.fetching.fetches import Failure, Fetched, Outcome, Pending
from manifestry.core.kube import conditions, names
from manifestry.handlers.artifacts import reconciler
from manifestry.handlers.runtime import caches
from manifestry.handlers.runtime.registry import Context

UID = "0a1b2c3d-0000-4000-8000-00000000000f"
Object = dict[str, Any]


@dataclass
class Api:
    """The two calls that the handler makes, for one namespace; `before_write` comes between them."""

    objects: dict[tuple[str, str], Object] = field(default_factory=dict)
    writes: int = 0
    before_write: Callable[[], None] = lambda: None

    def add(self, resource: names.Resource, body: Object) -> None:
        body["metadata"].setdefault("resourceVersion", "1")
        self.objects[resource.kind, body["metadata"]["name"]] = body

    async def get(self, resource: names.Resource, name: str, _: str | None = None) -> Object:
        found = self.objects.get((resource.kind, name))
        if found is None:
            raise apierrors.NotFoundError(404, "NotFound", "not found")
        return copy.deepcopy(found)

    async def replace(
        self, resource: names.Resource, body: Object, *, subresource: str | None = None
    ) -> Object:
        self.before_write()
        current = await self.get(resource, body["metadata"]["name"])
        if current["metadata"]["resourceVersion"] != body["metadata"]["resourceVersion"]:
            raise apierrors.ConflictError(409, "Conflict", "the object has been modified")
        assert subresource == "status"
        self.writes += 1
        version = str(int(current["metadata"]["resourceVersion"]) + 1)
        merged = {**current, "status": body["status"]}
        merged["metadata"] = {**current["metadata"], "resourceVersion": version}
        self.add(resource, merged)
        return merged


@dataclass
class Clock:
    at: datetime = datetime(2026, 1, 1, 12, tzinfo=UTC)

    def now(self) -> datetime:
        return self.at


@dataclass
class World:
    api: Api
    clock: Clock
    store: blobs.LocalStore
    ctx: Context

    def artifact(self, **spec: Any) -> None:
        meta = {
            "name": "a",
            "namespace": "team",
            "generation": 1,
            "creationTimestamp": "2026-01-01T12:00:00Z",
        }
        self.api.add(names.ARTIFACTS, {"metadata": meta, "spec": {"mediaType": "a/b", **spec}})

    async def reconcile(self) -> float | None:
        return await reconciler.reconcile(self.ctx, "team", "a")

    @property
    def ready(self) -> tuple[str, str]:
        found = conditions.find(self.api.objects["Artifact", "a"]["status"]["conditions"], "Ready")
        assert found is not None
        return found["status"], found["reason"]


@pytest.fixture
def world(tmp_path: Path) -> World:
    api, clock = Api(), Clock()
    labels = {names.TENANT_LABEL: "acme"}
    api.add(names.NAMESPACES, {"metadata": {"name": "team", "uid": UID, "labels": labels}})
    opened = blobs.LocalStore(tmp_path, timeout_seconds=5)
    unused = cast("Any", None)
    ctx = Context(
        cast("Any", api), opened, unused, caches.Caches(), unused, cast("Any", clock), unused, unused
    )
    return World(api, clock, opened, ctx)


async def test_an_artifact_that_is_gone_needs_nothing(world: World) -> None:
    assert await world.reconcile() is None


async def test_a_ready_artifact_is_left_alone(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.artifact(inline={"text": "hello"})
    assert await world.reconcile() is None
    assert (world.ready, world.api.writes) == (("True", "Stored"), 1)
    monkeypatch.delattr(blobs.LocalStore, "put")
    assert await world.reconcile() is None
    assert world.api.writes == 1


async def test_a_change_in_between_wins_and_is_looked_at_again(world: World) -> None:
    world.artifact(inline={"text": "hello"})

    def edit() -> None:
        world.api.objects["Artifact", "a"]["metadata"]["resourceVersion"] = "7"
        world.api.before_write = lambda: None

    world.api.before_write = edit
    assert await world.reconcile() == reconciler.CONFLICT_RETRY_SECONDS
    assert world.api.writes == 0
    assert await world.reconcile() is None
    assert world.api.writes == 1


async def test_a_deletion_in_between_is_the_end(world: World) -> None:
    world.artifact(inline={"text": "hello"})
    world.api.before_write = world.api.objects.clear
    assert await world.reconcile() is None


@pytest.mark.parametrize("error", [ports.StoreUnavailableError("down"), ports.StoreFullError("full")])
async def test_a_failing_store_is_said_once_and_tried_until_it_is_back(
    world: World, monkeypatch: pytest.MonkeyPatch, error: ports.StoreError
) -> None:
    world.artifact(inline={"text": "hello"})

    async def fail(*_: object) -> ports.Blob:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(world.store, "put", fail)
        for _ in range(3):
            assert await world.reconcile() == 5
            world.clock.at += timedelta(seconds=5)
    assert (world.ready, world.api.writes) == (("Unknown", "StoreUnavailable"), 1)
    assert await world.reconcile() is None
    assert (world.ready, world.api.writes) == (("True", "Stored"), 2)


async def test_an_upload_expires_by_the_clock(world: World) -> None:
    world.artifact(upload={"expiresAfterSeconds": 60})
    assert await world.reconcile() == 60
    world.clock.at += timedelta(seconds=30)
    assert await world.reconcile() == 30
    assert (world.ready, world.api.writes) == (("Unknown", "AwaitingUpload"), 1)
    world.clock.at += timedelta(seconds=30)
    assert await world.reconcile() is None
    assert (world.ready, world.api.writes) == (("False", "UploadExpired"), 2)


async def test_a_subject_is_waited_for_and_then_named(world: World) -> None:
    world.artifact(inline={"text": "sbom"}, subjectRef={"name": "image"})
    assert await world.reconcile() == 1
    assert world.ready == ("Unknown", "SourceNotFound")
    digest = "sha256:" + "a" * 64
    ready = {"type": "Ready", "status": "True", "reason": "Stored", "message": "", "lastTransitionTime": "t"}
    status = {"observedGeneration": 1, "conditions": [ready], "manifest": {"digest": digest, "sizeBytes": 9}}
    world.api.add(names.ARTIFACTS, {"metadata": {"name": "image", "generation": 1}, "status": status})
    assert await world.reconcile() is None
    pointer = world.api.objects["Artifact", "a"]["status"]["manifest"]["digest"]
    assert digest.encode() in await world.store.read(UID, pointer, limit_bytes=1 << 20)


async def test_two_namespaces_of_one_tenant_are_both_refused(world: World) -> None:
    world.artifact(inline={"text": "hello"})
    meta = {"name": "rival", "uid": "x", "resourceVersion": "1", "labels": {names.TENANT_LABEL: "acme"}}
    world.ctx.caches.put(names.NAMESPACES.kind, {"metadata": meta})
    assert await world.reconcile() == 60
    assert world.ready == ("False", "TenantNotFound")
    world.ctx.caches.drop(names.NAMESPACES.kind, "rival")
    assert await world.reconcile() is None
    assert world.ready == ("True", "Stored")


@dataclass
class Downloads:
    """A fetch queue whose answers the test gives."""

    outcomes: dict[str, Outcome] = field(default_factory=dict)
    wanted: list[Wanted] = field(default_factory=list)
    forgotten: int = 0

    def look(self, wanted: Wanted) -> dict[str, Outcome]:
        self.wanted.append(wanted)
        return self.outcomes

    def forget(self, namespace: str, name: str) -> None:
        assert (namespace, name) == ("team", "a")
        self.forgotten += 1


@pytest.fixture
def downloads(world: World) -> Downloads:
    found = Downloads()
    world.ctx = replace(world.ctx, fetches=cast("Any", found))
    return found


async def chunks(data: bytes) -> AsyncIterator[bytes]:
    yield data


async def staged(world: World, data: bytes = b"fetched") -> Fetched:
    return Fetched(*await world.store.stage(chunks(data), limit_bytes=1 << 20))


def fetched(world: World, **spec: Any) -> None:
    world.artifact(url={"url": "https://example.org/"}, **spec)
    world.api.objects["Artifact", "a"]["metadata"]["uid"] = "u1"


async def test_without_fetches_a_url_is_refused(world: World) -> None:
    fetched(world)
    assert await world.reconcile() is None
    assert world.ready == ("False", "SourceNotSupported")


async def test_fetched_bytes_are_published_and_then_forgotten(world: World, downloads: Downloads) -> None:
    fetched(world)
    downloads.outcomes = {"": Pending()}
    assert await world.reconcile() is None
    assert (world.ready, world.api.writes) == (("Unknown", "Fetching"), 1)
    downloads.outcomes = {"": await staged(world)}
    assert await world.reconcile() is None
    assert (world.ready, world.api.writes, downloads.forgotten) == (("True", "Stored"), 2, 0)
    digest = world.api.objects["Artifact", "a"]["status"]["artifact"]["digest"]
    assert await world.store.read(UID, digest, limit_bytes=100) == b"fetched"
    assert await world.reconcile() is None
    assert downloads.forgotten == 1
    assert {(each.uid, each.generation) for each in downloads.wanted} == {("u1", 1)}


async def test_a_server_that_does_not_answer_is_said_once(world: World, downloads: Downloads) -> None:
    fetched(world)
    failure = Failure("SourceUnavailable", "the server answers 503", "soon")
    for outcome in (failure, Pending(failure), failure):
        downloads.outcomes = {"": outcome}
        await world.reconcile()
    assert (world.ready, world.api.writes) == (("Unknown", "SourceUnavailable"), 1)


async def test_fetched_bytes_that_are_not_the_promised_ones_are_dropped(
    world: World, downloads: Downloads
) -> None:
    fetched(world, digest="sha256:" + "a" * 64)
    downloads.outcomes = {"": await staged(world)}
    assert await world.reconcile() is None
    assert (world.ready, downloads.forgotten) == (("False", "DigestMismatch"), 1)
    assert await world.reconcile() is None
    assert (len(downloads.wanted), world.api.writes) == (1, 1)


async def test_staged_bytes_that_were_collected_are_fetched_once_more(
    world: World, downloads: Downloads
) -> None:
    fetched(world)
    found = await staged(world)
    downloads.outcomes = {"": found}
    await world.store.discard(ports.Staged(found.upload_id, found.digest, found.size_bytes))
    with pytest.raises(ports.BlobNotFoundError):
        await world.reconcile()
    assert downloads.forgotten == 1


async def test_a_deleted_artifact_is_not_fetched_for(world: World, downloads: Downloads) -> None:
    assert await world.reconcile() is None
    assert downloads.forgotten == 1


async def test_files_are_fetched_when_all_else_is_there(world: World, downloads: Downloads) -> None:
    files = [
        {"name": "a", "mediaType": "a/b", "url": {"url": "https://example.org/"}},
        {"name": "b", "mediaType": "a/b", "configMapRef": {"name": "c", "key": "k"}},
    ]
    world.artifact(files=files)
    world.api.objects["Artifact", "a"]["metadata"]["uid"] = "u1"
    assert await world.reconcile() == 1
    assert (world.ready, downloads.wanted) == (("Unknown", "SourceNotFound"), [])
    world.api.add(names.CONFIG_MAPS, {"metadata": {"name": "c"}, "data": {"k": "text"}})
    downloads.outcomes = {"a": await staged(world)}
    assert await world.reconcile() is None
    assert world.ready == ("True", "Stored")
    assert list(downloads.wanted[0].orders) == ["a"]
