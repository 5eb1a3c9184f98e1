"""The quota holds through both doors, and says so in numbers."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.controlplane.apirequests import ApiFailure
from tests.controlplane.clusterapi import ClusterApi
from tests.e2e.teams import JOBS, Team

LONG = {"lines": 600, "pause": 1}


def test_over_quota_is_429_over_rest_and_a_denial_with_usage_for_kubectl(
    team: Team, cluster: ClusterApi
) -> None:
    team.limit(maxRunning=1, maxQueued=1)
    team.ready("e2e-slow")
    rest = team.caller("operator")
    for name in ("a", "b"):
        assert (
            rest.call("POST", "/jobs", {"name": name, "jobType": "e2e-slow", "parameters": LONG}).status
            == 202
        )
    refused = rest.call("POST", "/jobs", {"name": "c", "jobType": "e2e-slow"})
    assert refused.status == 429
    assert refused.headers["content-type"] == "application/problem+json"
    assert "retry-after" in refused.headers
    assert refused.json["code"] == "quota-exceeded"
    usage = refused.json["usage"]
    assert (usage["tenant"], usage["jobType"]) == (team.tenant.name, "e2e-slow")
    assert (usage["maxRunning"], usage["maxQueued"]) == (1, 1)
    assert usage["running"] + usage["queued"] == 2
    denied = cluster.kubectl("create", "-f", "-", stdin=json.dumps(team.job("d", "e2e-slow")), check=False)
    assert denied.returncode != 0
    assert f'quota exceeded: tenant "{team.tenant.name}", job type "e2e-slow"' in denied.stderr
    assert {j["metadata"]["name"] for j in cluster.list(JOBS, team.namespace)} == {"a", "b"}


@pytest.mark.parametrize("door", ["rest", "kubectl"])
def test_fifty_concurrent_creates_at_limit_five_accept_exactly_five(
    team: Team, cluster: ClusterApi, door: str
) -> None:
    team.limit(maxRunning=2, maxQueued=3)
    team.ready("e2e-slow")
    rest = team.caller("operator")

    def submit(number: int) -> int:
        if door == "rest":
            body = {"name": f"j{number}", "jobType": "e2e-slow", "parameters": LONG}
            return rest.call("POST", "/jobs", body).status
        try:
            cluster.create(JOBS, team.job(f"j{number}", "e2e-slow"), team.namespace)
        except ApiFailure as failure:
            return failure.status
        return 202

    with ThreadPoolExecutor(50) as pool:
        statuses = list(pool.map(submit, range(50)))
    retried = [submit(n) for n, status in enumerate(statuses) if status == 503]
    accepted = [s for s in statuses + retried if s == 202]
    assert len(accepted) == 5, statuses
    assert set(statuses + retried) <= {202, 429, 503}
    assert len(cluster.list(JOBS, team.namespace)) == 5
