"""The bytes of a session are those that were received, or they are not sealed: on every store."""

import asyncio
import os
import random
import time
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import obstore
import pytest

from manifestry.adapters.store import sessions, stores
from manifestry.adapters.store.contract import ports, session_ports
from manifestry.adapters.store.local import session_parts
from manifestry.adapters.store.local import sessions as local_sessions
from manifestry.adapters.store.remote import pieces
from manifestry.adapters.store.remote import sessions as remote_sessions
from manifestry.core.artifacts import uploads
from manifestry.core.blobs import digests
from manifestry.core.blobs import keys as blob_keys
from manifestry.settings import StoreSettings
from tests.component.store import test_sessions as contract
from tests.component.store.test_sessions import Place, bucket_place, chunks
from tests.seaweed.server import S3Server

place, tenant = contract.place, contract.tenant


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
        pytest.skip("a volume's; `test_one_wrong_reading_costs_nothing` has the bucket's")
    session, read, wrong = await place.begin(tenant), session_parts.Parts.read, [True]
    await place.append(session, 0, b"hello world")

    def once(self: session_parts.Parts, offset: int, count: int) -> bytes:
        data = read(self, offset, count)
        return bytes([data[0] ^ 1]) + data[1:] if wrong and wrong.pop() else data

    monkeypatch.setattr(session_parts.Parts, "read", once)
    assert (await place.sessions.seal(session)).digest == digests.of(b"hello world")
