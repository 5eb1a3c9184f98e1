"""A bucket that is down, slow, full or failing, seen by the clients of real processes.

Whatever happens: a clear problem in bounded time, `/readyz` says it, nothing acknowledged is lost, and all is
well by itself when the store is.
"""

import http.client
import itertools
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest
import urllib3

from manifestry.core.kube import conditions
from tests.cluster import rest
from tests.cluster.store.inventory import Inventory
from tests.controlplane import tenants
from tests.controlplane.clusterapi import poll_until
from tests.controlplane.controlplane import ControlPlane
from tests.e2e import conditions as having
from tests.e2e import teams
from tests.e2e.rest import Answer
from tests.e2e.teams import ARTIFACTS, Team
from tests.faults.proxy import NONE, Fault, FaultProxy
from tests.seaweed.server import S3Server

MIB = 1 << 20
STORE_SECONDS = 2.0
WRITES = frozenset({"PUT", "POST"})
_numbers = itertools.count()


@dataclass
class World:
    """An installation whose store is behind a proxy, and one tenant in it."""

    product: rest.Installation
    proxy: FaultProxy
    team: Team
    stored: Inventory

    def row(self) -> dict[str, Any]:
        """Return the row of /readyz about writes; while reading goes on, the facade stays in its Service."""
        url = f"{self.product.facade.base_url}/readyz"
        answer = urllib3.request("GET", url, retries=False)
        rows = {row["name"]: row for row in answer.json()["checks"]}
        assert (answer.status == 200) is rows["object-store"]["ok"], rows
        return dict(rows["object-store-writes"])

    def status(self) -> tuple[int, str]:
        """Return what /readyz says in all."""
        answer = urllib3.request("GET", f"{self.product.facade.base_url}/readyz", retries=False)
        return answer.status, answer.json()["status"]

    def wait_row(self, *, ok: bool, timeout_seconds: float = 25) -> dict[str, Any]:
        """Wait until /readyz tells so."""
        poll_until(lambda: self.row()["ok"] is ok, f"object-store {ok=}", timeout_seconds)
        return self.row()


@pytest.fixture(scope="module")
def world(
    control_plane: ControlPlane, s3: S3Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    proxy = FaultProxy(s3.endpoint)
    env = {
        **s3.apart(),
        "MANIFESTRY_STORE_ENDPOINT": proxy.url,
        "MANIFESTRY_STORE_TIMEOUT_SECONDS": str(STORE_SECONDS),
        "MANIFESTRY_RESYNC_SECONDS": "5",
    }
    tenant = tenants.make(control_plane, None)
    try:
        with rest.installed(control_plane, tmp_path_factory.mktemp("faults"), **env) as product:
            product.facade.wait_complete()
            team = product.team(tenant)
            yield World(product, proxy, team, Inventory(team.caller("publisher")))
    finally:
        proxy.close()
        tenants.remove(control_plane, tenant)


@pytest.fixture(autouse=True)
def well_again(world: World) -> Iterator[None]:
    yield
    world.proxy.fault = NONE


def assert_problem(answer: Answer, status: int, code: str) -> None:
    assert (answer.status, answer.json.get("code")) == (status, code), answer.data
    assert answer.headers["content-type"] == "application/problem+json"
    assert "object store" in answer.json["detail"]
    assert "127.0.0.1" not in answer.data.decode()
    if status == 503:
        assert int(answer.headers["retry-after"]) > 0


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [
        pytest.param(Fault(refuses=True), 503, "dependency-unavailable", id="down"),
        pytest.param(Fault(hangs=True), 503, "dependency-unavailable", id="hanging"),
        pytest.param(Fault(status=500), 503, "dependency-unavailable", id="failing"),
        pytest.param(Fault(status=507, methods=WRITES), 507, "storage-full", id="full"),
    ],
)
def test_a_store_that_fails_is_told_and_nothing_is_lost(
    world: World, fault: Fault, status: int, code: str
) -> None:
    number, stored = next(_numbers), world.stored
    stored.store(f"kept{number}")
    for kind in ("small", "large"):
        stored.declare(f"{kind}{number}")
    world.proxy.fault = fault
    inline = teams.body(ARTIFACTS, f"inline{number}", {"mediaType": "text/plain", "inline": {"text": "hi"}})
    world.team.cluster.create(ARTIFACTS, inline, world.team.namespace)
    for name, size in ((f"small{number}", 1000), (f"large{number}", 12 * MIB)):
        started = time.monotonic()
        assert_problem(stored.upload(name, size), status, code)
        assert time.monotonic() - started < 4 * STORE_SECONDS + 2
    if not fault.methods:  # else reading goes on
        assert_problem(stored.rest.call("GET", f"/artifacts/kept{number}/content"), status, code)
    row = world.wait_row(ok=False)
    if fault.methods:
        assert world.status() == (200, "degraded")
    assert row["reason"] in {"StoreUnavailableError", "StoreFullError", "no answer within 8 s"}
    assert stored.rest.call("GET", f"/artifacts/kept{number}").status == 200  # metadata need no store
    waiting = world.team.cluster.wait_for(
        ARTIFACTS, f"inline{number}", world.team.namespace, having.has("Ready", "Unknown"), timeout_seconds=15
    )
    assert conditions.kstatus(waiting) == "InProgress"
    world.proxy.fault = NONE
    world.wait_row(ok=True)
    for name in (f"small{number}", f"large{number}"):
        assert stored.upload(name).status == 200
    stored.check()
    world.team.cluster.wait_for(
        ARTIFACTS, f"inline{number}", world.team.namespace, having.has("Ready", "True"), timeout_seconds=30
    )


def test_a_slow_store_is_slow_and_nothing_else_is(world: World) -> None:
    stored, names = world.stored, [f"slow{number}" for number in range(8)]
    for name in names:
        stored.declare(name)
    world.proxy.fault = Fault(delay_seconds=0.05)
    slowest = 0.0
    with ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(stored.upload, name, 400_000) for name in names]
        while not all(answer.done() for answer in answers):
            started = time.monotonic()
            assert stored.rest.call("GET", "/artifacts?limit=5").status == 200
            assert stored.rest.call("GET", "/livez").status == 200
            slowest = max(slowest, time.monotonic() - started)
            time.sleep(0.05)
        assert [answer.result().status for answer in answers] == [200] * len(names)
        assert [answer.status for answer in pool.map(stored.read, names)] == [200] * len(names)
    assert slowest < 2.0
    assert world.wait_row(ok=True)["ok"]


def test_a_store_that_breaks_off_in_the_middle(world: World) -> None:
    stored = world.stored
    stored.store("broken", 9 * MIB)
    stored.declare("halfway")
    size = 30 * MIB

    def hanging_then_sending(data: bytes) -> Iterator[bytes]:
        yield data[: size // 2]
        world.proxy.fault = Fault(hangs=True)
        yield data[size // 2 :]

    connection = http.client.HTTPConnection(world.product.facade.base_url.removeprefix("http://"), timeout=30)
    headers = {**stored.rest.headers, "Content-Length": str(size), "Content-Type": "application/x-blob"}
    body = hanging_then_sending(stored.payload("halfway", size))
    connection.request("PUT", "/artifacts/halfway/content", body=body, headers=headers)
    answer = connection.getresponse()
    assert (answer.status, json.loads(answer.read())["code"]) == (503, "dependency-unavailable")
    connection.close()
    assert stored.read("halfway").status in {409, 503}
    world.proxy.fault = NONE

    world.proxy.fault = Fault(cut_after_bytes=5 * MIB)  # windows are of 2 MiB, the connection is one
    got = stored.rest.call("GET", "/artifacts/broken/content")
    assert got.status == 200
    world.proxy.fault = NONE
    received = bytearray()

    def read() -> None:
        for chunk in stored.rest.stream("/artifacts/broken/content"):
            received.extend(chunk)
            world.proxy.fault = Fault(refuses=True)

    with pytest.raises(urllib3.exceptions.HTTPError):
        read()
    assert stored.sent["broken"].startswith(received)
    assert len(received) < 9 * MIB
    world.proxy.fault = NONE
    assert stored.upload("halfway", size).status == 200
    stored.check()


def test_connections_that_are_cut_lose_nothing(world: World) -> None:
    stored, stop = world.stored, threading.Event()
    names = [f"cut{number}" for number in range(12)]

    def cut() -> None:
        while not stop.wait(0.15):
            world.proxy.fault = Fault(cut_after_bytes=3 * MIB)
            time.sleep(0.05)
            world.proxy.fault = NONE

    def work(name: str) -> set[int]:
        stored.declare(name)
        return {stored.upload(name, 4 * MIB).status, stored.read(name).status}

    cutter = threading.Thread(target=cut)
    cutter.start()
    try:
        with ThreadPoolExecutor(4) as pool:
            seen = set().union(*pool.map(work, names))
    finally:
        stop.set()
        cutter.join()
    assert seen <= {200, 202, 409, 503}, seen
    world.proxy.fault = NONE
    for name in names:
        assert stored.upload(name).status == 200
    stored.check()
