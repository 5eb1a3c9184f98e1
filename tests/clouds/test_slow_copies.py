"""A copy of Azure's that ends after its answer: nothing is said to be stored, or removed, before."""

import asyncio
import uuid

import pytest

from manifestry.adapters.store import inventory, stores
from manifestry.adapters.store.contract import holds, ports
from manifestry.core.blobs import garbagekeys
from manifestry.settings import StoreSettings
from tests.clouds.azurite import Azurite
from tests.clouds.slow_copies import SlowCopies
from tests.component.store.test_remote import one

SECONDS = 0.5
DATA = bytes(range(256)) * 40


def opened(slow: SlowCopies, **changes: str) -> ports.Store:
    changed = {f"MANIFESTRY_{name}": value for name, value in changes.items()}
    changed["MANIFESTRY_STORE_PREFIX"] = f"slow/{uuid.uuid4()}"
    return stores.open_store(StoreSettings.from_mapping(slow.settings | changed))


async def staged(used: ports.Store) -> ports.Staged:
    return await used.stage(one(DATA), limit_bytes=len(DATA))


async def test_a_payload_is_published_when_its_copy_has_ended(azure: Azurite) -> None:
    async with SlowCopies(azure, SECONDS) as slow:
        used, tenant = opened(slow), str(uuid.uuid4())
        blob = await used.publish(tenant, await staged(used))
        assert await used.read(tenant, blob.digest, limit_bytes=len(DATA)) == DATA


async def test_a_blob_that_is_made_new_keeps_its_bytes(
    azure: Azurite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(holds, "WAIT_SECONDS", 4.0)
    async with SlowCopies(azure, SECONDS) as slow:
        used, tenant = opened(slow, GC_GRACE_SECONDS="6"), str(uuid.uuid4())
        first = await staged(used)
        blob = await used.publish(tenant, first)
        await asyncio.sleep(4.1)  # older than half the grace, in whole seconds
        assert await used.publish(tenant, first) == blob  # what was staged is gone: the blob itself is copied
        await asyncio.sleep(2 * SECONDS)
        assert await used.read(tenant, blob.digest, limit_bytes=len(DATA)) == DATA


async def test_bytes_that_are_set_aside_are_all_there(azure: Azurite) -> None:
    async with SlowCopies(azure, SECONDS) as slow:
        used, tenant = opened(slow), str(uuid.uuid4())
        blob = await used.publish(tenant, await staged(used))
        found = inventory.Inventory(used)
        seen = await found.blob(tenant, blob.digest)
        assert seen is not None
        assert await found.quarantine(tenant, seen)
        assert await used.head(tenant, blob.digest) is None
        await asyncio.sleep(2 * SECONDS)
        aside = garbagekeys.quarantine(tenant, blob.digest)
        assert await used.records().read(aside, limit_bytes=len(DATA)) == DATA
        await used.close()
