"""Resumable uploads on a volume: what is durable is recorded, and what a sync has failed for is given up."""

import errno
import hashlib
import mmap
import os
import random
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from manifestry.adapters.store import sessions, stores
from manifestry.adapters.store.contract import ports, session_ports
from manifestry.adapters.store.local import session_logs, session_parts
from manifestry.core.artifacts import receipts, uploads
from manifestry.core.blobs import digests
from manifestry.settings import StoreSettings

MIB = 1 << 20
TENANT = "3f2b8a52-7f6e-4d8e-9a53-0b1c2d3e4f50"


async def chunks(data: bytes, size: int = MIB) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


class Facade:
    """One of the processes that use a store."""

    def __init__(self, root: Path) -> None:
        settings = StoreSettings(store_path=str(root))
        self.root = root
        self.store = stores.open_store(settings)
        self.sessions = sessions.open_sessions(settings, self.store)

    async def begin(self) -> uploads.Session:
        wanted = uploads.Session(str(uuid.uuid4()), TENANT, "team", "a", str(uuid.uuid4()))
        return await self.sessions.create(wanted, limit=9)

    async def append(self, session: uploads.Session, offset: int, data: bytes) -> int:
        return await self.sessions.append(session, offset, chunks(data), limit_bytes=len(data))

    async def offset(self, session: uploads.Session) -> int:
        found = await self.sessions.head(session.session_id)
        assert found is not None
        return found.offset

    async def complete(self, session: uploads.Session) -> ports.Blob:
        blob = await self.store.publish(TENANT, await self.sessions.seal(session))
        await self.sessions.finish(session)
        return blob

    async def read(self, digest: str) -> bytes:
        return b"".join([bytes(view) async for view in self.store.stream(TENANT, digest)])

    def path(self, session: uploads.Session, suffix: str = "") -> Path:
        return self.root / "uploads" / (session.session_id + suffix)

    async def close(self) -> None:
        await self.sessions.close()
        await self.store.close()


@pytest.fixture
async def facade(tmp_path: Path) -> AsyncIterator[Facade]:
    made = Facade(tmp_path / "store")
    yield made
    await made.close()


def cut_off(facade: Facade, session: uploads.Session, offset: int, data: bytes) -> None:
    """Leave what an append leaves that a crash ends before its sync."""
    parts = session_parts.Parts(facade.root, session.session_id)
    parts.open()
    for at in range(0, len(data), MIB):
        parts.write(offset + at, data[at : at + MIB])
    parts.close()


# -- a crash


async def test_what_was_not_synced_is_not_durable_however_long_the_file_is(facade: Facade) -> None:
    session, data = await facade.begin(), random.randbytes(4 * MIB)
    await facade.append(session, 0, data[:MIB])
    cut_off(facade, session, MIB, data[MIB:])
    with facade.path(session).open("r+b") as file:  # of the later pages only the last was written back
        file.seek(MIB)
        file.write(bytes(2 * MIB))
    assert await facade.offset(session) == MIB
    await facade.append(session, MIB, data[MIB:])
    blob = await facade.complete(session)
    assert blob.digest == digests.of(data)
    assert await facade.read(blob.digest) == data


async def test_completing_lets_go_what_was_not_synced(facade: Facade) -> None:
    session = await facade.begin()
    await facade.append(session, 0, b"hello")
    cut_off(facade, session, 5, b"more")
    blob = await facade.complete(session)
    assert blob == ports.Blob(digests.of(b"hello"), 5)
    assert await facade.read(blob.digest) == b"hello"


@pytest.mark.parametrize("tail", [b"\0" * 128, b"\0" * 4096, b"x" * 100, b"mfpiece1" + b"\xff" * 120])
async def test_half_a_record_and_zeros_are_no_record(facade: Facade, tail: bytes) -> None:
    session = await facade.begin()
    end = await facade.append(session, await facade.append(session, 0, b"hello"), b" world")
    log = facade.path(session, ".log")
    log.write_bytes(log.read_bytes()[: 2 * receipts.SIZE_BYTES] + tail)
    assert await facade.offset(session) == end
    log.write_bytes(log.read_bytes()[: 2 * receipts.SIZE_BYTES - 1] + tail)
    assert await facade.offset(session) == 5
    assert await facade.append(session, 5, b"!") == 6
    assert (await facade.complete(session)).digest == digests.of(b"hello!")


async def test_a_record_for_more_than_there_is_is_not_believed(facade: Facade) -> None:
    session = await facade.begin()
    await facade.append(session, await facade.append(session, 0, b"hello"), b" world")
    os.truncate(facade.path(session), 8)
    assert await facade.offset(session) == 5
    await facade.append(session, 5, b"!")
    assert (await facade.complete(session)).digest == digests.of(b"hello!")


async def test_a_long_append_is_recorded_on_the_way(facade: Facade) -> None:
    session, data = await facade.begin(), random.randbytes(20 * MIB + 7)
    await facade.append(session, 0, data[:7])
    await facade.append(session, 7, data[7:])
    log = facade.path(session, ".log").read_bytes()
    found, before = [], receipts.ORIGIN
    for at in range(0, 5 * receipts.SIZE_BYTES, receipts.SIZE_BYTES):
        record = log[at : at + receipts.SIZE_BYTES]
        found.append(receipts.decode(record, session.session_id, before))
        before = record[-receipts.CHECK_BYTES :]
    assert found.pop() is None
    ends = [0 if each is None else each.end for each in found]
    assert ends == [7, 7 + 8 * MIB, 7 + 16 * MIB, len(data)]
    for start, each in zip([0, 7, 7, 7], found, strict=True):
        assert each is not None
        assert (each.start, each.sha256) == (start, hashlib.sha256(data[start : each.end]).digest())
        assert each.boot == session_logs.boot_id()


async def test_a_log_of_many_blocks_is_read_from_its_end(facade: Facade) -> None:
    session, data = await facade.begin(), random.randbytes(100)
    for at in range(100):
        await facade.append(session, at, data[at : at + 1])
        assert await facade.offset(session) == at + 1
    assert facade.path(session, ".log").stat().st_size == 4 * 4096
    found = await facade.sessions.head(session.session_id)
    assert found is not None
    assert (found.pieces, found.pieces_max) == (100, receipts.MAX_COUNT)
    assert (await facade.complete(session)).digest == digests.of(data)


# -- a sync that fails


class Failing:
    """A system call that fails a few times, then works."""

    def __init__(self, name: str, after: int, times: int = 1, number: int = errno.EIO) -> None:
        self.name, self._real = name, getattr(os, name)
        self._after, self._times, self._number = after, times, number
        self.failed = 0

    def __call__(self, *args: Any, **named: Any) -> Any:
        self._after -= 1
        if self._after < 0 and self.failed < self._times:
            self.failed += 1
            raise OSError(self._number, os.strerror(self._number))
        return self._real(*args, **named)


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize(
    ("name", "after"),
    [("fdatasync", 0), ("fdatasync", 1), ("fdatasync", 2), ("pwrite", 0), ("pwrite", 5), ("pwrite", 9)],
)
async def test_after_a_failure_only_what_is_recorded_is_there(
    facade: Facade, monkeypatch: pytest.MonkeyPatch, name: str, after: int, number: int
) -> None:
    session, data = await facade.begin(), random.randbytes(12 * MIB)
    await facade.append(session, 0, data[:5])
    failing = Failing(name, after, number=number)
    with monkeypatch.context() as patched:
        patched.setattr(os, name, failing)
        with pytest.raises(ports.StoreError):
            await facade.append(session, 5, data[5:])
    assert failing.failed == 1
    offset = await facade.offset(session)
    assert offset in {5, 5 + 8 * MIB}
    assert facade.path(session).stat().st_size == offset, "memory still shows what the disk has not"
    await facade.append(session, offset, data[offset:])
    assert (await facade.complete(session)).digest == digests.of(data)


@pytest.mark.parametrize("after", [2, 3, 4, 5])
async def test_what_went_past_memory_goes_back_as_well(
    facade: Facade, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    session, data = await facade.begin(), memoryview(mmap.mmap(-1, 20 * MIB + 4096))
    data[:] = random.randbytes(len(data))

    async def pages(start: int) -> AsyncIterator[memoryview]:
        for at in range(start, len(data), MIB):
            yield data[at : at + MIB]

    await facade.append(session, 0, bytes(data[: MIB + 4096]))
    with monkeypatch.context() as patched:
        patched.setattr(os, "fdatasync", Failing("fdatasync", after))
        with pytest.raises(ports.StoreUnavailableError):
            await facade.sessions.append(session, MIB + 4096, pages(MIB + 4096), limit_bytes=len(data))
    offset = await facade.offset(session)
    assert offset in {MIB + 4096 + each for each in (8 * MIB, 16 * MIB)}
    assert facade.path(session).stat().st_size == offset
    await facade.sessions.append(session, offset, pages(offset), limit_bytes=len(data))
    assert (await facade.complete(session)).digest == digests.of(bytes(data))


async def test_bytes_before_a_failed_write_are_written_again(
    facade: Facade, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page in which a failed write began has durable bytes as well, which the disk may not have now."""
    session = await facade.begin()
    await facade.append(session, 0, b"hello")
    written: list[tuple[int, bytes]] = []
    real = os.pwrite

    def note(fd: int, data: Any, offset: int) -> int:
        written.append((offset, bytes(data)))
        return real(fd, data, offset)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fdatasync", Failing("fdatasync", 0))
        patched.setattr(os, "pwrite", note)
        with pytest.raises(ports.StoreUnavailableError):
            await facade.append(session, 5, b" world")
    begun = written.index((5, b" world"))
    assert (0, b"hello") in written[begun:]


@pytest.mark.parametrize("name", ["ftruncate", "fsync"])
async def test_a_session_that_cannot_go_back_is_given_up(
    facade: Facade, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    session = await facade.begin()
    await facade.append(session, 0, b"hello")
    with monkeypatch.context() as patched:
        patched.setattr(os, "fdatasync", Failing("fdatasync", 0))
        patched.setattr(os, name, Failing(name, 0, times=9))
        with pytest.raises(session_ports.SessionLostError, match="begin a new one"):
            await facade.append(session, 5, b" world")
    assert await facade.sessions.head(session.session_id) is None
    with pytest.raises(session_ports.SessionNotFoundError):
        await facade.append(session, 5, b" world")


async def test_nor_is_one_lost_that_could_not_even_be_removed(
    facade: Facade, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = await facade.begin()
    await facade.append(session, 0, b"hello")
    with monkeypatch.context() as patched:
        for name in ("fdatasync", "ftruncate", "unlink"):
            patched.setattr(os, name, Failing(name, 0))
        with pytest.raises(ports.StoreUnavailableError):
            await facade.append(session, 5, b" world")
    assert await facade.offset(session) == 5
    await facade.append(session, 5, b" world")
    assert (await facade.complete(session)).digest == digests.of(b"hello world")


async def test_a_record_is_not_believed_before_it_is_written_again(
    facade: Facade, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever wrote it was killed before it was durable, perhaps after its sync had failed."""
    session = await facade.begin()
    await facade.append(session, 0, b"hello")
    with monkeypatch.context() as patched:
        patched.setattr(os, "fdatasync", Failing("fdatasync", 0))
        with pytest.raises(ports.StoreUnavailableError):
            await facade.offset(session)
        patched.setattr(os, "pwrite", Failing("pwrite", 0))
        with pytest.raises(ports.StoreUnavailableError):
            await facade.offset(session)
    assert await facade.offset(session) == 5


async def test_a_seal_whose_sync_failed_is_not_made(facade: Facade, monkeypatch: pytest.MonkeyPatch) -> None:
    session = await facade.begin()
    await facade.append(session, 0, b"hello")
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", Failing("fsync", 0))
        with pytest.raises(ports.StoreUnavailableError):
            await facade.sessions.seal(session)
    found = await facade.sessions.head(session.session_id)
    assert found is not None
    assert found.seal is None
    assert (await facade.complete(session)).digest == digests.of(b"hello")


# -- bytes that are wrong by the time they are sealed


# -- published bytes are nobody's to write


# -- who comes later goes on


# -- of an earlier version
