"""What resumable uploads promise, kept alike by a local folder and by a real S3 server (SeaweedFS)."""

import asyncio
import json
import os
import random
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import obstore
import pytest
from obstore.store import LocalStore as Folder
from obstore.store import ObjectStore

from manifestry.adapters.store import sessions, stores
from manifestry.adapters.store.contract import ports, session_ports
from manifestry.adapters.store.contract.session_ports import Sessions
from manifestry.adapters.store.local import session_files, session_parts
from manifestry.adapters.store.local import sessions as local_sessions
from manifestry.adapters.store.remote import pieces
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


def spoil(place: Place, session: uploads.Session, at: int, data: bytes) -> None:
    """Let a byte of what is stored of `data` be another one."""
    wrong = bytearray(data)
    wrong[at] ^= 1
    key = blob_keys.upload(session.session_id)
    if isinstance(place.sessions, local_sessions.LocalSessions):
        (Path(place.settings["MANIFESTRY_STORE_PATH"]) / key).write_bytes(wrong)
        return
    (start,) = {
        offset
        for path in place.keys(key)
        if (offset := uploads.parse_piece(path.rpartition("/")[2])) is not None
        and offset <= at < offset + obstore.head(place.behind, path)["size"]
    }
    path = uploads.piece(session.session_id, start)
    found = obstore.get(place.behind, path)
    size = found.meta["size"]
    obstore.put(
        place.behind, path, bytes(wrong[start : start + size]), attributes=found.attributes, mode="overwrite"
    )


def is_bucket(place: Place) -> bool:
    """Tell whether the end of a session cannot be moved back: somebody may be appending behind it."""
    return not isinstance(place.sessions, local_sessions.LocalSessions)


async def given_up(place: Place, session: uploads.Session) -> None:
    with pytest.raises(session_ports.SessionLostError, match="begin a new one"):
        await place.sessions.seal(session)
    assert await place.offset(session) is None


@pytest.mark.parametrize(("at", "left"), [(0, 0), (4999, 0), (5000, 5000), (11_999, 10_000)])
async def test_a_wrong_byte_in_the_store_is_not_published(
    place: Place, tenant: str, at: int, left: int
) -> None:
    session, data, offset = await place.begin(tenant), random.randbytes(12_000), 0
    for size in (5000, 5000, 2000):
        offset = await place.append(session, offset, data[offset : offset + size])
    spoil(place, session, at, data)
    if is_bucket(place):
        await given_up(place, session)
        return
    with pytest.raises(session_ports.PieceDamagedError) as caught:
        await place.sessions.seal(session)
    assert caught.value.offset == left
    assert await place.offset(session) == left
    await place.append(session, left, data[left:])
    blob = await place.store.publish(tenant, await place.sessions.seal(session))
    assert blob.digest == digests.of(data)
    assert await place.store.read(tenant, blob.digest, limit_bytes=len(data)) == data


async def test_a_wrong_byte_in_the_only_piece_is_not_published(place: Place, tenant: str) -> None:
    session = await place.begin(tenant)
    await place.append(session, 0, b"hello")
    spoil(place, session, 0, b"hello")
    if is_bucket(place):
        await given_up(place, session)
        return
    with pytest.raises(session_ports.PieceDamagedError):
        await place.sessions.seal(session)
    assert await place.offset(session) == 0


async def test_a_piece_is_taken_back(place: Place, tenant: str) -> None:
    session = await place.begin(tenant)
    place.sessions.piece_bytes = 10  # type: ignore[misc]
    data = random.randbytes(200)
    await place.append(session, 0, data[:50])
    await place.append(session, 50, data[50:])
    if is_bucket(place):
        with pytest.raises(session_ports.SessionLostError, match="begin a new one"):
            await place.another().cut(session, 50)
        assert await place.offset(session) is None
        return
    for _ in range(2):
        await place.another().cut(session, 50)
        assert await place.offset(session) == 50
    await place.append(session, 50, data[50:])
    staged = await place.sessions.seal(session)
    assert staged.digest == digests.of(data)
    with pytest.raises(session_ports.OffsetError):
        await place.sessions.cut(session, 50)
    assert await place.sessions.seal(session) == staged
    await place.sessions.abort(session)
    with pytest.raises(session_ports.SessionNotFoundError):
        await place.sessions.cut(session, 0)


async def test_who_completes_while_another_does_succeeds_as_well(
    place: Place, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    session, data = await place.begin(tenant), random.randbytes(30_000)
    await place.append(session, await place.append(session, 0, data[:9000]), data[9000:])
    module: Any = remote_sessions
    step = "RemoteSessions._staged"
    if isinstance(place.sessions, local_sessions.LocalSessions):
        module, step = session_parts, "Parts.seal"
    of, name = getattr(module, step.partition(".")[0]), step.partition(".")[2]
    real, other = getattr(of, name), place.another()

    async def first() -> None:
        monkeypatch.setattr(of, name, real)
        await place.store.publish(tenant, await other.seal(session))
        await other.finish(session)

    async def late(*args: Any) -> Any:
        await first()
        return await real(*args)

    def late_in_a_thread(*args: Any) -> Any:
        asyncio.run(first())
        return real(*args)

    monkeypatch.setattr(of, name, late if module is remote_sessions else late_in_a_thread)
    staged = await place.sessions.seal(session)
    assert staged.digest == digests.of(data)
    assert await place.store.publish(tenant, staged) == ports.Blob(staged.digest, len(data))


async def test_pieces_of_an_earlier_version_are_taken_as_they_are(s3: S3Server, tenant: str) -> None:
    place = bucket_place(s3)
    session = await place.begin(tenant)
    for offset, data in ((0, b"hello"), (5, b" world")):
        obstore.put(place.behind, uploads.piece(session.session_id, offset), data)
    assert await place.offset(session) == 11
    assert (await place.sessions.seal(session)).digest == digests.of(b"hello world")


async def test_one_wrong_reading_costs_nothing(
    s3: S3Server, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = bucket_place(s3)
    session = await place.begin(tenant)
    await place.append(session, await place.append(session, 0, b"hello"), b" world")
    fetch, wrong = pieces.Pieces.fetch, [True]

    async def flipping(*args: Any) -> tuple[bytes, str | None]:
        data, said = await fetch(*args)
        return (b"\0" * len(data) if wrong and wrong.pop() else data), said

    monkeypatch.setattr(pieces.Pieces, "fetch", flipping)
    with pytest.raises(ports.StoreUnavailableError, match="other bytes than it has"):
        await place.sessions.seal(session)
    assert await place.offset(session) == 11
    assert (await place.sessions.seal(session)).digest == digests.of(b"hello world")


async def test_no_session_is_none(place: Place, tenant: str) -> None:
    assert await place.sessions.head(str(uuid.uuid4())) is None
    staged = await place.store.stage(chunks(b"plain"), limit_bytes=5)
    assert await place.sessions.head(staged.upload_id) is None
    for text in ("", "..", "x" * 36):
        with pytest.raises(blob_keys.KeyPartError):
            await place.sessions.head(text)
    await place.store.discard(staged)


async def test_a_record_that_was_cut_off_is_no_session(place: Place, tenant: str) -> None:
    session = await place.begin(tenant)
    (record,) = [key for key in place.keys("uploads") if session.session_id in key and key.endswith("json")]
    obstore.put(place.behind, record, b'{"session_id": ')
    assert await place.sessions.head(session.session_id) is None
    entry = (await place.entries())[session.session_id]
    assert isinstance(entry, uploads.Leftover)
    await place.sessions.remove(entry)
    assert [key for key in place.keys("uploads") if session.session_id in key] == []


async def test_everything_below_uploads_is_listed(place: Place, tenant: str) -> None:
    begun = datetime.now(UTC) - timedelta(seconds=5)
    session, sealed = await place.begin(tenant, length_bytes=5), await place.begin(tenant)
    await place.append(session, 0, b"hello")
    await place.append(sealed, 0, b"world")
    await place.sessions.seal(sealed)
    staged = await place.store.stage(chunks(b"plain"), limit_bytes=5)
    orphan = await place.begin(tenant)
    await place.append(orphan, 0, b"x")
    for key in place.keys("uploads"):
        if orphan.session_id in key and key.endswith("json"):
            obstore.delete(place.behind, key)
    obstore.put(place.behind, "uploads/not-ours.txt", b"")
    found = await place.entries()
    assert all(begun < found[each].touched < begun + timedelta(seconds=60) for each in (session.session_id,))
    state = found[session.session_id]
    assert isinstance(state, uploads.State)
    assert (state.session, state.offset, state.seal) == (session, 5, None)
    other = found[sealed.session_id]
    assert isinstance(other, uploads.State)
    assert other.seal is not None
    for leftover in (found[staged.upload_id], found[orphan.session_id]):
        assert isinstance(leftover, uploads.Leftover)
        await place.sessions.remove(leftover)
    for kept in (session, sealed):
        await place.sessions.abort(kept)
    mine = (session.session_id, sealed.session_id, staged.upload_id, orphan.session_id)
    assert not [key for key in place.keys("uploads") if any(each in key for each in mine)]
    assert "uploads/not-ours.txt" in place.keys("uploads")


async def test_slots_without_a_session_are_freed_after_a_while(place: Place, tenant: str) -> None:
    kept = await place.begin(tenant)
    obstore.put(place.behind, uploads.slot(tenant, 1), str(uuid.uuid4()).encode())
    obstore.put(place.behind, uploads.slot(tenant, 2), b"")
    soon = datetime.now(UTC) + timedelta(seconds=60)
    assert await place.sessions.free_slots(datetime.now(UTC) - timedelta(hours=1)) == 0
    assert await place.sessions.free_slots(soon) >= 2
    assert place.keys(f"sessions/{tenant}") == [uploads.slot(tenant, kept.slot)]


async def test_a_session_that_cannot_be_recorded_takes_no_slot(
    place: Place, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if isinstance(place.sessions, local_sessions.LocalSessions):

        def fail(*_: object) -> None:
            raise OSError(28, "no space left on device")

        monkeypatch.setattr(session_files, "create", fail)
    else:

        async def refuse(*_: object) -> None:
            raise ports.StoreFullError("full")

        monkeypatch.setattr(cast("Any", place.sessions)._pieces, "put", refuse)
    with pytest.raises(ports.StoreFullError):
        await place.begin(tenant)
    assert place.keys(f"sessions/{tenant}") == []


async def test_a_published_file_is_never_appended_to(tmp_path: Path, tenant: str) -> None:
    parsed = StoreSettings(store_path=str(tmp_path))
    objects = stores.open_store(parsed)
    used = sessions.open_sessions(parsed, objects)
    session = await used.create(uploads.Session(str(uuid.uuid4()), tenant, "t", "a", "u"), limit=1)
    await used.append(session, 0, chunks(b"hello"), limit_bytes=5)
    late = session_parts.Parts(tmp_path, session.session_id)
    late.open()  # as a request does whose client pauses here
    blob = await objects.publish(tenant, await used.seal(session))
    with pytest.raises(session_ports.OffsetError):
        late.write(5, b"more")
    late.close()
    late.close()
    assert await objects.read(tenant, blob.digest, limit_bytes=9) == b"hello"
    await used.close()
    await objects.close()


async def test_a_full_disk_keeps_what_it_has_recorded(
    tmp_path: Path, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    used = local_sessions.LocalSessions(tmp_path, timeout_seconds=5)
    session = await used.create(uploads.Session(str(uuid.uuid4()), tenant, "t", "a", "u"), limit=1)
    await used.append(session, 0, chunks(b"hel"), limit_bytes=3)
    write: Callable[..., int] = os.pwrite
    budget = [4096 + 3]  # a claim in the log, and then not all of the bytes

    def filling(fd: int, data: Any, offset: int) -> int:
        if not budget[0]:
            raise OSError(28, "no space left on device")
        written = write(fd, data[: budget[0]], offset)
        budget[0] -= written
        return written

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", filling)
        with pytest.raises(ports.StoreFullError):
            await used.append(session, 3, chunks(b"lo, world"), limit_bytes=9)
    found = await used.head(session.session_id)
    assert found is not None
    assert found.offset == 3
    await used.append(session, 3, chunks(b"lo"), limit_bytes=2)
    assert (await used.seal(session)).digest == digests.of(b"hello")
    await used.close()


async def test_a_hung_disk_is_unavailable_within_the_timeout(
    tmp_path: Path, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    used = local_sessions.LocalSessions(tmp_path, timeout_seconds=0.5)
    session = await used.create(uploads.Session(str(uuid.uuid4()), tenant, "t", "a", "u"), limit=1)
    sync: Callable[[int], None] = os.fdatasync

    def hang(fd: int) -> None:
        time.sleep(1.5)
        sync(fd)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fdatasync", hang)
        started = time.monotonic()
        with pytest.raises(ports.StoreUnavailableError):
            await used.append(session, 0, chunks(b"hello"), limit_bytes=5)
        assert time.monotonic() - started < 3
    await asyncio.sleep(1.2)
    found = await used.head(session.session_id)
    assert found is not None
    assert found.offset == 5
    await used.close()


async def test_no_fewer_bytes_are_sealed_than_were_acknowledged(place: Place, tenant: str) -> None:
    session = await place.begin(tenant)
    end = await place.append(session, 0, b"hello world")
    for wrong in (end - 6, end + 1):  # somebody has taken bytes away, or has appended, since
        with pytest.raises(session_ports.OffsetError):
            await place.sessions.seal(session, size_bytes=wrong)
    assert await place.offset(session) == end
    staged = await place.sessions.seal(session, size_bytes=end)
    assert await place.another().seal(session, size_bytes=end) == staged
    with pytest.raises(session_ports.OffsetError):
        await place.another().seal(session, size_bytes=end - 6)


async def test_an_append_to_a_session_that_is_given_up_is_not_acknowledged(place: Place, tenant: str) -> None:
    session = await place.begin(tenant)

    async def body() -> AsyncIterator[bytes]:
        yield b"a" * place.sessions.piece_bytes
        yield b"b" * place.sessions.piece_bytes
        await place.another().abort(session)

    with pytest.raises(session_ports.SessionNotFoundError):
        await place.sessions.append(session, 0, body(), limit_bytes=1 << 30)


async def test_one_wrong_reading_takes_nothing_away(
    place: Place, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if is_bucket(place):
        return  # `test_what_was_read_wrong_once...` has the bucket's
    session, read, wrong = await place.begin(tenant), session_parts.Parts.read, [True]
    await place.append(session, 0, b"hello world")

    def once(self: session_parts.Parts, offset: int, count: int) -> bytes:
        data = read(self, offset, count)
        return bytes([data[0] ^ 1]) + data[1:] if wrong and wrong.pop() else data

    monkeypatch.setattr(session_parts.Parts, "read", once)
    assert (await place.sessions.seal(session)).digest == digests.of(b"hello world")
