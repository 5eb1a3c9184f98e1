"""What only a network can do to a store: vanish, hang, refuse, run full."""

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import obstore
import pytest
from aiohttp import web
from pydantic import SecretStr

from manifestry.adapters.store import stores
from manifestry.adapters.store.contract import ports
from manifestry.adapters.store.remote import blobs
from manifestry.core.blobs import digests
from manifestry.settings import StoreSettings
from tests.seaweed.plugin import MakeS3
from tests.seaweed.server import S3Server

TENANT = str(uuid.uuid4())
TIMEOUT_SECONDS = 2.0


def open_s3(settings: dict[str, str], **changes: str) -> ports.Store:
    changed = {f"MANIFESTRY_STORE_{name.upper()}": value for name, value in changes.items()}
    timeout = {"MANIFESTRY_STORE_TIMEOUT_SECONDS": str(TIMEOUT_SECONDS)}
    return stores.open_store(StoreSettings.from_mapping(settings | timeout | changed))


async def one(data: bytes) -> AsyncIterator[bytes]:
    yield data


async def endless() -> AsyncIterator[bytes]:
    while True:
        yield bytes(1 << 20)


async def everything_fails(used: ports.Store, staged: ports.Staged) -> None:
    """Each operation, one after the other, says so in time."""
    digest = digests.of(b"kept")
    for attempt in (
        lambda: used.head(TENANT, digest),
        lambda: used.read(TENANT, digest, limit_bytes=9),
        lambda: used.put(TENANT, b"new"),
        lambda: used.stage(one(bytes(6 << 20)), limit_bytes=6 << 20),
        lambda: used.publish(TENANT, staged),
        lambda: used.delete(TENANT, digest),
        used.canary,
        used.look,
    ):
        started = time.monotonic()
        with pytest.raises(ports.StoreUnavailableError, match="the object store does not answer"):
            await attempt()
        assert time.monotonic() - started < 2 * TIMEOUT_SECONDS + 1  # a failed stage tries to tidy up


@pytest.mark.parametrize("fault", ["pause", "kill"])
async def test_a_store_that_is_gone_is_unavailable_and_returns(make_s3: MakeS3, fault: str) -> None:
    server = make_s3()
    used = open_s3(server.settings())
    await used.put(TENANT, b"kept")
    staged = await used.stage(one(b"staged"), limit_bytes=6)
    getattr(server, fault)()
    await everything_fails(used, staged)
    if fault == "pause":
        server.resume()
    else:
        server.start()
    assert await used.read(TENANT, digests.of(b"kept"), limit_bytes=9) == b"kept"
    blob = await used.publish(TENANT, staged)
    assert await used.read(TENANT, blob.digest, limit_bytes=9) == b"staged"


async def test_a_failed_stage_aborts_its_multipart_upload(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    writers: list[Any] = []
    open_writer = obstore.open_writer_async

    def recording(*args: Any, **options: Any) -> Any:
        writers.append(open_writer(*args, **options))
        return writers[-1]

    monkeypatch.setattr(obstore, "open_writer_async", recording)
    used = open_s3(s3.settings())
    with pytest.raises(ports.TooLargeError):
        await used.stage(one(bytes(12 << 20)), limit_bytes=11 << 20)
    upload = asyncio.create_task(used.stage(endless(), limit_bytes=1 << 40))
    await asyncio.sleep(0.3)
    upload.cancel()
    await asyncio.gather(upload, return_exceptions=True)
    assert [await writer.closed() for writer in writers] == [True, True]


async def test_a_store_that_hangs_in_the_middle_ends_a_stream_with_an_error(make_s3: MakeS3) -> None:
    server = make_s3()
    used = open_s3(server.settings())
    blob = await used.publish(TENANT, await used.stage(one(bytes(9 << 20)), limit_bytes=9 << 20))
    views = used.stream(TENANT, blob.digest)
    assert len(await anext(views)) > 0
    server.pause()
    with pytest.raises(ports.StoreUnavailableError):
        [len(view) async for view in views]
    server.resume()


async def test_wrong_credentials_are_unavailable_and_never_shown(s3: S3Server) -> None:
    used = open_s3(s3.settings(), secret_access_key="canary-secret")
    attempts: list[Callable[[], Awaitable[object]]] = [
        used.canary,
        used.look,
        lambda: used.head(TENANT, digests.of(b"")),
    ]
    for attempt in attempts:
        with pytest.raises(ports.StoreUnavailableError) as caught:
            await attempt()
        assert "canary-secret" not in f"{caught.value!r} {caught.value.__cause__!r}"


@dataclass
class Stub:
    """A store that answers every request alike."""

    status: int
    text: str = ""

    async def __aenter__(self) -> str:
        app = web.Application()
        app.router.add_route("*", "/{tail:.*}", self._answer)
        self.runner = web.AppRunner(app)
        await self.runner.setup()
        site = web.TCPSite(self.runner, "127.0.0.1", 0)
        await site.start()
        return f"http://127.0.0.1:{self.runner.addresses[0][1]}"

    async def __aexit__(self, *_: object) -> None:
        await self.runner.cleanup()

    async def _answer(self, _: web.Request) -> web.Response:
        return web.Response(status=self.status, text=self.text)


@pytest.mark.parametrize(
    ("stub", "error"),
    [
        (Stub(507), ports.StoreFullError),
        (Stub(400, "<Error><Code>XMinioStorageFull</Code></Error>"), ports.StoreFullError),
        (Stub(500), ports.StoreUnavailableError),
        (Stub(404, "<Error><Code>NoSuchBucket</Code></Error>"), ports.StoreUnavailableError),
        (Stub(200, "not xml"), ports.StoreUnavailableError),
    ],
)
async def test_a_store_that_refuses_to_store_says_why(
    s3: S3Server, stub: Stub, error: type[ports.StoreError]
) -> None:
    async with stub as endpoint:
        used = open_s3(s3.settings(), endpoint=endpoint)
        with pytest.raises(error):
            await used.stage(one(bytes(6 << 20)), limit_bytes=6 << 20)
        if stub.status != 200:
            with pytest.raises(error):
                await used.put(TENANT, b"x")


async def test_what_could_not_be_copied_in_one_piece_is_not_taken(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blobs, "COPY_MAX_BYTES", 10)
    with pytest.raises(ports.TooLargeError):
        await open_s3(s3.settings()).stage(one(bytes(11)), limit_bytes=1 << 40)


@pytest.mark.parametrize("kind", ["gcs", "azure"])
async def test_other_clouds_are_configured_without_a_request(kind: str) -> None:
    settings = StoreSettings(
        store_type="gcs" if kind == "gcs" else "azure",
        store_bucket="bucket",
        store_access_key_id=SecretStr("account"),
        store_secret_access_key=None if kind == "gcs" else SecretStr("c2VjcmV0"),
    )
    used = stores.open_store(settings)
    assert isinstance(used, blobs.RemoteStore)
    assert used.local_path(TENANT, digests.of(b"")) is None
    await used.close()


async def test_an_old_blob_is_made_new_by_publishing_it_again(
    s3: S3Server,
) -> None:
    used = open_s3(s3.settings())
    await used.put(TENANT, b"old")
    behind, key = s3.store(), next(k for k in _keys(s3) if digests.of(b"old")[7:] in k)
    before = (await behind.head_async(key))["last_modified"]
    await asyncio.sleep(1.1)
    await used.put(TENANT, b"old")
    assert (await behind.head_async(key))["last_modified"] == before
    used = open_s3(s3.settings() | {"MANIFESTRY_GC_GRACE_SECONDS": "1"})
    staged = await used.stage(one(b"old"), limit_bytes=3)
    assert await used.publish(TENANT, staged) == await used.publish(TENANT, staged)
    assert (await behind.head_async(key))["last_modified"] > before
    assert [key for key in _uploads(s3) if staged.upload_id in key] == []


def _uploads(s3: S3Server) -> list[str]:
    return [item["path"] for page in s3.store().list("uploads/") for item in page]


def _keys(s3: S3Server) -> list[str]:
    return [item["path"] for page in s3.store().list(f"tenants/{TENANT}/") for item in page]


async def pump(source: asyncio.StreamReader, to: asyncio.StreamWriter, *, wrong: bool) -> None:
    try:
        while data := await source.read(1 << 16):
            to.write(data.replace(b"PRECIOUS", b"PREVIOUS") if wrong else data)
            await to.drain()
    except OSError:  # the other side is gone
        return
    finally:
        to.transport.abort()


@contextlib.asynccontextmanager
async def changed_on_the_way(endpoint: str) -> AsyncIterator[str]:
    """Pass on what comes for a server, with some bytes of it wrong."""
    target, serving = urlsplit(endpoint), set[asyncio.Task[None]]()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream_reader, upstream = await asyncio.open_connection(target.hostname, target.port)
        serving.add(asyncio.create_task(pump(reader, upstream, wrong=True)))
        serving.add(asyncio.create_task(pump(upstream_reader, writer, wrong=False)))

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    server.close()
    for task in serving:
        task.cancel()
    await asyncio.gather(*serving, return_exceptions=True)


@pytest.mark.parametrize("size", [1000, 7 << 20], ids=["one request", "in parts"])
async def test_a_byte_that_changes_on_the_way_to_the_bucket_is_not_taken(s3: S3Server, size: int) -> None:
    data = b"PRECIOUS" + bytes(size)
    async with changed_on_the_way(s3.endpoint) as way:
        used = open_s3(s3.settings(), endpoint=way)
        with pytest.raises(ports.StoreUnavailableError):
            await used.stage(one(data), limit_bytes=len(data))
        with pytest.raises(ports.StoreUnavailableError):
            await used.put(TENANT, data[:1000])
        await used.close()
    straight = open_s3(s3.settings(), checksums="false")
    assert await straight.head(TENANT, digests.of(data[:1000])) is None
    staged = await straight.stage(one(data), limit_bytes=len(data))  # a server that refuses the header
    assert (await straight.publish(TENANT, staged)).digest == digests.of(data)
    await straight.close()
