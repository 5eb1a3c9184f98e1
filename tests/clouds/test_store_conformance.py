"""Both clouds pass what each process tries at its start, and have one owner."""

import uuid
from collections.abc import AsyncIterator
from typing import cast

import pytest
from obstore.store import ObjectStore

from manifestry.adapters.store import stores
from manifestry.adapters.store.contract import ports
from manifestry.settings import StoreSettings
from tests.clouds.conftest import Cloud
from tests.component.artifacts.garbageworld import Cluster, World


@pytest.fixture
async def world(cloud: Cloud) -> AsyncIterator[World]:
    prefix = f"world-{uuid.uuid4()}"
    used = stores.open_store(
        StoreSettings.from_mapping(cloud.settings() | {"MANIFESTRY_STORE_PREFIX": prefix})
    )
    yield World(used, cast("ObjectStore", cloud.store(prefix)))
    await used.close()


async def test_a_cloud_passes_and_nothing_is_left(world: World) -> None:
    assert [await world.raw.examine(removals=each) for each in (False, True)] == ["", ""]
    assert world.keys("canary/") == []


async def test_a_store_in_a_cloud_has_one_owner(world: World) -> None:
    assert await world.guard.check()
    other = World(world.raw, world.behind, Cluster("another-cluster"))
    assert not await other.guard.check()
    with pytest.raises(ports.StoreRefusedError, match="another cluster"):
        await other.store.put(other.uid, b"x")
    assert await world.guard.check()
