"""Payloads that cannot be sent: bytes that are damaged or gone, disks that fail, clients that leave."""

import asyncio
import hashlib
import os
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from manifestry.adapters.store.contract import ports as store_ports
from manifestry.adapters.store.local import payloads
from manifestry.core.artifacts import suspects
from manifestry.core.kube import names
from manifestry_api.wire import streams, zerocopy
from tests.unit.api.routes import downloading
from tests.unit.api.routes.downloading import DATA, PATH, SIZE, left_open, open_payloads, path_of, stored
from tests.unit.api.routes.site import NAMESPACE, TENANT_UID, Site


@pytest.fixture(params=downloading.WAYS)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Let the bytes take each of the two ways."""
    return downloading.take(request.param, monkeypatch)


@pytest.mark.parametrize("length", [0, SIZE - 1])
async def test_a_payload_that_has_shrunk_is_an_error_before_the_first_byte(
    site: Site, way: str, length: int
) -> None:
    blob = await stored(site)
    os.truncate(path_of(site, blob), length)
    answer = await site.call("GET", PATH)
    assert (answer.status, answer.json["code"]) == (500, "internal")
    assert "missing or damaged" in answer.json["detail"]
    assert await left_open() == []


async def test_bytes_that_cannot_be_sent_leave_one_note_for_the_operator(site: Site, way: str) -> None:
    blob = await stored(site)
    path_of(site, blob).unlink()
    for _ in range(2):
        assert (await site.call("GET", PATH, role="viewer")).status == 500
    artifact = site.cluster.find(names.ARTIFACTS, "a", NAMESPACE)
    assert artifact is not None
    records = site.world.ports.store.records()
    (note,) = await records.scan(suspects.PREFIX)
    data = await records.read(note.key, limit_bytes=suspects.NOTE_MAX_BYTES)
    assert data is not None
    assert suspects.parse(note.key, data) == (artifact["metadata"]["uid"], NAMESPACE, "a")


async def test_a_manifest_that_cannot_be_sent_leaves_a_note(site: Site) -> None:
    await stored(site)
    await site.world.ports.store.delete(TENANT_UID, f"sha256:{hashlib.sha256(b'{}').hexdigest()}")
    answer = await site.call("GET", "/artifacts/a/manifest", role="viewer")
    assert (answer.status, answer.json["code"]) == (500, "internal")
    assert len(await site.world.ports.store.records().scan(suspects.PREFIX)) == 1


def flip(path: Path, at: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1]))


async def test_a_short_payload_that_passes_through_is_hashed_before_its_first_byte(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zerocopy, "CYCLE_NAMES", frozenset({"nothing has this name"}))
    flip(path_of(site, await stored(site)), 99)
    answer = await site.call("GET", PATH, role="viewer")
    assert (answer.status, answer.json["code"]) == (500, "internal")
    assert len(await site.world.ports.store.records().scan(suspects.PREFIX)) == 1
    part = await site.call("GET", PATH, headers={"Range": "bytes=0-9"})  # of a part there is no digest
    assert (part.status, part.data) == (206, DATA[:10])
    assert "Content-Digest" not in part.headers


async def test_the_last_bytes_that_pass_through_are_sent_only_when_all_hash_to_the_digest(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zerocopy, "CYCLE_NAMES", frozenset({"nothing has this name"}))
    data = os.urandom((3 << 20) + 7)
    blob = await stored(site, data)
    answer = await site.call("GET", PATH)
    assert (answer.status, answer.data) == (200, data)
    flip(path_of(site, blob), 99)
    received = bytearray()

    async def read() -> None:
        async with site.open(PATH) as broken:
            async for chunk in broken.content.iter_any():
                received.extend(chunk)

    with pytest.raises(aiohttp.ClientPayloadError):
        await read()
    assert len(received) <= 3 << 20
    assert len(await site.world.ports.store.records().scan(suspects.PREFIX)) == 1


async def test_a_planted_link_is_not_followed(site: Site, way: str, tmp_path: Path) -> None:
    blob = await stored(site)
    assert (await site.call("GET", PATH)).status == 200  # from now on files are opened without a thread
    path, secret = path_of(site, blob), tmp_path / "secret"
    secret.write_bytes(b"x" * SIZE)
    path.unlink()
    path.symlink_to(secret)
    assert (await site.call("GET", PATH)).status == 500
    path.unlink()
    folder = path.parent
    folder.rename(folder.with_name("moved"))
    (folder.with_name("moved") / path.name).write_bytes(b"x" * SIZE)
    folder.symlink_to(folder.with_name("moved"))
    assert (await site.call("GET", PATH)).status == 500


@pytest.mark.parametrize("error", [store_ports.StoreUnavailableError("the disk is gone"), OSError(5, "i/o")])
async def test_a_disk_that_fails_in_the_middle_breaks_the_connection(
    site: Site, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    await stored(site, os.urandom(3 << 20))
    calls: list[int] = []

    async def load(_payload: Any, offset: int, _count: int) -> None:
        calls.append(offset)
        if offset:
            raise error

    monkeypatch.setattr(payloads.LocalPayload, "load", load)
    with pytest.raises(aiohttp.ClientPayloadError):
        await site.call("GET", PATH)
    assert calls == [0, streams.FIRST_WINDOW_BYTES]
    await asyncio.sleep(0.05)
    assert await left_open() == []


async def test_nothing_is_read_for_a_client_that_has_left(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    data = os.urandom(40 << 20)
    await stored(site, data)
    real, loads, going = payloads.LocalPayload.load, [], asyncio.Event()

    async def load(payload: Any, offset: int, count: int) -> None:
        loads.append(offset)
        if offset:  # the client leaves while the disk is at work
            await going.wait()
        await real(payload, offset, count)

    monkeypatch.setattr(payloads.LocalPayload, "load", load)
    async with site.open(PATH) as answer:
        assert await answer.content.readexactly(1000) == data[:1000]
    await asyncio.sleep(0.05)
    going.set()
    async with asyncio.timeout(5):
        while open_payloads():  # noqa: ASYNC110 - the kernel has no event for it
            await asyncio.sleep(0.01)
    assert len(loads) == 2
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


async def test_a_remote_store_that_fails_in_the_middle_breaks_the_connection(
    site: Site, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await stored(site)

    async def damaged(*_: Any, **__: Any) -> Any:
        yield memoryview(DATA[:100])
        raise store_ports.StoreUnavailableError("the disk is gone")

    async def remote(*_: Any) -> None:
        return None

    monkeypatch.setattr(site.world.ports.store, "stream", damaged)
    monkeypatch.setattr(site.world.ports.store, "open", remote)
    with pytest.raises(aiohttp.ClientPayloadError):
        await site.call("GET", PATH)
