"""Two clusters that are configured to one store, as real processes: the second one keeps its hands off."""

import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from manifestry.adapters.store.ownership import homes
from manifestry.core.blobs import digests, garbagekeys, keys, ownership
from manifestry.core.kube import names
from tests.cluster import rest
from tests.controlplane import processes
from tests.controlplane.clusterapi import poll_until
from tests.controlplane.controlplane import ControlPlane
from tests.controlplane.tenants import Tenant
from tests.e2e.teams import Team

DATA = b"acknowledged by the owner"
LATER = {"MANIFESTRY_GC_GRACE_SECONDS": "1", "MANIFESTRY_GC_PERIOD_SECONDS": "1"}


@pytest.fixture
def owner(control_plane: ControlPlane, tmp_path: Path) -> Iterator[rest.Installation]:
    """Give an installation that never collects."""
    with rest.installed(control_plane, tmp_path, MANIFESTRY_GC_PERIOD_SECONDS="0") as found:
        yield found


def checks(url: str) -> dict[str, dict[str, Any]]:
    try:
        with urllib.request.urlopen(f"{url}/readyz", timeout=5) as answer:
            body = answer.read()
    except urllib.error.HTTPError as error:
        body = error.read()
    return {row["name"]: row for row in json.loads(body)["checks"]}


def command(process: processes.OperatorProcess, folder: Path, *arguments: str) -> tuple[int, Any]:
    """Run `python -m manifestry store ...` as in the operator's pod."""
    env = {
        "PATH": os.environ["PATH"],
        "MANIFESTRY_KUBECONFIG": str(process.kubeconfig),
        "MANIFESTRY_STORE_PATH": str(folder / "store"),
        "MANIFESTRY_LOG_LEVEL": "error",
    }
    argv = [sys.executable, "-m", "manifestry", "store", *arguments]
    done = subprocess.run(argv, env=env, cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, json.loads(done.stdout) if done.returncode == 0 else done.stderr


def test_a_second_cluster_in_one_store_neither_writes_nor_removes_until_it_adopts_it(
    owner: rest.Installation,
    tenant: Tenant,
    make_control_plane: Callable[..., ControlPlane],
    make_tenant: Callable[..., Tenant],
    tmp_path: Path,
) -> None:
    team = owner.team(tenant)
    caller = team.caller("publisher")
    assert caller.call("POST", "/artifacts", {"name": "kept", "mediaType": "a/b", "upload": {}}).status == 202
    assert caller.call("PUT", "/artifacts/kept/content", data=DATA).status == 200
    blob = tmp_path / "store" / keys.blob(tenant.uid, digests.of(DATA))
    assert (tmp_path / "store" / garbagekeys.tenant(tenant.uid)).is_file()

    second = make_control_plane(crds=True)
    guest = make_tenant(cluster=second)
    setup = processes.Setup(tmp_path, {**LATER, "MANIFESTRY_WEBHOOK_ENABLED": "false"})
    operator, facade = processes.operator(second, setup), processes.facade(second, setup)
    try:
        operator.launch()
        facade.launch()
        poll_until(
            lambda: not _reason(facade.base_url).startswith("not looked"),
            "the facade to have looked",
            30,
        )
        assert "another cluster" in _reason(facade.base_url)
        poll_until(lambda: _up(operator.health_url), "the operator's health", 30)
        poll_until(
            lambda: "another cluster" in _reason(operator.health_url), "the operator to have looked", 30
        )
        guests = Team(guest, second, facade.base_url).caller("publisher")
        poll_until(
            lambda: (
                guests.call("POST", "/artifacts", {"name": "a", "mediaType": "a/b", "upload": {}}).status
                in {201, 202, 409}
            ),
            "the guest's artifact",
            30,
        )
        put = guests.call("PUT", "/artifacts/a/content", data=b"not to be acknowledged")
        assert (put.status, put.json["code"]) == (503, "store-refused")
        begun = guests.call("POST", "/artifacts/a/uploads")
        assert (begun.status, begun.json["code"]) == (503, "store-refused")
        assert not (tmp_path / "store" / garbagekeys.prefix(guest.uid)).exists()
        assert blob.read_bytes() == DATA

        code, said = command(operator, tmp_path, "adopt")
        assert code == 1
        mine = owner.cp.find(names.NAMESPACES, "kube-system")
        assert mine is not None
        assert mine["metadata"]["uid"] in said
        owner.facade.stop()
        owner.operator.stop()
        code, shown = command(operator, tmp_path, "adopt", "--from", mine["metadata"]["uid"])
        assert (code, shown["state"]) == (0, "Ours"), shown
        assert [(row["tenantUid"], row["fate"]) for row in shown["goneTenants"]] == [(tenant.uid, "foreign")]
        poll_until(lambda: not _reason(facade.base_url), "the facade to own the store", 60)
        assert guests.call("PUT", "/artifacts/a/content", data=b"acknowledged").status == 200
        assert blob.read_bytes() == DATA

        code, shown = command(operator, tmp_path, "adopt-tenant", tenant.uid)
        assert code == 0
        assert {row["fate"] for row in shown["goneTenants"]} <= {"missed", "waiting"}
        code, shown = command(operator, tmp_path, "release")
        assert (code, shown["state"]) == (0, "Absent")
        poll_until(lambda: "another or an emptied" in _reason(facade.base_url), "the facade to see it", 60)
        assert guests.call("POST", "/artifacts/a/uploads").status in {409, 503}
    finally:
        facade.dispose()
        operator.dispose()


def test_a_cluster_whose_clone_went_on_stops_writing_until_it_adopts_its_store(
    owner: rest.Installation, tenant: Tenant, tmp_path: Path
) -> None:
    lease = owner.cp.find(processes.LEASES, f"{processes.LEASE}-store", processes.SYSTEM_NAMESPACE)
    assert lease is not None
    turns = lease["metadata"]["annotations"][homes.TURNS].split(",")
    path = tmp_path / "store" / garbagekeys.OWNER
    record = ownership.parse(path.read_bytes())
    assert record is not None
    assert record.turn in turns
    path.write_bytes(ownership.render(ownership.Record(record.cluster_uid, "a-turn-of-the-clone")))
    poll_until(lambda: "clone" in _reason(owner.facade.base_url), "the facade to see the clone", 60)
    poll_until(lambda: "clone" in _reason(owner.operator.health_url), "the operator to see the clone", 90)
    caller = owner.team(tenant).caller("publisher")
    created = caller.call("POST", "/artifacts", {"name": "a", "mediaType": "a/b", "upload": {}})
    assert created.status == 202
    put = caller.call("PUT", "/artifacts/a/content", data=b"x")
    assert (put.status, put.json["code"]) == (503, "store-refused")
    assert "clone" in put.json["detail"]
    code, shown = command(owner.operator, tmp_path, "adopt", "--from", record.cluster_uid)
    assert (code, shown["state"]) == (0, "Ours")
    poll_until(lambda: not _reason(owner.facade.base_url), "the facade to own the store", 60)
    assert caller.call("PUT", "/artifacts/a/content", data=b"x").status == 200


def _up(url: str) -> bool:
    try:
        return bool(checks(url))
    except OSError:
        return False


def _reason(url: str) -> str:
    if not _up(url):
        return "not looked at yet"
    return str(checks(url).get("store-ownership", {"reason": "not looked at yet"})["reason"])
