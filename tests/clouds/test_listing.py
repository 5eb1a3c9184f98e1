"""What the collector asks of a listing: to go on after a key.

Azurite 3.35.0 ignores List Blobs' `startFrom`, on which obstore 0.12.1 relies: the keys before it come again.
"""

import uuid

from manifestry.adapters.store import stores
from manifestry.settings import StoreSettings
from tests.clouds.conftest import Cloud


async def test_a_listing_in_pages_has_each_key_once(cloud: Cloud) -> None:
    prefix = f"listing/{uuid.uuid4()}"
    settings = StoreSettings.from_mapping(cloud.settings() | {"MANIFESTRY_STORE_PREFIX": prefix})
    records = stores.open_store(settings).records()
    keys = [f"t/{number:02}" for number in range(10)]
    for key in keys:
        await records.write(key, b"x")
    await records.write("u/00", b"x")
    listed: list[str] = []
    for _ in range(4):
        page = await records.scan("t", after=listed[-1] if listed else "", limit=4)
        listed += [item.key for item in page]
    assert listed == keys
    assert await records.scan("t", after=keys[-1]) == []
    assert [item.key for item in await records.scan("t", after="t/035")] == keys[4:]


async def test_folders_are_named_once(cloud: Cloud) -> None:
    prefix = f"listing/{uuid.uuid4()}"
    settings = StoreSettings.from_mapping(cloud.settings() | {"MANIFESTRY_STORE_PREFIX": prefix})
    records = stores.open_store(settings).records()
    for key in ("t/a/1", "t/a/2", "t/b/c/3", "t/file", "tt/z/1"):
        await records.write(key, b"x")
    assert await records.folders("t") == ["a", "b"]
