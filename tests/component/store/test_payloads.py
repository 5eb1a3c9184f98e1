"""Payloads as they are sent: without waiting where the kernel has them in memory, by links elsewhere."""

import asyncio
import errno
import os
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from manifestry.adapters.store import stores
from manifestry.adapters.store.contract import ports
from manifestry.adapters.store.local import blobs, payloads
from manifestry.adapters.store.remote import links
from manifestry.core.blobs import digests
from manifestry.settings import StoreSettings
from tests.seaweed.server import S3Server

TENANT = str(uuid.uuid4())
DATA = os.urandom(3 << 20)
DIGEST = digests.of(DATA)


@pytest.fixture
async def local(tmp_path: Path) -> AsyncIterator[blobs.LocalStore]:
    opened = blobs.LocalStore(tmp_path / "root", timeout_seconds=0.5)
    await opened.put(TENANT, DATA)
    yield opened
    await opened.close()


@pytest.fixture
def threads(local: blobs.LocalStore, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Give the operations that went to a thread."""
    found: list[str] = []
    submit = local._pool.submit

    def counted(function: Any, *args: Any) -> Any:
        found.append(getattr(function, "__name__", "?"))
        return submit(function, *args)

    monkeypatch.setattr(local._pool, "submit", counted)
    return found


async def opened(used: blobs.LocalStore) -> payloads.LocalPayload:
    return await used.open(TENANT, DIGEST)


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def forget(payload: payloads.LocalPayload) -> bool:
    """Drop the file's pages from memory; tell whether the file system here lets that be seen."""
    os.fsync(payload.fileno())
    for _ in range(20):  # other processors may hold on to some for a moment
        os.posix_fadvise(payload.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        if payload.is_in_memory(1 << 20, 1) is False:
            return True
        time.sleep(0.05)
    return False


async def test_what_is_in_memory_is_opened_and_sent_without_a_thread(
    local: blobs.LocalStore, threads: list[str]
) -> None:
    for _ in range(3):
        payload = await opened(local)
        assert payload.size_bytes == len(DATA)
        await payload.load(0, len(DATA))
        assert os.pread(payload.fileno(), len(DATA), 0) == DATA
        await payload.aclose()
    if payload_can_tell(local):
        assert threads == ["open"]  # once, to learn what kind of file system it is


def payload_can_tell(local: blobs.LocalStore) -> bool:
    return local._opener._folder >= 0


async def test_what_is_not_in_memory_is_read_by_a_thread(local: blobs.LocalStore, threads: list[str]) -> None:
    payload = await opened(local)
    if not forget(payload):
        await payload.aclose()
        pytest.skip("this file system keeps its pages")
    await payload.load(1 << 20, 1 << 20)
    assert threads == ["open", "_read"]
    assert payload.is_in_memory(1 << 20, 1 << 20)
    await payload.load(1 << 20, 1 << 20)
    assert threads == ["open", "_read"]
    await payload.aclose()


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.EIO])
async def test_a_file_system_that_cannot_tell_is_always_left_to_threads(
    local: blobs.LocalStore, threads: list[str], monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def preadv(*_: Any) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "preadv", preadv)
    if number == errno.EIO:
        with pytest.raises(ports.StoreUnavailableError):
            await opened(local)
        return
    for _ in range(2):
        payload = await opened(local)
        await payload.load(0, len(DATA))
        await payload.aclose()
    assert threads == ["open", "_read"] * 2


async def test_without_the_system_call_files_are_opened_by_threads(
    local: blobs.LocalStore, threads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(payloads, "_syscall", lambda *_: -1)
    for _ in range(2):
        await (await opened(local)).aclose()
    assert threads == ["open", "open"]


def path_of(local: blobs.LocalStore) -> Path:
    path = local.local_path(TENANT, DIGEST)
    assert path is not None
    return path


@pytest.mark.parametrize("before", [False, True])
async def test_what_is_absent_or_no_file_is_told_apart(local: blobs.LocalStore, before: bool) -> None:
    if before:
        await (await opened(local)).aclose()
    with pytest.raises(ports.BlobNotFoundError):
        await local.open(TENANT, digests.of(b"absent"))
    path = path_of(local)
    path.unlink()
    path.mkdir()
    with pytest.raises(ports.BlobDamagedError):
        await opened(local)
    path.rmdir()
    os.mkfifo(path)
    with pytest.raises(ports.BlobDamagedError):
        await opened(local)


async def test_a_part_that_is_not_there_any_more_is_damage(local: blobs.LocalStore) -> None:
    payload = await opened(local)
    os.truncate(path_of(local), 5)
    with pytest.raises(ports.BlobDamagedError):
        await payload.load(0, len(DATA))
    await payload.aclose()


async def test_a_file_is_not_closed_under_a_thread_that_reads_it(
    local: blobs.LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    payload = await opened(local)
    descriptor, going, reading = payload.fileno(), threading.Event(), threading.Event()
    real = os.pread

    def pread(fd: int, count: int, offset: int) -> bytes:
        reading.set()
        going.wait(5)
        return real(fd, count, offset)

    monkeypatch.setattr(os, "pread", pread)
    monkeypatch.setattr(payloads.LocalPayload, "is_in_memory", lambda *_: False)
    with pytest.raises(ports.StoreUnavailableError):  # the disk hangs for longer than it may
        await payload.load(0, 1 << 20)
    assert reading.is_set()
    closing = asyncio.create_task(payload.aclose())
    await asyncio.sleep(0.05)
    os.fstat(descriptor)  # is still open
    going.set()
    await closing
    deadline = time.monotonic() + 5
    while payload.fileno() >= 0:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


async def test_opening_that_hangs_leaves_no_descriptor(
    local: blobs.LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    going, real = threading.Event(), os.open

    def slow(*args: Any, **options: Any) -> int:
        going.wait(5)
        return real(*args, **options)

    before = open_files()
    monkeypatch.setattr(os, "open", slow)
    with pytest.raises(ports.StoreUnavailableError):
        await opened(local)
    going.set()
    deadline = time.monotonic() + 5
    while open_files() > before:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


async def test_a_closed_store_keeps_no_folder(tmp_path: Path) -> None:
    before = open_files()
    used = blobs.LocalStore(tmp_path, timeout_seconds=5)
    await used.put(TENANT, DATA)
    await (await opened(used)).aclose()
    await used.close()
    assert open_files() <= before


def settings(s3: S3Server, **changes: str) -> StoreSettings:
    return StoreSettings.from_mapping({**s3.settings(), **changes})


async def test_a_link_reads_one_blob_for_anybody_and_only_for_a_while(s3: S3Server) -> None:
    used = stores.open_store(settings(s3))
    blob = await used.put(TENANT, b"payload")
    assert await used.open(TENANT, blob.digest) is None
    url = await used.link(TENANT, blob.digest, 60)
    assert url is not None
    assert url.startswith(s3.endpoint + "/")
    assert await asyncio.to_thread(fetch, url) == b"payload"
    part = urllib.request.Request(url, headers={"Range": "bytes=1-3"})
    assert await asyncio.to_thread(fetch, part) == b"ayl"
    other = url.replace(digests.hex_of(blob.digest), digests.hex_of(digests.of(b"other")))
    with pytest.raises(urllib.error.HTTPError):
        await asyncio.to_thread(fetch, other)
    short = await used.link(TENANT, blob.digest, 1)
    assert short is not None
    await asyncio.sleep(2.1)
    with pytest.raises(urllib.error.HTTPError, match="403"):
        await asyncio.to_thread(fetch, short)
    await used.close()


def fetch(request: Any) -> bytes:
    with urllib.request.urlopen(request, timeout=10) as answer:
        return bytes(answer.read())


@pytest.mark.parametrize(
    ("kind", "endpoint", "url", "is_ours"),
    [
        ("s3", "http://store:8333", "http://store:8333/b/k?X-Amz=1", True),
        ("s3", "http://store:8333", "http://b.store:8333/k", True),
        ("s3", "http://store:8333", "https://store:8333/k", False),
        ("s3", "http://store:8333", "http://store:9/k", False),
        ("s3", "http://store:8333", "http://evilstore:8333/k", False),
        ("s3", "http://store:8333", "http://store:8333@evil/k", False),
        ("s3", "", "https://s3.eu-west-1.amazonaws.com/b/k", True),
        ("s3", "", "http://s3.eu-west-1.amazonaws.com/b/k", False),
        ("s3", "", "https://s3.amazonaws.com.evil/b/k", False),
        ("gcs", "", "https://storage.googleapis.com/b/k", True),
        ("gcs", "", "https://evilgoogleapis.com/b/k", False),
        ("azure", "", "https://acc.blob.core.windows.net/c/k", True),
        ("azure", "", "https://acc.blob.core.windows.net.evil/c/k", False),
    ],
)
def test_a_link_leads_to_the_configured_host_only(kind: Any, endpoint: str, url: str, is_ours: bool) -> None:
    where = StoreSettings(store_type=kind, store_bucket="b", store_endpoint=endpoint)
    assert links.is_on_host(url, where) is is_ours
