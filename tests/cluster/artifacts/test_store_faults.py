"""A store that fails: artifacts wait, say why, write once, and become ready when it is back."""

import json
import time
from collections.abc import Callable
from pathlib import Path

from manifestry.core.blobs import digests
from manifestry.core.kube import conditions, names
from tests.cluster.artifacts.test_lifecycle import apply, artifact, ready, status_writes, wait
from tests.controlplane.controlplane import ControlPlane
from tests.controlplane.processes import OperatorProcess
from tests.controlplane.tenants import Tenant
from tests.seaweed.plugin import MakeS3


def test_artifacts_survive_a_store_that_is_down(
    control_plane: ControlPlane,
    tenant: Tenant,
    make_s3: MakeS3,
    start_operator: Callable[..., OperatorProcess],
) -> None:
    server = make_s3()
    start_operator(control_plane, env={**server.settings(), "MANIFESTRY_STORE_TIMEOUT_SECONDS": "1"})
    apply(control_plane, artifact("first", tenant, inline={"text": "hello"}))
    wait(control_plane, tenant, "first", "Stored")
    server.pause()
    apply(control_plane, artifact("second", tenant, inline={"text": "world"}))
    waiting = wait(control_plane, tenant, "second", "StoreUnavailable")
    assert (ready(waiting)["status"], conditions.kstatus(waiting)) == ("Unknown", "InProgress")
    time.sleep(7)  # at least one more try
    assert status_writes(control_plane, tenant, "second") == 1
    server.resume()
    found = wait(control_plane, tenant, "second", "Stored")
    assert found["status"]["artifact"]["digest"] == digests.of(b"world")
    assert status_writes(control_plane, tenant, "second") == 2
    first = control_plane.get(names.ARTIFACTS, "first", tenant.namespace)
    assert conditions.kstatus(first) == "Current", json.dumps(first["status"])


def test_an_operator_killed_at_work_finishes_after_its_restart(
    control_plane: ControlPlane,
    tenant: Tenant,
    tmp_path: Path,
    start_operator: Callable[..., OperatorProcess],
) -> None:
    operator = start_operator(control_plane, env={"MANIFESTRY_STORE_PATH": str(tmp_path / "store")})
    bodies = [artifact(f"a{number}", tenant, inline={"text": f"text {number}"}) for number in range(40)]
    for kill_after in (0.0, 0.05, 0.1):
        apply(control_plane, *bodies[:20])
        time.sleep(kill_after)
        operator.kill()
        operator.start()
    apply(control_plane, *bodies)
    for body in bodies:
        wait(control_plane, tenant, body["metadata"]["name"], "Stored")
    assert status_writes(control_plane, tenant) == len(bodies)
