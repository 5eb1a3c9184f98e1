"""The store's promises (tests/component/store/test_stores.py), kept by Azure and by Cloud Storage."""

import uuid
from collections.abc import AsyncIterator
from typing import cast

import pytest
from obstore.store import ObjectStore

from manifestry.adapters.store import stores
from manifestry.settings import StoreSettings
from tests.clouds import promises
from tests.clouds.conftest import Cloud
from tests.component.store import test_stores as contract

tenant = contract.tenant
globals().update(promises.of(contract, "place"))


@pytest.fixture
async def place(cloud: Cloud) -> AsyncIterator[contract.Place]:
    prefix = f"store/{uuid.uuid4()}"
    settings = cloud.settings() | {"MANIFESTRY_STORE_PREFIX": prefix}
    opened = stores.open_store(StoreSettings.from_mapping(settings))
    yield contract.Place(opened, settings, cast("ObjectStore", cloud.store(prefix)))
    await opened.close()
