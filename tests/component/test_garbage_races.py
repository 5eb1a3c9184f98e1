"""A collector against publishers of the same bytes, step by step in every order Hypothesis can think of.

Remote: the real `RemoteStore` and `Inventory` over a bucket in memory whose every request is a step. Local:
the real `LocalStore` on a real disk, where every call of the system that others can see is a step.
"""

import asyncio
import contextlib
import os
import random
import tempfile
import threading
import uuid
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from obstore import exceptions as obstore_errors

from manifestry.adapters import (
    inventory,
    inventory_remote,
    store,
    store_claims,
    store_local,
    store_remote,
)
from manifestry.core import blobkeys, digests, garbagekeys
from tests.component.turns import Choose, ThreadTurns, Turns

TENANT = str(uuid.UUID(int=5))
DATA = b"the same bytes"
DIGEST = digests.of(DATA)
KEY = blobkeys.blob(TENANT, DIGEST)
GRACE = timedelta(hours=2)
ACTORS = ("upload", "put", "refer", "collect", "collect again")


@dataclass
class Cluster:
    """What refers to the blob, and who was told that it is stored."""

    references: set[str] = field(default_factory=set)
    acknowledged: list[str] = field(default_factory=list)


@dataclass
class Bucket:
    """An obstore store in memory; `module` stands in for the library."""

    turns: Turns
    now: datetime = datetime(2026, 5, 4, tzinfo=UTC)
    objects: dict[str, tuple[bytes, datetime]] = field(default_factory=dict)

    def module(self) -> Any:
        names = ("head_async", "put_async", "copy_async", "delete_async", "get_range_async", "list")
        return SimpleNamespace(**{name: getattr(self, name) for name in names})

    async def _step(self) -> None:
        await self.turns.step()
        self.now += timedelta(milliseconds=1)

    def _meta(self, key: str) -> dict[str, Any]:
        if key not in self.objects:
            raise FileNotFoundError(key)
        data, modified = self.objects[key]
        return {"path": key, "size": len(data), "last_modified": modified}

    async def head_async(self, _: Any, key: str) -> Any:
        await self._step()
        return self._meta(key)

    async def put_async(self, _: Any, key: str, data: bytes, *, mode: str = "overwrite", **__: Any) -> None:
        await self._step()
        if mode == "create" and key in self.objects:
            raise obstore_errors.AlreadyExistsError(key)
        self.objects[key] = (bytes(data), self.now)

    async def copy_async(self, _: Any, source: str, key: str, *, overwrite: bool) -> None:
        await self._step()
        self._meta(source)
        if not overwrite and key in self.objects:
            raise obstore_errors.AlreadyExistsError(key)
        self.objects[key] = (self.objects[source][0], self.now)

    async def delete_async(self, _: Any, key: str) -> None:
        await self._step()
        self.objects.pop(key, None)

    async def get_range_async(self, _: Any, key: str, *, start: int, length: int) -> bytes:
        await self._step()
        return self.objects[key][0][start : start + length]

    async def list(self, _: Any, prefix: str, *, offset: str | None, chunk_size: int) -> AsyncIterator[Any]:
        await self._step()
        keys = sorted(key for key in self.objects if key.startswith(prefix) and key > (offset or ""))
        yield [self._meta(key) for key in keys[:chunk_size]]


async def actor(kind: str, used: store.Store, cluster: Cluster, step: Callable[[], Any]) -> None:
    """Do what a facade, an operator or a collector does with one blob."""

    async def live(asked: Collection[str]) -> Collection[str]:
        await step()
        found = set(cluster.references)
        await step()  # the answer may be old when it arrives
        return asked if found else ()

    if kind in {"upload", "put"}:
        staged = store.Staged(str(uuid.uuid5(uuid.NAMESPACE_OID, kind)), DIGEST, len(DATA))
        await (used.publish(TENANT, staged) if kind == "upload" else used.put(TENANT, DATA))
        await step()
        cluster.references.add(kind)
        cluster.acknowledged.append(kind)
    elif kind == "refer":
        await step()
        cluster.references.add(kind)
        if await used.confirm(TENANT, DIGEST) is not None:
            cluster.acknowledged.append(kind)
    else:
        await inventory.Inventory(used, lambda: 0.0).remove(TENANT, [DIGEST], live, GRACE)


def stage_id() -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_OID, "upload"))


def expected(results: list[Any]) -> None:
    """Fail on anything but a publisher that gave up waiting for a claim."""
    for result in results:
        if isinstance(result, BaseException) and not isinstance(result, store.StoreUnavailableError):
            raise result


def race_remote(kinds: list[str], choose: Choose) -> tuple[bool, Cluster]:
    """Return whether the blob is there at the end, and who relies on it."""
    turns, cluster = Turns(choose), Cluster()
    bucket = Bucket(turns)
    old = bucket.now - timedelta(hours=10)
    bucket.objects = {KEY: (DATA, old), blobkeys.upload(stage_id()): (DATA, old)}

    async def pause(_: float) -> None:
        await turns.step()

    with pytest.MonkeyPatch.context() as patch:
        for module in (store_remote, inventory_remote):
            patch.setattr(module, "obstore", bucket.module())
        patch.setattr(store_remote, "_age", lambda found: bucket.now - found["last_modified"])
        patch.setattr(store_claims, "asyncio", SimpleNamespace(sleep=pause))
        used = store_remote.RemoteStore(bucket, timeout_seconds=60)  # type: ignore[arg-type]

        async def main() -> list[Any]:
            return await turns.run(*(actor(kind, used, cluster, turns.step) for kind in kinds))

        expected(asyncio.run(main()))
    claims = [key for key in bucket.objects if garbagekeys.parse_claim(key)]
    assert not claims, "a claim was left behind"
    return KEY in bucket.objects, cluster


@contextlib.contextmanager
def stepping(turns: ThreadTurns) -> Iterator[None]:
    """Make steps of the system calls that others can see, and run the store's work in its caller's thread."""
    patch = pytest.MonkeyPatch()
    for name in ("link", "rename", "utime", "unlink", "stat", "fstat"):
        original = getattr(os, name)

        def stepped(*args: Any, _original: Any = original, **options: Any) -> Any:
            turns.step()
            return _original(*args, **options)

        patch.setattr(os, name, stepped)
    open_ = os.open

    def opened(path: Any, flags: int, *args: Any, **options: Any) -> int:
        if flags & os.O_CREAT:
            turns.step()
        return open_(path, flags, *args, **options)

    async def inline(_: Any, operation: str, function: Callable[..., Any], *args: Any) -> Any:
        with store_local.typed(operation):
            return function(*args)

    async def pause(_: float) -> None:
        turns.step()

    patch.setattr(os, "open", opened)
    patch.setattr(store_local.LocalStore, "_run", inline)
    patch.setattr(store_claims, "asyncio", SimpleNamespace(sleep=pause))
    try:
        yield
    finally:
        patch.undo()


def race_local(kinds: list[str], choose: Choose, root: Path) -> tuple[bool, Cluster]:
    """Return whether the blob is there at the end, and who relies on it."""
    turns, cluster = ThreadTurns(choose), Cluster()
    past = (datetime.now(UTC) - timedelta(hours=10)).timestamp()
    for key in (KEY, blobkeys.upload(stage_id())):
        path = root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(DATA)
        os.utime(path, (past, past))

    async def step() -> None:
        turns.step()

    def act(kind: str) -> Callable[[], None]:
        used = store_local.LocalStore(root, timeout_seconds=60)
        return lambda: asyncio.run(actor(kind, used, cluster, step))

    with stepping(turns):
        expected(turns.run(*(act(kind) for kind in kinds)))
    left = [path for path in (root / "gc").rglob("*") if path.is_file()]
    assert not left, "a claim was left behind"
    assert not [path for path in (root / "uploads").iterdir() if path.name != stage_id()]
    return (root / KEY).exists(), cluster


kinds_of = st.lists(st.sampled_from(ACTORS), min_size=2, max_size=4).filter(lambda kinds: "collect" in kinds)
relaxed = settings(suppress_health_check=list(HealthCheck), deadline=None)


orders = st.lists(st.integers(0, 3), max_size=80)


def order(chosen: list[int]) -> Choose:
    """Follow the choices, then let whoever waits longest go on."""
    left = iter(chosen)
    return lambda count: next(left, 0) % count


def held(there: bool, cluster: Cluster) -> None:
    assert there or not cluster.acknowledged, f"{cluster.acknowledged} were told that the blob is stored"


@relaxed
@given(kinds=kinds_of, chosen=orders)
def test_on_a_bucket_no_order_of_steps_loses_what_was_acknowledged(
    kinds: list[str], chosen: list[int]
) -> None:
    held(*race_remote(kinds, order(chosen)))


@relaxed
@given(kinds=kinds_of, chosen=orders)
def test_on_a_disk_no_order_of_steps_loses_what_was_acknowledged(kinds: list[str], chosen: list[int]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        held(*race_local(kinds, order(chosen), Path(folder)))


@pytest.mark.parametrize("seed", range(20))
def test_a_thousand_random_orders_lose_nothing(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    for number in range(50):
        kinds = [*rng.sample(ACTORS, k=rng.randint(1, 3)), "collect"]
        held(*race_remote(kinds, rng.randrange))
        if number % 10 == 0:
            held(*race_local(kinds, rng.randrange, tmp_path / str(number)))


def test_garbage_goes_when_nobody_publishes_it(tmp_path: Path) -> None:
    for kinds in (["collect"], ["collect", "collect again"]):
        for seed in range(10):
            rng = random.Random(seed)
            assert race_remote(kinds, rng.randrange) == (False, Cluster())
            assert race_local(kinds, rng.randrange, tmp_path / f"{seed}{len(kinds)}") == (False, Cluster())


@pytest.mark.parametrize(
    "broken", ["no claim is looked for", "the blob is not looked for", "refer unconfirmed"]
)
def test_each_part_of_the_rule_is_needed(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without one of its parts, some order of steps loses bytes: so these tests would find it."""

    async def never(*_: Any) -> bool:
        return False

    async def careless(
        self: store_remote.RemoteStore, operation: str, tenant_uid: str, blob: store.Blob, publish: Any
    ) -> None:
        key = blobkeys.blob(tenant_uid, blob.digest)
        while True:
            await publish(key)
            if not await self._is_there(operation, garbagekeys.claim(tenant_uid, blob.digest)):
                return

    async def unconfirmed(self: store_remote.RemoteStore, tenant_uid: str, digest: str) -> store.Blob | None:
        return await self.head(tenant_uid, digest)

    kinds = ["collect", "put"]
    if broken == "no claim is looked for":
        monkeypatch.setattr(store_remote.RemoteStore, "_is_there", never)
    elif broken == "the blob is not looked for":
        monkeypatch.setattr(store_remote.RemoteStore, "_outlast", careless)
    else:
        monkeypatch.setattr(store_remote.RemoteStore, "confirm", unconfirmed)
        kinds = ["collect", "refer"]

    def loses(seed: int) -> bool:
        there, cluster = race_remote(kinds, random.Random(seed).randrange)
        return not there and bool(cluster.acknowledged)

    assert any(loses(seed) for seed in range(2000))


def test_threads_that_are_no_actors_are_never_held_up() -> None:
    turns = ThreadTurns(lambda _: 0)
    done = threading.Event()

    def step() -> None:
        turns.step()
        done.set()

    threading.Thread(target=step).start()
    assert done.wait(5)
