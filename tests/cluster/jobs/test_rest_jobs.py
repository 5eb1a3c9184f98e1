"""Jobs over REST: queued, controlled, replayed, guarded."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.cluster import rest
from tests.cluster.rest import JOB_TYPE
from tests.controlplane import pods, webhooks
from tests.controlplane.clusterapi import poll_until
from tests.controlplane.controlplane import ControlPlane
from tests.controlplane.plugin import MakeTenant
from tests.e2e.rest import Rest
from tests.e2e.teams import JOBS, LEDGERS, Team

pytest_plugins = ("tests.cluster.restfixtures",)


@pytest.fixture
def team(working_team: Team) -> Team:
    return working_team


def wait_for(caller: Rest, name: str, status: str) -> dict[str, object]:
    found: dict[str, object] = {}

    def reached() -> bool:
        found.update(caller.call("GET", f"/jobs/{name}").json)
        return found["status"] == status

    poll_until(reached, f"job {name} to be {status}", 30)
    return found


def test_a_job_is_queued_then_runs_then_succeeds(team: Team, control_plane: ControlPlane) -> None:
    caller = team.caller("operator")
    made = caller.call(
        "POST", "/jobs", rest.job(name="j", project="apollo", parameters={"frames": 3, "title": "x"})
    )
    assert (made.status, made.json["status"], made.headers["location"]) == (202, "queued", "/jobs/j"), (
        made.data
    )
    spec = team.cluster.get(JOBS, "j", team.namespace)["spec"]
    assert spec["parameters"] == [{"name": "frames", "value": "3"}, {"name": "title", "value": "x"}]
    with pods.Kubelet(control_plane, team.namespace):
        found = wait_for(team.caller("viewer"), "j", "succeeded")
    assert found["exitCode"] == 0
    assert found["project"] == "apollo"
    listed = caller.call("GET", f"/jobs?status=succeeded&jobType={JOB_TYPE}&project=apollo").json["items"]
    assert [each["id"] for each in listed] == ["j"]
    refused = caller.call("POST", "/jobs/j/cancel")
    assert (refused.status, refused.json["code"]) == (409, "conflict")


def test_a_job_is_suspended_resumed_and_cancelled_for_good(team: Team) -> None:
    caller = team.caller("operator")
    assert caller.call("POST", "/jobs", rest.job(name="j")).status == 202
    assert caller.call("POST", "/jobs/j/suspend").status == 202
    wait_for(caller, "j", "suspended")
    assert caller.call("POST", "/jobs/j/resume").status == 202
    assert caller.call("POST", "/jobs/j/resume").status == 409
    assert caller.call("POST", "/jobs/j/cancel").status == 202
    assert caller.call("POST", "/jobs/j/cancel").status == 202
    assert caller.call("POST", "/jobs/j/resume").status == 409
    wait_for(caller, "j", "cancelled")
    assert team.cluster.get(JOBS, "j", team.namespace)["spec"]["desiredState"] == "Cancelled"


def test_a_deleted_job_is_gone_and_gives_its_place_back(team: Team) -> None:
    caller = team.caller("operator")
    caller.call("POST", "/jobs", rest.job(name="j"))
    assert caller.call("DELETE", "/jobs/j").status == 202
    assert caller.call("GET", "/jobs/j").status == 404
    team.cluster.wait_for(
        LEDGERS, JOB_TYPE, team.namespace, lambda found: bool(found and not found["status"].get("holders"))
    )


def test_a_viewer_submits_controls_and_deletes_nothing(team: Team) -> None:
    team.caller("operator").call("POST", "/jobs", rest.job(name="j"))
    viewer = team.caller("viewer")
    for method, path, rule in (
        ("POST", "/jobs", "jobs:submit"),
        ("POST", "/jobs/j/cancel", "jobs:control"),
        ("DELETE", "/jobs/j", "jobs:delete"),
    ):
        refused = viewer.call(method, path, rest.job(name="k") if path == "/jobs" else None)
        assert (refused.status, refused.json["code"]) == (403, "forbidden")
        assert rule in refused.json["detail"]
    (only,) = team.cluster.list(JOBS, team.namespace)
    assert (only["metadata"]["name"], only["spec"].get("desiredState")) == ("j", None)


def test_another_tenants_job_is_not_there(
    product: rest.Installation, team: Team, make_tenant: MakeTenant
) -> None:
    team.caller("operator").call("POST", "/jobs", rest.job(name="j"))
    stranger = product.team(make_tenant()).caller("admin")
    for method, path in (
        ("GET", "/jobs/j"),
        ("DELETE", "/jobs/j"),
        ("POST", "/jobs/j/cancel"),
        ("GET", "/jobs/j/logs"),
    ):
        assert stranger.call(method, path).status == 404, path
    assert team.cluster.get(JOBS, "j", team.namespace)["spec"].get("desiredState") is None


def test_twenty_replays_at_once_are_one_job(team: Team) -> None:
    caller = team.caller("operator")
    key = {"Idempotency-Key": '"8e03978e-40d5-43dd-bc93-6894a57f9324"'}
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda _: caller.call("POST", "/jobs", rest.job(), headers=key), range(20)))
    assert {answer.status for answer in answers} == {202}
    assert len({answer.headers["location"] for answer in answers}) == 1
    other = caller.call("POST", "/jobs", rest.job(parameters={"frames": 2}), headers=key)
    assert (other.status, other.json["code"]) == (422, "validation-failed")
    assert len(team.cluster.list(JOBS, team.namespace)) == 1


def test_a_dry_run_changes_nothing(team: Team) -> None:
    before = team.cluster.get(LEDGERS, JOB_TYPE, team.namespace)["metadata"]["resourceVersion"]
    answer = team.caller("operator").call("POST", "/jobs?dryRun=true", rest.job(name="j"))
    assert (answer.status, answer.json["accepted"]) == (200, True), answer.data
    assert team.cluster.list(JOBS, team.namespace) == []
    assert team.cluster.get(LEDGERS, JOB_TYPE, team.namespace)["metadata"]["resourceVersion"] == before


def test_a_taken_name_is_already_there(team: Team) -> None:
    caller = team.caller("operator")
    assert caller.call("POST", "/jobs", rest.job(name="j")).status == 202
    answer = caller.call("POST", "/jobs", rest.job(name="j"))
    assert (answer.status, answer.json["code"]) == (409, "already-exists")
    assert answer.json["errors"][0]["pointer"] == "/name"


def test_a_webhook_out_of_reach_is_a_missing_dependency(product: rest.Installation, team: Team) -> None:
    caller = team.caller("operator")
    webhooks.register_webhook(product.cp, "https://127.0.0.1:1/admission/jobs", product.facade.webhook_ca_pem)
    try:

        def is_refused() -> bool:
            return caller.call("POST", "/jobs?dryRun=true", rest.job()).status == 503

        poll_until(is_refused, "the API server to use the new webhook", 20)
        answer = caller.call("POST", "/jobs", rest.job(name="j"))
        assert (answer.status, answer.json["code"]) == (503, "dependency-unavailable")
        assert "webhook" in answer.json["detail"]
        assert "retry-after" in answer.headers
    finally:
        product.register_webhook()
    assert team.cluster.list(JOBS, team.namespace) == []
    poll_until(lambda: caller.call("POST", "/jobs?dryRun=true", rest.job()).status == 200, "the webhook", 20)
