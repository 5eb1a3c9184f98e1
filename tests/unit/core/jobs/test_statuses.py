"""What a Job's status says of its run: reasons, exit codes, times, names, and the same to every reader."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from manifestry.core.jobs import plans, statuses, steps
from manifestry.core.jobs.plans import Observed
from manifestry.core.kube import conditions
from manifestry.core.quota.holders import State
from tests.unit.core.jobs.observations import (
    ADMITTED,
    FINAL,
    NAMED,
    NOW,
    RUNNING,
    SLOW,
    batch,
    dated,
    ended,
    holder,
    job,
    message,
    pod,
    see,
)


@pytest.mark.parametrize(
    ("pods", "said", "code"),
    [
        ([pod({"terminated": {"exitCode": 3, "reason": "Error"}})], "container `main` exited with code 3", 3),
        (
            [pod({"terminated": {"exitCode": 137, "reason": "OOMKilled"}})],
            "container `main` exited with code 137 (OOMKilled)",
            137,
        ),
        ([pod()], "pod 'p' failed before its container ended", None),
        ([], "boom", None),
    ],
)
def test_a_failure_names_the_exit_code(pods: Any, said: str, code: int | None) -> None:
    observed = see(holder=ADMITTED, batch=ended("Failed", message="boom"), pods=tuple(pods))
    assert message(observed) == said
    assert (steps.plan(observed, NOW).status or {}).get("exitCode") == code


def test_a_finished_status_has_its_times_and_names() -> None:
    observed = see(
        job(status={"effective": {"activeDeadlineSeconds": 9}}),
        batch=ended("Failed", reason="DeadlineExceeded"),
        pods=(pod({"terminated": {"exitCode": 1}}),),
    )
    status = steps.plan(observed, NOW).status or {}
    assert "its `activeDeadlineSeconds` of 9" in message(observed)
    assert (status["startTime"], status["completionTime"]) == ("2026-01-01T11:59:30Z", "2026-01-01T12:00:00Z")
    assert (status["podName"], status["attempts"]) == ("p", 1)
    assert status["jobRef"] == {"name": "a-01234567", "uid": "b1"}


@pytest.mark.parametrize(
    ("pods", "said"),
    [
        ([], "a pod is active"),
        ([pod({"waiting": {"reason": "ErrImagePull"}})], "the image 'x' cannot be pulled"),
        ([pod({"waiting": {"reason": "ImagePullBackOff"}})], "the image 'x' cannot be pulled"),
        (
            [pod({"waiting": {"reason": "CreateContainerConfigError", "message": "runs as root"}})],
            "the container cannot start: CreateContainerConfigError: runs as root",
        ),
        (
            [pod(conditions=[{"type": "PodScheduled", "status": "False"}])],
            "the pod cannot be scheduled yet",
        ),
        ([pod({"running": {}})], "a pod is active"),
    ],
)
def test_a_pod_that_does_not_start_says_why(pods: Any, said: str) -> None:
    observed = see(holder=ADMITTED, batch=SLOW, pods=tuple(pods))
    assert message(observed) == said
    assert steps.plan(observed, NOW).after == steps.PROBLEM_POLL_SECONDS


@pytest.mark.parametrize(
    ("observed", "kstatus", "word"),
    [
        (see(holder=holder(State.QUEUED)), "InProgress", "queued"),
        (see(holder=ADMITTED, batch=batch(suspend=True)), "InProgress", "queued"),
        (see(holder=ADMITTED, batch=batch(active=1)), "InProgress", "running"),
        (see(batch=ended("Complete")), "Current", "succeeded"),
        (see(batch=ended("Failed")), "Failed", "failed"),
        (see(job({"desiredState": "Cancelled"})), "Current", "cancelled"),
        (see(job({"desiredState": "Suspended"}), holder=holder(State.RESERVED)), "Current", "suspended"),
        (see(job({"desiredState": "Suspended"}), holder=ADMITTED, batch=batch()), "InProgress", "suspended"),
        (see(over_quota="x"), "Failed", "failed"),
        (see(tenant=None), "InProgress", "queued"),
        (see(job_type=None), "InProgress", "queued"),
        (see(holder=ADMITTED, denied="x"), "InProgress", "queued"),
    ],
)
def test_every_reader_agrees_on_the_state(observed: Observed, kstatus: str, word: str) -> None:
    body = {**observed.job, "status": steps.plan(observed, NOW).status}
    assert conditions.kstatus(body) == kstatus
    assert statuses.rest_status(body) == word
    assert statuses.rest_status(job()) == "queued"


def test_planning_twice_gives_an_equal_status_so_that_nothing_is_written() -> None:
    waiting = see(holder=ADMITTED, batch=batch(suspend=True))
    for observed in (
        see(holder=holder(State.QUEUED)),
        waiting,
        see(batch=ended("Failed")),
        see(job_type=None),
    ):
        first = steps.plan(observed, NOW).status
        later = NOW + timedelta(seconds=30)
        second = steps.plan(replace(observed, job={**observed.job, "status": first}), later).status
        assert second in (None, first)


def test_foreign_conditions_and_fields_of_a_status_are_kept() -> None:
    before = {"logs": {"uri": "u"}, "conditions": [{"type": "Foreign", "status": "True"}]}
    status = steps.plan(see(job(status=before), holder=holder(State.QUEUED)), NOW).status or {}
    assert status["logs"] == {"uri": "u"}
    assert conditions.is_status(status["conditions"], "Foreign", "True")


def test_suspending_forgets_the_run_so_that_a_resume_starts_anew() -> None:
    before = job({"desiredState": "Suspended"}, status={**RUNNING, "startTime": "t", "podName": "p"})
    status = steps.plan(see(before, holder=ADMITTED, batch=batch()), NOW).status or {}
    assert not {"jobRef", "startTime", "podName"} & status.keys()


def test_a_retry_after_the_end_is_answered_in_the_message() -> None:
    body = job({"retryGeneration": 1}, status=FINAL, generation=2)
    status = steps.plan(see(body), NOW).status or {}
    assert status["retryGeneration"] == 1
    assert status["conditions"][0]["message"] == "m; a retry is not supported yet, create a new Job"
    again = {**body, "status": status, "metadata": {**body["metadata"], "generation": 3}}
    assert (steps.plan(see(again), NOW).status or {})["conditions"][0]["message"].count("retry") == 1


def test_the_status_names_the_batch_job_before_it_may_run() -> None:
    status = steps.plan(see(holder=ADMITTED, batch=dated(9, suspend=True)), NOW).status or {}
    assert status["jobRef"] == {"name": "a-01234567", "uid": "b1"}
    assert status["effective"] == {"image": "x", "backoffLimit": 0, "activeDeadlineSeconds": 9}


def test_the_status_tells_the_deadline_in_force() -> None:
    before = {**RUNNING, "effective": {"image": "x", "activeDeadlineSeconds": 60}}
    body = job({"activeDeadlineSeconds": 5}, before, generation=2)
    observed = see(body, holder=ADMITTED, batch=dated(60, active=1))
    assert steps.plan(observed, NOW).actions == (plans.SetDeadline("a-01234567", "b1", 5),)
    after = steps.plan(replace(observed, batch=dated(5, active=1)), NOW).status or {}
    assert after["effective"] == {"image": "x", "activeDeadlineSeconds": 5}
    assert after["observedGeneration"] == 2
    bare = steps.plan(see(job(status=RUNNING), holder=ADMITTED, batch=batch(active=1)), NOW).status or {}
    assert "effective" not in bare


def test_a_job_without_a_pod_says_so_after_a_while() -> None:
    early = see(job(status=NAMED), holder=ADMITTED, batch=batch(startTime="2026-01-01T11:59:50Z"))
    assert steps.plan(early, NOW).status is None
    late = replace(early, batch=batch(startTime="2026-01-01T11:59:00Z"))
    assert "no pod could be made yet" in message(late)
    assert steps.plan(late, NOW).after == steps.PROBLEM_POLL_SECONDS
