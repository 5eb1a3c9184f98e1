"""What Azure's own server says about our bytes; that of Cloud Storage in these tests keeps no headers."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from manifestry.adapters.store import stores
from manifestry.adapters.store.contract import ports
from manifestry.adapters.store.remote import blobs
from manifestry.settings import StoreSettings
from tests.clouds.conftest import Cloud
from tests.seaweed import test_headers as s3_headers


@pytest.fixture
async def opened(azure: Cloud) -> AsyncIterator[blobs.RemoteStore]:
    settings = azure.settings() | {"MANIFESTRY_STORE_PREFIX": f"headers/{uuid.uuid4()}"}
    found = stores.open_store(StoreSettings.from_mapping(settings))
    assert isinstance(found, blobs.RemoteStore)
    yield found
    await found.close()


@pytest.mark.parametrize("way", s3_headers.WAYS, ids=lambda way: way.__name__)
async def test_a_signed_link_is_answered_with_bytes_to_save(
    opened: blobs.RemoteStore, way: Callable[[blobs.RemoteStore], Awaitable[ports.Blob]]
) -> None:
    blob = await way(opened)
    link = await opened.link(s3_headers.TENANT, blob.digest, 60)
    assert link is not None
    headers = await asyncio.to_thread(s3_headers.headers_of, link)
    s3_headers.check(headers, blob)
