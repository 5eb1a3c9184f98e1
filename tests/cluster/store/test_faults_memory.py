"""A payload of 1 GiB passes through the facade in a memory that does not grow with it."""

import hashlib
import http.client
import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.store.inventory import MEDIA_TYPE
from tests.controlplane.controlplane import ControlPlane
from tests.controlplane.processes import FacadeProcess
from tests.controlplane.tenants import Tenant
from tests.e2e.rest import Rest
from tests.e2e.teams import Team

MIB = 1 << 20
GIB = 1 << 30
RISE_BYTES = 64 * MIB  # what the issue allows; the stores' own bounds are below 32 MiB


def payload(size_bytes: int) -> Iterator[bytes]:
    """Yield bytes that neither repeat nor take long to make."""
    block = bytearray(range(256)) * (MIB // 256)
    for number in range(size_bytes // MIB):
        block[:8] = number.to_bytes(8, "big")
        yield bytes(block)


def digest(pieces: Iterator[bytes]) -> str:
    """Return the digest of what comes."""
    sha256 = hashlib.sha256()
    for piece in pieces:
        sha256.update(piece)
    return sha256.hexdigest()


class Memory:
    """The resident memory of a process, and by how much its peak has risen since."""

    def __init__(self, pid: int) -> None:
        self._folder = Path(f"/proc/{pid}")
        (self._folder / "clear_refs").write_text("5")  # the peak begins anew
        self._before = self._peak()

    def _peak(self) -> int:
        lines = (self._folder / "status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) << 10

    def rise(self) -> int:
        """Return the rise in bytes."""
        return self._peak() - self._before


def put(rest: Rest, name: str, size_bytes: int, *, length: bool) -> None:
    made = rest.call("POST", "/artifacts", {"name": name, "mediaType": MEDIA_TYPE, "upload": {}})
    assert made.status in {201, 202}, made.data
    connection = http.client.HTTPConnection(rest.base_url.removeprefix("http://"), timeout=120)
    headers = {**rest.headers, "Content-Type": MEDIA_TYPE, "Prefer": "wait=30"}
    headers |= {"Content-Length": str(size_bytes)} if length else {"Transfer-Encoding": "chunked"}
    path = f"/artifacts/{name}/content"
    connection.request("PUT", path, payload(size_bytes), headers, encode_chunked=not length)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    assert answer.status == 200, body
    assert json.loads(body)["digest"] == f"sha256:{digest(payload(size_bytes))}"


@pytest.fixture(params=["local", "s3"])
def env(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[dict[str, str]]:
    if request.param == "s3":
        yield request.getfixturevalue("s3").apart()
    else:
        yield {"MANIFESTRY_STORE_PATH": str(tmp_path / "store")}
        shutil.rmtree(tmp_path / "store", ignore_errors=True)  # pytest would keep the last three


def test_one_gibibyte_in_and_out(
    control_plane: ControlPlane,
    tenant: Tenant,
    env: dict[str, str],
    start_operator: Callable[..., Any],
    start_facade: Callable[..., FacadeProcess],
) -> None:
    is_local = "MANIFESTRY_STORE_PATH" in env
    start_operator(control_plane, env=env)
    facade = start_facade(control_plane, env=env)
    facade.wait_complete()
    rest = Team(tenant, control_plane, facade.base_url).caller("publisher")
    put(rest, "warm", 8 * MIB, length=True)
    assert digest(rest.stream("/artifacts/warm/content")) == digest(payload(8 * MIB))
    memory, began = Memory(facade.pid), time.monotonic()
    put(rest, "large", GIB, length=is_local)
    up, rise_up = time.monotonic() - began, memory.rise()
    assert digest(rest.stream("/artifacts/large/content")) == digest(payload(GIB))
    down, rise_down = time.monotonic() - began - up, memory.rise()
    sys.stdout.write(
        f"up {up:.1f} s, +{rise_up / MIB:.1f} MiB; down {down:.1f} s, +{rise_down / MIB:.1f} MiB\n"
    )
    assert rise_up <= RISE_BYTES
    assert rise_down <= RISE_BYTES
