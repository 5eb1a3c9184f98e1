"""Clusters that meet in one store (a folder, SeaweedFS): only its owner writes and removes there."""

import uuid
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import obstore
import pytest

from manifestry.adapters.kube import apierrors
from manifestry.adapters.store import sessions as store_sessions
from manifestry.adapters.store.contract import ports, session_ports
from manifestry.adapters.store.ownership import guarded, guards
from manifestry.adapters.store.remote import sessions as remote_sessions
from manifestry.core.artifacts import uploads
from manifestry.core.blobs import digests, garbagekeys, keys, tenantrecords
from manifestry.handlers.artifacts import uploads as janitor
from manifestry.settings import StoreSettings
from tests.component.artifacts.garbageworld import Cluster, World, opened

DAY = timedelta(days=1)


@pytest.fixture(params=["local", "s3"])
async def ours(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    async with opened(request, tmp_path) as made:
        yield made


def beside(world: World, home: Cluster) -> World:
    """Return another cluster that is configured to the same store."""
    other = World(world.raw, world.behind, home)
    other.uid = str(uuid.uuid4())
    return other


async def chunks(data: bytes) -> AsyncIterator[bytes]:
    yield data


async def refused(world: World, partial: session_ports.Sessions) -> list[str]:
    """Try every way to write; return the reasons of the refusals."""
    session = uploads.Session(str(uuid.uuid4()), world.uid, "team", "a", str(uuid.uuid4()))
    staged = ports.Staged(str(uuid.uuid4()), digests.of(b"x"), 1)
    records = world.store.records()
    ways = [
        world.store.stage(chunks(b"x"), limit_bytes=1),
        world.store.publish(world.uid, staged),
        world.store.put(world.uid, b"x"),
        world.store.delete(world.uid, digests.of(b"x")),
        records.write("x", b""),
        records.create("x", b""),
        records.replace("x", b"", b"x"),
        records.remove("x"),
        records.prune("x"),
        world.store.claims().make(world.uid, digests.of(b"x")),
        world.store.claims().reap(timedelta()),
        partial.create(session, limit=1),
        partial.append(session, 0, chunks(b"x"), limit_bytes=1),
        partial.seal(session),
        partial.finish(session),
        partial.abort(session),
        partial.remove(uploads.Leftover(str(uuid.uuid4()), world.clock.now())),
        partial.free_slots(world.clock.now()),
    ]
    reasons = []
    for way in ways:
        with pytest.raises(ports.StoreRefusedError) as caught:
            await way
        reasons.append(str(caught.value))
    return reasons


async def there(world: World, key: str) -> bool:
    return await world.raw.records().head(key) is not None


def partial_of(world: World, raw: session_ports.Sessions) -> session_ports.Sessions:
    return guarded.GuardedSessions(raw, world.guard)


@pytest.fixture
async def raw_sessions(ours: World, tmp_path: Path) -> AsyncIterator[session_ports.Sessions]:
    """Give the resumable uploads of the first store, unguarded."""
    if ours.raw.local_path(ours.uid, digests.of(b"")) is None:
        yield remote_sessions.RemoteSessions(ours.behind, ours.raw, timeout_seconds=30)
    else:
        found = store_sessions.open_sessions(StoreSettings(store_path=str(tmp_path)), ours.raw)
        yield found
        await found.close()


async def test_before_its_owner_is_confirmed_nothing_is_written_and_reads_go_on(
    ours: World, raw_sessions: session_ports.Sessions
) -> None:
    blob = await ours.upload(b"there")
    fresh = World(ours.raw, ours.behind, ours.home)
    reasons = await refused(fresh, partial_of(fresh, raw_sessions))
    assert set(reasons) == {"the object store may not be written to: not looked at yet"}
    assert await fresh.store.read(ours.uid, blob.digest, limit_bytes=10) == b"there"
    assert await fresh.guard.check()
    assert await fresh.store.put(fresh.uid, b"x")


async def test_the_store_of_another_cluster_is_neither_written_nor_collected(
    ours: World, raw_sessions: session_ports.Sessions
) -> None:
    """A3 (1): B is configured to A's bucket."""
    blob = await ours.upload(b"theirs")
    other = beside(ours, Cluster("another-cluster"))
    assert not await other.guard.check()
    reasons = await refused(other, partial_of(other, raw_sessions))
    assert set(reasons) == {
        "the object store may not be written to: the store belongs to another cluster (this-cluster)"
    }
    await other.grace()
    assert not await other.collector.once()
    assert [row.name for row in other.guard.rows() if row.reason] == ["store-ownership", "store-conformance"]
    assert await other.store.head(ours.uid, blob.digest) == blob
    assert ours.marks() == []


async def test_a_cluster_that_never_collects_owns_its_store_all_the_same(ours: World) -> None:
    """A3 (2): A runs with a period of 0; B has the defaults and comes later."""
    blob = await ours.upload(b"never collected")
    late = beside(ours, Cluster("late"))
    await late.grace()
    for _ in range(3):
        assert not await late.collector.once()
        await late.grace()
    assert await ours.store.head(ours.uid, blob.digest) == blob


async def test_of_a_cluster_and_its_clone_only_one_writes_and_removes(ours: World) -> None:
    """A3 (3): the clone has the uid, and the turns up to the snapshot."""
    snapshot = Cluster(ours.home.uid, ours.home.turns)
    ours.guard._advanced = float("-inf")
    assert await ours.guard.check()
    blob = await ours.upload(b"stored since the snapshot")
    clone = beside(ours, snapshot)
    assert not await clone.guard.check()
    assert "clone" in clone.guard.rows()[0].reason
    with pytest.raises(ports.StoreRefusedError):
        await clone.store.put(clone.uid, b"x")
    await clone.grace()
    assert not await clone.collector.once()
    assert await ours.store.head(ours.uid, blob.digest) == blob
    assert await ours.guard.check()


async def test_a_clone_that_moves_on_first_stops_the_original_before_it_acknowledges_more(
    ours: World,
) -> None:
    clone = beside(ours, Cluster(ours.home.uid, ours.home.turns))
    assert await clone.guard.check()
    assert not await ours.guard.check()
    with pytest.raises(ports.StoreRefusedError):
        await ours.upload(b"would be garbage to the clone")


async def test_the_janitor_of_another_cluster_leaves_sessions_alone(
    ours: World, raw_sessions: session_ports.Sessions
) -> None:
    """A3 (4): an acknowledged offset of A outlives B's janitor."""
    mine = partial_of(ours, raw_sessions)
    wanted = uploads.Session(str(uuid.uuid4()), ours.uid, "team", "a", str(uuid.uuid4()))
    session = await mine.create(wanted, limit=4)
    assert await mine.append(session, 0, chunks(b"acknowledged"), limit_bytes=12) == 12
    other = beside(ours, Cluster("another-cluster"))
    await other.guard.check()
    other.clock.ahead += DAY * 2
    collector = janitor.Collector(partial_of(other, raw_sessions))
    with pytest.raises(ports.StoreRefusedError):
        await collector.collect(other.ctx)
    found = await mine.head(session.session_id)
    assert found is not None
    assert found.offset == 12


async def test_a_store_that_is_swapped_under_a_running_process_is_not_written(ours: World) -> None:
    obstore.delete(ours.behind, garbagekeys.OWNER)
    assert not await ours.guard.check()
    assert "another or an emptied store" in ours.guard.rows()[0].reason
    with pytest.raises(ports.StoreRefusedError):
        await ours.store.put(ours.uid, b"x")
    obstore.put(ours.behind, garbagekeys.OWNER, b"cannot be read")
    assert not await ours.guard.check()
    assert "cannot be read" in ours.guard.rows()[0].reason


async def test_what_was_confirmed_is_believed_for_a_while_and_not_for_ever(
    ours: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away() -> Any:
        raise apierrors.ApiError(503, "ServiceUnavailable", "away")

    monkeypatch.setattr(ours.home, "look", away)
    await ours.guard.check()
    assert await ours.store.put(ours.uid, b"x")
    monkeypatch.setattr(guards, "STALE_SECONDS", -1.0)
    with pytest.raises(ports.StoreRefusedError, match="could not be asked for lately"):
        await ours.store.put(ours.uid, b"y")


async def test_a_store_of_the_version_before_is_taken_over_with_its_tenants(ours: World) -> None:
    obstore.put(ours.behind, garbagekeys.OWNER, b'{"version": 1, "clusterUid": "this-cluster"}')
    await ours.raw.put(ours.uid, b"old")
    upgraded = World(ours.raw, ours.behind, Cluster())
    upgraded.uid = ours.uid
    upgraded.add_namespace("team", ours.uid)
    assert await upgraded.guard.check()
    assert upgraded.home.turns
    assert not await there(ours, garbagekeys.tenant(ours.uid))
    assert await upgraded.collector.once()
    record = tenantrecords.parse(await ours.raw.records().read(garbagekeys.tenant(ours.uid), limit_bytes=999))
    assert record == tenantrecords.TenantRecord("this-cluster", "team")


async def test_a_gone_tenant_of_another_cluster_or_of_nobody_is_kept_and_told(ours: World) -> None:
    theirs, nobodys = str(uuid.uuid4()), str(uuid.uuid4())
    await ours.raw.put(theirs, b"theirs")
    record = tenantrecords.TenantRecord("another-cluster", "team")
    await ours.raw.records().write(garbagekeys.tenant(theirs), tenantrecords.render(record))
    await ours.raw.put(nobodys, b"of an older version")
    for _ in range(3):
        await ours.grace()
        assert await ours.collector.once()
    assert await ours.raw.head(theirs, digests.of(b"theirs"))
    assert await ours.raw.head(nobodys, digests.of(b"of an older version"))
    assert [key for key in ours.keys(keys.tenant(nobodys)) if garbagekeys.parse_mark(key)] == []
    assert not await there(ours, garbagekeys.gone(nobodys))


async def test_a_gone_tenant_waits_for_days_by_a_clock_in_the_store(ours: World) -> None:
    settings = ours.ctx.settings.model_copy(update={"gc_tenant_grace_seconds": 7 * 86_400.0})
    object.__setattr__(ours.ctx, "settings", settings)
    await ours.uploaded(b"payload")
    ours.delete_namespace("team")
    for _ in range(2):
        ours.collector = type(ours.collector)(ours.ctx)  # a restart forgets nothing
        await ours.collected()
    assert await ours.has(b"payload")
    assert ours.marks() == []
    assert await there(ours, garbagekeys.gone(ours.uid))
    ours.add_namespace("team", ours.uid)  # it was not gone after all
    assert await ours.collector.once()
    assert not await there(ours, garbagekeys.gone(ours.uid))
    ours.delete_namespace("team")
    assert await ours.collector.once()
    ours.clock.ahead += DAY * 8
    await ours.collected()
    assert not await ours.has(b"payload")
    assert ours.keys(garbagekeys.prefix(ours.uid)) == []


async def test_what_killed_processes_have_left_of_their_probes_is_swept(
    ours: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    obstore.put(ours.behind, keys.canary(str(uuid.uuid4())), b"left behind")
    await ours.raw.canary()
    assert len(ours.keys("canary/")) == 1
    ours.guard._swept = float("-inf")
    await ours.guard.check()
    assert len(ours.keys("canary/")) == 1, "somebody may be at work"
    ours.guard._swept = float("-inf")
    ours.clock.ahead += DAY
    await ours.guard.check()
    assert ours.keys("canary/") == []


async def test_a_failed_probe_leaves_nothing(ours: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def other(*_: Any) -> memoryview:
        return memoryview(b"other bytes")

    monkeypatch.setattr(ours.raw, "_window", other, raising=False)
    monkeypatch.setattr(ours.raw, "_read", lambda *_: b"other bytes", raising=False)
    with pytest.raises(ports.StoreUnavailableError):
        await ours.raw.canary()
    assert ours.keys("canary/") == []


async def test_the_first_publication_says_whose_the_tenant_is(ours: World) -> None:
    assert not await there(ours, garbagekeys.tenant(ours.uid))
    await ours.upload(b"x")
    data = await ours.raw.records().read(garbagekeys.tenant(ours.uid), limit_bytes=999)
    assert tenantrecords.parse(data) == tenantrecords.TenantRecord("this-cluster", "team")
