"""What resumable uploads promise (tests/component/store), kept by Azure and by Cloud Storage."""

import uuid
from collections.abc import AsyncIterator
from typing import cast

import pytest
from obstore.store import ObjectStore

from manifestry.adapters.store import sessions, stores
from manifestry.settings import StoreSettings
from tests.clouds import promises
from tests.clouds.conftest import Cloud
from tests.component.store import test_session_bytes, test_session_listing
from tests.component.store import test_sessions as contract

tenant = contract.tenant
globals().update(promises.of(contract, "place"))
globals().update(promises.of(test_session_bytes, "place"))
globals().update(promises.of(test_session_listing, "place"))


@pytest.fixture
async def place(cloud: Cloud) -> AsyncIterator[contract.Place]:
    prefix = f"sessions/{uuid.uuid4()}"
    settings = cloud.settings() | {"MANIFESTRY_STORE_PREFIX": prefix}
    parsed = StoreSettings.from_mapping(settings)
    objects = stores.open_store(parsed)
    used = sessions.open_sessions(parsed, objects)
    yield contract.Place(used, objects, settings, cast("ObjectStore", cloud.store(prefix)))
    await used.close()
    await objects.close()
