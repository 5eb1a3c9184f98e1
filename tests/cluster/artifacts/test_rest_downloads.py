"""Downloads from real processes: by the kernel from a local volume, in windows or by a link from a bucket.

Each test has an operator of its own, for only one can lead, and it must know the store.
"""

import hashlib
import os
import re
import socket
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.cluster import rest
from tests.controlplane.controlplane import ControlPlane
from tests.controlplane.processes import FacadeProcess
from tests.controlplane.tenants import Tenant
from tests.e2e.rest import Rest
from tests.e2e.teams import Team
from tests.seaweed.server import S3Server

MIB = 1 << 20
DATA = os.urandom(48 * MIB)
PATH = "/artifacts/big/content"


@pytest.fixture
def local(control_plane: ControlPlane, tmp_path: Path) -> Iterator[rest.Installation]:
    with rest.installed(control_plane, tmp_path) as found:
        yield found


@pytest.fixture
def bucket(control_plane: ControlPlane, s3: S3Server, tmp_path: Path) -> Iterator[rest.Installation]:
    with rest.installed(control_plane, tmp_path, **s3.apart()) as found:
        yield found


def uploaded(team: Team) -> Rest:
    caller = team.caller("publisher")
    body = {"name": "big", "mediaType": "application/zip", "upload": {}}
    assert caller.call("POST", "/artifacts", body).status == 202
    headers = {"Content-Type": "application/zip", "Prefer": "wait=30"}
    stored = caller.call("PUT", PATH, data=DATA, headers=headers)
    assert (stored.status, stored.json["status"]) == (200, "ready"), stored.data
    return caller


def sent_bytes(facade: FacadeProcess, way: str) -> float:
    text = urllib.request.urlopen(f"{facade.base_url}/metrics").read().decode()
    found = re.search(rf'^payload_sent_bytes_total{{way="{way}"}} (\S+)$', text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def peak_bytes(facade: FacadeProcess) -> int:
    status = Path(f"/proc/{facade.pid}/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found
    return int(found[1]) << 10


def open_files(facade: FacadeProcess) -> int:
    return len(list(Path(f"/proc/{facade.pid}/fd").iterdir()))


def begun(caller: Rest, count: int) -> list[socket.socket]:
    """Begin downloads and read no more than their first bytes."""
    url = urlsplit(caller.base_url)
    lines = [f"GET {PATH} HTTP/1.1", f"Host: {url.netloc}", *(f"{k}: {v}" for k, v in caller.headers.items())]
    clients = []
    for _ in range(count):
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        client.settimeout(30)
        client.connect((str(url.hostname), url.port))
        client.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
        assert client.recv(12, socket.MSG_WAITALL) == b"HTTP/1.1 200"
        clients.append(client)
    return clients


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_local_payload_leaves_by_the_kernel(local: rest.Installation, tenant: Tenant) -> None:
    caller = uploaded(local.team(tenant))
    before, peak = sent_bytes(local.facade, "zerocopy"), peak_bytes(local.facade)
    with ThreadPoolExecutor(8) as pool:
        digests = set(pool.map(lambda _: hashlib.sha256(b"".join(caller.stream(PATH))).hexdigest(), range(8)))
    assert digests == {hashlib.sha256(DATA).hexdigest()}
    assert sent_bytes(local.facade, "zerocopy") - before == 8 * len(DATA)
    assert peak_bytes(local.facade) - peak < 32 * MIB
    part = caller.call("GET", PATH, headers={"Range": f"bytes={7 * MIB}-{30 * MIB}"})
    assert (part.status, part.data) == (206, DATA[7 * MIB : 30 * MIB + 1])
    several = caller.call("GET", PATH, headers={"Range": "bytes=0-9,5000000-5999999,-7"})
    assert several.status == 206
    assert several.headers["content-type"].startswith("multipart/byteranges; boundary=")
    assert all(piece in several.data for piece in (DATA[:10], DATA[5_000_000:6_000_000], DATA[-7:]))
    wanted = 8 * len(DATA) + 23 * MIB + 1 + 10 + 1_000_000 + 7
    assert sent_bytes(local.facade, "zerocopy") - before == wanted


def test_clients_that_leave_or_stop_reading_cost_nothing(local: rest.Installation, tenant: Tenant) -> None:
    caller = uploaded(local.team(tenant))
    caller.call("GET", PATH, headers={"Range": "bytes=0-1"})
    files, peak = open_files(local.facade), peak_bytes(local.facade)
    clients = begun(caller, 32)
    assert open_files(local.facade) >= files + 32
    assert caller.call("GET", PATH, headers={"Range": "bytes=5-9"}).data == DATA[5:10]
    for client in clients:
        client.close()
    until(lambda: open_files(local.facade) <= files + 2)
    assert peak_bytes(local.facade) - peak < 32 * MIB
    assert "Traceback" not in local.facade.log_path.read_text()


def test_a_payload_in_a_bucket_comes_in_windows_at_the_clients_pace(
    bucket: rest.Installation, tenant: Tenant
) -> None:
    caller = uploaded(bucket.team(tenant))
    assert b"".join(caller.stream(PATH)) == DATA
    part = caller.call("GET", PATH, headers={"Range": f"bytes={3 * MIB - 1}-{9 * MIB}"})
    assert part.data == DATA[3 * MIB - 1 : 9 * MIB + 1]
    several = caller.call("GET", PATH, headers={"Range": "bytes=0-9,5000000-5999999"})
    assert DATA[5_000_000:6_000_000] in several.data
    assert sent_bytes(bucket.facade, "zerocopy") == 0
    assert sent_bytes(bucket.facade, "stream") >= len(DATA)
    peak = peak_bytes(bucket.facade)
    clients = begun(caller, 8)
    time.sleep(2)  # long enough to read all 384 MiB into memory
    assert peak_bytes(bucket.facade) - peak < 8 * 8 * MIB  # two windows each, and what is on its way
    for client in clients:
        client.close()
    assert caller.call("GET", PATH, headers={"Range": "bytes=5-9"}).data == DATA[5:10]


def test_a_payload_in_a_bucket_may_be_fetched_from_there(
    control_plane: ControlPlane, s3: S3Server, tmp_path: Path, tenant: Tenant
) -> None:
    env = {**s3.apart(), "MANIFESTRY_DOWNLOAD_REDIRECT": "true"}
    with rest.installed(control_plane, tmp_path, **env) as product:
        caller = uploaded(product.team(tenant))
        answer = caller.call("GET", PATH)
        assert (answer.status, answer.data) == (307, b"")
        assert answer.headers["location"].startswith(s3.endpoint + "/")
        with urllib.request.urlopen(answer.headers["location"]) as served:
            assert served.read() == DATA
            assert served.headers["Content-Type"] == "application/octet-stream"
            assert served.headers["Content-Disposition"] == "attachment"
        head = caller.call("HEAD", PATH)
        assert (head.status, head.headers["content-length"]) == (200, str(len(DATA)))
        assert caller.call("GET", PATH, headers={"If-None-Match": head.headers["etag"]}).status == 304
        assert "payload_redirects_total 1.0" in (
            urllib.request.urlopen(f"{product.facade.base_url}/metrics").read().decode()
        )
