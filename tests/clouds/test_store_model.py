"""The model of a store (tests/component/store/storemodel.py) against Azure and Cloud Storage."""

import uuid
from pathlib import Path
from typing import cast

import pytest
from obstore.store import ObjectStore

from tests.clouds.conftest import Cloud
from tests.component.store import storeplaces, test_model


def test_a_cloud_does_what_the_model_does(
    cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # a failing example belongs into the report, not into the checkout

    def place() -> storeplaces.Place:
        prefix = f"model/{uuid.uuid4()}"
        where = cloud.settings() | {"MANIFESTRY_STORE_PREFIX": prefix}
        return storeplaces.Place(where, cast("ObjectStore", cloud.store(prefix)))

    test_model.check(place, test_model.REMOTE)
