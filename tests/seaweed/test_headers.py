"""What a bucket's own server says about our bytes: nothing that makes a browser show them."""

import asyncio
import urllib.request
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from email.message import Message

import pytest

from manifestry.adapters.store import stores
from manifestry.adapters.store.contract import ports
from manifestry.adapters.store.remote import blobs, sessions
from manifestry.core.artifacts import uploads
from manifestry.settings import StoreSettings
from tests.seaweed.server import S3Server

TENANT = "0a1b2c3d-0000-4000-8000-00000000000f"
PAGE = b"<html><script>alert(1)</script></html>"


@pytest.fixture
async def opened(s3: S3Server) -> AsyncIterator[blobs.RemoteStore]:
    settings = s3.settings() | {"MANIFESTRY_STORE_PREFIX": f"headers/{uuid.uuid4()}"}
    found = stores.open_store(StoreSettings.from_mapping(settings))
    assert isinstance(found, blobs.RemoteStore)
    yield found
    await found.close()


async def chunks(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


async def put(used: blobs.RemoteStore) -> ports.Blob:
    return await used.put(TENANT, PAGE)


async def put_anew(used: blobs.RemoteStore) -> ports.Blob:
    used._refresh_after = timedelta(seconds=-1)
    await used.put(TENANT, PAGE)
    return await used.put(TENANT, PAGE)


async def staged(used: blobs.RemoteStore) -> ports.Blob:
    return await used.publish(TENANT, await used.stage(chunks(PAGE), limit_bytes=100))


async def staged_large(used: blobs.RemoteStore) -> ports.Blob:
    pieces = [PAGE, *(bytes(1 << 20) for _ in range(11))]
    return await used.publish(TENANT, await used.stage(chunks(*pieces), limit_bytes=1 << 30))


async def staged_empty(used: blobs.RemoteStore) -> ports.Blob:
    return await used.publish(TENANT, await used.stage(chunks(), limit_bytes=100))


async def published_again(used: blobs.RemoteStore) -> ports.Blob:
    used._refresh_after = timedelta(seconds=-1)
    first = await used.stage(chunks(PAGE), limit_bytes=100)
    await used.publish(TENANT, first)
    await used.publish(TENANT, await used.stage(chunks(PAGE), limit_bytes=100))
    return await used.publish(TENANT, first)  # its staged bytes are gone: there and back


async def session_of(used: blobs.RemoteStore, *pieces: bytes) -> ports.Blob:
    found = sessions.RemoteSessions(used._bucket, used, timeout_seconds=10)
    wanted = uploads.Session(str(uuid.uuid4()), TENANT, "team", "a", str(uuid.uuid4()))
    session = await found.create(wanted, limit=10)
    offset = 0
    for piece in pieces:
        offset = await found.append(session, offset, chunks(piece), limit_bytes=1 << 30)
    return await used.publish(TENANT, await found.seal(session))


async def session_of_one_piece(used: blobs.RemoteStore) -> ports.Blob:
    return await session_of(used, PAGE)


async def session_of_pieces(used: blobs.RemoteStore) -> ports.Blob:
    return await session_of(used, PAGE, PAGE)


WAYS: list[Callable[[blobs.RemoteStore], Awaitable[ports.Blob]]] = [
    put,
    put_anew,
    staged,
    staged_large,
    staged_empty,
    published_again,
    session_of_one_piece,
    session_of_pieces,
]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
async def test_a_signed_link_is_answered_with_bytes_to_save(
    opened: blobs.RemoteStore, way: Callable[[blobs.RemoteStore], Awaitable[ports.Blob]]
) -> None:
    blob = await way(opened)
    link = await opened.link(TENANT, blob.digest, 60)
    assert link is not None
    check(await asyncio.to_thread(headers_of, link), blob)


def check(headers: Message, blob: ports.Blob) -> None:
    assert headers["Content-Length"] == str(blob.size_bytes)
    assert headers["Content-Type"] == "application/octet-stream"
    assert headers["Content-Disposition"] == "attachment"
    assert headers["Cache-Control"] == "private, no-cache"


def headers_of(link: str) -> Message:
    with urllib.request.urlopen(link, timeout=10) as answer:
        found: Message = answer.headers
        return found
