"""Artifacts through a real API server: what kubectl applies, the operator stores and says."""

import base64
import json
import time
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from manifestry.adapters.store import stores
from manifestry.adapters.store.contract import ports
from manifestry.core.artifacts import manifests
from manifestry.core.blobs import digests
from manifestry.core.kube import conditions, names
from manifestry.settings import StoreSettings
from tests.controlplane.audit import WriteFilter
from tests.controlplane.controlplane import ControlPlane
from tests.controlplane.processes import OPERATOR_USER, OperatorProcess
from tests.controlplane.tenants import Tenant

ARTIFACTS = names.ARTIFACTS
Object = dict[str, Any]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
async def bytes_store(root: Path) -> AsyncIterator[ports.Store]:
    opened = stores.open_store(StoreSettings(store_path=str(root)))
    yield opened
    await opened.close()


@pytest.fixture
def operator(
    control_plane: ControlPlane, root: Path, start_operator: Callable[..., OperatorProcess]
) -> OperatorProcess:
    return start_operator(control_plane, env={"MANIFESTRY_STORE_PATH": str(root)})


def artifact(name: str, tenant: Tenant, **spec: Any) -> Object:
    return {
        "apiVersion": names.API_VERSION,
        "kind": ARTIFACTS.kind,
        "metadata": {"name": name, "namespace": tenant.namespace},
        "spec": {"mediaType": "text/plain", **spec},
    }


def ready(body: Object | None) -> Object:
    found = conditions.find((body or {}).get("status", {}).get("conditions"), "Ready")
    return dict(found or {})


def settled(reason: str) -> Callable[[Object | None], bool]:
    def look(body: Object | None) -> bool:
        if body is None:
            return False
        observed = body["status"]["observedGeneration"] == body["metadata"]["generation"]
        return observed and ready(body).get("reason") == reason

    return look


def apply(cp: ControlPlane, *bodies: Object) -> str:
    return cp.kubectl("apply", "-f", "-", stdin="\n---\n".join(map(json.dumps, bodies))).stdout


def wait(cp: ControlPlane, tenant: Tenant, name: str, reason: str) -> Object:
    return cp.wait_for(ARTIFACTS, name, tenant.namespace, settled(reason), timeout_seconds=20)


def status_writes(cp: ControlPlane, tenant: Tenant, name: str | None = None) -> int:
    """Count what the operator wrote."""
    wanted = WriteFilter(
        user=OPERATOR_USER, namespace=tenant.namespace, name=name, resource="artifacts.manifestry.dev"
    )
    return len(cp.writes(wanted))


async def one(data: bytes) -> AsyncIterator[bytes]:
    yield data


def stored(root: Path) -> list[Path]:
    """Return the files of the tenants; the operator moves its own record on each minute."""
    return [path for path in (root / "tenants").rglob("*") if path.is_file()]


async def test_an_inline_artifact_is_stored_with_one_status_write(
    control_plane: ControlPlane, tenant: Tenant, operator: OperatorProcess, bytes_store: ports.Store
) -> None:
    apply(control_plane, artifact("greeting", tenant, inline={"text": "hello"}, project="web"))
    found = wait(control_plane, tenant, "greeting", "Stored")
    status = found["status"]
    assert status["artifact"]["digest"] == digests.of(b"hello")
    assert status["artifact"]["sizeBytes"] == 5
    assert status["tenant"] == tenant.name
    assert conditions.kstatus(found) == "Current"
    assert await bytes_store.read(tenant.uid, digests.of(b"hello"), limit_bytes=5) == b"hello"
    manifest = await bytes_store.read(
        tenant.uid, status["manifest"]["digest"], limit_bytes=manifests.MAX_BYTES
    )
    document = json.loads(manifest)
    assert len(manifest) == status["manifest"]["sizeBytes"]
    assert document["layers"][0]["digest"] == digests.of(b"hello")
    assert document["annotations"]["dev.manifestry.project"] == "web"
    assert status_writes(control_plane, tenant, "greeting") == 1


def test_a_ready_artifact_is_not_written_again(
    control_plane: ControlPlane,
    tenant: Tenant,
    root: Path,
    operator: OperatorProcess,
) -> None:
    body = artifact("greeting", tenant, inline={"text": "hello"})
    apply(control_plane, body)
    before = wait(control_plane, tenant, "greeting", "Stored")
    files = {path: path.stat().st_mtime_ns for path in stored(root)}
    assert "unchanged" in apply(control_plane, body)
    label = {"metadata": {"labels": {"a": "b"}}}
    control_plane.patch(ARTIFACTS, "greeting", label, tenant.namespace)
    operator.restart()
    time.sleep(1)
    assert status_writes(control_plane, tenant) == 1
    assert {path: path.stat().st_mtime_ns for path in stored(root)} == files
    after = control_plane.get(ARTIFACTS, "greeting", tenant.namespace)
    assert after["status"] == before["status"]


async def test_an_upload_is_awaited_and_then_ready(
    control_plane: ControlPlane, tenant: Tenant, operator: OperatorProcess, bytes_store: ports.Store
) -> None:
    apply(control_plane, artifact("model", tenant, upload={}))
    waiting = wait(control_plane, tenant, "model", "AwaitingUpload")
    assert (ready(waiting)["status"], conditions.kstatus(waiting)) == ("Unknown", "InProgress")
    data = b"x" * 3_000_000
    staged = await bytes_store.stage(one(data), limit_bytes=len(data))
    blob = await bytes_store.publish(tenant.uid, staged)
    intent = {"spec": {"upload": {"digest": blob.digest, "sizeBytes": blob.size_bytes}}}
    control_plane.patch(ARTIFACTS, "model", intent, tenant.namespace)
    found = wait(control_plane, tenant, "model", "Stored")
    assert found["status"]["artifact"]["digest"] == digests.of(data)
    assert conditions.kstatus(found) == "Current"
    assert status_writes(control_plane, tenant, "model") == 2


def test_refused_artifacts_fail_and_stop_nobody_else(
    control_plane: ControlPlane, tenant: Tenant, operator: OperatorProcess
) -> None:
    digest = digests.of(b"other")
    refused: dict[str, tuple[Object, str]] = {
        "mismatch": ({"inline": {"text": "hello"}, "digest": digest}, "DigestMismatch"),
        "size": ({"inline": {"text": "hello"}, "sizeBytes": 4}, "SizeMismatch"),
        "fetched": ({"url": {"url": "https://127.0.0.1/x"}}, "InvalidSource"),
        "itself": ({"inline": {"text": "a"}, "subjectRef": {"name": "itself"}}, "InvalidSource"),
    }
    apply(control_plane, *(artifact(name, tenant, **spec) for name, (spec, _) in refused.items()))
    apply(control_plane, artifact("sound", tenant, inline={"data": base64.b64encode(b"ok").decode()}))
    wait(control_plane, tenant, "sound", "Stored")
    for name, (_, reason) in refused.items():
        found = wait(control_plane, tenant, name, reason)
        assert conditions.kstatus(found) == "Failed"
        assert conditions.is_status(found["status"]["conditions"], "Stalled", "True")
        assert status_writes(control_plane, tenant, name) == (2 if name == "fetched" else 1)


def test_files_references_and_objects_are_stored(
    control_plane: ControlPlane,
    tenant: Tenant,
    root: Path,
    start_operator: Callable[..., OperatorProcess],
) -> None:
    start_operator(
        control_plane, env={"MANIFESTRY_STORE_PATH": str(root)}, kubeconfig=control_plane.kubeconfig
    )
    config = {"metadata": {"name": "c", "namespace": tenant.namespace}, "data": {"k": "from a map"}}
    control_plane.create(names.CONFIG_MAPS, config, tenant.namespace)
    apply(
        control_plane,
        artifact("copied", tenant, configMapRef={"name": "c", "key": "k"}),
        artifact("later", tenant, object={"digest": digests.of(b"from a map")}),
        artifact("described", tenant, inline={"text": "sbom"}, subjectRef={"name": "copied"}),
        artifact(
            "bundle",
            tenant,
            files=[
                {"name": "a.txt", "mediaType": "text/plain", "inline": {"text": "a"}},
                {"name": "b.txt", "mediaType": "text/plain", "inline": {"text": "b"}},
            ],
        ),
    )
    assert ready(wait(control_plane, tenant, "copied", "Stored"))["status"] == "True"
    wait(control_plane, tenant, "later", "Stored")
    wait(control_plane, tenant, "described", "Stored")
    files = wait(control_plane, tenant, "bundle", "Stored")["status"]["files"]
    assert [(item["name"], item["digest"]) for item in files] == [
        ("a.txt", digests.of(b"a")),
        ("b.txt", digests.of(b"b")),
    ]


def test_a_secret_is_copied_only_when_it_is_offered(
    control_plane: ControlPlane,
    tenant: Tenant,
    root: Path,
    start_operator: Callable[..., OperatorProcess],
) -> None:
    start_operator(
        control_plane, env={"MANIFESTRY_STORE_PATH": str(root)}, kubeconfig=control_plane.kubeconfig
    )
    secret = {"metadata": {"name": "s", "namespace": tenant.namespace}, "stringData": {"k": "hidden"}}
    control_plane.create(names.SECRETS, secret, tenant.namespace)
    apply(control_plane, artifact("stolen", tenant, secretRef={"name": "s", "key": "k"}))
    found = wait(control_plane, tenant, "stolen", "SourceNotFound")
    assert "must carry the label" in ready(found)["message"]
    assert "hidden" not in json.dumps(found)


def test_without_the_right_to_read_it_a_reference_says_so(
    control_plane: ControlPlane, tenant: Tenant, operator: OperatorProcess
) -> None:
    apply(control_plane, artifact("copied", tenant, configMapRef={"name": "c", "key": "k"}))
    found = wait(control_plane, tenant, "copied", "SourceNotFound")
    assert ready(found)["message"].startswith(
        "ConfigMap 'c' may not be read by the operator; the chart's value"
    )


def test_a_namespace_without_a_tenant_gets_nothing_stored(
    control_plane: ControlPlane, operator: OperatorProcess, root: Path
) -> None:
    name = f"plain-{uuid.uuid4().hex[:8]}"
    made = control_plane.create(names.NAMESPACES, {"metadata": {"name": name}})
    plain = Tenant(name, name, made["metadata"]["uid"])
    apply(control_plane, artifact("greeting", plain, inline={"text": "hello"}))
    found = wait(control_plane, plain, "greeting", "TenantNotFound")
    assert conditions.kstatus(found) == "Failed"
    assert stored(root) == []
    assert not (root / "tenants").exists()


def test_deleting_an_artifact_removes_only_the_reference(
    control_plane: ControlPlane, tenant: Tenant, operator: OperatorProcess, root: Path
) -> None:
    apply(control_plane, artifact("greeting", tenant, inline={"text": "hello"}))
    wait(control_plane, tenant, "greeting", "Stored")
    control_plane.delete(ARTIFACTS, "greeting", tenant.namespace)
    control_plane.wait_for(ARTIFACTS, "greeting", tenant.namespace, lambda body: body is None)
    assert len([path for path in stored(root) if path.name != "tenant.json"]) == 2
