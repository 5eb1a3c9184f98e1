"""The object store that the settings describe; `ports` says what every kind of store promises."""

from pathlib import Path
from typing import assert_never

from manifestry.adapters.store.contract.ports import Store
from manifestry.adapters.store.local import blobs
from manifestry.adapters.store.local import room as local_room
from manifestry.adapters.store.remote import buckets
from manifestry.settings import StoreSettings


def open_store(settings: StoreSettings) -> Store:
    """Return the store that the settings describe; `canary` tells whether it works."""
    match settings.store_type:
        case "local":
            root = Path(settings.store_path) / settings.store_prefix.strip("/")
            room = local_room.Room(root, settings.store_reserve_bytes)
            return blobs.LocalStore(root, timeout_seconds=settings.store_timeout_seconds, room=room)
        case "s3" | "gcs" | "azure":
            return buckets.connect(settings)
        case other:
            assert_never(other)
