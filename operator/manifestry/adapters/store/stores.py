"""The object store, as the shells import it; `store_port` says what both kinds of store promise."""

from pathlib import Path
from typing import assert_never

from manifestry.adapters import store_buckets, store_local
from manifestry.adapters.store_port import (
    BATCH_BYTES,
    PUT_MAX_BYTES,
    Blob,
    BlobDamagedError,
    BlobNotFoundError,
    Chunk,
    Payload,
    Staged,
    Store,
    StoreError,
    StoreFullError,
    StoreUnavailableError,
    TooLargeError,
)
from manifestry.settings import StoreSettings

__all__ = [
    "BATCH_BYTES",
    "PUT_MAX_BYTES",
    "Blob",
    "BlobDamagedError",
    "BlobNotFoundError",
    "Chunk",
    "Payload",
    "Staged",
    "Store",
    "StoreError",
    "StoreFullError",
    "StoreUnavailableError",
    "TooLargeError",
    "open_store",
]


def open_store(settings: StoreSettings) -> Store:
    """Return the store that the settings describe; `canary` tells whether it works."""
    match settings.store_type:
        case "local":
            root = Path(settings.store_path) / settings.store_prefix.strip("/")
            return store_local.LocalStore(root, timeout_seconds=settings.store_timeout_seconds)
        case "s3" | "gcs" | "azure":
            return store_buckets.connect(settings)
        case other:
            assert_never(other)
