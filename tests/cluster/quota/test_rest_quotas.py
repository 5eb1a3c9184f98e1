"""Quota over REST: 429 with numbers, exactly the limit under concurrency, who is next."""

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.cluster import rest
from tests.cluster.rest import JOB_TYPE
from tests.controlplane.clusterapi import poll_until
from tests.controlplane.tenants import Tenant
from tests.e2e.teams import JOBS, Team

pytest_plugins = ("tests.cluster.restfixtures",)


@pytest.fixture
def team(product: rest.Installation, tenant: Tenant) -> Iterator[Team]:
    found = product.team(tenant)
    rows = [{"jobType": "*", "maxRunning": 2, "maxQueued": 3}]
    quota = {
        "apiVersion": "manifestry.dev/v1alpha1",
        "kind": "TenantQuota",
        "metadata": {"name": tenant.name},
        "spec": {"tenants": [tenant.name], "jobs": rows},
    }
    product.cp.create("manifestry.dev/v1alpha1/tenantquotas", quota)
    found.ready(JOB_TYPE)
    viewer = found.caller("viewer")
    poll_until(lambda: viewer.call("GET", f"/quotas/{JOB_TYPE}").json.get("maxRunning") == 2, "the limits")
    yield found
    product.cp.delete("manifestry.dev/v1alpha1/tenantquotas", tenant.name)


def test_fifty_at_once_at_limit_five_are_exactly_five(team: Team) -> None:
    caller = team.caller("operator")
    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(lambda n: caller.call("POST", "/jobs", rest.job(name=f"j{n}")), range(50)))
    assert Counter(answer.status for answer in answers) == {202: 5, 429: 45}
    assert len(team.cluster.list(JOBS, team.namespace)) == 5
    refused = next(answer for answer in answers if answer.status == 429)
    assert refused.headers["content-type"] == "application/problem+json"
    assert refused.json["code"] == "quota-exceeded"
    usage = refused.json["usage"]
    assert (usage["tenant"], usage["jobType"]) == (team.tenant.name, JOB_TYPE)
    assert (usage["maxRunning"], usage["maxQueued"]) == (2, 3)
    assert usage["running"] + usage["queued"] == 5
    assert int(refused.headers["retry-after"]) > 0
    rehearsal = caller.call("POST", "/jobs?dryRun=true", rest.job())
    assert (rehearsal.status, rehearsal.json["accepted"]) == (200, False)
    assert rehearsal.json["usage"]["maxQueued"] == 3


def test_usage_and_positions_are_those_of_the_ledger(team: Team) -> None:
    caller = team.caller("operator")
    for number in range(4):
        assert caller.call("POST", "/jobs", rest.job(name=f"j{number}")).status == 202
    assert caller.call("POST", "/jobs", rest.job(name="urgent", priority=100)).status == 202
    viewer = team.caller("viewer")

    def is_settled() -> bool:
        row = viewer.call("GET", f"/quotas/{JOB_TYPE}").json
        return (row["running"], row["queued"], row["reserved"]) == (2, 3, 0)

    poll_until(is_settled, "two running and three queued")
    queue = viewer.call("GET", f"/quotas/{JOB_TYPE}/queue").json["items"]
    assert [each["position"] for each in queue] == [1, 2, 3]
    assert queue[0]["jobId"] == "urgent"
    assert queue[0]["priority"] == 100
    page = viewer.call("GET", f"/quotas/{JOB_TYPE}/queue?limit=2").json
    rest_of = viewer.call("GET", f"/quotas/{JOB_TYPE}/queue?limit=2&continue={page['continue']}").json
    assert [*page["items"], *rest_of["items"]] == queue
    rows = viewer.call("GET", "/quotas").json
    assert rows["tenant"] == team.tenant.name
    row = next(each for each in rows["items"] if each["jobType"] == JOB_TYPE)
    assert (row["maxRunning"], row["maxQueued"], row["initialized"]) == (2, 3, True)
    assert rows["storage"]["artifacts"] == 0


def test_an_unknown_job_type_has_no_quota(team: Team) -> None:
    for path in ("/quotas/none", "/quotas/none/queue", "/job-types/none", "/quotas/No_Label"):
        answer = team.caller("viewer").call("GET", path)
        assert (answer.status, answer.json["code"]) == (404, "not-found")
