"""kill -9 of the facade at random while clients upload: all or nothing, and what was acknowledged stays."""

import hashlib
import itertools
import os
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import obstore
import pytest
import urllib3
from obstore.store import LocalStore, ObjectStore

from manifestry.core.blobs import keys
from tests.cluster import rest
from tests.cluster.store.inventory import MEDIA_TYPE, Inventory
from tests.controlplane.clusterapi import poll_until
from tests.controlplane.controlplane import ControlPlane
from tests.controlplane.plugin import MakeTenant
from tests.controlplane.processes import FacadeProcess
from tests.controlplane.tenants import Tenant
from tests.e2e import teams
from tests.e2e.rest import Answer
from tests.e2e.teams import ARTIFACTS, LEDGERS, QUOTAS
from tests.seaweed.server import S3Server

SEED = int(os.environ.get("MANIFESTRY_KILL_SEED", "4"))
CLIENTS = 8
KILLING_SECONDS = 30.0
SIZES = (0, 1, 1000, 65_537, 400_000, (1 << 20) + 1, 3 << 20, 6 << 20)
LEDGER = "storage.manifestry"
LONG_AGO = "2020-01-01T00:00:00.000000Z"
BROKEN = urllib3.exceptions.HTTPError  # the connection broke, or was refused


@dataclass
class Upload:
    """What one client wants to store, and how patient it is.

    Args:
        stubborn: tries until it is told that the payload is stored; else gives up at the first break.
        slow: sends in pieces with pauses, so that a kill finds it in the middle.
    """

    name: str
    size_bytes: int
    stubborn: bool
    slow: bool


@dataclass
class Swarm:
    """Clients that upload through a facade that dies again and again."""

    facade: FacadeProcess
    stored: Inventory
    deadline: float
    breaks: int = 0
    kills: int = 0
    problems: list[Answer] = field(default_factory=list)
    done: threading.Event = field(default_factory=threading.Event)

    def upload(self, wanted: Upload) -> None:
        """Create the artifact and send its payload, again after every break."""
        data = self.stored.payload(wanted.name, wanted.size_bytes)
        for _ in itertools.count():
            try:
                answer = self.stored.declare(wanted.name)
                if answer.status != 503:
                    answer = self._put(wanted, data)
            except BROKEN:
                self.breaks += 1
                if not wanted.stubborn:
                    return
                assert time.monotonic() < self.deadline, "the uploads take too long"
                time.sleep(0.1)
                continue
            if answer.status in {200, 202}:
                self.stored.acknowledged.add(wanted.name)
                return
            self.problems.append(answer)
            assert answer.status == 503, answer.data
            time.sleep(0.2)

    def _put(self, wanted: Upload, data: bytes) -> Answer:
        headers = {"Content-Type": MEDIA_TYPE, "Prefer": "wait=0"}
        path = f"/artifacts/{wanted.name}/content"
        if not wanted.slow:
            return self.stored.rest.call("PUT", path, data=data, headers=headers)
        return self.stored.rest.call("PUT", path, data=_slowly(data), headers=headers)  # type: ignore[arg-type]

    def kill(self, rng: random.Random) -> None:
        """Kill and restart until the uploads are done or it has been enough."""
        end = time.monotonic() + KILLING_SECONDS
        while time.monotonic() < end and not self.done.wait(rng.uniform(0.05, 1.2)):
            self.facade.kill()
            self.kills += 1
            self.facade.launch()
            poll_until(self._answers, "the facade", 30)

    def read(self, rng: random.Random) -> None:
        """Read at random all the time: what is readable is whole."""
        while not self.done.wait(0.02):
            names = list(self.stored.sent)
            try:
                if names:
                    assert self.stored.read(rng.choice(names)).status in {200, 404, 409, 503}
            except BROKEN:
                time.sleep(0.1)

    def _answers(self) -> bool:
        try:  # not its readiness: clients do not wait for that either
            return self.stored.rest.call("GET", "/artifacts?limit=1").status == 200
        except BROKEN:
            return False


def _slowly(data: bytes) -> Iterator[bytes]:
    piece = max(1, len(data) // 8)
    for start in range(0, len(data), piece):
        time.sleep(0.05)
        yield data[start : start + piece]


def _uploads(count: int, rng: random.Random) -> list[Upload]:
    return [
        Upload(f"u{number}", rng.choice(SIZES), stubborn=rng.random() < 0.8, slow=rng.random() < 0.3)
        for number in range(count)
    ]


def _run(swarm: Swarm, wanted: list[Upload]) -> None:
    with ThreadPoolExecutor(CLIENTS + 2) as pool:
        watching = [
            pool.submit(swarm.read, random.Random(SEED + 1)),
            pool.submit(swarm.kill, random.Random(SEED + 2)),
        ]
        try:
            uploads = [pool.submit(swarm.upload, each) for each in wanted]
            for upload in uploads:
                upload.result()
        finally:
            swarm.done.set()
        for task in watching:
            task.result()


def _check_blobs(behind: ObjectStore, tenant_uid: str) -> int:
    """Every object under a digest's key has that digest: nothing was published in part."""
    count = 0
    for page in obstore.list(behind, keys.tenant(tenant_uid)):
        for item in page:
            parsed = keys.parse_blob(item["path"])
            assert parsed is not None, item["path"]
            sha256 = hashlib.sha256(obstore.get(behind, item["path"]).bytes())
            assert f"sha256:{sha256.hexdigest()}" == parsed[1]
            count += 1
    return count


@dataclass
class Place:
    """A store: how many uploads it is tried with, how processes reach it, how to look behind it."""

    count: int
    env: dict[str, str]
    behind: Callable[[], ObjectStore]


@pytest.fixture(params=["local", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "s3":
        server: S3Server = request.getfixturevalue("s3")
        env = server.apart()
        prefix = env["MANIFESTRY_STORE_PREFIX"]
        return Place(60, env, lambda: cast("ObjectStore", server.store(prefix)))
    folder = tmp_path / "store"  # made by the facade
    return Place(200, {"MANIFESTRY_STORE_PATH": str(folder)}, lambda: cast("ObjectStore", LocalStore(folder)))


def test_uploads_survive_kills_of_the_facade(
    control_plane: ControlPlane, make_tenant: MakeTenant, tmp_path: Path, place: Place
) -> None:
    tenant, rng = make_tenant(), random.Random(SEED)
    env = {**place.env, "MANIFESTRY_RESYNC_SECONDS": "2"}
    with rest.installed(control_plane, tmp_path, **env) as product:
        product.facade.wait_complete()
        _limit_storage(control_plane, tenant)
        stored = Inventory(product.team(tenant).caller("publisher"), SEED)
        swarm = Swarm(product.facade, stored, time.monotonic() + 90)
        wanted = _uploads(place.count, rng)
        began = time.monotonic()
        _run(swarm, wanted)
        took = time.monotonic() - began
        product.facade.wait_complete()
        poll_until(lambda: _all_ready(control_plane, tenant.namespace, stored), "all Ready", 60)
        stored.check()
        _check_charges(control_plane, tenant)
        blobs = _check_blobs(place.behind(), tenant.uid)
        left = sum(len(page) for page in obstore.list(place.behind(), keys.UPLOADS))
    sys.stdout.write(
        f"{took:.0f} s, {swarm.kills} kills, {swarm.breaks} breaks, {len(swarm.problems)} problems,"
        f" {len(stored.acknowledged)} of {place.count} acknowledged, {blobs} blobs, {left} left over\n"
    )
    assert stored.acknowledged >= {each.name for each in wanted if each.stubborn}
    assert swarm.kills >= 2
    assert swarm.breaks >= 3


def _all_ready(cp: ControlPlane, namespace: str, stored: Inventory) -> bool:
    ready = {
        body["metadata"]["name"]
        for body in cp.list(ARTIFACTS, namespace)
        for row in body.get("status", {}).get("conditions", [])
        if (row["type"], row["status"]) == ("Ready", "True")
    }
    return stored.acknowledged <= ready


def _limit_storage(cp: ControlPlane, tenant: Tenant) -> None:
    spec = {"tenants": [tenant.name], "storage": {"maxBytes": 64 << 30, "maxArtifacts": 1000}}
    cp.create(QUOTAS, teams.body(QUOTAS, tenant.name, spec))
    cp.wait_for(
        LEDGERS, LEDGER, tenant.namespace, lambda found: _status(found, "initializedTime") is not None
    )


def _check_charges(cp: ControlPlane, tenant: Tenant) -> None:
    """Nothing stays reserved for uploads that died, and what is stored was counted once."""
    holders = _status(cp.get(LEDGERS, LEDGER, tenant.namespace), "holders") or {}
    aged = {uid: {"since": LONG_AGO, "expirationTime": LONG_AGO} for uid in holders}  # a lease is 120 s
    cp.patch(LEDGERS, LEDGER, {"status": {"holders": aged}}, tenant.namespace, subresource="status")
    artifacts = cp.list(ARTIFACTS, tenant.namespace)
    sizes = [body["status"]["artifact"]["sizeBytes"] for body in artifacts if body["status"].get("artifact")]

    def is_settled(found: dict[str, Any] | None) -> bool:
        holders, storage = _status(found, "holders") or {}, _status(found, "storage")
        leaked = [charge for charge in holders.values() if charge.get("sizeBytes")]
        counted = (storage["committedBytes"], storage["artifactCount"])
        return not leaked and counted == (sum(sizes), len(sizes))

    cp.wait_for(LEDGERS, LEDGER, tenant.namespace, is_settled, timeout_seconds=30)
    cp.delete(QUOTAS, tenant.name)


def _status(body: dict[str, Any] | None, name: str) -> Any:
    return ((body or {}).get("status") or {}).get(name)
