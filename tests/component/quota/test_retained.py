"""What pins keep, over real stores (a folder, SeaweedFS): weighed, counted, removed for the collector."""

import io
import json
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import obstore
import pytest

from manifestry.adapters.store import pins
from manifestry.adapters.store.ownership import owners
from manifestry.core.blobs import digests, garbage, garbagekeys
from manifestry.handlers.commands import retained
from tests.component.artifacts import garbageworld
from tests.component.artifacts.garbageworld import World

GONE = {"metadata": {"name": "gone", "namespace": "team"}}


@pytest.fixture(params=["local", "s3"])
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    async with garbageworld.opened(request, tmp_path) as found:
        yield found


def put_pin(world: World, wanted: list[str], size_bytes: int | None = None) -> str:
    """Write a pin as an operator (of an earlier version: without a size) does; return the artifact's uid."""
    uid = str(uuid.uuid4())
    obstore.put(world.behind, garbagekeys.pin(world.uid, uid), garbage.render_pin(GONE, wanted, size_bytes))
    return uid


def document(world: World, uid: str) -> Any:
    return json.loads(bytes(obstore.get(world.behind, garbagekeys.pin(world.uid, uid)).bytes()))


async def test_a_new_pin_says_what_the_quota_counts(world: World) -> None:
    await world.uploaded(b"12345", deletionPolicy="Retain")
    (key,) = world.keys(garbagekeys.pins(world.uid))
    uid = garbagekeys.parse_pin(key)
    assert uid is not None
    found = await pins.Pins(world.store).find(world.uid, uid)
    assert found is not None
    assert (found.name, found.namespace, found.size_bytes, len(found.digests)) == ("a", "team", 5, 2)


@pytest.mark.parametrize("files", [1, 64])
async def test_a_pin_of_an_earlier_version_is_weighed_once_and_keeps_its_time(
    world: World, monkeypatch: pytest.MonkeyPatch, files: int
) -> None:
    payloads = [b"%02d" % number for number in range(files)]
    blobs = [await world.upload(data) for data in payloads]
    uid = put_pin(world, [blob.digest for blob in blobs])
    before = await pins.Pins(world.store).find(world.uid, uid)
    counts = pins.Counts()
    (found,) = await counts.of(world.store, world.uid)
    assert (found.uid, found.name, found.size_bytes) == (uid, "gone", 2 * files)
    assert document(world, uid)["sizeBytes"] == 2 * files
    after = await pins.Pins(world.store).find(world.uid, uid)
    assert after == before
    heads = 0
    head = world.store.head

    async def counted(*args: Any) -> Any:
        nonlocal heads
        heads += 1
        return await head(*args)

    monkeypatch.setattr(world.store, "head", counted)
    for each in (counts, pins.Counts()):  # this process, and the next one
        assert await each.of(world.store, world.uid) == [found]
    assert heads == 0


async def test_bytes_that_are_lost_are_not_taken_for_the_size_of_a_pin(world: World) -> None:
    there, lost = await world.upload(b"12345"), digests.of(b"lost")
    uid = put_pin(world, [there.digest, lost])
    (found,) = await pins.Counts().of(world.store, world.uid)
    assert found.size_bytes == 5
    assert "sizeBytes" not in document(world, uid)
    await world.upload(b"lost")
    (found,) = await pins.Counts().of(world.store, world.uid)
    assert (found.size_bytes, document(world, uid)["sizeBytes"]) == (9, 9)


async def test_pins_are_read_once_and_listed_at_each_count(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    records, reads = world.store.records(), list[str]()

    class Watched:
        """Counts the reads; everything else is the store's own."""

        def __getattr__(self, name: str) -> Any:
            return getattr(records, name)

        async def read(self, key: str, *, limit_bytes: int) -> bytes | None:
            reads.append(key)
            return await records.read(key, limit_bytes=limit_bytes)

    monkeypatch.setattr(world.store, "records", Watched)
    monkeypatch.setattr(pins, "LIST_MAX", 2)
    made = {put_pin(world, [digests.of(b"x")], number) for number in range(5)}
    counts = pins.Counts()
    assert {each.uid for each in await counts.of(world.store, world.uid)} == made
    assert len(reads) == 5
    gone = made.pop()
    await pins.Pins(world.store).remove(world.uid, gone)
    added = put_pin(world, [digests.of(b"x")], 7)
    assert {each.uid for each in await counts.of(world.store, world.uid)} == {*made, added}
    assert len(reads) == 6


async def test_a_tenant_without_pins_is_listed_now_and_then_and_after_each_pin_of_ours(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts, lists = pins.Counts(), list[str]()
    pages = pins.Pins.pages

    def counted(self: pins.Pins, tenant_uid: str) -> AsyncIterator[Any]:
        lists.append(tenant_uid)
        return pages(self, tenant_uid)

    monkeypatch.setattr(pins.Pins, "pages", counted)
    for _ in range(pins.EMPTY_FOR + 1):
        assert await counts.of(world.store, world.uid) == []
    assert len(lists) == 1
    put_pin(world, [], 1)  # by a leader that was replaced
    assert len(await counts.of(world.store, world.uid)) == 1
    other = str(uuid.uuid4())
    assert await counts.of(world.store, other) == []
    counts.note(other)
    obstore.put(world.behind, garbagekeys.pin(other, other), garbage.render_pin(GONE, [], 1))
    assert len(await counts.of(world.store, other)) == 1


async def test_a_pin_that_is_written_while_its_tenant_is_listed_is_counted_next(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts, pages = pins.Counts(), pins.Pins.pages

    async def late(self: pins.Pins, tenant_uid: str) -> AsyncIterator[Any]:
        async for items in pages(self, tenant_uid):
            yield items
        if not world.keys(garbagekeys.pins(world.uid)):
            put_pin(world, [], 1)
            counts.note(world.uid)

    monkeypatch.setattr(pins.Pins, "pages", late)
    assert await counts.of(world.store, world.uid) == []
    assert len(await counts.of(world.store, world.uid)) == 1


async def test_a_damaged_pin_counts_as_an_artifact_and_stops_no_count(world: World) -> None:
    uid = str(uuid.uuid4())
    obstore.put(world.behind, garbagekeys.pin(world.uid, uid), b"{")
    (found,) = await pins.Counts().of(world.store, world.uid)
    assert (found.uid, found.size_bytes) == (uid, 0)


async def test_what_is_removed_goes_after_the_grace_and_what_others_refer_to_stays(world: World) -> None:
    await world.uploaded(b"kept", "a", deletionPolicy="Retain")
    await world.uploaded(b"shared", "b", deletionPolicy="Retain")
    await world.uploaded(b"shared", "c")
    for name in ("a", "b"):
        world.delete(name)
    await world.collected()
    assert (await world.has(b"kept"), await world.has(b"shared")) == (True, True)
    kept = pins.Pins(world.store)
    for item in await kept.keys(world.uid):
        uid = garbagekeys.parse_pin(item.key)
        assert uid is not None
        await world.inventory.verify(world.uid, uid)
        await kept.remove(world.uid, uid)
    assert world.keys(garbagekeys.verified(world.uid)) == []
    assert await world.collector.once()
    assert await world.has(b"kept"), "it was marked just now"
    await world.grace()
    assert await world.collector.once()
    assert (await world.has(b"kept"), await world.has(b"shared")) == (False, True)


async def command(world: World, *arguments: str) -> list[Any]:
    """Run `python -m manifestry retained` and return what it writes."""
    out = io.StringIO()
    owner = owners.Owner(world.raw.records(), world.home)
    made = retained.Command(cast("Any", world.api), world.store, owner, out)
    await made.run(retained.parse(arguments))
    return [json.loads(line) for line in out.getvalue().splitlines()]


async def test_what_a_tenant_that_is_gone_has_left_is_listed_and_removed_by_the_platforms_administrator(
    world: World,
) -> None:
    await world.uploaded(b"12345", "a", deletionPolicy="Retain")
    await world.uploaded(b"67", "b", deletionPolicy="Retain")
    assert await world.collector.once()  # makes the store this cluster's
    assert await command(world, "tenants") == []
    with pytest.raises(retained.RefusedError, match="'team' exists"):
        await command(world, "list", "--tenant-uid", world.uid)
    world.delete_namespace("team")
    assert await world.collector.once()  # misses it
    damaged = str(uuid.uuid4())
    obstore.put(world.behind, garbagekeys.pin(world.uid, damaged), b"{")
    assert await command(world, "tenants") == [
        {"tenantUid": world.uid, "namespaces": ["team"], "count": 3, "sizeBytes": 7}
    ]
    listed = {each["name"]: each for each in await command(world, "list", "--tenant-uid", world.uid)}
    assert {name: each["sizeBytes"] for name, each in listed.items()} == {"a": 5, "b": 2, "": 0}
    assert listed[""]["damaged"]
    one = listed["a"]["id"]
    (removed,) = await command(world, "remove", "--tenant-uid", world.uid, "--id", one)
    assert removed["removed"]["id"] == one
    assert len(await command(world, "remove", "--tenant-uid", world.uid, "--all")) == 2
    assert await command(world, "tenants") == []
    await world.collected()
    assert (await world.has(b"12345"), await world.has(b"67")) == (False, False)


@pytest.mark.parametrize(
    ("record", "why"),
    [
        (b'{"version": 1, "clusterUid": "another"}', "another cluster"),
        (b'{"version": 1, "clusterUid": "this-cluster", "turn": "not noted here"}', "clone"),
    ],
)
async def test_nothing_is_removed_from_a_store_that_is_not_ours(
    world: World, record: bytes, why: str
) -> None:
    obstore.put(world.behind, garbagekeys.OWNER, record)
    put_pin(world, [digests.of(b"theirs")], 6)
    world.delete_namespace("team")
    for arguments in (["tenants"], ["remove", "--tenant-uid", world.uid, "--all"]):
        with pytest.raises(retained.RefusedError, match=why):
            await command(world, *arguments)
    assert len(world.keys(garbagekeys.pins(world.uid))) == 1


@pytest.mark.parametrize(
    "arguments",
    [[], ["list"], ["list", "--tenant-uid", "x"], ["remove", "--tenant-uid", str(uuid.UUID(int=1))]],
)
def test_a_command_must_say_which_tenant_and_what(arguments: list[str]) -> None:
    with pytest.raises(SystemExit):
        retained.parse(arguments)
