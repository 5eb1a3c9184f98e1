"""The release can be upgraded, rolled back and removed; definitions and data stay."""

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from tests.controlplane.clusterapi import ClusterApi
from tests.e2e import conditions, teams
from tests.e2e.teams import ARTIFACTS, NAMESPACE, Team

CHART = Path(__file__).resolve().parents[2] / "charts/manifestry"


def helm(*arguments: str) -> str:
    """Run helm against the cluster of this session."""
    done = subprocess.run(
        ["helm", "-n", NAMESPACE, *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env=dict(os.environ),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.timeout(900)
def test_upgrade_rollback_and_uninstall_leave_definitions_and_data(team: Team, cluster: ClusterApi) -> None:
    body = teams.body(ARTIFACTS, "kept", {"mediaType": "text/plain", "inline": {"text": "stays"}})
    cluster.create(ARTIFACTS, body, team.namespace)
    cluster.wait_for(ARTIFACTS, "kept", team.namespace, conditions.has("Ready", "True"))
    claim = cluster.get("v1/persistentvolumeclaims", "manifestry-data", NAMESPACE)["metadata"]["uid"]
    values = helm("get", "values", "manifestry", "-o", "yaml")
    settings = Path(cluster.folder) / "values.yaml"
    settings.write_text(values)

    upgrade = (
        "upgrade",
        "--install",
        "manifestry",
        str(CHART),
        "-f",
        str(settings),
        "--wait",
        "--timeout",
        "4m",
    )
    helm(*upgrade, "--set", "operator.replicas=2", "--set", "api.replicas=2")
    _reads_back(team)
    helm("rollback", "manifestry", "--wait", "--timeout", "4m")
    _reads_back(team)
    helm("uninstall", "manifestry", "--wait", "--timeout", "4m")
    assert cluster.get("apiextensions.k8s.io/v1/customresourcedefinitions", "artifacts.manifestry.dev")
    assert cluster.find(ARTIFACTS, "kept", team.namespace)
    cluster.create("batch/v1/jobs", _batch_job(), team.namespace)  # a dead manifestry blocks nobody
    helm(*upgrade)
    assert cluster.get("v1/persistentvolumeclaims", "manifestry-data", NAMESPACE)["metadata"]["uid"] == claim
    _reads_back(team)


def _reads_back(team: Team) -> None:
    team = replace(team, facade_url=teams.facade_url(team.cluster))  # a new release has a new node port
    assert team.caller("viewer").call("GET", "/artifacts/kept/content").data == b"stays"


def _batch_job() -> dict[str, object]:
    container = {"name": "main", "image": "none.invalid/none"}
    pod = {"restartPolicy": "Never", "containers": [container]}
    return {"metadata": {"name": "someone-elses"}, "spec": {"suspend": True, "template": {"spec": pod}}}
