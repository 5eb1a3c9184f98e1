"""A running manifestry that may fetch from one server, and Artifacts applied to it."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from manifestry.core.kube import conditions, names
from tests.cluster import rest
from tests.component.fetching import originserver
from tests.controlplane import grants, processes
from tests.controlplane.audit import WriteFilter
from tests.controlplane.certificates import Authority
from tests.controlplane.controlplane import ControlPlane
from tests.e2e.teams import ARTIFACTS, Team

ADDRESS = "127.0.0.2"
CLUSTER_ROLES = "rbac.authorization.k8s.io/v1/clusterroles"
DATA = bytes(range(256)) * 4096  # 1 MiB
Object = dict[str, Any]


@dataclass
class Product:
    """A running manifestry that may fetch from one server."""

    running: rest.Installation
    origin: originserver.Origin
    store: Path

    def requests(self, target: str) -> int:
        return len([request for request in self.origin.requests if request.target == target])

    def staged(self) -> list[Path]:
        return [path for path in (self.store / "uploads").rglob("*") if path.is_file()]


def grant_references(cp: ControlPlane, *values: str) -> None:
    rendered = grants.chart_objects(processes.SYSTEM_NAMESPACE, *values)
    for found in rendered:
        if found["kind"] == "ClusterRole" and found["metadata"]["name"] == "manifestry-controller":
            cp.apply(CLUSTER_ROLES, found)


@contextmanager
def installed(control_plane: ControlPlane, folder: Path) -> Iterator[Product]:
    """Install manifestry with a server that it may fetch from, and the right to read references."""
    authority = Authority()
    ca_file, store = folder / "fetch-ca.crt", folder / "bytes"
    ca_file.write_bytes(authority.certificate_pem)
    env = {
        "MANIFESTRY_FETCH_ALLOWED_CIDRS": f"{ADDRESS}/32",
        "MANIFESTRY_FETCH_CA_FILE": str(ca_file),
        "MANIFESTRY_FETCH_MAX_BYTES": str(4 * len(DATA)),
        "MANIFESTRY_STORE_PATH": str(store),
    }
    with (
        originserver.in_thread(authority, folder, address=ADDRESS) as origin,
        rest.installed(control_plane, folder, **env) as running,
    ):
        grant_references(
            control_plane, "operator.references.configMaps=true", "operator.references.secrets=true"
        )
        yield Product(running, origin, store)
        grant_references(control_plane)


def artifact(team: Team, name: str, **spec: Any) -> Object:
    return {
        "apiVersion": names.API_VERSION,
        "kind": "Artifact",
        "metadata": {"name": name, "namespace": team.namespace},
        "spec": {"mediaType": "application/zip", **spec},
    }


def apply(team: Team, *bodies: Object) -> str:
    return team.cluster.kubectl("apply", "-f", "-", stdin="\n---\n".join(map(json.dumps, bodies))).stdout


def wait(team: Team, name: str, reason: str, kstatus: str) -> Object:
    def holds(body: Object | None) -> bool:
        if body is None or body["status"]["observedGeneration"] != body["metadata"]["generation"]:
            return False
        return (conditions.find(body["status"].get("conditions"), "Ready") or {}).get("reason") == reason

    found = team.cluster.wait_for(ARTIFACTS, name, team.namespace, holds, timeout_seconds=30)
    listed = found["status"]["conditions"]
    ready = conditions.find(listed, "Ready")
    assert ready is not None
    expected = {"Current": "True", "Failed": "False", "InProgress": "Unknown"}
    assert conditions.kstatus(found) == kstatus
    assert ready["status"] == expected[kstatus]
    assert conditions.is_status(listed, "Stalled", "True") is (kstatus == "Failed")
    assert conditions.is_status(listed, "Reconciling", "True") is (kstatus == "InProgress")
    return found


def status_writes(cp: ControlPlane, team: Team, name: str | None = None, since: int = 0) -> int:
    wanted = WriteFilter(
        user=processes.OPERATOR_USER, namespace=team.namespace, name=name, resource="artifacts.manifestry.dev"
    )
    return len(cp.writes(wanted, since=since))
