"""Buckets of S3, Google Cloud Storage and Azure, as the settings and the usual environment describe them."""

from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from obstore import exceptions as obstore_errors
from obstore.store import AzureStore, GCSStore, S3Store

from manifestry.adapters.store.remote import blobs, deletes, links
from manifestry.settings import PREFIX, SettingsError, StoreSettings

if TYPE_CHECKING:
    from obstore.store import ObjectStore

RETRIES: Final = 3
# What obstore refuses it shows, and that may be a key: so its own words are not passed on.
_WRONG: Final = {
    "s3": "STORE_ENDPOINT, or an AWS_* variable, does not describe a bucket",
    "gcs": "STORE_SECRET_ACCESS_KEY (or the file of GOOGLE_APPLICATION_CREDENTIALS) must be a service "
    "account's key in JSON, STORE_ENDPOINT a URL",
    "azure": "STORE_ACCESS_KEY_ID must be the storage account's name, STORE_SECRET_ACCESS_KEY one of its "
    "keys in base64, STORE_ENDPOINT a URL",
}


def connect(settings: StoreSettings) -> blobs.RemoteStore:
    """Return the store that the settings describe; nothing is sent yet.

    Credentials that are not in the settings come from the usual environment: IRSA, workload identity,
    instance metadata.

    Raises:
        SettingsError: they cannot be used.

    References: obstore's `S3Config`, `GCSConfig`, `AzureConfig`.
    """
    client = bucket(settings)
    return blobs.RemoteStore(
        client,
        timeout_seconds=settings.store_timeout_seconds,
        refresh_after=timedelta(seconds=settings.gc_grace_seconds / 2),
        signer=links.Signer(client, settings) if _can_sign(settings) else None,
        deletes=deletes.Deletes(client, settings) if _can_sign(settings) else None,
    )


def bucket(settings: StoreSettings) -> "ObjectStore":
    """Return obstore's client of the bucket; nothing is sent yet.

    Raises:
        SettingsError: the settings, or the environment beside them, cannot be used.
    """
    try:
        return _bucket(settings, _common(settings))
    except obstore_errors.BaseError:
        raise SettingsError(f"{PREFIX}{_WRONG[settings.store_type]}") from None


def _bucket(settings: StoreSettings, common: dict[str, Any]) -> "ObjectStore":
    match settings.store_type:
        case "s3":
            return S3Store(settings.store_bucket, **_s3(settings), **common)
        case "gcs":
            return GCSStore(settings.store_bucket, **_gcs(settings), **common)
        case "azure":
            return AzureStore(settings.store_bucket, **_azure(settings), **common)
        case "local":
            raise ValueError("`store_type` must be s3, gcs or azure")


def _common(settings: StoreSettings) -> dict[str, Any]:
    timeout = timedelta(seconds=settings.store_timeout_seconds)
    copying = timedelta(seconds=blobs.COPY_MAX_BYTES / blobs.COPY_BYTES_PER_SECOND)
    return {
        "prefix": settings.store_prefix or None,
        "client_options": {
            "allow_http": settings.store_allow_http,
            "connect_timeout": min(timeout, timedelta(seconds=5)),
            "timeout": timeout + copying,  # `_call` is the strict one, this one is behind it
        },
        "retry_config": {"max_retries": RETRIES, "retry_timeout": timeout},
    }


def _can_sign(settings: StoreSettings) -> bool:
    """Tell whether what obstore signs, links and removals, is good.

    For Cloud Storage it signs the host storage.googleapis.com, whatever host the link leads to.
    """
    return settings.store_type != "gcs" or not settings.store_endpoint


def _s3(settings: StoreSettings) -> dict[str, Any]:
    return {
        "region": settings.store_region,
        **_given("checksum_algorithm", "SHA256" if settings.store_checksums else ""),
        **_given("endpoint", settings.store_endpoint),
        **_secret("access_key_id", settings.store_access_key_id),
        **_secret("secret_access_key", settings.store_secret_access_key),
    }


def _gcs(settings: StoreSettings) -> dict[str, Any]:
    return {
        **_given("base_url", settings.store_endpoint),
        **_secret("service_account_key", settings.store_secret_access_key),
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
