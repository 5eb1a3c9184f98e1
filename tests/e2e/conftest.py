"""The installed product on the kind cluster: `make up` has put it there, `KUBECONFIG` says where."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.controlplane.clusterapi import ClusterApi
from tests.controlplane.tenants import make, remove
from tests.e2e.teams import JOB_TYPES, NAMESPACE, QUOTAS, Team, body, facade_url

SCRIPTS = {
    "e2e-ok": "echo started; echo done",
    "e2e-slow": 'for i in $(seq 1 "${PARAM_LINES:-5}"); do echo "line $i"; sleep "${PARAM_PAUSE:-0.2}"; done',
    "e2e-fail": "echo going down; exit 7",
}
SCHEMA = {
    "type": "object",
    "additionalProperties": False,
    "properties": {"lines": {"type": "integer", "minimum": 1}, "pause": {"type": "number", "minimum": 0}},
}


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterApi]:
    """Return the administrator's view of the kind cluster."""
    kubeconfig = os.environ.get("KUBECONFIG")
    if not kubeconfig:
        pytest.fail(
            'KUBECONFIG is not set: run `make test-e2e`, or eval "$(python3 hack/kind env)" after `make up`'
        )
    api = ClusterApi(Path(kubeconfig), kubectl_argv=["kubectl"], folder=tmp_path_factory.mktemp("kubectl"))
    yield api
    api.close()


@pytest.fixture(scope="session")
def image(cluster: ClusterApi) -> str:
    """Return the image that is installed: it has a shell, and the node has it."""
    deployment = cluster.get("apps/v1/deployments", "manifestry-operator", NAMESPACE)
    return str(deployment["spec"]["template"]["spec"]["containers"][0]["image"])


@pytest.fixture(scope="session")
def job_types(cluster: ClusterApi, image: str) -> Iterator[None]:
    """Create the job types that the end-to-end tests run."""
    for name, script in SCRIPTS.items():
        spec: dict[str, Any] = {
            "image": image,
            "command": ["/bin/sh", "-c"],
            "args": [script],
            "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"memory": "64Mi"}},
            "parametersSchema": SCHEMA,
        }
        cluster.create(JOB_TYPES, body(JOB_TYPES, name, spec))
    yield
    for name in SCRIPTS:
        cluster.delete(JOB_TYPES, name)


@pytest.fixture
def make_team(cluster: ClusterApi, job_types: None) -> Iterator[Callable[[], Team]]:
    """Return a factory of tenants, each gone with its quota at the end of the test."""
    teams: list[Team] = []

    def build() -> Team:
        teams.append(Team(make(cluster), cluster, facade_url(cluster), patient=True))
        return teams[-1]

    yield build
    for team in teams:
        remove(cluster, team.tenant)
        if cluster.find(QUOTAS, team.tenant.name):
            cluster.delete(QUOTAS, team.tenant.name)


@pytest.fixture
def team(make_team: Callable[[], Team]) -> Team:
    """Return one tenant."""
    return make_team()
