"""Collector and scrub (tests/component/artifacts: test_garbage, test_scrub) on Azure and on Cloud Storage."""

import uuid
from collections.abc import AsyncIterator
from typing import cast

import pytest
from obstore.store import ObjectStore

from manifestry.adapters.store import stores
from manifestry.settings import StoreSettings
from tests.clouds import promises
from tests.clouds.conftest import Cloud
from tests.component.artifacts import test_garbage, test_scrub
from tests.component.artifacts.garbageworld import World

OTHERWISE = {
    "test_young_bytes_stay_even_without_a_reference_and_a_mark_is_taken_back": "its grace is one second, "
    "and a time on Azure has whole ones: bytes may look a second older than they are",
}
globals().update(promises.of(test_garbage, "world", OTHERWISE) | promises.of(test_scrub, "world"))


@pytest.fixture
async def world(cloud: Cloud) -> AsyncIterator[World]:
    prefix = f"world-{uuid.uuid4()}"  # what a collector does not know it takes for garbage
    settings = cloud.settings() | {"MANIFESTRY_STORE_PREFIX": prefix, "MANIFESTRY_GC_GRACE_SECONDS": "1"}
    used = stores.open_store(StoreSettings.from_mapping(settings))
    made = World(used, cast("ObjectStore", cloud.store(prefix)))
    assert await made.guard.check()
    yield made
    await used.close()
