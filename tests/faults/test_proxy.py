"""Prove the faults: each does what its name says, at once, and ends without a trace."""

import http.client
import http.server
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults import smalldisk
from tests.faults.plugin import MakeProxy
from tests.faults.proxy import NONE, Fault, FaultProxy


class _Echo(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._say(b"x" * 200_000)

    def do_PUT(self) -> None:
        self._say(str(len(self.rfile.read(int(self.headers["Content-Length"])))).encode())

    def _say(self, data: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def proxy(make_proxy: MakeProxy) -> Iterator[FaultProxy]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Echo)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield make_proxy(f"127.0.0.1:{server.server_address[1]}")
    server.shutdown()
    server.server_close()
    thread.join()


def asked(proxy: FaultProxy, method: str = "GET", data: bytes | None = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=0.5)
    try:
        connection.request(method, "/", body=data)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def ask_again(connection: http.client.HTTPConnection) -> None:
    connection.request("GET", "/")
    connection.getresponse()


def test_it_passes_everything_on(proxy: FaultProxy) -> None:
    assert asked(proxy) == (200, b"x" * 200_000)
    assert asked(proxy, "PUT", bytes(300_000)) == (200, b"300000")


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Fault(hangs=True), TimeoutError),
        (Fault(refuses=True), ConnectionRefusedError),
        (Fault(cut_after_bytes=100_000), ConnectionResetError),
    ],
)
def test_it_fails_as_told_and_recovers(proxy: FaultProxy, fault: Fault, error: type[OSError]) -> None:
    proxy.fault = fault
    with pytest.raises(error):
        asked(proxy)
    proxy.fault = NONE
    assert asked(proxy)[0] == 200


def test_a_fault_holds_for_a_connection_that_is_open(proxy: FaultProxy) -> None:
    for fault in (Fault(hangs=True), Fault(refuses=True), Fault(status=500)):
        proxy.fault = NONE
        connection = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=0.5)
        connection.request("GET", "/")
        connection.getresponse().read()
        proxy.fault = fault
        with pytest.raises((OSError, http.client.HTTPException)):
            ask_again(connection)
        connection.close()


def test_it_is_slow_as_told(proxy: FaultProxy) -> None:
    proxy.fault = Fault(delay_seconds=0.1)
    started = time.monotonic()
    assert asked(proxy)[0] == 200
    assert time.monotonic() - started >= 0.3  # the request and at least two pieces


def test_it_answers_in_the_servers_place(proxy: FaultProxy) -> None:
    proxy.fault = Fault(status=507, body="full", methods=frozenset({"PUT"}))
    assert asked(proxy, "PUT", bytes(300_000)) == (507, b"full")
    connection = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=0.5)
    for method, status in (("GET", 200), ("PUT", 507), ("GET", 200)):  # as a pool of connections would
        connection.request(method, "/", body=b"x" if method == "PUT" else None)
        answer = connection.getresponse()
        assert (answer.status, bool(answer.read())) == (status, True)
    connection.close()


@pytest.mark.skipif(not smalldisk.available(), reason="needs user namespaces (`unshare`, `nsenter`)")
def test_a_small_disk_is_full_read_only_and_well_again(tmp_path: Path) -> None:
    disk = smalldisk.SmallDisk(tmp_path / "disk", 1 << 20)
    try:
        (disk.inside / "a").write_bytes(bytes(1000))
        disk.fill()
        with pytest.raises(OSError, match="No space"):
            (disk.inside / "b").write_bytes(bytes(1000))
        disk.free()
        (disk.inside / "b").write_bytes(bytes(1000))
        disk.remount("ro")
        with pytest.raises(OSError, match="Read-only"):
            (disk.inside / "c").write_bytes(b"")
        disk.remount("rw")
        (disk.inside / "c").write_bytes(b"")
        assert not (disk.folder / "a").exists()
    finally:
        disk.dispose()
    assert not disk.inside.exists()
