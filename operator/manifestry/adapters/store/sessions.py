"""The resumable uploads that the settings describe; `session_ports` says what every store promises."""

from pathlib import Path
from typing import assert_never

from manifestry.adapters.store.contract.ports import Store
from manifestry.adapters.store.contract.session_ports import Sessions
from manifestry.adapters.store.local import room as local_room
from manifestry.adapters.store.local import sessions as local_sessions
from manifestry.adapters.store.remote import buckets
from manifestry.adapters.store.remote import sessions as remote_sessions
from manifestry.settings import StoreSettings


def open_sessions(settings: StoreSettings, objects: Store) -> Sessions:
    """Return the resumable uploads of the store that the settings describe.

    Args:
        settings: those that `objects` was opened with.
        objects: the store.
    """
    timeout_seconds = settings.store_timeout_seconds
    match settings.store_type:
        case "local":
            root = Path(settings.store_path) / settings.store_prefix.strip("/")
            room = local_room.Room(root, settings.store_reserve_bytes)
            return local_sessions.LocalSessions(root, timeout_seconds=timeout_seconds, room=room)
        case "s3" | "gcs" | "azure":
            bucket = buckets.bucket(settings)
            return remote_sessions.RemoteSessions(bucket, objects, timeout_seconds=timeout_seconds)
        case other:
            assert_never(other)
