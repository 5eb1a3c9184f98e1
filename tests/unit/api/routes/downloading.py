"""What tests of payloads on their way out have in common."""

import asyncio
import base64
import contextlib
import hashlib
import io
from pathlib import Path

import pytest

from manifestry.adapters.store.contract import ports as store_ports
from manifestry_api.wire import zerocopy
from tests.unit.api.routes.site import TENANT_UID, Site

DATA = bytes(range(256)) * 40  # 10,240 bytes
DIGEST = f"sha256:{hashlib.sha256(DATA).hexdigest()}"
ETAG = f'"{DIGEST}"'
FIELD = f"sha-256=:{base64.b64encode(hashlib.sha256(DATA).digest()).decode()}:"
PATH = "/artifacts/a/content"
TYPE = {"Content-Type": "application/zip"}
SIZE = len(DATA)
WAYS = ("zerocopy", "stream")


def take(way: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Let the bytes of this test take one of the two ways, and return it."""
    if way == "stream":
        monkeypatch.setattr(zerocopy, "CYCLE_NAMES", frozenset({"nothing has this name"}))
    return way


async def stored(site: Site, data: bytes = DATA) -> store_ports.Blob:
    """Make artifact `a` with some bytes."""
    body = {"name": "a", "mediaType": "application/zip", "fileName": "a.zip", "upload": {}}
    assert (await site.call("POST", "/artifacts", body)).status == 202
    put = await site.call("PUT", PATH, data=io.BytesIO(data), headers=TYPE)
    assert put.status == 202
    blob = store_ports.Blob(f"sha256:{hashlib.sha256(data).hexdigest()}", len(data))
    site.make_ready("a", blob, await site.world.ports.store.put(TENANT_UID, b"{}"))
    return blob


def sent_bytes(site: Site, way: str) -> float:
    found = site.world.ports.instruments.registry.get_sample_value("payload_sent_bytes_total", {"way": way})
    return found or 0.0


def path_of(site: Site, blob: store_ports.Blob) -> Path:
    found = site.world.ports.store.local_path(TENANT_UID, blob.digest)
    assert found is not None
    return found


def open_payloads() -> list[str]:
    """Return the stored files that this process has open."""
    found = []
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            found.append(str(descriptor.readlink()))
    return [path for path in found if "/blobs/" in path]


async def left_open() -> list[str]:
    """Return what is still open a moment later: the client has its last byte before the server has closed."""
    for _ in range(100):
        if not open_payloads():
            break
        await asyncio.sleep(0.02)
    return open_payloads()
