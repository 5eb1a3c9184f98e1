"""A store that takes no bytes, through the Service: only what writes bytes is refused, for every tenant.

What a client sees of a full volume is the floor for new bytes, so the test raises it above the volume; a
read-only volume is mounted as one, and the new facade, which could not try its store there, refuses. Each is
a rollout of the facade, which ends only when the new pod is ready: a facade that left the Service for such a
store would never get there.
"""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.controlplane.clusterapi import ClusterApi, poll_until
from tests.e2e.rest import Rest
from tests.e2e.teams import JOBS, NAMESPACE, Team

FACADE = "deploy/manifestry-api"
PODS = "app.kubernetes.io/component=api"
GONE_SECONDS = 90.0  # a pod that is on its way out still serves whoever has found it before
MEDIA_TYPE = "application/x-blob"
DATA_PATH = "/var/lib/manifestry"
CONTAINER: dict[str, dict[str, Any]] = {
    "full": {"env": [{"name": "MANIFESTRY_STORE_RESERVE_BYTES", "value": str(1 << 60)}]},
    "read-only": {"volumeMounts": [{"name": "data", "mountPath": DATA_PATH, "readOnly": True}]},
}


@contextmanager
def broken(cluster: ClusterApi, fault: str) -> Iterator[None]:
    """Roll a facade out whose store takes no bytes, and the one before at the end."""
    containers = [{"name": "api", **CONTAINER[fault]}]
    patch = json.dumps({"spec": {"template": {"spec": {"containers": containers}}}})
    cluster.kubectl("-n", NAMESPACE, "patch", FACADE, "--type=strategic", "-p", patch)
    try:
        wait(cluster)
        yield
    finally:
        cluster.kubectl("-n", NAMESPACE, "rollout", "undo", FACADE)
        wait(cluster)


def wait(cluster: ClusterApi) -> None:
    """Wait until only facades of the newest template are behind the Service."""
    argv = ("-n", NAMESPACE, "rollout", "status", FACADE, "--timeout=120s")
    cluster.kubectl(*argv, timeout_seconds=130)
    deadline = time.monotonic() + GONE_SECONDS
    while len(cluster.kubectl("-n", NAMESPACE, "get", "pods", "-l", PODS, "-o", "name").stdout.split()) > 1:
        assert time.monotonic() < deadline, "the facade before is still there"
        time.sleep(0.5)


def upload(rest: Rest, name: str) -> Any:
    """Declare an artifact and send its payload."""
    rest.call("POST", "/artifacts", {"name": name, "mediaType": MEDIA_TYPE, "upload": {}})
    path, headers = f"/artifacts/{name}/content", {"Content-Type": MEDIA_TYPE}
    return rest.call("PUT", path, data=name.encode(), headers=headers)


def health(rest: Rest) -> tuple[str, str]:
    """Return what the facade says of itself and of its store; its probes look every ten seconds."""
    found = rest.call("GET", "/healthz").json
    return found["status"], found["objectStore"]


@pytest.mark.parametrize(
    ("fault", "status", "code"), [("full", 507, "storage-full"), ("read-only", 503, "store-refused")]
)
def test_a_store_that_takes_no_bytes_refuses_only_those(
    make_team: Callable[[], Team], cluster: ClusterApi, fault: str, status: int, code: str
) -> None:
    team = make_team()
    team.ready("e2e-ok")
    rest = team.caller("publisher", "operator")
    for name in ("kept", "deleted"):
        assert upload(rest, name).status == 200
    with broken(cluster, fault):
        rest.pool.clear()  # a connection may lead to a pod that is on its way out
        refused = upload(rest, "refused")
        assert (refused.status, refused.json["code"]) == (status, code), refused.data
        assert rest.call("GET", "/artifacts/kept/content").data == b"kept"
        assert rest.call("DELETE", "/artifacts/deleted").status in {200, 202, 204}
        submitted = {"name": f"by-rest-{fault}", "jobType": "e2e-ok", "parameters": {}}
        assert rest.call("POST", "/jobs", submitted).status in {201, 202}
        cluster.create(JOBS, team.job(f"by-kubectl-{fault}"), team.namespace)  # `failurePolicy: Fail`
        poll_until(lambda: health(rest) == ("degraded", "degraded"), "the facade says that it is degraded")
    rest.pool.clear()
    again = upload(rest, "refused")
    assert again.status == 200, again.data
