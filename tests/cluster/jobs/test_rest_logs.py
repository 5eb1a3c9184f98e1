"""Why there is no log, against a real API server without a kubelet; streaming itself is proved by e2e."""

from collections.abc import Iterator
from typing import Any

import pytest
import urllib3

from tests.cluster import rest
from tests.controlplane import pods
from tests.controlplane.clusterapi import poll_until
from tests.controlplane.controlplane import ControlPlane
from tests.e2e.rest import Rest
from tests.e2e.teams import JOBS, Team

pytest_plugins = ("tests.cluster.restfixtures",)


@pytest.fixture
def team(working_team: Team) -> Team:
    return working_team


def submit(team: Team, name: str, **changes: object) -> dict[str, object]:
    made = team.caller("operator").call("POST", "/jobs", rest.job(name=name, **changes))
    assert made.status == 202
    return dict(team.cluster.get(JOBS, name, team.namespace)["metadata"])


def test_a_job_that_waits_has_no_log_yet(team: Team) -> None:
    submit(team, "j", desiredState="Suspended")
    answer = team.caller("viewer").call("GET", "/jobs/j/logs")
    assert (answer.status, answer.json["code"]) == (409, "conflict")
    assert "follow=true" in answer.json["detail"]


def test_a_job_that_was_cancelled_in_the_queue_never_has_one(team: Team) -> None:
    submit(team, "j", desiredState="Suspended")
    team.caller("operator").call("POST", "/jobs/j/cancel")
    viewer = team.caller("viewer")
    poll_until(lambda: viewer.call("GET", "/jobs/j").json["status"] == "cancelled", "the cancellation")
    for query in ("", "?follow=true", "?attempt=3&follow=true"):
        answer = viewer.call("GET", f"/jobs/j/logs{query}")
        assert (answer.status, answer.json["code"]) == (404, "not-found")


def test_a_follower_of_a_waiting_job_is_told_when_it_is_cancelled(team: Team) -> None:
    submit(team, "j", desiredState="Suspended")
    operator = team.caller("operator")
    with pytest.raises(urllib3.exceptions.HTTPError):
        list(_cancel_after_the_headers(operator))
    assert operator.call("GET", "/jobs/j/logs?follow=true").status == 404


def _cancel_after_the_headers(caller: Rest) -> Iterator[bytes]:
    answer = caller.pool.request(
        "GET", f"{caller.base_url}/jobs/j/logs?follow=true", headers=caller.headers, preload_content=False
    )
    assert answer.status == 200
    assert caller.call("POST", "/jobs/j/cancel").status == 202
    yield from answer.stream(1024)


def test_a_kubelet_out_of_reach_is_an_error_and_never_an_empty_log(
    team: Team, control_plane: ControlPlane, unreachable_node: str
) -> None:
    metadata = submit(team, "j")
    pod = pods.wait_for_pod(control_plane, team.namespace, f"j-{str(metadata['uid'])[:8]}")
    viewer = team.caller("viewer")
    answer = viewer.call("GET", "/jobs/j/logs")
    assert (answer.status, answer.json["code"]) == (409, "conflict")
    bind(control_plane, pod, unreachable_node)
    pods.run_pod(control_plane, control_plane.get("v1/pods", pod["metadata"]["name"], team.namespace))
    for query in ("", "?follow=true", "?offset=5"):
        answer = viewer.call("GET", f"/jobs/j/logs{query}")
        assert (answer.status, answer.json["code"]) == (503, "dependency-unavailable"), answer.data
        assert "retry-after" in answer.headers
    unknown = viewer.call("GET", "/jobs/j/logs?container=nope")
    assert (unknown.status, unknown.json["errors"][0]["parameter"]) == (422, "container")


@pytest.fixture
def unreachable_node(control_plane: ControlPlane) -> Iterator[str]:
    """Give a node whose kubelet refuses connections."""
    made = control_plane.create(
        "v1/nodes", {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "nowhere"}}
    )
    address = {"type": "InternalIP", "address": "127.0.0.1"}
    status = {"addresses": [address], "daemonEndpoints": {"kubeletEndpoint": {"Port": 1}}}
    control_plane.patch("v1/nodes", "nowhere", {"status": status}, subresource="status")
    yield made["metadata"]["name"]
    control_plane.delete("v1/nodes", "nowhere")


def bind(cp: ControlPlane, pod: dict[str, Any], node: str) -> None:
    metadata = pod["metadata"]
    body = {
        "apiVersion": "v1",
        "kind": "Binding",
        "metadata": {"name": metadata["name"]},
        "target": {"apiVersion": "v1", "kind": "Node", "name": node},
    }
    cp.request("POST", f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}/binding", body)


@pytest.mark.parametrize("path", ["/jobs/none/logs", "/jobs/No_Label/logs", "/jobs/none/logs?follow=true"])
def test_a_job_that_does_not_exist_has_no_log(team: Team, path: str) -> None:
    answer = team.caller("viewer").call("GET", path)
    assert (answer.status, answer.json["code"]) == (404, "not-found")
