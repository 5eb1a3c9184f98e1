"""What resumable uploads promise, kept alike by a local folder and by a real S3 server (SeaweedFS)."""

import asyncio
import json
import os
import random
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import obstore
import pytest
from obstore.store import LocalStore as Folder
from obstore.store import ObjectStore

from manifestry.adapters.store import sessions, stores
from manifestry.adapters.store.contract import ports, session_ports
from manifestry.adapters.store.contract.session_ports import Sessions
from manifestry.adapters.store.local import sessions as local_sessions
from manifestry.adapters.store.remote import sessions as remote_sessions
from manifestry.core.artifacts import uploads
from manifestry.core.blobs import digests
from manifestry.core.blobs import keys as blob_keys
from manifestry.settings import StoreSettings
from tests.component.store import sessions_child
from tests.seaweed.server import S3Server

MIB = 1 << 20
ROOT = Path(__file__).parents[3]
CHILD = Path(__file__).with_name("sessions_child.py")


@dataclass
class Place:
    """A store's sessions, and how to look behind them."""

    sessions: Sessions
    store: ports.Store
    settings: Mapping[str, str]
    behind: ObjectStore

    def keys(self, prefix: str = "") -> list[str]:
        return sorted(item["path"] for page in obstore.list(self.behind, prefix or None) for item in page)

    def another(self) -> Sessions:
        """Return what another replica would use."""
        return sessions.open_sessions(StoreSettings.from_mapping(self.settings), self.store)

    async def begin(self, tenant: str, limit: int = 64, **fields: Any) -> uploads.Session:
        wanted = uploads.Session(str(uuid.uuid4()), tenant, "team", "a", str(uuid.uuid4()), **fields)
        return await self.sessions.create(wanted, limit=limit)

    async def append(self, session: uploads.Session, offset: int, data: bytes) -> int:
        return await self.sessions.append(session, offset, chunks(data), limit_bytes=len(data))

    async def offset(self, session: uploads.Session) -> int | None:
        found = await self.sessions.head(session.session_id)
        return None if found is None else found.offset

    async def entries(self) -> dict[str, uploads.State | uploads.Leftover]:
        return {
            entry.session.session_id if isinstance(entry, uploads.State) else entry.upload_id: entry
            async for entry in self.sessions.entries()
        }


async def chunks(data: bytes, size: int = 64 << 10) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


@pytest.fixture(params=["local", "s3"])
async def place(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Place]:
    settings, behind = {"MANIFESTRY_STORE_PATH": str(tmp_path)}, cast("ObjectStore", Folder(tmp_path))
    if request.param == "s3":
        server: S3Server = request.getfixturevalue("s3")
        settings, behind = server.settings(), server.store()
    parsed = StoreSettings.from_mapping(settings)
    objects = stores.open_store(parsed)
    used = sessions.open_sessions(parsed, objects)
    yield Place(used, objects, settings, behind)
    await used.close()
    await objects.close()


def bucket_place(server: S3Server) -> Place:
    settings = server.settings()
    parsed = StoreSettings.from_mapping(settings)
    objects = stores.open_store(parsed)
    return Place(sessions.open_sessions(parsed, objects), objects, settings, server.store())


@pytest.fixture
def tenant() -> str:
    return str(uuid.uuid4())


@pytest.mark.parametrize("sizes", [[], [0], [1], [MIB], [100, 3 * MIB + 7, 1], [9 * MIB, 17 * MIB + 1]])
async def test_what_was_appended_is_published(place: Place, tenant: str, sizes: list[int]) -> None:
    session = await place.begin(tenant)
    data, offset = random.randbytes(sum(sizes)), 0
    for size in sizes:
        offset = await place.append(session, offset, data[offset : offset + size])
        found = await place.another().head(session.session_id)
        assert found is not None
        assert (found.session, found.offset, found.seal) == (session, offset, None)
    staged = await place.sessions.seal(session)
    assert (staged.digest, staged.size_bytes) == (digests.of(data), len(data))
    assert await place.store.head(tenant, staged.digest) is None
    blob = await place.store.publish(tenant, staged)
    assert await place.store.read(tenant, blob.digest, limit_bytes=len(data)) == data
    await place.sessions.finish(session)
    assert await place.offset(session) == len(data)
    left = place.keys("uploads")
    end = f"/{len(data):020}"  # empty: no more bytes can come
    assert not [
        key
        for key in left
        if session.session_id in key and not key.endswith((".json", end)) and ".sealed" not in key
    ]
    assert place.keys(f"sessions/{tenant}") == []


async def test_a_wrong_offset_changes_nothing(place: Place, tenant: str) -> None:
    session = await place.begin(tenant)
    await place.append(session, 0, b"hello")
    for offset in (0, 4, 6):
        with pytest.raises(session_ports.OffsetError):
            await place.append(session, offset, b"x")
    assert await place.offset(session) == 5
    assert (await place.sessions.seal(session)).digest == digests.of(b"hello")


async def test_a_replayed_append_does_not_cross_the_ones_after_it(place: Place, tenant: str) -> None:
    session = await place.begin(tenant)
    first, second = random.randbytes(9 * MIB), random.randbytes(3)
    await place.append(session, await place.append(session, 0, first), second)
    for offset in (
        0,
        1,
        MIB,
        len(first),
        len(first) + 1,
    ):  # inside of pieces and between them
        with pytest.raises(session_ports.OffsetError):
            await place.another().append(session, offset, chunks(first), limit_bytes=len(first))
    assert (await place.sessions.seal(session)).digest == digests.of(first + second)


async def test_nothing_is_appended_to_a_session_that_is_gone(place: Place, tenant: str) -> None:
    session = await place.begin(tenant)
    await place.append(session, 0, b"hello")
    await place.sessions.abort(session)
    with pytest.raises(session_ports.SessionNotFoundError):
        await place.append(session, 5, b"more")
    assert [key for key in place.keys("uploads") if session.session_id in key] == []


async def test_of_many_at_one_offset_exactly_one_wins(place: Place, tenant: str) -> None:
    session = await place.begin(tenant)
    replicas = [place.another() for _ in range(8)]
    data = b""
    for _ in range(3):
        bodies = [random.randbytes(random.randint(1, 3 * MIB)) for _ in replicas]
        results = await asyncio.gather(
            *(
                replica.append(session, len(data), chunks(body), limit_bytes=len(body))
                for replica, body in zip(replicas, bodies, strict=True)
            ),
            return_exceptions=True,
        )
        won = [body for body, result in zip(bodies, results, strict=True) if isinstance(result, int)]
        lost = [result for result in results if not isinstance(result, int)]
        # Locally whoever comes last takes over, as long as nothing is recorded at this offset.
        assert len(won) == 1
        assert all(isinstance(result, session_ports.OffsetError) for result in lost), lost
        data += won[0]
        assert await place.offset(session) == len(data)
    assert (await place.sessions.seal(session)).digest == digests.of(data)
    for replica in replicas:
        await replica.close()


async def test_more_than_allowed_is_refused(place: Place, tenant: str) -> None:
    session = await place.begin(tenant)
    with pytest.raises(ports.TooLargeError):
        await place.sessions.append(session, 0, chunks(bytes(101)), limit_bytes=100)
    assert await place.offset(session) == 0


async def test_what_came_before_a_stream_broke_stays(place: Place, tenant: str) -> None:
    session = await place.begin(tenant)
    data = random.randbytes(20 * MIB)

    async def breaking() -> AsyncIterator[bytes]:
        async for chunk in chunks(data):
            yield chunk
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await place.sessions.append(session, 0, breaking(), limit_bytes=1 << 30)
    offset = await place.offset(session)
    assert offset is not None
    assert len(data) - place.sessions.piece_bytes <= offset <= len(data)
    await place.append(session, offset, data[offset:])
    assert (await place.sessions.seal(session)).digest == digests.of(data)


@pytest.mark.timeout(120)
async def test_every_acknowledged_byte_outlives_a_kill(place: Place, tenant: str) -> None:
    session = await place.begin(tenant)
    env = {**os.environ, **place.settings, "PYTHONPATH": str(ROOT)}
    acknowledged = 0
    for _ in range(4):
        argv = [sys.executable, str(CHILD), "loop", session.session_id]
        child = subprocess.Popen(argv, env=env, stdout=subprocess.PIPE, text=True)  # noqa: ASYNC220
        assert child.stdout is not None
        resumed = json.loads(await asyncio.to_thread(child.stdout.readline))["offset"]
        assert resumed >= acknowledged
        await asyncio.sleep(random.uniform(0.05, 0.5))
        child.kill()
        lines = (await asyncio.to_thread(child.communicate))[0].splitlines()
        acknowledged = max([resumed, *(json.loads(line)["offset"] for line in lines if line.endswith("}"))])
        offset = await place.offset(session)
        assert offset is not None
        assert offset >= acknowledged
    staged = await place.sessions.seal(session)
    assert staged.size_bytes >= acknowledged  # a killed child's last request may arrive after the last look
    assert staged.digest == digests.of(sessions_child.content(0, staged.size_bytes))


@pytest.mark.timeout(180)
async def test_memory_is_bounded(place: Place, tenant: str) -> None:
    session = await place.begin(tenant)
    env = {**os.environ, **place.settings, "PYTHONPATH": str(ROOT)}
    argv = [sys.executable, str(CHILD), "measure", session.session_id]
    done = await asyncio.to_thread(
        subprocess.run, argv, env=env, capture_output=True, text=True, timeout=170, check=False
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    print(said)
    assert said["end"] == said["size"] == 272 * MIB
    is_local = isinstance(place.sessions, local_sessions.LocalSessions)
    module: Any = local_sessions if is_local else remote_sessions
    slack = 8  # the allocator's own
    assert said["appended_mib"] * MIB <= module.UPLOAD_BOUND_BYTES + slack * MIB
    assert said["sealed_mib"] <= 64


async def test_the_limit_is_exact(place: Place, tenant: str) -> None:
    replicas = [place.another() for _ in range(4)]

    async def begin(replica: session_ports.Sessions) -> uploads.Session:
        wanted = uploads.Session(str(uuid.uuid4()), tenant, "team", "a", "u")
        return await replica.create(wanted, limit=5)

    results = await asyncio.gather(*(begin(replica) for replica in replicas * 5), return_exceptions=True)
    begun = [result for result in results if isinstance(result, uploads.Session)]
    refused = [result for result in results if isinstance(result, session_ports.SessionLimitError)]
    assert (len(begun), len(refused)) == (5, 15), results
    assert {error.sessions for error in refused} == {5}
    assert sorted(session.slot for session in begun) == list(range(5))
    await place.begin(str(uuid.uuid4()), limit=1)  # another tenant has its own
    await place.sessions.abort(begun[2])
    assert (await place.begin(tenant, limit=5)).slot == begun[2].slot
    await place.sessions.seal(begun[0])
    await place.sessions.finish(begun[0])
    assert (await place.begin(tenant, limit=5)).slot == begun[0].slot
    await place.sessions.abort(begun[0])  # whose slot has gone to somebody else
    with pytest.raises(session_ports.SessionLimitError):
        await place.begin(tenant, limit=5)
    with pytest.raises(session_ports.SessionLimitError):
        await place.begin(tenant, limit=2)
    for replica in replicas:
        await replica.close()


async def test_an_aborted_session_leaves_nothing(place: Place, tenant: str) -> None:
    before = place.keys()
    session = await place.begin(tenant)
    await place.append(session, 0, random.randbytes(9 * MIB))
    await place.sessions.seal(session)
    for _ in range(2):
        await place.sessions.abort(session)
    assert await place.sessions.head(session.session_id) is None
    assert place.keys() == before
    with pytest.raises(ports.StoreError):
        await place.sessions.seal(session)


async def test_a_seal_is_made_once_and_takes_no_more(place: Place, tenant: str) -> None:
    session = await place.begin(tenant)
    await place.append(session, 0, b"hello")
    staged = await place.sessions.seal(session)
    assert await place.another().seal(session) == staged
    found = await place.sessions.head(session.session_id)
    assert found is not None
    assert found.seal == tuple(staged)
    with pytest.raises(session_ports.OffsetError):  # also when the facade has not seen the seal
        await place.append(session, 5, b"more")
    assert await place.offset(session) == 5
    blob = await place.store.publish(tenant, staged)
    assert await place.sessions.seal(session) == staged  # whoever did not hear of it
    assert await place.store.publish(tenant, staged) == blob == ports.Blob(digests.of(b"hello"), 5)


async def test_a_stale_seal_is_made_again_from_the_pieces(
    place: Place, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = await place.begin(tenant)
    await place.append(session, 0, b"hello")
    staged = await place.sessions.seal(session)
    if isinstance(place.sessions, local_sessions.LocalSessions):
        return  # there the staged bytes are the session's own
    await place.store.discard(staged)  # what the collector does with it after an hour
    monkeypatch.setattr(uploads, "RESEAL_AFTER", timedelta())
    again = await place.sessions.seal(session)
    assert again[1:] == staged[1:]
    assert (await place.store.publish(tenant, again)).digest == digests.of(b"hello")


async def test_what_came_in_one_piece_is_not_sent_to_a_bucket_again(
    place: Place, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    session, data = await place.begin(tenant), random.randbytes(5 * MIB + 1)
    await place.append(session, 0, data)

    async def refuse(*_: object, **__: object) -> ports.Staged:
        raise AssertionError("the bytes are there already")

    monkeypatch.setattr(place.store, "stage", refuse)
    blob = await place.store.publish(tenant, await place.sessions.seal(session))
    assert blob == ports.Blob(digests.of(data), len(data))
    assert await place.store.read(tenant, blob.digest, limit_bytes=len(data)) == data


async def test_no_session_is_none(place: Place, tenant: str) -> None:
    assert await place.sessions.head(str(uuid.uuid4())) is None
    staged = await place.store.stage(chunks(b"plain"), limit_bytes=5)
    assert await place.sessions.head(staged.upload_id) is None
    for text in ("", "..", "x" * 36):
        with pytest.raises(blob_keys.KeyPartError):
            await place.sessions.head(text)
    await place.store.discard(staged)
