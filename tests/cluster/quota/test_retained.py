"""Retained bytes on a real API server: charged until they are removed, and never kept for good unseen."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from manifestry.core.blobs import garbagekeys
from tests.cluster import rest
from tests.cluster.quota.test_storage import KIB, limit, post, put, usage
from tests.controlplane import tenants
from tests.controlplane.clusterapi import poll_until
from tests.controlplane.controlplane import ControlPlane
from tests.controlplane.tenants import Tenant
from tests.e2e.rest import Rest
from tests.e2e.teams import ARTIFACTS, QUOTAS, Team, body

FAST = {
    "MANIFESTRY_RESYNC_SECONDS": "2",
    "MANIFESTRY_GC_GRACE_SECONDS": "2",
    "MANIFESTRY_GC_PERIOD_SECONDS": "1",
    "MANIFESTRY_GC_TENANT_GRACE_SECONDS": "1",
}
FLIPS = 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("product")


@pytest.fixture(scope="module")
def product(control_plane: ControlPlane, folder: Path) -> Iterator[rest.Installation]:
    with rest.installed(control_plane, folder, **FAST) as found:
        yield found


@pytest.fixture
def team(product: rest.Installation, tenant: Tenant) -> Iterator[Team]:
    yield product.team(tenant)
    if product.cp.find(QUOTAS, tenant.name) is not None:
        product.cp.delete(QUOTAS, tenant.name)


def retain(caller: Rest, name: str, data: bytes) -> int:
    """Upload bytes as an artifact that retains them, and delete it; return the upload's status."""
    assert post(caller, name, deletionPolicy="Retain").status == 202
    status = put(caller, name, data).status
    assert caller.call("DELETE", f"/artifacts/{name}").status == 204
    return status


def retained(team: Team) -> list[dict[str, Any]]:
    answer = team.caller("admin").call("GET", "/retained")
    assert answer.status == 200, answer.data
    found: list[dict[str, Any]] = answer.json["items"]
    return found


def pins(folder: Path, team: Team) -> list[Path]:
    return sorted((folder / "store" / garbagekeys.pins(team.tenant.uid)).glob("*.json"))


def test_upload_retain_and_delete_in_a_loop_ends_at_the_quota(team: Team, folder: Path) -> None:
    caller = limit(team, maxBytes=30 * KIB)
    said = [retain(caller, f"a{number}", os.urandom(10 * KIB)) for number in range(6)]
    assert said == [200] * 3 + [429] * 3
    poll_until(lambda: usage(caller).get("retainedArtifacts") == 3, "the count")
    found = usage(caller)
    assert (found["usedBytes"], found["retainedBytes"]) == (30 * KIB, 30 * KIB)
    listed = retained(team)
    assert sorted(each["name"] for each in listed) == ["a0", "a1", "a2"]
    assert {each["sizeBytes"] for each in listed} == {10 * KIB}
    admin = team.caller("admin")
    assert admin.call("DELETE", f"/retained/{listed[0]['id']}").status == 204
    poll_until(lambda: usage(caller).get("retainedArtifacts") == 2, "room")
    assert retain(caller, "more", os.urandom(10 * KIB)) == 200
    assert len(pins(folder, team)) == 3


def test_the_bytes_go_after_the_grace_and_the_id_is_no_other_tenants(
    team: Team, product: rest.Installation, folder: Path
) -> None:
    assert retain(team.caller("publisher"), "kept", os.urandom(100)) == 200
    (found,) = retained(team)
    blobs = folder / "store" / f"tenants/{team.tenant.uid}/blobs"
    before = {path.name for path in blobs.rglob("*") if path.is_file()}
    assert {digest.removeprefix("sha256:") for digest in found["digests"]} == before
    other = product.team(tenants.make(product.cp))
    answer = other.caller("admin").call("DELETE", f"/retained/{found['id']}")
    assert (answer.status, answer.json["code"]) == (404, "not-found")
    assert retained(other) == []
    for role in ("viewer", "publisher", "operator"):
        assert team.caller(role).call("GET", "/retained").status == 403
        assert team.caller(role).call("DELETE", f"/retained/{found['id']}").status == 403
    assert team.caller("admin").call("DELETE", f"/retained/{found['id']}").status == 204
    poll_until(lambda: not [path for path in blobs.rglob("*") if path.is_file()], "the bytes to go", 60)


@pytest.mark.parametrize(("first", "last", "kept"), [("Retain", "Delete", 0), ("Delete", "Retain", FLIPS)])
def test_the_last_policy_holds_although_the_deletion_follows_at_once(
    team: Team, folder: Path, first: str, last: str, kept: int
) -> None:
    cluster, caller = team.cluster, team.caller("publisher")
    for number in range(FLIPS):
        spec = {"mediaType": "text/plain", "inline": {"text": f"{number}"}, "deletionPolicy": first}
        cluster.create(ARTIFACTS, body(ARTIFACTS, f"a{number}", spec), team.namespace)
    for number in range(FLIPS):
        poll_until(lambda name=f"a{number}": is_ready(caller, name), "it to be stored")  # type: ignore[misc]
    for number in range(FLIPS):
        cluster.patch(ARTIFACTS, f"a{number}", {"spec": {"deletionPolicy": last}}, team.namespace)
        cluster.delete(ARTIFACTS, f"a{number}", team.namespace)
    poll_until(lambda: len(pins(folder, team)) == kept, f"{kept} pins", 30)
    poll_until(lambda: len(retained(team)) == kept, "the list")


def is_ready(caller: Rest, name: str) -> bool:
    return bool(caller.call("GET", f"/artifacts/{name}").json.get("status") == "ready")


def command(product: rest.Installation, folder: Path, *arguments: str) -> tuple[int, list[Any]]:
    """Run the command as in the operator's pod."""
    done = subprocess.run(
        [sys.executable, "-m", "manifestry", "retained", *arguments],
        env={
            "PATH": os.environ["PATH"],
            "MANIFESTRY_KUBECONFIG": str(product.operator.kubeconfig),
            "MANIFESTRY_STORE_PATH": str(folder / "store"),
        },
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]


def test_what_a_tenant_that_is_gone_has_left_can_be_erased(product: rest.Installation, folder: Path) -> None:
    tenant = tenants.make(product.cp)
    leaving = product.team(tenant)
    data = os.urandom(50)
    assert retain(leaving.caller("publisher"), "kept", data) == 200
    code, said = command(product, folder, "list", "--tenant-uid", tenant.uid)
    assert code == 1
    assert "exists" in said[-1]["error"]
    tenants.remove(product.cp, tenant)
    product.cp.wait_for("v1/namespaces", tenant.namespace, None, lambda found: found is None)
    poll_until(lambda: tenant.uid in gone(product, folder), "the tenant to be gone", 30)
    assert gone(product, folder)[tenant.uid] == (1, 50, [tenant.namespace])
    code, said = command(product, folder, "remove", "--tenant-uid", tenant.uid, "--all")
    assert (code, [each["removed"]["name"] for each in said]) == (0, ["kept"])
    root = folder / "store" / "tenants" / tenant.uid
    poll_until(lambda: not [path for path in root.rglob("*") if path.is_file()], "the bytes to go", 60)


def gone(product: rest.Installation, folder: Path) -> dict[str, tuple[int, int, list[str]]]:
    code, said = command(product, folder, "tenants")
    assert code == 0, said
    return {each["tenantUid"]: (each["count"], each["sizeBytes"], each["namespaces"]) for each in said}
