"""Killed in the middle: the job completes once, the log goes on without loss."""

import json
import threading
from typing import Any

import urllib3

from tests.controlplane.clusterapi import ClusterApi
from tests.e2e import conditions, teams
from tests.e2e.teams import ARTIFACTS, JOBS, NAMESPACE, Team


def kill(cluster: ClusterApi, component: str) -> None:
    """Kill a component's pods with SIGKILL; the Deployment starts new ones."""
    cluster.kubectl(
        *("-n", NAMESPACE, "delete", "pod", "--force", "--grace-period=0"),
        *("-l", f"app.kubernetes.io/component={component}"),
    )


def rollout(cluster: ClusterApi, component: str) -> None:
    """Wait until the component serves again."""
    cluster.kubectl(
        *("-n", NAMESPACE, "rollout", "status", f"deploy/manifestry-{component}", "--timeout=120s"),
        timeout_seconds=130,
    )


def test_the_operator_killed_in_the_middle_of_a_job_completes_it_once(
    team: Team, cluster: ClusterApi
) -> None:
    team.ready("e2e-slow")
    body = team.job("survivor", "e2e-slow", parameters=[{"name": "lines", "value": "12"}])
    cluster.create(JOBS, body, team.namespace)
    cluster.wait_for(
        JOBS, "survivor", team.namespace, conditions.reason("Succeeded", "Running"), timeout_seconds=60
    )
    kill(cluster, "operator")
    done = cluster.wait_for(
        JOBS, "survivor", team.namespace, conditions.has("Succeeded", "True"), timeout_seconds=120
    )
    assert done["status"]["exitCode"] == 0
    assert len(cluster.list("batch/v1/jobs", team.namespace)) == 1
    assert len(cluster.list("v1/pods", team.namespace)) == 1
    rollout(cluster, "operator")


def test_a_restarted_facade_lets_the_log_go_on_without_loss(team: Team, cluster: ClusterApi) -> None:
    rest = team.caller("operator")
    team.ready("e2e-slow")
    made = rest.call(
        "POST", "/jobs", {"name": "long", "jobType": "e2e-slow", "parameters": {"lines": 60, "pause": 0.5}}
    )
    assert made.status == 202, made.data
    seen, broken = b"", 0
    killer: threading.Thread | None = None
    for _ in range(60):
        try:
            for chunk in rest.stream(f"/jobs/long/logs?follow=true&offset={len(seen)}"):
                seen += chunk
                if killer is None and seen.count(b"\n") >= 5:
                    killer = threading.Thread(target=kill, args=(cluster, "api"))
                    killer.start()
            break
        except (urllib3.exceptions.HTTPError, AssertionError):
            broken += 1
            threading.Event().wait(1)
    assert killer is not None
    killer.join()
    assert broken, "the stream was never cut: the test proved nothing"
    assert seen.splitlines() == [f"line {n}".encode() for n in range(1, 61)]
    rollout(cluster, "api")


def test_malformed_objects_stop_nobody_else(team: Team, cluster: ClusterApi) -> None:
    team.ready("e2e-ok")
    hostile: list[dict[str, Any]] = [
        {"inline": {"data": "!!! not base64"}},
        {"inline": {"text": "x"}, "digest": "sha256:" + "f" * 64},
        {"object": {"digest": "sha256:" + "0" * 64}},
        {"upload": {"digest": "sha256:" + "1" * 64}},
    ]
    for number, source in enumerate(hostile):
        body = teams.body(ARTIFACTS, f"bad{number}", {"mediaType": "text/plain", **source})
        body["metadata"]["annotations"] = {"manifestry.dev/traceparent": "\u0000\n;" * 30}
        created = cluster.kubectl(
            *("-n", team.namespace, "create", "-f", "-"),
            stdin=json.dumps(body),
            check=False,
        )
        assert created.returncode == 0 or "Invalid value" in created.stderr or "is invalid" in created.stderr
    fine = teams.body(ARTIFACTS, "fine", {"mediaType": "text/plain", "inline": {"text": "ok"}})
    cluster.create(ARTIFACTS, fine, team.namespace)
    cluster.create(JOBS, team.job("fine"), team.namespace)
    cluster.wait_for(ARTIFACTS, "fine", team.namespace, conditions.has("Ready", "True"))
    cluster.wait_for(JOBS, "fine", team.namespace, conditions.has("Succeeded", "True"), timeout_seconds=60)
