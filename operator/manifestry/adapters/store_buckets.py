"""Buckets of S3, Google Cloud Storage and Azure, as the settings and the usual environment describe them."""

from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from obstore.store import AzureStore, GCSStore, S3Store

from manifestry.adapters import store_links, store_remote
from manifestry.settings import StoreSettings

if TYPE_CHECKING:
    from obstore.store import ObjectStore

RETRIES: Final = 3


def connect(settings: StoreSettings) -> store_remote.RemoteStore:
    """Return the store that the settings describe; nothing is sent yet.

    Credentials that are not in the settings come from the usual environment: IRSA, workload identity,
    instance metadata.

    References: obstore's `S3Config`, `GCSConfig`, `AzureConfig`.
    """
    client = bucket(settings)
    return store_remote.RemoteStore(
        client,
        timeout_seconds=settings.store_timeout_seconds,
        refresh_after=timedelta(seconds=settings.gc_grace_seconds / 2),
        signer=store_links.Signer(client, settings),
    )


def bucket(settings: StoreSettings) -> "ObjectStore":
    """Return obstore's client of the bucket; nothing is sent yet."""
    timeout = timedelta(seconds=settings.store_timeout_seconds)
    copying = timedelta(seconds=store_remote.COPY_MAX_BYTES / store_remote.COPY_BYTES_PER_SECOND)
    common: dict[str, Any] = {
        "prefix": settings.store_prefix or None,
        "client_options": {
            "allow_http": settings.store_allow_http,
            "connect_timeout": min(timeout, timedelta(seconds=5)),
            "timeout": timeout + copying,  # `_call` is the strict one, this one is behind it
        },
        "retry_config": {"max_retries": RETRIES, "retry_timeout": timeout},
    }
    match settings.store_type:
        case "s3":
            return S3Store(settings.store_bucket, **_s3(settings), **common)
        case "gcs":
            return GCSStore(settings.store_bucket, **common)
        case "azure":
            return AzureStore(settings.store_bucket, **_azure(settings), **common)
        case "local":
            raise ValueError("`store_type` must be s3, gcs or azure")


def _s3(settings: StoreSettings) -> dict[str, Any]:
    return {
        "region": settings.store_region,
        "copy_if_not_exists": "multipart",
        **_given("endpoint", settings.store_endpoint),
        **_secret("access_key_id", settings.store_access_key_id),
        **_secret("secret_access_key", settings.store_secret_access_key),
    }


def _azure(settings: StoreSettings) -> dict[str, Any]:
    return {
        **_given("endpoint", settings.store_endpoint),
        **_secret("account_name", settings.store_access_key_id),
        **_secret("account_key", settings.store_secret_access_key),
    }


def _given(name: str, value: str) -> dict[str, str]:
    return {name: value} if value else {}


def _secret(name: str, value: Any) -> dict[str, str]:
    return {} if value is None else {name: value.get_secret_value()}
