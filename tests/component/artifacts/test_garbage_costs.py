"""What a run of the collector costs: by what it looks at, not by what it looks at times what there is."""

import asyncio
import itertools
import os
import uuid
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, Self

import obstore
import pytest

from manifestry.adapters.store import inventory
from manifestry.adapters.store.contract import bounded, ports
from manifestry.adapters.store.local import claims as local_claims
from manifestry.adapters.store.remote import claims as remote_claims
from manifestry.core.artifacts import uploads
from manifestry.core.blobs import digests, garbage, garbagekeys
from manifestry.handlers.artifacts import collector
from tests.component.artifacts.garbageworld import World, opened


@pytest.fixture(params=["local", "s3"])
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    async with opened(request, tmp_path) as made:
        yield made


@pytest.fixture
async def disk(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    request.param = "local"
    async with opened(request, tmp_path) as made:
        yield made


def pin_of(name: str, found: list[str]) -> tuple[str, bytes]:
    uid = str(uuid.uuid5(uuid.NAMESPACE_OID, name))
    return uid, garbage.render_pin({"metadata": {"uid": uid, "name": name, "namespace": "team"}}, found)


async def pinned(world: World, name: str, *found: str) -> None:
    await world.inventory.pin(world.uid, *pin_of(name, list(found)))


def touch(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


class Reads:
    """Counts the reads of pins, and how many are under way at once."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = self.most = self._now = 0
        original = inventory.Inventory._pin

        async def counted(found: inventory.Inventory, key: str) -> bytes | None:
            self.count, self._now = self.count + 1, self._now + 1
            self.most = max(self.most, self._now)
            try:
                return await original(found, key)
            finally:
                self._now -= 1

        monkeypatch.setattr(inventory.Inventory, "_pin", counted)


async def test_under_claims_only_the_pins_are_read_that_are_new(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = [f"sha256:{number:064x}" for number in range(60)]
    for number, digest in enumerate(kept):
        await pinned(world, f"p{number}", digest)
    contents = [b"%d" % number for number in range(12)]
    for data in contents:
        await world.store.put(world.uid, data)
    await world.grace()
    monkeypatch.setattr(collector, "BATCH", 3)
    world.collector = collector.Collector(world.ctx)
    assert await world.collector.once()
    await world.grace()
    reads = Reads(monkeypatch)
    assert await world.collector.once()
    assert not any([await world.has(data) for data in contents])
    assert reads.count == len(kept)
    assert 1 < reads.most <= bounded.IN_FLIGHT


@pytest.mark.parametrize("change", ["new", "overwritten"])
async def test_a_pin_that_is_written_after_the_run_has_read_them_keeps_its_blob(
    world: World, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    name = "p0" if change == "overwritten" else "p1"
    await pinned(world, "p0", f"sha256:{0:064x}")
    for data in (b"kept", b"gone"):
        await world.store.put(world.uid, data)
    await world.grace()
    assert await world.collector.once()
    await world.grace()
    original = inventory.Inventory.remove

    async def late(found: inventory.Inventory, *args: Any) -> inventory.Removal:
        await pinned(world, name, digests.of(b"kept"))
        return await original(found, *args)

    monkeypatch.setattr(inventory.Inventory, "remove", late)
    assert await world.collector.once()
    assert (await world.has(b"kept"), await world.has(b"gone")) == (True, False)


async def test_a_pin_that_goes_while_pins_are_read_is_no_damaged_one(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        await pinned(world, f"p{number}", f"sha256:{number:064x}")
    original = inventory.Inventory._pin

    async def gone(found: inventory.Inventory, key: str) -> bytes | None:
        if key == garbagekeys.pin(world.uid, pin_of("p1", [])[0]):
            await found.unpin(world.uid, pin_of("p1", [])[0])
        return await original(found, key)

    monkeypatch.setattr(inventory.Inventory, "_pin", gone)
    assert sorted([pin.name async for pin in world.inventory.pins(world.uid)]) == ["p0", "p2"]


async def test_after_removals_that_came_too_late_fewer_are_tried_at_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    original = inventory.Inventory.remove

    async def noted(found: inventory.Inventory, uid: str, wanted: list[str], *args: Any) -> Any:
        sizes.append(len(wanted))
        return await original(found, uid, wanted, *args)

    async def refused(*_: Any) -> bool:
        return False

    monkeypatch.setattr(inventory.Inventory, "remove", noted)
    monkeypatch.setattr(collector, "BATCH", 8)
    world.collector = collector.Collector(world.ctx)
    for number in range(14):
        await world.store.put(world.uid, b"%d" % number)
    await world.grace()
    assert await world.collector.once()
    await world.grace()
    with monkeypatch.context() as patch:
        for kind in (local_claims.LocalClaims, remote_claims.RemoteClaims):
            patch.setattr(kind, "remove", refused)
        assert await world.collector.once()
    assert sizes == [8, 4, 2]
    sizes.clear()
    assert await world.collector.once()
    assert sizes == [1, 2, 4, 7]
    assert await world.inventory.blobs(world.uid) == []


async def test_no_folder_holds_all_marks(disk: World, tmp_path: Path) -> None:
    for number in range(300):
        await disk.store.put(disk.uid, b"%d" % number)
    await disk.grace()
    assert await disk.collector.once()
    kept = set(disk.keys(garbagekeys.prefix(disk.uid))) - {garbagekeys.tenant(disk.uid)}
    assert len(kept) == 600
    folders = [path for path in (tmp_path / "tenants").rglob("*") if path.is_dir()]
    assert max(len(list(folder.iterdir())) for folder in folders) <= 256


async def test_a_full_folder_is_read_once(
    disk: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = 2500
    for number in range(count):
        uid = str(uuid.uuid5(uuid.NAMESPACE_OID, str(number)))
        touch(tmp_path / garbagekeys.verification(disk.uid, uid))
    seen, scandir = itertools.count(), os.scandir

    class Counted:
        def __init__(self, *args: Any) -> None:
            self._found = scandir(*args)

        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_: object) -> None:
            self._found.close()

        def __iter__(self) -> Iterator[Any]:
            for each in self._found:
                next(seen)
                yield each

    monkeypatch.setattr(os, "scandir", Counted)
    assert len(await disk.inventory.verifications(disk.uid)) == count
    assert next(seen) == count


async def test_marks_of_an_earlier_version_are_understood_and_moved(world: World, tmp_path: Path) -> None:
    for data in (b"marked", b"used"):
        await world.store.put(world.uid, data)
    await world.artifact(object={"digest": digests.of(b"used")})
    for data in (b"marked", b"used", b"gone before"):
        obstore.put(world.behind, garbagekeys.old_mark(world.uid, digests.of(data)), b"")
    is_local = world.store.local_path(world.uid, digests.of(b"")) is not None
    await world.grace()
    marked = await world.inventory.marks_of(world.uid, [digests.of(b"marked"), digests.of(b"other")])
    assert marked.keys() == {digests.of(b"marked")}
    assert await world.collector.once()
    assert world.keys(garbagekeys.old_marks(world.uid)) == []
    assert await world.has(b"marked") is not is_local, "a bucket makes the mark's time new"
    await world.grace()
    assert await world.collector.once()
    assert (await world.has(b"marked"), await world.has(b"used")) == (False, True)
    assert world.marks() == []


async def test_pages_show_each_blob_with_its_mark_while_others_are_made(world: World) -> None:
    made = sorted([(await world.store.put(world.uid, b"%d" % number)).digest for number in range(20)])
    await world.inventory.mark(world.uid, made[::3])
    for limit in (2, 3, 5, 7, 100):
        seen: dict[str, bool] = {}
        after = ""
        while True:
            page = await world.inventory.page(world.uid, after=after, limit=limit)
            assert page.marks.keys() <= {blob.digest for blob in page.blobs}
            seen |= {blob.digest: blob.digest in page.marks for blob in page.blobs}
            await world.inventory.mark(world.uid, [blob.digest for blob in page.blobs])
            if not (after := page.last):
                break
        assert seen == {digest: digest in made[::3] for digest in made}
        await world.inventory.unmark(world.uid, set(made) - set(made[::3]))


async def test_dead_claims_are_reaped_while_a_run_takes_hours(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inventory.Inventory.reap, "__defaults__", (timedelta(days=-1),))
    begun = asyncio.Event()

    async def endless(*_: Any) -> None:
        begun.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(inventory.Inventory, "tenants", endless)
    monkeypatch.setattr(collector, "FIRST_AFTER_SECONDS", 0.0)
    tasks = [asyncio.create_task(world.collector.run()), asyncio.create_task(world.collector.reap())]
    await begun.wait()
    claim = garbagekeys.claim(world.uid, digests.of(b"x"))
    obstore.put(world.behind, claim, b"")
    async with asyncio.timeout(20):
        assert await world.store.confirm(world.uid, digests.of(b"x")) is None
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def paths_of(root: Path, part: str) -> list[Path]:
    return [path for path in root.rglob("*") if part in str(path)]


async def test_a_tenant_that_is_gone_leaves_no_folder(disk: World, tmp_path: Path) -> None:
    await disk.uploaded(b"payload")
    touch(tmp_path / uploads.SESSIONS / disk.uid / "00000")
    await disk.inventory._records.remove(f"{uploads.SESSIONS}{disk.uid}/00000")
    disk.delete_namespace("team")
    await disk.collected()
    await disk.collected()
    assert paths_of(tmp_path, disk.uid) == []


async def test_old_bytes_are_set_aside_for_a_week_from_then_on(disk: World, tmp_path: Path) -> None:
    blob = await disk.upload(b"precious")
    path = disk.store.local_path(disk.uid, blob.digest)
    assert path is not None
    os.utime(path, (1e9, 1e9))
    seen = await disk.inventory.blob(disk.uid, blob.digest)
    assert seen is not None
    assert await disk.inventory.quarantine(disk.uid, seen)
    assert await disk.collector.once()
    assert len(disk.keys(garbagekeys.damaged(disk.uid))) == 1


async def test_a_store_that_is_full_removes_what_it_could_claim(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest_of = [(await world.store.put(world.uid, b"%d" % number)).digest for number in range(9)]
    room = iter([True, True, False, True, False])
    claims: Any = world.inventory._claims
    original = claims.make

    async def make(*args: Any) -> Any:
        if not next(room, True):
            raise ports.StoreFullError("full")
        return await original(*args)

    async def nothing(_: frozenset[str]) -> tuple[str, ...]:
        return ()

    monkeypatch.setattr(claims, "make", make)
    monkeypatch.setattr(bounded, "IN_FLIGHT", 1)
    left, looks = digest_of, 0
    while left:
        done = await world.inventory.remove(world.uid, left, nothing, timedelta(seconds=-5))
        left, looks = done.unclaimed, looks + 1
    assert looks == 3
    assert await world.inventory.blobs(world.uid) == []
