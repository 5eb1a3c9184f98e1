"""Garbage, integrity and protection on a real API server: operator and facade as real processes."""

import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import urllib3

from manifestry.core.blobs import digests, garbagekeys, keys
from manifestry.core.kube import names
from tests.cluster import rest
from tests.controlplane import grants, tenants
from tests.controlplane.clusterapi import ClusterApi, poll_until
from tests.controlplane.controlplane import ControlPlane
from tests.controlplane.tenants import Tenant
from tests.e2e import conditions, teams
from tests.e2e.rest import Answer, Rest
from tests.e2e.teams import ARTIFACTS, Team
from tests.seaweed.plugin import MakeS3

GRACE_SECONDS = 4
FAST = {
    "MANIFESTRY_GC_GRACE_SECONDS": str(GRACE_SECONDS),
    "MANIFESTRY_GC_TENANT_GRACE_SECONDS": str(GRACE_SECONDS),
    "MANIFESTRY_GC_PERIOD_SECONDS": "1",
    "MANIFESTRY_SCRUB_PERIOD_SECONDS": "3",
    "MANIFESTRY_RESYNC_SECONDS": "2",
}
POLICIES = {
    "ValidatingAdmissionPolicy": "validatingadmissionpolicies",
    "ValidatingAdmissionPolicyBinding": "validatingadmissionpolicybindings",
}
Object = dict[str, Any]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("product")


@pytest.fixture(scope="module")
def product(control_plane: ControlPlane, folder: Path) -> Iterator[rest.Installation]:
    with rest.installed(control_plane, folder, **FAST) as found:
        yield found


@pytest.fixture
def team(product: rest.Installation, tenant: Tenant) -> Team:
    return product.team(tenant)


def path_of(folder: Path, team: Team, digest: str) -> Path:
    return folder / "store" / keys.blob(team.tenant.uid, digest)


def create(team: Team, name: str, data: bytes, **more: Any) -> str:
    """Upload bytes as a new artifact; return their digest."""
    caller = team.caller("publisher")
    body = {"name": name, "mediaType": "application/x-test", "upload": {}, **more}
    assert caller.call("POST", "/artifacts", body).status == 202
    put = caller.call("PUT", f"/artifacts/{name}/content", data=data, headers={"Prefer": "wait=30"})
    assert put.status == 200, put.data
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def upload_whole(caller: Rest, name: str, data: bytes) -> Answer:
    return caller.call("PUT", f"/artifacts/{name}/content", data=data)


def upload_in_pieces(caller: Rest, name: str, data: bytes) -> Answer:
    path, half = caller.call("POST", f"/artifacts/{name}/uploads").headers["location"], len(data) // 2
    for offset, piece, is_last in ((0, data[:half], "?0"), (half, data[half:], "?1")):
        headers = {"Content-Type": "application/partial-upload", "Upload-Complete": is_last}
        answer = caller.call("PATCH", path, data=piece, headers={**headers, "Upload-Offset": str(offset)})
    return answer


def has(condition: str, reason: str) -> Callable[[Object | None], bool]:
    def look(body: Object | None) -> bool:
        found = conditions.condition(body, "Ready")
        return (found.get("status"), found.get("reason")) == (condition, reason)

    return look


def wait(team: Team, name: str, condition: str, reason: str, seconds: float = 40) -> Object:
    return team.cluster.wait_for(
        ARTIFACTS, name, team.namespace, has(condition, reason), timeout_seconds=seconds
    )


def gone(path: Path) -> None:
    poll_until(lambda: not path.exists(), f"{path.name} to go", timeout_seconds=60)


def test_deleted_bytes_stay_for_the_grace_and_go_then_and_shared_ones_stay(team: Team, folder: Path) -> None:
    single, shared = os.urandom(3000), os.urandom(2000)
    alone = path_of(folder, team, create(team, "alone", single))
    both = path_of(folder, team, create(team, "one", shared))
    create(team, "two", shared)
    retained = path_of(folder, team, create(team, "kept", os.urandom(100), deletionPolicy="Retain"))
    caller = team.caller("publisher")
    for name in ("alone", "one", "kept"):
        assert caller.call("DELETE", f"/artifacts/{name}").status == 204
    deleted = time.monotonic()
    gone(alone)
    assert time.monotonic() - deleted >= GRACE_SECONDS - 1
    time.sleep(GRACE_SECONDS + 3)
    assert both.exists()
    assert retained.exists()
    assert team.caller("viewer").call("GET", "/artifacts/two/content").data == shared


def test_a_dry_run_explains_every_blob_to_an_administrator(team: Team, folder: Path) -> None:
    kept, data = create(team, "kept", os.urandom(10), deletionPolicy="Retain"), os.urandom(10)
    used = create(team, "used", data)
    team.caller("publisher").call("DELETE", "/artifacts/kept")
    team.cluster.wait_for(ARTIFACTS, "kept", team.namespace, lambda body: body is None)
    admin = team.caller("admin")
    found: dict[str, Object] = {}
    path = "/garbage?limit=2"
    for _ in range(10):
        page = admin.call("GET", path)
        assert page.status == 200, page.data
        assert page.json["graceSeconds"] == GRACE_SECONDS
        found |= {item["digest"]: item for item in page.json["items"]}
        if "continue" not in page.json:
            break
        path = f"/garbage?limit=2&continue={page.json['continue']}"
    blobs = {
        path.name
        for path in (folder / "store" / f"tenants/{team.tenant.uid}/blobs").rglob("*")
        if path.is_file()
    }
    assert {digest.removeprefix("sha256:") for digest in found} == blobs
    assert (found[used]["verdict"], found[used]["reason"], found[used]["referrers"]) == (
        "keep",
        "Referenced",
        ["used"],
    )
    assert (found[kept]["reason"], found[kept]["referrers"]) == ("Pinned", ["kept"])
    assert all(item["message"] for item in found.values())
    assert team.caller("publisher").call("GET", "/garbage").status == 403
    assert admin.call("GET", "/garbage?continue=x").status == 400


def test_concurrent_publishers_of_garbage_never_lose_it(team: Team, folder: Path) -> None:
    """The same bytes come and go as an artifact while the collector is after them all the time."""
    data, failures = os.urandom(50_000), list[str]()
    stop = time.monotonic() + 5 * GRACE_SECONDS

    def churn(number: int) -> None:
        caller, turn = team.caller("publisher"), 0
        while time.monotonic() < stop:
            name, turn = f"churn-{number}-{turn}", turn + 1
            caller.call("POST", "/artifacts", {"name": name, "mediaType": "a/b", "upload": {}})
            put = caller.call("PUT", f"/artifacts/{name}/content", data=data, headers={"Prefer": "wait=20"})
            got = caller.call("GET", f"/artifacts/{name}/content")
            if put.status == 200 and got.data != data:
                failures.append(f"{name}: {put.status} {got.status} {got.data[:200]!r}")
            caller.call("DELETE", f"/artifacts/{name}")
            time.sleep((GRACE_SECONDS + 1.5) if number % 2 else 0.5)

    threads = [threading.Thread(target=churn, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    gone(path_of(folder, team, digests.of(data)))


@pytest.mark.parametrize("way", ["put", "session"])
def test_a_flipped_byte_is_damage_and_healed_by_the_same_upload(team: Team, folder: Path, way: str) -> None:
    data = os.urandom(5000)
    path = path_of(folder, team, create(team, "precious", data))
    path.write_bytes(bytes([data[0] ^ 1]) + data[1:])
    found = wait(team, "precious", "False", "Damaged")
    assert "set aside" in conditions.condition(found, "Ready")["message"]
    assert conditions.condition(found, "Stored")["status"] == "False"

    def told() -> list[str]:
        events = team.cluster.list("events.k8s.io/v1/events", team.namespace)
        return [event["regarding"]["name"] for event in events if event["reason"] == "Damaged"]

    poll_until(lambda: told() == ["precious"], "the event")
    caller = team.caller("publisher")
    assert caller.call("GET", "/artifacts/precious/content").status == 409
    assert caller.call("PUT", "/artifacts/precious/content", data=b"other").status == 422
    send = {"put": upload_whole, "session": upload_in_pieces}[way]
    sent = send(caller, "precious", data)
    assert sent.status in {200, 202}, sent.data
    wait(team, "precious", "True", "Stored")
    assert caller.call("GET", "/artifacts/precious/content").data == data


def test_a_missing_file_is_said_and_an_inline_one_repairs_itself(team: Team, folder: Path) -> None:
    path = path_of(folder, team, create(team, "lost", b"lost bytes"))
    body = teams.body(ARTIFACTS, "inline", {"mediaType": "a/b", "inline": {"text": "from the object"}})
    team.cluster.create(ARTIFACTS, body, team.namespace)
    wait(team, "inline", "True", "Stored")
    inline = path_of(folder, team, digests.of(b"from the object"))
    path.unlink()
    inline.unlink()
    wait(team, "lost", "False", "Missing")
    poll_until(inline.exists, "the inline bytes to be stored again", timeout_seconds=40)
    wait(team, "inline", "True", "Stored")
    path.write_bytes(b"lost bytes")  # restored from a backup
    wait(team, "lost", "True", "Stored")
    verified = lambda body: bool(body and body["status"].get("lastVerifiedTime"))  # noqa: E731
    team.cluster.wait_for(ARTIFACTS, "lost", team.namespace, verified, timeout_seconds=40)


@pytest.fixture
def policy(control_plane: ControlPlane) -> Iterator[None]:
    """Install the chart's admission policy; it begins to act a little after it was written."""
    group = "admissionregistration.k8s.io/v1"
    found = [each for each in grants.chart_objects("manifestry-system") if each["kind"] in POLICIES]
    assert {each["kind"] for each in found} == set(POLICIES)
    for each in found:
        control_plane.apply(f"{group}/{POLICIES[each['kind']]}", each)
    yield
    for each in found:
        control_plane.delete(f"{group}/{POLICIES[each['kind']]}", each["metadata"]["name"])


def protect(team: Team, name: str, value: str | None) -> None:
    label = {"metadata": {"labels": {names.PROTECTED_LABEL: value}}}
    team.cluster.patch(ARTIFACTS, name, label, team.namespace)


def test_a_protected_artifact_is_deleted_through_no_door(
    policy: None, team: Team, make_tenant: Callable[[], Tenant]
) -> None:
    create(team, "treasure", b"gold")
    protect(team, "treasure", "true")
    said = ""

    def refused() -> bool:
        nonlocal said
        done = team.cluster.kubectl(
            "delete", "mart", "treasure", "-n", team.namespace, "--dry-run=server", check=False
        )
        said = done.stderr
        return done.returncode != 0

    poll_until(refused, "the policy to act", timeout_seconds=30)
    assert "must not be deleted while its label `manifestry.dev/protected` is 'true'" in said
    for arguments in (["treasure"], ["--all"], ["treasure", "--force", "--grace-period=0"]):
        done = team.cluster.kubectl("delete", "mart", *arguments, "-n", team.namespace, check=False)
        assert done.returncode != 0
        assert "manifestry.dev/protected" in done.stderr
    answer = team.caller("publisher").call("DELETE", "/artifacts/treasure")
    assert (answer.status, answer.json["code"]) == (409, "conflict")
    assert "manifestry.dev/protected" in answer.json["detail"]
    assert team.cluster.find(ARTIFACTS, "treasure", team.namespace) is not None
    for value in ("false", None):
        protect(team, "treasure", value)
        team.cluster.kubectl("delete", "mart", "treasure", "-n", team.namespace, "--dry-run=server")
    assert team.caller("publisher").call("DELETE", "/artifacts/treasure").status == 204


def test_a_deleted_tenants_prefix_goes_after_the_grace(
    product: rest.Installation, control_plane: ControlPlane, make_tenant: Callable[[], Tenant], folder: Path
) -> None:
    tenant = make_tenant()
    create(product.team(tenant), "a", os.urandom(1000))
    prefix = folder / "store" / garbagekeys.prefix(tenant.uid)
    tenants.remove(control_plane, tenant)
    control_plane.wait_for(
        "v1/namespaces", tenant.namespace, None, lambda body: body is None, timeout_seconds=60
    )
    assert prefix.exists()
    gone(prefix)


def test_on_s3_garbage_goes_and_damage_is_found(  # noqa: PLR0917 - fixtures
    control_plane: ControlPlane,
    tenant: Tenant,
    make_s3: MakeS3,
    start_operator: Callable[..., Any],
    start_facade: Callable[..., Any],
    product: rest.Installation,
) -> None:
    product.operator.stop()  # one leads
    try:
        s3 = make_s3()
        start_operator(control_plane, env=s3.settings() | FAST)
        facade = start_facade(control_plane, env=s3.settings() | FAST, register=False)
        facade.wait_complete()
        team, behind = Team(tenant, control_plane, facade.base_url), s3.store()
        data = os.urandom(100_000)
        digest = create(team, "gone", data)
        precious = create(team, "precious", b"precious")
        team.caller("publisher").call("DELETE", "/artifacts/gone")
        behind.put(keys.blob(tenant.uid, precious), b"Precious")
        wait(team, "precious", "False", "Damaged")
        key = keys.blob(tenant.uid, digest)
        listed: Callable[[], set[str]] = lambda: {  # noqa: E731
            item["path"] for page in behind.list(f"tenants/{tenant.uid}/") for item in page
        }
        poll_until(lambda: key not in listed(), "the garbage to go", timeout_seconds=60)
        assert (
            team.caller("publisher").call("PUT", "/artifacts/precious/content", data=b"precious").status < 300
        )
        wait(team, "precious", "True", "Stored")
    finally:
        product.operator.start()


def test_the_collector_tells_what_it_did(product: rest.Installation, control_plane: ClusterApi) -> None:
    def values() -> dict[str, float]:
        text = urllib3.request("GET", f"{product.operator.health_url}/metrics").data.decode()
        lines = [line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#")]
        return {name: float(value) for name, value in lines}

    poll_until(lambda: values()["manifestry_gc_success_timestamp_seconds"] > 0, "a complete run")
    found = values()
    assert {"manifestry_gc_removed_blobs_total", "manifestry_scrub_read_bytes_total"} <= set(found)
    assert found["manifestry_gc_failures_total"] == 0
