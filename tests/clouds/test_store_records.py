"""Small records (tests/component/store/test_records.py): one of many wins, on both clouds."""

import uuid
from collections.abc import AsyncIterator

import pytest

from manifestry.adapters.store import stores
from manifestry.adapters.store.contract import ports
from manifestry.settings import StoreSettings
from tests.clouds import promises
from tests.clouds.conftest import Cloud
from tests.component.store import test_records as contract

globals().update(promises.of(contract, "used"))


@pytest.fixture
async def used(cloud: Cloud) -> AsyncIterator[ports.Store]:
    settings = cloud.settings() | {"MANIFESTRY_STORE_PREFIX": f"records-{uuid.uuid4()}"}
    opened = stores.open_store(StoreSettings.from_mapping(settings))
    yield opened
    await opened.close()
