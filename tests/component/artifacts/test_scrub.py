"""The scrub in one process against real stores (a folder, SeaweedFS), an API server in memory."""

import uuid
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import obstore
import pytest

from manifestry.adapters.store import quarantines
from manifestry.adapters.store.contract import ports
from manifestry.adapters.telemetry.storage_metrics import METRICS
from manifestry.core.blobs import digests, garbage, garbagekeys
from manifestry.core.kube import conditions, names
from manifestry.handlers.artifacts import reconciler, scrubber
from tests.component.artifacts.garbageworld import World, opened


@pytest.fixture(params=["local", "s3"])
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    async with opened(request, tmp_path) as made:
        yield made


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
        assert await reconciler.reconcile(world.ctx, "team", "a") == 30
        assert world.ready() == ("False", "Damaged")
        await world.upload(b"precious")
    await reconciler.reconcile(world.ctx, "team", "a")
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
        await reconciler.reconcile(world.ctx, "team", name)
        assert world.ready(name) == ("True", "Stored")


async def test_a_lost_manifest_is_made_anew(world: World) -> None:
    await world.uploaded(b"payload")
    pointer = world.api.objects["Artifact", "team", "a"]["status"]["manifest"]
    await world.store.delete(world.uid, pointer["digest"])
    await world.scrubbed()
    assert world.ready() == ("False", "Missing")
    await reconciler.reconcile(world.ctx, "team", "a")
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
    world.clock.ahead += garbage.QUARANTINE
    assert await world.collector.once()
    assert world.keys(garbagekeys.damaged(world.uid)) == []


async def test_what_is_set_aside_comes_back_if_it_is_sound_by_now(world: World) -> None:
    data = b"precious" * 300_000
    digest = digests.of(data)
    await world.uploaded(data)
    world.damage(data)
    await world.scrubbed()
    assert world.ready() == ("False", "Damaged")
    quarantine = quarantines.Quarantine(world.store)
    (aside,) = await quarantine.page(world.uid, limit=10)
    assert (aside.digest, aside.size_bytes) == (digest, len(data))
    with pytest.raises(ports.BlobDamagedError):
        await quarantine.restore(world.uid, digest)
    assert await quarantine.find(world.uid, digest) == aside
    assert world.keys("uploads/") == []
    obstore.put(world.behind, aside.key, data)
    assert (await quarantine.restore(world.uid, digest)).size_bytes == len(data)
    assert await quarantine.page(world.uid, limit=10) == []
    await reconciler.reconcile(world.ctx, "team", "a")
    assert world.ready() == ("True", "Stored")
    assert await world.store.read(world.uid, digest, limit_bytes=len(data)) == data
    with pytest.raises(ports.BlobNotFoundError):
        await quarantine.restore(world.uid, digest)


async def test_what_an_earlier_version_has_set_aside_comes_back_too(world: World) -> None:
    obstore.put(world.behind, garbagekeys.old_quarantine(world.uid, digests.of(b"old")), b"old")
    quarantine = quarantines.Quarantine(world.store)
    assert [aside.digest for aside in await quarantine.page(world.uid, limit=10)] == [digests.of(b"old")]
    await quarantine.restore(world.uid, digests.of(b"old"))
    assert await world.has(b"old")


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


async def test_retained_bytes_are_read_back_after_their_artifact(world: World) -> None:
    await world.uploaded(b"kept for long", deletionPolicy="Retain")
    manifest = world.api.objects["Artifact", "team", "a"]["status"]["manifest"]["digest"]
    world.delete()
    await world.scrubbed()
    assert world.api.events == []
    (verification,) = world.keys(garbagekeys.verified(world.uid))
    assert verification.endswith(str(uuid.uuid5(uuid.NAMESPACE_OID, "a")))
    world.damage(b"kept for long")
    await world.store.delete(world.uid, manifest)
    await world.scrubbed()
    found = {(each["reason"], each["regarding"]["name"]) for each in world.api.events}
    assert found == {("Damaged", "a"), ("Missing", "a")}
    assert not await world.has(b"kept for long")
    assert world.keys(garbagekeys.damaged(world.uid)) == [
        garbagekeys.quarantine(world.uid, digests.of(b"kept for long"))
    ]
    await world.uploaded(b"kept for long", "b")
    world.api.events.clear()
    await world.scrubbed()
    assert [each["reason"] for each in world.api.events] == ["Missing"]


async def test_retained_bytes_of_a_tenant_that_is_gone_are_read_back(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    await world.uploaded(b"kept", deletionPolicy="Retain")
    world.delete_namespace("team")
    world.ctx.caches.drop(names.NAMESPACES.kind, "team")
    world.damage(b"kept")
    await world.scrubbed()
    assert "retained bytes found bad" in caplog.text
    assert world.api.events == []
    assert not await world.has(b"kept")


async def test_what_a_pin_and_an_artifact_have_is_read_once_and_said_of_both(world: World) -> None:
    await world.uploaded(b"shared", "a", deletionPolicy="Retain")
    await world.uploaded(b"shared", "b", annotations={"who": "b"})
    world.delete("a")
    before = METRICS.scrubbed_bytes._value.get()
    await world.scrubbed()
    manifests = [len(await _manifest(world, each)) for each in ("a", "b")]
    assert METRICS.scrubbed_bytes._value.get() - before == len(b"shared") + sum(manifests)
    world.damage(b"shared")
    world.clock.ahead += timedelta(days=2)
    assert not await scrubber.Scrubber(world.ctx)._pins.once()
    assert world.ready("b") == ("False", "Damaged")


async def _manifest(world: World, name: str) -> bytes:
    (pin,) = [pin async for pin in world.inventory.pins(world.uid)]
    (digest,) = pin.digests - {digests.of(b"shared")}
    if name == "b":
        digest = world.api.objects["Artifact", "team", "b"]["status"]["manifest"]["digest"]
    return await world.store.read(world.uid, digest, limit_bytes=1 << 20)


async def test_a_pin_that_is_read_again_in_its_time_only_and_forgotten_with_it(world: World) -> None:
    await world.uploaded(b"kept", deletionPolicy="Retain")
    world.delete()
    await world.scrubbed()
    (verification,) = world.keys(garbagekeys.verified(world.uid))
    world.damage(b"kept")
    await scrubber.Scrubber(world.ctx).once()  # two days ahead of the store's clock: it is time again
    assert len(world.api.events) == 1
    world.clock.ahead = timedelta()
    world.damage(b"kept")
    await scrubber.Scrubber(world.ctx).once()
    assert len(world.api.events) == 1
    await world.inventory.unpin(world.uid, verification.rpartition("/")[2])
    await scrubber.Scrubber(world.ctx).once()
    assert world.keys(garbagekeys.verified(world.uid)) == []


async def test_a_damaged_pin_stops_the_scrub_of_its_tenant_only(world: World) -> None:
    await world.uploaded(b"kept", deletionPolicy="Retain")
    world.delete()
    other = str(uuid.uuid4())
    obstore.put(world.behind, garbagekeys.pin(other, str(uuid.uuid4())), b"{")
    world.damage(b"kept")
    before = METRICS.scrub_failures._value.get()
    await world.scrubbed()
    assert METRICS.scrub_failures._value.get() == before + 1
    assert [each["reason"] for each in world.api.events] == ["Damaged"]
