"""Collector and scrub on a real ext4: full to the last block, wrong on the disk, after a power cut."""

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import cast

import pytest
from obstore.store import LocalStore as Folder
from obstore.store import ObjectStore

from manifestry.adapters.store import inventory, stores
from manifestry.adapters.store.contract import ports
from manifestry.core.blobs import digests, garbagekeys, keys
from manifestry.settings import StoreSettings
from tests.component.artifacts.garbageworld import Cluster, World
from tests.controlplane.plugin import refuse
from tests.faults import loopdisk
from tests.faults.loopdisk import LoopDisk

ALL_OLD = timedelta(microseconds=-1)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[LoopDisk]:
    if not loopdisk.available():
        refuse("needs root and a loop device")
    with LoopDisk(tmp_path / "before") as mounted:
        yield mounted


@pytest.fixture(params=["ext4", "xfs"])
def any_disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[LoopDisk]:
    if not loopdisk.available():
        refuse("needs root and a loop device")
    with LoopDisk(tmp_path / "any", request.param) as mounted:
        yield mounted


HOME = Cluster()  # remembers its turns, whatever becomes of a disk


@asynccontextmanager
async def world_on(disk: LoopDisk) -> AsyncIterator[World]:
    root = disk.folder / "store"
    root.mkdir(exist_ok=True)
    settings = {"MANIFESTRY_STORE_PATH": str(root), "MANIFESTRY_GC_GRACE_SECONDS": "1"}
    used = stores.open_store(StoreSettings.from_mapping(settings))
    try:
        world = World(used, cast("ObjectStore", Folder(root)), HOME)
        assert await world.guard.check()
        yield world
    finally:
        await used.close()


async def nothing(_: frozenset[str]) -> tuple[str, ...]:
    return ()


@pytest.mark.parametrize("marked", [True, False])
async def test_a_disk_without_a_block_and_an_inode_is_freed(any_disk: LoopDisk, marked: bool) -> None:
    disk = any_disk
    async with world_on(disk) as world:
        contents = [b"%d" % number * 5000 for number in range(40)]
        for data in contents:
            await world.store.put(world.uid, data)
        if marked:
            await world.grace()
        assert await world.collector.once()
        disk.fill()
        assert not disk.has_room()
        await world.grace()
        if not marked:
            assert await world.collector.once()
            assert not disk.has_room()
            await world.grace()
        assert await world.collector.once()
        assert [data for data in contents if await world.has(data)] == []
        blocks, inodes = disk.free()
        assert blocks >= 2 * len(contents)
        assert inodes >= len(contents)
        claims = disk.folder / "store" / garbagekeys.claims(world.uid)
        assert list(claims.iterdir()) == []


async def test_a_full_disk_that_was_never_made_ready_says_so_and_leaves_no_claim(disk: LoopDisk) -> None:
    async with world_on(disk) as world:
        blob = await world.upload(b"old" * 2000)
        (disk.folder / "store" / garbagekeys.claims(world.uid)).mkdir(parents=True)
        disk.fill()
        with pytest.raises(ports.StoreFullError):
            await world.inventory.remove(world.uid, [blob.digest], nothing, ALL_OLD)
        assert await world.store.confirm(world.uid, blob.digest) is not None


async def test_marks_that_a_full_disk_refuses_do_not_stop_what_may_go(
    disk: LoopDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world_on(disk) as world:
        await world.store.put(world.uid, b"old" * 2000)
        await world.grace()
        assert await world.collector.once()
        await world.store.put(world.uid, b"newer" * 2000)
        await world.grace()

        async def full(_: str) -> None:
            raise ports.StoreFullError("full")

        with monkeypatch.context() as patch:
            patch.setattr(world.collector._inventory._records, "touch", full)
            assert not await world.collector.once()
        assert (await world.has(b"old" * 2000), await world.has(b"newer" * 2000)) == (False, True)


RIGHT, WRONG = os.urandom(3000), os.urandom(3000)


async def test_wrong_bytes_on_the_disk_are_found_behind_right_ones_in_memory(any_disk: LoopDisk) -> None:
    disk = any_disk
    async with world_on(disk) as world:
        await world.uploaded(RIGHT)
        disk.overwrite(RIGHT, WRONG)
        assert await world.store.read(world.uid, digests.of(RIGHT), limit_bytes=9999) == RIGHT
        await world.scrubbed()
        assert world.ready() == ("False", "Damaged")
        assert len(world.keys(garbagekeys.damaged(world.uid))) == 1


async def test_wrong_bytes_in_memory_do_not_cost_right_ones_on_the_disk(any_disk: LoopDisk) -> None:
    disk = any_disk
    async with world_on(disk) as world:
        await world.uploaded(RIGHT)
        disk.overwrite(RIGHT, WRONG)
        disk.forget()
        with pytest.raises(ports.BlobDamagedError):
            await world.store.read(world.uid, digests.of(RIGHT), limit_bytes=9999)
        disk.overwrite(WRONG, RIGHT)
        await world.scrubbed()
        assert world.ready() == ("True", "Stored")
        assert world.keys(garbagekeys.damaged(world.uid)) == []
        assert await world.store.read(world.uid, digests.of(RIGHT), limit_bytes=9999) == RIGHT


async def test_a_removed_blob_stays_removed_after_a_power_cut(disk: LoopDisk, tmp_path: Path) -> None:
    async with world_on(disk) as world:
        blob = await world.upload(RIGHT)
        assert (await world.inventory.remove(world.uid, [blob.digest], nothing, ALL_OLD)).removed
        with disk.cut(tmp_path / "after") as after:
            assert not (after.folder / "store" / keys.blob(world.uid, blob.digest)).exists()


async def test_what_is_set_aside_is_there_after_a_power_cut_and_as_young_as_that(
    disk: LoopDisk, tmp_path: Path
) -> None:
    async with world_on(disk) as world:
        blob = await world.upload(RIGHT)
        path = disk.folder / "store" / keys.blob(world.uid, blob.digest)
        os.utime(path, (1e9, 1e9))
        found = await inventory.Inventory(world.store).blob(world.uid, blob.digest)
        assert found is not None
        assert await world.inventory.quarantine(world.uid, found)
        with disk.cut(tmp_path / "after") as after:
            aside = after.folder / "store" / garbagekeys.quarantine(world.uid, blob.digest)
            assert aside.read_bytes() == RIGHT
            assert aside.stat().st_mtime > 1.5e9


async def test_old_bytes_that_are_set_aside_stay_for_a_week(disk: LoopDisk) -> None:
    async with world_on(disk) as world:
        await world.uploaded(RIGHT)
        path = disk.folder / "store" / keys.blob(world.uid, digests.of(RIGHT))
        path.write_bytes(WRONG)
        os.utime(path, (1e9, 1e9))
        await world.scrubbed()
        world.clock.ahead = timedelta()
        assert await world.collector.once()
        assert len(world.keys(garbagekeys.damaged(world.uid))) == 1
        world.clock.ahead = timedelta(days=8)
        assert await world.collector.once()
        assert world.keys(garbagekeys.damaged(world.uid)) == []
