"""Where the model of a store runs, and what it remembers of the store."""

import os
import tempfile
import uuid
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import obstore
from obstore.store import LocalStore as Folder
from obstore.store import ObjectStore, S3Store

from manifestry.adapters.store.contract import ports
from manifestry.core.artifacts import uploads
from manifestry.core.blobs import keys as blob_keys
from tests.seaweed.server import S3Server

Key = tuple[str, str]  # tenant uid, digest


@dataclass
class Place:
    """Where a run's store is, and how to look behind it."""

    settings: Mapping[str, str]
    behind: ObjectStore
    folder: Path | None = None

    def keys(self, prefix: str) -> list[str]:
        """Return what is stored below a prefix."""
        return sorted(item["path"] for page in obstore.list(self.behind, prefix) for item in page)

    def age(self, tenant_uids: Collection[str]) -> None:
        """Make blobs older than any grace period."""
        assert self.folder is not None
        for tenant_uid in tenant_uids:
            for path in (self.folder / blob_keys.tenant(tenant_uid)).rglob("*"):
                if path.is_file():
                    os.utime(path, (1e9, 1e9))


def local_place(root: Path) -> Place:
    """Return a new folder."""
    folder = Path(tempfile.mkdtemp(dir=root))
    behind = cast("ObjectStore", Folder(folder))
    return Place({"MANIFESTRY_STORE_PATH": str(folder)}, behind, folder)


def s3_place(server: S3Server) -> Place:
    """Return a new prefix in the server's bucket."""
    prefix = f"model/{uuid.uuid4()}"
    behind = S3Store(
        server.bucket,
        prefix=prefix,
        endpoint=server.endpoint,
        region=server.region,
        access_key_id=server.access_key,
        secret_access_key=server.secret_key,
        client_options={"allow_http": True},
    )
    return Place({**server.settings(), "MANIFESTRY_STORE_PREFIX": prefix}, cast("ObjectStore", behind))


@dataclass
class Upload:
    """A session as the model knows it.

    Args:
        acknowledged: the last offset that the client was told.
        history: all of them.
        sent: as far as bytes may have come.
        may_be_sealed: a seal was begun; whether it is made, one sees.
        may_be_ended: a seal was begun and killed; perhaps no more bytes may come.
        may_be_gone: an abort was begun.
        may_be_published: publishing was killed; then nothing refers to the bytes, and they may be collected.
    """

    session: uploads.Session
    data: bytes
    acknowledged: int = 0
    history: list[int] = field(default_factory=list)
    sent: int = 0
    is_sealed: bool = False
    may_be_sealed: bool = False
    may_be_ended: bool = False
    is_finished: bool = False
    may_be_finished: bool = False
    may_be_gone: bool = False
    may_be_published: bool = False


@dataclass
class Model:
    """What the store must have."""

    there: dict[Key, bytes] = field(default_factory=dict)
    open: dict[Key, bytes] = field(default_factory=dict)
    staged: list[tuple[ports.Staged, bytes]] = field(default_factory=list)
    references: list[Key] = field(default_factory=list)
    uploads: dict[str, Upload] = field(default_factory=dict)

    def gains(self, key: Key, data: bytes) -> None:
        """A blob is there for sure."""
        self.open.pop(key, None)
        self.there[key] = data

    def loses(self, key: Key) -> None:
        """A blob is gone for sure."""
        self.open.pop(key, None)
        self.there.pop(key, None)

    def doubts(self, key: Key, data: bytes) -> None:
        """A kill has left open whether a blob has come."""
        if key not in self.there:
            self.open[key] = data

    def doubts_removal(self, key: Key) -> None:
        """A kill has left open whether a blob has gone."""
        if key in self.there:
            self.open[key] = self.there.pop(key)
