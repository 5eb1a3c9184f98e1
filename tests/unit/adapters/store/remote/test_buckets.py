"""A bucket's settings that cannot be used are said to be so, by their name and without their value."""

from typing import Literal

import pytest
from pydantic import SecretStr

from manifestry.adapters.store.remote import buckets
from manifestry.settings import SettingsError, StoreSettings

CANARY = "canary-secret"


@pytest.mark.parametrize(
    ("kind", "account", "secret", "endpoint", "named"),
    [
        ("azure", "account", CANARY, "", "MANIFESTRY_STORE_ACCESS_KEY_ID must be .* STORE_SECRET_ACCESS_KEY"),
        ("azure", None, None, "", "MANIFESTRY_STORE_ACCESS_KEY_ID must be the storage account's name"),
        ("azure", "account", None, CANARY, "STORE_ENDPOINT a URL"),
        ("gcs", None, CANARY, "", "MANIFESTRY_STORE_SECRET_ACCESS_KEY .* must be a service account's key"),
        ("gcs", None, f'"{CANARY}"', "", "must be a service account's key in JSON"),
        (
            "gcs",
            None,
            f'{{"private_key": "{CANARY}", "private_key_id": "k", "client_email": "e"}}',
            "",
            "must be a service account's key in JSON",
        ),
    ],
)
def test_what_obstore_refuses_is_said_by_name_and_without_the_value(
    kind: Literal["azure", "gcs"], account: str | None, secret: str | None, endpoint: str, named: str
) -> None:
    settings = StoreSettings(
        store_type=kind,
        store_bucket="bucket",
        store_endpoint=endpoint,
        store_access_key_id=None if account is None else SecretStr(account),
        store_secret_access_key=None if secret is None else SecretStr(secret),
    )
    with pytest.raises(SettingsError, match=named) as caught:
        buckets.connect(settings)
    assert CANARY not in str(caught.value)
    assert caught.value.__suppress_context__


def test_a_local_store_is_no_bucket() -> None:
    with pytest.raises(ValueError, match="must be s3, gcs or azure"):
        buckets.bucket(StoreSettings())
