"""Resumable uploads, as the shells import them; `sessions_port` says what both kinds of store promise."""

from pathlib import Path
from typing import assert_never

from manifestry.adapters import sessions_local, sessions_remote, store_buckets
from manifestry.adapters.sessions_port import (
    OffsetError,
    SessionLimitError,
    SessionNotFoundError,
    Sessions,
)
from manifestry.adapters.store_port import Store
from manifestry.settings import StoreSettings

__all__ = ["OffsetError", "SessionLimitError", "SessionNotFoundError", "Sessions", "open_sessions"]


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
            return sessions_local.LocalSessions(root, timeout_seconds=timeout_seconds)
        case "s3" | "gcs" | "azure":
            bucket = store_buckets.bucket(settings)
            return sessions_remote.RemoteSessions(bucket, objects, timeout_seconds=timeout_seconds)
        case other:
            assert_never(other)
