"""Small records (tests/component/test_store_records.py): one of many wins, on both clouds."""

import uuid
from collections.abc import AsyncIterator

import pytest

from manifestry.adapters import store
from manifestry.settings import StoreSettings
from tests.clouds import promises
from tests.clouds.conftest import Cloud
from tests.component import test_store_records as contract

globals().update(promises.of(contract, "used"))


@pytest.fixture
async def used(cloud: Cloud) -> AsyncIterator[store.Store]:
    settings = cloud.settings() | {"MANIFESTRY_STORE_PREFIX": f"records-{uuid.uuid4()}"}
    opened = store.open_store(StoreSettings.from_mapping(settings))
    yield opened
    await opened.close()
