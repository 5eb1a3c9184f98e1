"""A local volume that is full or read-only, seen by the clients of real processes."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import urllib3

from manifestry.core.blobs import keys
from tests.cluster import rest
from tests.cluster.store.inventory import Inventory, digest_of
from tests.controlplane import tenants
from tests.controlplane.clusterapi import poll_until
from tests.controlplane.controlplane import ControlPlane
from tests.e2e import conditions as having
from tests.e2e import teams
from tests.e2e.rest import Rest
from tests.e2e.teams import ARTIFACTS, Team
from tests.faults import smalldisk

MIB = 1 << 20
DISK_BYTES = 24 * MIB

pytestmark = pytest.mark.skipif(
    not smalldisk.available(), reason="needs user namespaces (`unshare`, `nsenter`) for a small file system"
)


@dataclass
class World:
    """An installation on a small disk, and one tenant in it."""

    product: rest.Installation
    disk: smalldisk.SmallDisk
    team: Team
    stored: Inventory
    jobs: Rest

    def row(self) -> tuple[bool, str]:
        """Return the row of /readyz about writes; reading goes on, and so does the facade in its Service."""
        answer = urllib3.request("GET", f"{self.product.facade.base_url}/readyz", retries=False)
        rows = {row["name"]: row for row in answer.json()["checks"]}
        assert rows["object-store"]["ok"], rows
        writes = rows["object-store-writes"]
        assert (answer.status, answer.json()["status"]) == (200, "ok" if writes["ok"] else "degraded"), rows
        return writes["ok"], writes["reason"]

    def staged(self) -> list[str]:
        """Return what lies in the folder of unfinished uploads."""
        return sorted(path.name for path in (self.disk.inside / "store" / "uploads").iterdir())


@pytest.fixture(scope="module")
def world(control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("small")
    disk = smalldisk.SmallDisk(folder / "disk", DISK_BYTES)
    tenant = tenants.make(control_plane, None)
    env = {"MANIFESTRY_STORE_PATH": str(disk.folder / "store"), "MANIFESTRY_RESYNC_SECONDS": "5"}
    try:
        with rest.installed(control_plane, folder, disk, **env) as product:
            product.facade.wait_complete()
            team = product.team(tenant)
            team.ready(rest.JOB_TYPE)
            yield World(product, disk, team, Inventory(team.caller("publisher")), team.caller("operator"))
    finally:
        tenants.remove(control_plane, tenant)
        disk.dispose()


def break_and_mend(world: World, fault: str, status: int, code: str, reason: str) -> None:
    """Let the disk fail, see that everybody says so, mend it, see that all goes on by itself."""
    stored, cluster, namespace = world.stored, world.team.cluster, world.team.namespace
    stored.store(f"{fault}-kept")
    stored.declare(f"{fault}-gone")
    for name in (f"{fault}-small", f"{fault}-large"):
        stored.declare(name)
    if fault == "full":
        world.disk.fill()
    else:
        world.disk.remount("ro")
    try:
        inline = {"mediaType": "text/plain", "inline": {"text": fault}}
        cluster.create(ARTIFACTS, teams.body(ARTIFACTS, f"{fault}-inline", inline), namespace)
        for name, size in ((f"{fault}-small", 1000), (f"{fault}-large", 3 * MIB)):
            refused = stored.upload(name, size)
            assert (refused.status, refused.json["code"]) == (status, code), refused.data
            assert refused.headers["content-type"] == "application/problem+json"
            assert str(world.disk.folder) not in refused.data.decode()
        assert stored.read(f"{fault}-kept").status == 200
        assert stored.rest.call("GET", "/artifacts").status == 200
        job = {"name": fault, "jobType": rest.JOB_TYPE, "parameters": {"frames": 1}}
        submitted = world.jobs.call("POST", "/jobs", job)  # the API server asks the webhook
        assert submitted.status in {201, 202}, submitted.data
        assert stored.rest.call("DELETE", f"/artifacts/{fault}-gone").status in {200, 202, 204}
        poll_until(lambda: world.row() == (False, reason), reason, 25)
        cluster.wait_for(
            ARTIFACTS, f"{fault}-inline", namespace, having.has("Ready", "Unknown"), timeout_seconds=15
        )
        assert world.staged() == []
    finally:
        if fault == "full":
            world.disk.free()
        else:
            world.disk.remount("rw")
    poll_until(lambda: world.row()[0], "object-store ok", 25)
    for name in (f"{fault}-small", f"{fault}-large"):
        assert stored.upload(name).status == 200
    cluster.wait_for(ARTIFACTS, f"{fault}-inline", namespace, having.has("Ready", "True"), timeout_seconds=30)
    stored.check()


def test_a_full_disk_is_told_and_nothing_is_lost(world: World) -> None:
    break_and_mend(world, "full", 507, "storage-full", "StoreFullError")


def test_a_read_only_disk_is_told_and_nothing_is_lost(world: World) -> None:
    break_and_mend(world, "read-only", 503, "dependency-unavailable", "StoreUnavailableError")


def test_a_download_that_fails_is_looked_into_long_before_the_scrub_comes_by(world: World) -> None:
    stored, cluster, namespace = world.stored, world.team.cluster, world.team.namespace
    for name in ("lost", "unnoticed"):
        stored.store(name)
        key = keys.blob(world.team.tenant.uid, digest_of(stored.sent[name]))
        (world.disk.inside / "store" / key).unlink()
    assert stored.upload("unnoticed").status == 200  # the same bytes: not believed, but stored
    assert stored.read("unnoticed").status == 200
    viewer = world.team.caller("viewer")
    assert viewer.call("GET", "/artifacts/lost/content").status == 500
    cluster.wait_for(ARTIFACTS, "lost", namespace, having.has("Ready", "False"), timeout_seconds=60)
    assert viewer.call("GET", "/artifacts/lost/content").status == 409
    assert stored.upload("lost").status in {200, 202}
    cluster.wait_for(ARTIFACTS, "lost", namespace, having.has("Ready", "True"), timeout_seconds=60)
    assert list((world.disk.inside / "store" / "suspects").iterdir()) == []
    stored.check()


def test_an_upload_that_does_not_fit_gives_its_room_back(world: World) -> None:
    stored = world.stored
    for name in ("too-large", "fits"):
        stored.declare(name)
    refused = stored.upload("too-large", DISK_BYTES + MIB)
    assert (refused.status, refused.json["code"]) == (507, "storage-full"), refused.data
    assert world.staged() == []
    assert stored.upload("fits", 5 * MIB).status == 200


def test_uploads_that_together_do_not_fit(world: World) -> None:
    """Some get the room and some are refused; those that were told "stored" are."""
    stored, names = world.stored, [f"many{number}" for number in range(8)]
    for name in names:
        stored.declare(name)
    threads = [threading.Thread(target=stored.upload, args=(name, 4 * MIB)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    kept = stored.acknowledged & set(names)
    assert 0 < len(kept) < len(names)
    for name in kept:
        world.team.cluster.wait_for(
            ARTIFACTS, name, world.team.namespace, having.has("Ready", "True"), timeout_seconds=30
        )
    stored.check()
    assert world.staged() == []
