"""Small bytes that are put once more are there afterwards, whatever was stored under their digest."""

import os
from pathlib import Path
from typing import cast

import obstore
import pytest
from obstore.store import LocalStore as Folder
from obstore.store import ObjectStore

from manifestry.adapters.store import stores
from manifestry.adapters.store.contract import ports
from manifestry.core.blobs import digests, keys
from manifestry.settings import StoreSettings
from tests.seaweed.server import S3Server

TENANT = "0a1b2c3d-0000-4000-8000-00000000000f"
DATA = b"a manifest"


@pytest.mark.parametrize("kind", ["local", "s3"])
@pytest.mark.parametrize("found", [DATA[::-1], b"", DATA + b"more"])
async def test_damaged_bytes_are_written_anew(
    request: pytest.FixtureRequest, tmp_path: Path, kind: str, found: bytes
) -> None:
    settings, behind = {"MANIFESTRY_STORE_PATH": str(tmp_path)}, cast("ObjectStore", Folder(tmp_path))
    if kind == "s3":
        server: S3Server = request.getfixturevalue("s3")
        settings, behind = server.settings(), server.store()
    used = stores.open_store(StoreSettings.from_mapping(settings))
    blob = await used.put(TENANT, DATA)
    obstore.put(behind, keys.blob(TENANT, blob.digest), found)
    assert await used.put(TENANT, DATA) == blob
    assert await used.read(TENANT, blob.digest, limit_bytes=len(DATA)) == DATA
    assert await used.put(TENANT, b"") == ports.Blob(digests.of(b""), 0)
    assert await used.put(TENANT, b"") == ports.Blob(digests.of(b""), 0)
    await used.close()


async def test_a_name_that_another_has_made_is_durable_before_it_is_relied_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used = stores.open_store(StoreSettings(store_path=str(tmp_path)))
    blob = await used.put(TENANT, DATA)
    folder = (tmp_path / keys.blob(TENANT, blob.digest)).parent
    synced = []
    sync = os.fsync

    def note(fd: int) -> None:
        synced.append(str(Path(f"/proc/self/fd/{fd}").readlink()))
        sync(fd)

    monkeypatch.setattr(os, "fsync", note)
    await used.put(TENANT, DATA)
    assert str(folder) in synced
    await used.close()
