"""Real disks that lose bytes, wrong records, stalled and late writers, sessions of earlier versions."""

import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from manifestry.adapters.store.contract import ports, session_ports
from manifestry.adapters.store.local import session_files, session_parts
from manifestry.core.artifacts import receipts, uploads
from manifestry.core.blobs import digests
from tests.component.store import test_session_durability as durability
from tests.component.store.test_session_durability import MIB, TENANT, Facade
from tests.faults import thindisk

facade = durability.facade


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[thindisk.ThinDisk]:
    made = thindisk.ThinDisk(tmp_path / "thin")
    yield made
    made.dispose()


needs_a_disk = pytest.mark.skipif(
    not thindisk.available(), reason="needs root, and to mount a file by `loop`"
)


@needs_a_disk
async def test_what_a_real_disk_has_lost_is_not_published(disk: thindisk.ThinDisk) -> None:
    facade = Facade(disk.root / "store")
    session, data = await facade.begin(), random.randbytes(3 * MIB)
    assert await facade.append(session, 0, data[:MIB]) == MIB
    disk.squeeze()
    with pytest.raises(ports.StoreError):
        await facade.append(session, MIB, data[MIB:])
    disk.relieve()
    promised = await facade.offset(session)
    assert promised == MIB
    await facade.append(session, promised, data[promised:])
    blob = await facade.complete(session)
    assert blob.digest == digests.of(data)
    await facade.close()
    disk.forget()
    again = Facade(disk.root / "store")
    assert await again.read(blob.digest) == data
    await again.close()


@needs_a_disk
async def test_what_a_killed_writer_has_lost_on_a_real_disk_is_not_published(
    disk: thindisk.ThinDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody has seen its failed sync, and nobody has gone back for it."""
    facade = Facade(disk.root / "store")
    session, data = await facade.begin(), random.randbytes(3 * MIB)
    await facade.append(session, 0, data[: MIB + 5])
    disk.squeeze()
    parts = session_parts.Parts(facade.root, session.session_id)
    parts.open()
    parts.write(MIB + 5, data[MIB + 5 :])
    with monkeypatch.context() as patched:
        patched.setattr(parts, "_undo", lambda _: None)
        with pytest.raises(OSError, match=r"No space|Input/output"):
            parts.commit()
    parts.close()
    disk.relieve()
    assert await facade.offset(session) == MIB + 5
    await facade.append(session, MIB + 5, data[MIB + 5 :])
    blob = await facade.complete(session)
    assert blob.digest == digests.of(data)
    await facade.close()
    disk.forget()
    again = Facade(disk.root / "store")
    assert await again.read(blob.digest) == data
    await again.close()


@pytest.mark.parametrize(
    ("at", "left"), [(0, 0), (8 * MIB - 1, 0), (8 * MIB, 8 * MIB), (17 * MIB, 16 * MIB), (20 * MIB, 20 * MIB)]
)
async def test_a_wrong_byte_costs_from_its_piece_on(facade: Facade, at: int, left: int) -> None:
    session, data = await facade.begin(), random.randbytes(20 * MIB + 5)
    await facade.append(session, 0, data[: 20 * MIB])
    await facade.append(session, 20 * MIB, data[20 * MIB :])
    with facade.path(session).open("r+b") as file:
        file.seek(at)
        file.write(bytes([data[at] ^ 1]))
    with pytest.raises(session_ports.PieceDamagedError) as caught:
        await facade.sessions.seal(session)
    assert caught.value.offset == left == await facade.offset(session)
    assert await facade.store.head(TENANT, digests.of(data)) is None
    await facade.append(session, left, data[left:])
    blob = await facade.complete(session)
    assert blob.digest == digests.of(data)
    assert await facade.read(blob.digest) == data


async def test_a_wrong_record_costs_from_its_piece_on(facade: Facade) -> None:
    session = await facade.begin()
    for at, data in enumerate((b"a", b"b", b"c")):
        await facade.append(session, at, data)
    with facade.path(session, ".log").open("r+b") as log:
        log.seek(receipts.SIZE_BYTES + 30)
        log.write(b"\xff\xff")
    with pytest.raises(session_ports.PieceDamagedError):
        await facade.sessions.seal(session)
    assert await facade.offset(session) == 1
    await facade.append(session, 1, b"bc")
    assert (await facade.complete(session)).digest == digests.of(b"abc")


async def test_a_stalled_append_never_reaches_a_published_blob(facade: Facade) -> None:
    session = await facade.begin()
    await facade.append(session, 0, b"hello")
    stalled = session_parts.Parts(facade.root, session.session_id)
    assert stalled.open() == 5  # as a request on another facade whose client has gone on elsewhere
    blob = await facade.store.publish(TENANT, await facade.sessions.seal(session))
    with pytest.raises(session_ports.OffsetError):
        stalled.write(5, b"more")
    await facade.sessions.finish(session)
    with pytest.raises(session_ports.OffsetError):
        stalled.write(5, b"more")
    await facade.sessions.abort(session)  # DELETE of a completed upload, or the janitor
    with pytest.raises(session_ports.SessionNotFoundError):
        stalled.write(5, b"more")
    with pytest.raises(session_ports.SessionNotFoundError):
        stalled.cut(0)
    stalled.close()
    assert await facade.read(blob.digest) == b"hello"


@pytest.mark.parametrize("kept", ["", ".json"])
async def test_nor_when_a_part_of_its_session_is_left(facade: Facade, kept: str) -> None:
    """As while it is removed, or after a crash in which the seal was lost, but not the publication."""
    session = await facade.begin()
    await facade.append(session, 0, b"hello")
    stalled = session_parts.Parts(facade.root, session.session_id)
    stalled.open()
    staged = await facade.sessions.seal(session)
    spare = facade.root / "spare"
    os.link(facade.path(session), spare)
    blob = await facade.store.publish(TENANT, staged)
    facade.path(session, ".sealed").unlink()
    if kept:
        os.link(spare, facade.path(session))
    with pytest.raises(ports.StoreError):
        stalled.write(5, b"more")
    with pytest.raises(ports.StoreError):
        stalled.cut(0)
    stalled.close()
    assert await facade.read(blob.digest) == b"hello"


@pytest.mark.parametrize("ends", ["abort", "remove the record", "put another in its place"])
async def test_an_append_that_nobody_will_see_is_not_acknowledged(
    facade: Facade, monkeypatch: pytest.MonkeyPatch, ends: str
) -> None:
    session = await facade.begin()
    await facade.append(session, 0, b"hello")
    real: Callable[[int], None] = os.fdatasync
    done: list[int] = []

    def ending(fd: int) -> None:  # while the last bytes are synced
        real(fd)
        if not done:
            done.append(1)
            match ends:
                case "abort":
                    session_files.remove(facade.root, session.session_id, session_files.EVERYTHING)
                case "remove the record":
                    facade.path(session, ".json").unlink()
                case _:
                    other = facade.root / "other"
                    other.write_bytes(b"")
                    other.rename(facade.path(session))

    monkeypatch.setattr(os, "fdatasync", ending)
    with pytest.raises(session_ports.SessionNotFoundError):
        await facade.append(session, 5, b" world")


async def test_who_comes_later_takes_over(facade: Facade, tmp_path: Path) -> None:
    """A client whose connection hangs resumes where `head` tells; what hung is over."""
    session, data = await facade.begin(), random.randbytes(3 * MIB)
    stalled = session_parts.Parts(facade.root, session.session_id)
    stalled.open()
    stalled.write(0, b"x" * MIB)
    other = Facade(tmp_path / "store")
    assert await other.offset(session) == 0
    assert await other.append(session, 0, data) == len(data)
    with pytest.raises(session_ports.OffsetError):
        stalled.write(MIB, b"more")
    with pytest.raises(session_ports.OffsetError):
        stalled.commit()
    stalled.close()
    assert (await other.complete(session)).digest == digests.of(data)
    await other.close()


async def test_a_piece_is_taken_back(facade: Facade) -> None:
    session, data = await facade.begin(), random.randbytes(20 * MIB)
    await facade.append(session, 0, data[:5])
    await facade.append(session, 5, data[5:])
    await facade.sessions.cut(session, 5)
    assert await facade.offset(session) == 5
    assert facade.path(session).stat().st_size == 5
    await facade.sessions.cut(session, 5)
    await facade.append(session, 5, data[5:])
    await facade.sessions.seal(session)
    with pytest.raises(session_ports.OffsetError):
        await facade.sessions.cut(session, 5)
    assert (await facade.complete(session)).digest == digests.of(data)
    await facade.sessions.abort(session)
    with pytest.raises(session_ports.SessionNotFoundError):
        await facade.sessions.cut(session, 5)


async def test_two_that_complete_at_once_both_succeed(
    facade: Facade, monkeypatch: pytest.MonkeyPatch
) -> None:
    session, other = await facade.begin(), Facade(facade.root)
    await facade.append(session, 0, b"hello")
    halt = session_parts.Parts.halt
    done: list[int] = []

    def halting(self: session_parts.Parts) -> int:
        end = halt(self)
        if not done:
            done.append(1)
            parts = session_parts.Parts(facade.root, session.session_id)
            parts.open()
            parts.halt()
            parts.seal(uploads.Seal(session.session_id, digests.of(b"hello"), 5))
            parts.close()
        return end

    monkeypatch.setattr(session_parts.Parts, "halt", halting)
    staged = await other.sessions.seal(session)
    assert staged == ports.Staged(session.session_id, digests.of(b"hello"), 5)
    await other.close()


async def test_a_session_of_an_earlier_version_begins_again(facade: Facade) -> None:
    session = await facade.begin()
    facade.path(session).write_bytes(b"who knows")
    facade.path(session, ".log").unlink()
    assert await facade.offset(session) == 0
    with pytest.raises(session_ports.OffsetError):
        await facade.append(session, 9, b"more")
    await facade.append(session, 0, b"hello")
    assert (await facade.complete(session)).digest == digests.of(b"hello")


async def test_a_sealed_one_of_an_earlier_version_completes(facade: Facade) -> None:
    session = await facade.begin()
    await facade.append(session, 0, b"hello")
    await facade.sessions.seal(session)
    facade.path(session, ".log").unlink()
    assert (await facade.complete(session)).digest == digests.of(b"hello")


def test_the_sync_is_as_often_as_it_should() -> None:
    assert 8 * MIB <= session_parts.SYNC_EVERY_BYTES <= 16 * MIB
