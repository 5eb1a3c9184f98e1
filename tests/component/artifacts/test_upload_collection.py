"""Abandoned uploads are found and removed; whoever goes on with one keeps it."""

import copy
import os
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from manifestry.adapters.kube import apierrors
from manifestry.adapters.quota.books import NotReadyError
from manifestry.adapters.store import sessions, stores
from manifestry.adapters.store.contract import ports, session_ports
from manifestry.core.artifacts import uploads
from manifestry.core.kube import names
from manifestry.core.quota.storage import charges as storage_charges
from manifestry.handlers.artifacts import uploads as handler
from manifestry.handlers.runtime.registry import Context
from manifestry.settings import OperatorSettings, StoreSettings

TENANT = str(uuid.uuid4())
DAY, HOUR, MINUTE = timedelta(days=1), timedelta(hours=1), timedelta(minutes=1)


async def chunks(data: bytes) -> AsyncIterator[bytes]:
    yield data


@dataclass
class World:
    root: Path
    sessions: session_ports.Sessions
    store: ports.Store
    collector: handler.Collector
    artifacts: dict[str, Any] = field(default_factory=dict)
    asked: int = 0
    at: datetime = field(default_factory=lambda: datetime.now(UTC))
    monotonic: float = 0.0
    books: Any = None

    @property
    def ctx(self) -> Context:
        clock = SimpleNamespace(now=lambda: self.at, monotonic=lambda: self.monotonic)
        storage = None if self.books is None else SimpleNamespace(books=self.books)
        namespaces = SimpleNamespace(namespaces=("team", "other"))
        made = SimpleNamespace(
            client=self,
            clock=clock,
            settings=OperatorSettings(),
            storage=storage,
            caches=namespaces,
            fetches=None,
        )
        return cast("Context", made)

    async def get(self, resource: names.Resource, name: str, namespace: str) -> Any:
        assert (resource, namespace) == (names.ARTIFACTS, "team")
        self.asked += 1
        if name not in self.artifacts:
            raise apierrors.NotFoundError(404, "NotFound", "not found")
        return copy.deepcopy(self.artifacts[name])

    async def begin(self, name: str = "a", data: bytes = b"hello") -> uploads.Session:
        uid = str(uuid.uuid4())
        self.artifacts[name] = {"metadata": {"name": name, "uid": uid}, "spec": {"upload": {}}}
        wanted = uploads.Session(str(uuid.uuid4()), TENANT, "team", name, uid)
        begun = await self.sessions.create(wanted, limit=64)
        await self.sessions.append(begun, 0, chunks(data), limit_bytes=len(data))
        return begun

    async def collect(self, after: timedelta) -> dict[str, int]:
        self.at = datetime.now(UTC) + after
        return dict(await self.collector.collect(self.ctx))

    def files(self, folder: str = "") -> list[str]:
        return sorted(path.name for path in (self.root / folder).rglob("*") if path.is_file())


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    settings = StoreSettings(store_path=str(tmp_path))
    objects = stores.open_store(settings)
    used = sessions.open_sessions(settings, objects)
    yield World(tmp_path, used, objects, handler.Collector(used))
    await used.close()
    await objects.close()


async def test_a_session_at_rest_is_removed_after_its_time(world: World) -> None:
    session = await world.begin()
    assert await world.collect(DAY - MINUTE) == {}
    assert await world.sessions.head(session.session_id) is not None
    assert await world.collect(DAY) == {"sessions": 1}
    assert world.files() == []
    assert await world.collect(DAY) == {}


async def test_each_piece_gives_it_a_new_time(world: World) -> None:
    session = await world.begin()
    path = world.root / "uploads" / session.session_id
    for each in (path, path.with_suffix(".json")):
        os.utime(each, (0, 0))
    await world.sessions.append(session, 5, chunks(b"more"), limit_bytes=4)
    assert await world.collect(MINUTE) == {}
    assert await world.collect(DAY + MINUTE) == {"sessions": 1}


@pytest.mark.parametrize("change", ["deleted", "renewed", "recorded", "failed"])
async def test_a_session_that_nobody_waits_for_goes_earlier(world: World, change: str) -> None:
    await world.begin()
    artifact = world.artifacts["a"]
    match change:
        case "deleted":
            world.artifacts.clear()
        case "renewed":
            artifact["metadata"]["uid"] = "other"
        case "recorded":
            artifact["spec"]["upload"] = {"digest": "sha256:" + "0" * 64}
        case _:
            stalled = {"type": "Stalled", "status": "True", "reason": "UploadExpired"}
            artifact["metadata"]["generation"] = 1
            artifact["status"] = {"observedGeneration": 1, "conditions": [stalled]}
    assert await world.collect(HOUR - MINUTE) == {}
    assert world.asked == 0
    assert await world.collect(HOUR) == {"sessions": 1}
    assert world.files() == []


@dataclass
class Books:
    """A storage ledger."""

    account_: storage_charges.Account | None = None
    released: list[tuple[str, str]] = field(default_factory=list)

    def account(self, namespace: str) -> storage_charges.Account | None:
        return self.account_ if namespace == "team" else None

    async def release(self, namespace: str, key: str) -> bool:
        self.released.append((namespace, key))
        if self.account_ is None:
            raise NotReadyError("no ledger")
        return True


@pytest.mark.parametrize("has_quota", [True, False])
async def test_what_a_removed_session_was_charged_is_given_back(world: World, has_quota: bool) -> None:
    books = world.books = Books(storage_charges.build([]) if has_quota else None)
    session = await world.begin()
    assert await world.collect(DAY) == {"sessions": 1}
    assert books.released == [("team", storage_charges.upload(session.artifact_uid, session.session_id))]


async def test_what_is_charged_for_a_session_that_was_never_made_is_given_back(world: World) -> None:
    now, later = world.at, world.at + 3 * DAY
    alive = await world.begin()
    keys = {
        "never made": storage_charges.upload("u", str(uuid.uuid4())),
        "alive": storage_charges.upload(alive.artifact_uid, alive.session_id),
        "a PUT": storage_charges.upload("u", uuid.uuid4().hex),
        "new": storage_charges.upload("u", str(uuid.uuid4())),
        "artifact": "u",
    }
    charges = [
        storage_charges.Charge(keys["never made"], "a", now, 7, expires=later),
        storage_charges.Charge(keys["alive"], "a", now, 7, expires=later),
        storage_charges.Charge(keys["a PUT"], "a", now, 7),
        storage_charges.Charge(keys["new"], "a", now + MINUTE, 7, expires=later),
        storage_charges.Charge("u", "a", now),
    ]
    books = world.books = Books(storage_charges.build(charges))
    assert await world.collect(HOUR - MINUTE) == {}
    assert await world.collect(HOUR + MINUTE / 2) == {"charges": 1}
    assert books.released == [("team", keys["never made"])]


async def test_a_session_for_bytes_that_were_lost_is_awaited(world: World) -> None:
    session = await world.begin()
    artifact = world.artifacts["a"]
    artifact["metadata"]["generation"] = 1
    artifact["spec"]["upload"] = {"digest": "sha256:" + "0" * 64}
    conditions = [
        {"type": "Ready", "status": "False", "reason": "Missing", "message": "", "lastTransitionTime": "x"},
        {"type": "Stalled", "status": "True", "reason": "Missing", "message": "", "lastTransitionTime": "x"},
    ]
    artifact["status"] = {"observedGeneration": 1, "conditions": conditions}
    assert await world.collect(HOUR) == {}
    artifact["metadata"]["uid"] = "another"
    assert await world.collect(HOUR) == {"sessions": 1}
    assert await world.sessions.head(session.session_id) is None


async def test_an_awaited_session_is_asked_for_and_kept(world: World) -> None:
    session = await world.begin()
    assert await world.collect(HOUR) == {}
    assert world.asked == 1
    assert await world.sessions.head(session.session_id) is not None


async def test_a_plain_upload_that_was_killed_is_removed(world: World) -> None:
    staged = await world.store.stage(chunks(b"killed here"), limit_bytes=100)
    assert await world.collect(HOUR - MINUTE) == {}
    blob = await world.store.publish(TENANT, staged)
    await world.store.stage(chunks(b"killed here"), limit_bytes=100)
    assert await world.collect(timedelta()) == {}
    assert await world.collect(HOUR - MINUTE) == {}
    assert await world.collect(HOUR) == {"leftovers": 1}
    assert await world.store.head(TENANT, blob.digest) == blob
    assert world.files("uploads") == []


async def test_a_slot_of_a_session_that_never_began_is_freed(world: World) -> None:
    session = await world.begin()
    slot = world.root / uploads.slot(TENANT, session.slot + 1)
    slot.write_text(str(uuid.uuid4()))
    assert await world.collect(HOUR - MINUTE) == {}
    assert await world.collect(HOUR + MINUTE) == {"slots": 1}
    assert world.files("sessions") == [Path(uploads.slot(TENANT, session.slot)).name]


async def test_what_is_not_ours_stays(world: World) -> None:
    await world.begin()
    for name in ("note.txt", ".nfs0001", "x.json"):
        (world.root / "uploads" / name).write_text("")
    assert await world.collect(DAY) == {"sessions": 1}
    assert world.files("uploads") == [".nfs0001", "note.txt", "x.json"]


async def test_the_store_is_not_listed_at_each_resync(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = 0

    async def collect(_: Context) -> dict[str, int]:
        nonlocal runs
        runs += 1
        return {"sessions": 1} if runs == 1 else {}

    monkeypatch.setattr(world.collector, "collect", collect)
    for seconds in range(0, 1201, 60):
        world.monotonic = float(seconds)
        await world.collector.resync(world.ctx)
    assert runs == 3


async def test_a_store_that_is_down_is_tried_at_the_next_resync(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.begin()

    async def fail(*_: object) -> int:
        raise ports.StoreUnavailableError("down")

    world.at += DAY + MINUTE
    with monkeypatch.context() as broken:
        broken.setattr(world.sessions, "free_slots", fail)
        with pytest.raises(ports.StoreUnavailableError):
            await world.collector.resync(world.ctx)
    await world.collector.resync(world.ctx)
    assert world.files() == []


async def test_bytes_are_as_old_as_we_have_known_them(world: World) -> None:
    """An S3 object that was uploaded in parts has the time of its first request: old when it appears."""
    staged = await world.store.stage(chunks(b"took two hours"), limit_bytes=100)
    os.utime(world.root / "uploads" / staged.upload_id, (0, 0))
    assert await world.collect(MINUTE) == {}
    assert await world.collect(HOUR) == {}
    await world.store.publish(TENANT, staged)
    again = await world.store.stage(chunks(b"killed here"), limit_bytes=100)
    os.utime(world.root / "uploads" / again.upload_id, (0, 0))
    assert await world.collect(HOUR) == {}
    assert await world.collect(2 * HOUR) == {"leftovers": 1}
    assert world.files("uploads") == []


async def test_what_is_gone_is_forgotten(world: World) -> None:
    staged = await world.store.stage(chunks(b"x"), limit_bytes=100)
    await world.collect(MINUTE)
    assert list(world.collector._sights) == [staged.upload_id]
    await world.store.discard(staged)
    await world.collect(MINUTE)
    assert world.collector._sights == {}
