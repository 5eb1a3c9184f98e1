"""The store's promises, kept alike by a local folder and by a real S3 server (SeaweedFS)."""

import asyncio
import json
import os
import random
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import obstore
import pytest
from obstore.store import LocalStore as Folder
from obstore.store import ObjectStore

from manifestry.adapters.store import stores
from manifestry.adapters.store.contract import ports
from manifestry.adapters.store.local import blobs as local_blobs
from manifestry.adapters.store.remote import blobs as remote_blobs
from manifestry.core.blobs import digests
from manifestry.core.blobs import keys as blob_keys
from manifestry.settings import StoreSettings
from tests.seaweed.server import S3Server

MIB = 1 << 20
CHILD = Path(__file__).with_name("store_child.py")


@dataclass
class Place:
    """A store, and how to look behind it."""

    store: ports.Store
    settings: Mapping[str, str]
    behind: ObjectStore

    def keys(self, prefix: str) -> list[str]:
        return sorted(item["path"] for page in obstore.list(self.behind, prefix) for item in page)

    def write(self, key: str, data: bytes) -> None:
        obstore.put(self.behind, key, data)


@pytest.fixture(params=["local", "s3"])
async def place(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Place]:
    settings, behind = {"MANIFESTRY_STORE_PATH": str(tmp_path)}, cast("ObjectStore", Folder(tmp_path))
    if request.param == "s3":
        server: S3Server = request.getfixturevalue("s3")
        settings, behind = server.settings(), server.store()
    opened = stores.open_store(StoreSettings.from_mapping(settings))
    yield Place(opened, settings, behind)
    await opened.close()


@pytest.fixture
def tenant() -> str:
    return str(uuid.uuid4())


async def chunks(data: bytes, size: int = 64 << 10) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


async def received(used: ports.Store, tenant: str, digest: str, **asked: int) -> bytes:
    return b"".join([bytes(view) async for view in used.stream(tenant, digest, **asked)])


async def published(used: ports.Store, tenant: str, data: bytes) -> ports.Blob:
    return await used.publish(tenant, await used.stage(chunks(data), limit_bytes=len(data)))


@pytest.mark.parametrize("size", [0, 1, MIB - 1, MIB, 2 * MIB + 1, 11 * MIB + 7])
async def test_bytes_come_back_under_their_digest(place: Place, tenant: str, size: int) -> None:
    data = random.randbytes(size)
    staged = await place.store.stage(chunks(data), limit_bytes=size)
    assert (staged.digest, staged.size_bytes) == (digests.of(data), size)
    assert await place.store.head(tenant, staged.digest) is None
    blob = await place.store.publish(tenant, staged)
    assert blob == ports.Blob(digests.of(data), size) == await place.store.head(tenant, blob.digest)
    assert await received(place.store, tenant, blob.digest) == data
    assert await place.store.read(tenant, blob.digest, limit_bytes=size) == data
    assert blob_keys.upload(staged.upload_id) not in place.keys("uploads/")


@pytest.mark.parametrize(
    ("offset", "count"),
    [(0, 0), (0, 1), (1, 4 * MIB), (MIB, MIB), (2 * MIB - 1, 2), (5 * MIB, 3), (5 * MIB + 3, 0), (7, None)],
)
async def test_any_range_can_be_read(place: Place, tenant: str, offset: int, count: int | None) -> None:
    data = random.randbytes(5 * MIB + 3)
    blob = await published(place.store, tenant, data)
    asked = {"offset": offset} | ({} if count is None else {"count": count})
    end = len(data) if count is None else offset + count
    assert await received(place.store, tenant, blob.digest, **asked) == data[offset:end]


async def test_a_range_beyond_the_end_is_never_filled_up(place: Place, tenant: str) -> None:
    blob = await published(place.store, tenant, b"hello")
    for offset, count in ((0, 6), (5, 1), (9, 1)):
        with pytest.raises(ports.StoreError):
            await received(place.store, tenant, blob.digest, offset=offset, count=count)


async def test_a_reader_may_stop_at_any_time(place: Place, tenant: str) -> None:
    blob = await published(place.store, tenant, bytes(9 * MIB))
    async with aclosing(place.store.stream(tenant, blob.digest)) as views:
        async for view in views:
            assert len(view) > 0
            break


async def test_a_missing_blob_is_said_to_be_missing(place: Place, tenant: str) -> None:
    absent = digests.of(b"absent")
    assert await place.store.head(tenant, absent) is None
    with pytest.raises(ports.BlobNotFoundError):
        await place.store.read(tenant, absent, limit_bytes=1)
    with pytest.raises(ports.BlobNotFoundError):
        await received(place.store, tenant, absent)
    with pytest.raises(ports.BlobNotFoundError):
        await received(place.store, tenant, absent, offset=0, count=1)
    await place.store.delete(tenant, absent)


async def test_another_tenants_blob_is_missing(place: Place, tenant: str) -> None:
    blob = await place.store.put(tenant, b"private")
    assert await place.store.head(str(uuid.uuid4()), blob.digest) is None


@pytest.mark.parametrize("part", ["", "..", "../other", "a\x00b", "%2e%2e", "A" * 36])
async def test_a_key_is_never_built_from_anything_else(place: Place, tenant: str, part: str) -> None:
    for uid, digest in ((part, digests.of(b"")), (tenant, part)):
        with pytest.raises(ValueError, match="must be"):
            await place.store.head(uid, digest)


async def test_more_than_allowed_is_refused_and_leaves_nothing(place: Place) -> None:
    before = place.keys("uploads/")
    for size in (11, 3 * MIB, 14 * MIB):
        with pytest.raises(ports.TooLargeError):
            await place.store.stage(chunks(bytes(size)), limit_bytes=size - 1)
    assert place.keys("uploads/") == before


async def test_a_client_that_goes_away_leaves_nothing(place: Place) -> None:
    async def stalling(after: int) -> AsyncIterator[bytes]:
        async for chunk in chunks(bytes(after)):
            yield chunk
        await asyncio.sleep(60)

    before = place.keys("uploads/")
    for after in (0, 1, 2 * MIB, 7 * MIB, 13 * MIB):
        upload = asyncio.create_task(place.store.stage(stalling(after), limit_bytes=20 * MIB))
        await asyncio.sleep(random.uniform(0, 0.2))
        upload.cancel()
        with pytest.raises(asyncio.CancelledError):
            await upload
    assert place.keys("uploads/") == before


async def test_a_source_that_fails_leaves_nothing(place: Place) -> None:
    async def failing() -> AsyncIterator[bytes]:
        yield bytes(6 * MIB)
        raise ConnectionResetError

    before = place.keys("uploads/")
    with pytest.raises(ConnectionResetError):
        await place.store.stage(failing(), limit_bytes=20 * MIB)
    assert place.keys("uploads/") == before


async def test_staged_bytes_can_be_discarded_twice(place: Place, tenant: str) -> None:
    staged = await place.store.stage(chunks(b"hello"), limit_bytes=5)
    await place.store.discard(staged)
    await place.store.discard(staged)
    assert blob_keys.upload(staged.upload_id) not in place.keys("uploads/")
    with pytest.raises(ports.BlobNotFoundError):
        await place.store.publish(tenant, staged)
    assert await place.store.head(tenant, staged.digest) is None


async def test_publishing_and_deleting_are_safe_to_repeat(place: Place, tenant: str) -> None:
    staged = await place.store.stage(chunks(b"hello"), limit_bytes=5)
    assert await place.store.publish(tenant, staged) == await place.store.publish(tenant, staged)
    await place.store.delete(tenant, staged.digest)
    await place.store.delete(tenant, staged.digest)
    assert await place.store.head(tenant, staged.digest) is None


async def test_sixteen_publish_the_same_bytes_at_once(place: Place, tenant: str) -> None:
    data = random.randbytes(2 * MIB + 5)
    blobs = await asyncio.gather(*(published(place.store, tenant, data) for _ in range(16)))
    assert set(blobs) == {ports.Blob(digests.of(data), len(data))}
    assert place.keys(blob_keys.tenant(tenant)) == [blob_keys.blob(tenant, digests.of(data))]
    assert await received(place.store, tenant, digests.of(data)) == data


async def test_sixteen_put_the_same_bytes_at_once(place: Place, tenant: str) -> None:
    blobs = await asyncio.gather(*(place.store.put(tenant, b"same") for _ in range(16)))
    assert len(set(blobs)) == 1
    assert len(place.keys(blob_keys.tenant(tenant))) == 1


async def test_put_is_for_small_bytes(place: Place, tenant: str) -> None:
    with pytest.raises(ports.TooLargeError):
        await place.store.put(tenant, bytes(ports.PUT_MAX_BYTES + 1))
    assert place.keys(blob_keys.tenant(tenant)) == []


async def test_a_small_read_has_a_limit(place: Place, tenant: str) -> None:
    blob = await place.store.put(tenant, b"hello")
    with pytest.raises(ports.TooLargeError):
        await place.store.read(tenant, blob.digest, limit_bytes=4)


async def test_damage_is_found_on_reading_and_healed_by_publishing_again(place: Place, tenant: str) -> None:
    blob = await place.store.put(tenant, b"hello")
    place.write(blob_keys.blob(tenant, blob.digest), b"hellO")
    with pytest.raises(ports.BlobDamagedError):
        await place.store.read(tenant, blob.digest, limit_bytes=5)
    place.write(blob_keys.blob(tenant, blob.digest), b"hell")
    assert await place.store.put(tenant, b"hello") == blob
    assert await place.store.read(tenant, blob.digest, limit_bytes=5) == b"hello"
    place.write(blob_keys.blob(tenant, blob.digest), b"")
    assert await published(place.store, tenant, b"hello") == blob
    assert await place.store.read(tenant, blob.digest, limit_bytes=5) == b"hello"


async def test_a_store_to_which_nobody_has_written_yet_can_be_read(place: Place) -> None:
    await place.store.look()
    assert place.keys("canary/") == []


async def test_a_canary_leaves_nothing(place: Place) -> None:
    await place.store.canary()
    assert place.keys("canary/") == []


async def test_only_a_local_store_has_a_path(place: Place, tenant: str) -> None:
    blob = await place.store.put(tenant, b"hello")
    path = place.store.local_path(tenant, blob.digest)
    if isinstance(place.store, local_blobs.LocalStore):
        assert path is not None
        assert path.read_bytes() == b"hello"
    else:
        assert path is None


def child(place: Place, verb: str, tenant: str, *wrapper: str, **env: str) -> "subprocess.Popen[str]":
    variables = {"PATH": os.environ["PATH"], **place.settings, **env}
    argv = [*wrapper, sys.executable, str(CHILD), verb, tenant]
    return subprocess.Popen(argv, env=variables, stdout=subprocess.PIPE, text=True)


def said(process: "subprocess.Popen[str]") -> list[dict[str, object]]:
    lines = process.communicate(timeout=120)[0].splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


async def test_a_kill_between_stage_and_publish_leaves_nothing_visible(place: Place, tenant: str) -> None:
    process = child(place, "die", tenant)
    (line,) = said(process)
    assert process.returncode == -9
    assert await place.store.head(tenant, str(line["digest"])) is None
    assert place.keys(blob_keys.tenant(tenant)) == []


async def test_a_kill_at_any_time_leaves_whole_blobs_only(place: Place, tenant: str) -> None:
    acknowledged: set[str] = set()
    for _ in range(5):
        process = child(place, "loop", tenant)
        assert process.stdout is not None
        process.stdout.readline()  # it works, now at any point
        time.sleep(random.uniform(0, 0.25))  # noqa: ASYNC251 - nothing else runs here
        process.kill()
        acknowledged |= {str(line["digest"]) for line in said(process)}
    visible = {
        parsed[1] for key in place.keys(blob_keys.tenant(tenant)) if (parsed := blob_keys.parse_blob(key))
    }
    assert acknowledged
    assert acknowledged <= visible
    for digest in visible:
        assert digests.of(await place.store.read(tenant, digest, limit_bytes=4 * MIB)) == digest


async def test_memory_stays_bounded_while_256_mib_pass(place: Place, tenant: str) -> None:
    (line,) = said(child(place, "measure", tenant))
    remote = isinstance(place.store, remote_blobs.RemoteStore)
    module = remote_blobs if remote else local_blobs
    bound = (module.UPLOAD_BOUND_BYTES + module.DOWNLOAD_BOUND_BYTES) / MIB
    sys.stdout.write(f"rise of the peak in MiB: {line}, bound {bound}\n")
    assert line["received"] == 256 * MIB
    assert float(str(line["read_mib"])) <= bound + 8  # malloc's own slack
