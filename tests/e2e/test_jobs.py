"""A job through both doors: queued, running, its log seen while it runs, its end."""

import json
import os
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.controlplane.clusterapi import ClusterApi
from tests.e2e import conditions
from tests.e2e.teams import JOBS, Team


def test_a_job_over_rest_streams_its_log_while_the_pod_runs(team: Team, cluster: ClusterApi) -> None:
    rest = team.caller("operator")
    team.ready("e2e-slow")
    made = rest.call(
        "POST", "/jobs", {"name": "slow", "jobType": "e2e-slow", "parameters": {"lines": 6, "pause": 0.5}}
    )
    assert made.status == 202, made.data
    assert (made.headers["location"], made.json["status"]) == ("/jobs/slow", "queued")
    seen = b""
    states: list[str] = []
    for chunk in rest.stream("/jobs/slow/logs?follow=true"):
        seen += chunk
        states.append(rest.call("GET", "/jobs/slow").json["status"])
    assert seen.splitlines() == [f"line {n}".encode() for n in range(1, 7)]
    assert "running" in states[:-1]
    done = cluster.wait_for(JOBS, "slow", team.namespace, conditions.has("Succeeded", "True"))
    assert done["status"]["exitCode"] == 0
    assert rest.call("GET", "/jobs/slow").json["status"] == "succeeded"
    assert rest.call("GET", "/jobs/slow/logs").data == seen


def test_a_job_by_kubectl_runs_and_its_log_is_there(team: Team, cluster: ClusterApi) -> None:
    team.ready("e2e-ok")
    cluster.kubectl("apply", "-f", "-", stdin=json.dumps(team.job("ok")))
    cluster.kubectl("-n", team.namespace, "wait", "mjob/ok", "--for=condition=Succeeded", "--timeout=60s")
    assert team.caller("viewer").call("GET", "/jobs/ok/logs").data == b"started\ndone\n"
    before = cluster.get(JOBS, "ok", team.namespace)["metadata"]
    assert "unchanged" in cluster.kubectl("apply", "-f", "-", stdin=json.dumps(team.job("ok"))).stdout
    assert cluster.get(JOBS, "ok", team.namespace)["metadata"]["generation"] == before["generation"]


@pytest.mark.parametrize("door", ["rest", "kubectl"])
def test_a_failing_job_ends_failed_with_its_exit_code(team: Team, cluster: ClusterApi, door: str) -> None:
    team.ready("e2e-fail")
    if door == "rest":
        made = team.caller("operator").call("POST", "/jobs", {"name": "bad", "jobType": "e2e-fail"})
        assert made.status == 202, made.data
    else:
        cluster.kubectl("apply", "-f", "-", stdin=json.dumps(team.job("bad", "e2e-fail")))
    failed = cluster.wait_for(
        JOBS, "bad", team.namespace, conditions.has("Succeeded", "False"), timeout_seconds=60
    )
    assert failed["status"]["exitCode"] == 7
    assert conditions.condition(failed, "Succeeded")["reason"] == "Failed"
    assert "7" in conditions.condition(failed, "Succeeded")["message"]
    assert team.caller("viewer").call("GET", "/jobs/bad").json["status"] == "failed"


def test_the_pod_is_restricted_and_carries_the_trace(team: Team, cluster: ClusterApi) -> None:
    team.ready("e2e-ok")
    cluster.kubectl(
        "label", "ns", team.namespace, "pod-security.kubernetes.io/enforce=restricted", "--overwrite"
    )
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    made = team.caller("operator").call(
        "POST", "/jobs", {"name": "traced", "jobType": "e2e-ok"}, headers={"traceparent": trace}
    )
    assert made.status == 202, made.data
    cluster.wait_for(JOBS, "traced", team.namespace, conditions.has("Succeeded", "True"), timeout_seconds=60)
    (pod,) = cluster.list("v1/pods", team.namespace)
    env = {e["name"]: e.get("value") for e in pod["spec"]["containers"][0]["env"]}
    assert env["TRACEPARENT"].split("-")[1] == trace.split("-")[1]
    assert pod["spec"]["automountServiceAccountToken"] is False


def test_a_job_costs_at_most_ten_writes(team: Team, cluster: ClusterApi) -> None:
    log = os.environ.get("MANIFESTRY_AUDIT_LOG")
    if not log:
        pytest.skip("the API server's audit log is not at hand on a cluster that hack/kind did not make")
    team.ready("e2e-ok")
    made = team.caller("operator").call("POST", "/jobs", {"name": "counted", "jobType": "e2e-ok"})
    assert made.status == 202, made.data
    cluster.wait_for(JOBS, "counted", team.namespace, conditions.has("Succeeded", "True"), timeout_seconds=60)
    time.sleep(3)  # the last release and the audit log's own buffer
    writes = Counter(_writes(Path(log), team.namespace))
    print("writes:", dict(writes))
    assert sum(writes.values()) <= 10
    assert sum(count for key, count in writes.items() if key[1] == "jobs/status") <= 4


def _writes(log: Path, namespace: str) -> list[tuple[str, str]]:
    ours = ("manifestry-operator", "manifestry-api")
    found = []
    for line in log.read_text().splitlines():
        event = json.loads(line)
        ref = event.get("objectRef") or {}
        user = event["user"]["username"]
        by_us = user.endswith(ours) or "impersonatedUser" in event
        counted = (
            event["verb"] in ("create", "update", "patch", "delete") and event["stage"] == "ResponseComplete"
        )
        done = counted and event["responseStatus"]["code"] < 300
        # the ledgers of the other job types belong to the tenant, not to this job
        foreign = ref.get("resource") == "quotaledgers" and ref.get("name") != "e2e-ok"
        initial = ref.get("resource") == "quotaledgers" and event["verb"] == "create"
        if by_us and done and ref.get("namespace") == namespace and not foreign and not initial:
            sub = f"/{ref['subresource']}" if ref.get("subresource") else ""
            found.append((event["verb"], ref["resource"] + sub))
    return found
