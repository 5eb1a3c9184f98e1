from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from manifestry.core.jobs import lives, plans, podspecs, statuses, steps
from manifestry.core.jobs.plans import (
    Claim,
    CreateBatch,
    DeleteBatch,
    Observed,
    Park,
    Release,
    SetTtl,
    Unsuspend,
)
from manifestry.core.kube import conditions, names
from manifestry.core.quota import holders
from manifestry.core.quota.holders import Holder, State

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
TYPE = {"metadata": {"name": "render"}, "spec": {"image": "x", "allowedOverrides": ["Priority"]}}
UID = "0123456789ab"


def job(spec: Any = None, status: Any = None, **metadata: Any) -> dict[str, Any]:
    return {
        "metadata": {
            "name": "a",
            "uid": UID,
            "namespace": "ns",
            "generation": 1,
            "resourceVersion": "7",
            "creationTimestamp": "2026-01-01T11:59:00Z",
            **metadata,
        },
        "spec": {"jobType": "render", **(spec or {})},
        "status": status or {},
    }


def batch(*, suspend: bool = False, uid: str = UID, deleting: bool = False, **status: Any) -> dict[str, Any]:
    metadata = {
        "name": "a-01234567",
        "uid": "b1",
        "resourceVersion": "9",
        "labels": {names.JOB_UID_LABEL: uid},
    }
    if deleting:
        metadata["deletionTimestamp"] = "2026-01-01T12:00:00Z"
    return {"metadata": metadata, "spec": {"suspend": suspend}, "status": status}


def dated(seconds: int, **fields: Any) -> dict[str, Any]:
    made = batch(**fields)
    return {**made, "spec": {**made["spec"], "activeDeadlineSeconds": seconds}}


def ended(kind: str, **fields: Any) -> dict[str, Any]:
    entry = {"type": kind, "status": "True", "lastTransitionTime": "2026-01-01T12:00:00Z", **fields}
    return batch(conditions=[entry], failed=1, startTime="2026-01-01T11:59:30Z")


def pod(state: Any = None, name: str = "p", **status: Any) -> dict[str, Any]:
    container = {"name": "main", "image": "x", "state": state or {}}
    return {
        "metadata": {"name": name, "creationTimestamp": "2026-01-01T11:59:31Z"},
        "status": {"containerStatuses": [container], **status},
    }


def holder(state: State, priority: int = 0) -> Holder:
    return Holder(UID, "a", state, NOW - timedelta(seconds=5), priority)


def status_of(reason: str, word: conditions.Status, **fields: Any) -> dict[str, Any]:
    entry = {"type": "Succeeded", "status": word, "reason": reason, "message": "m", "lastTransitionTime": "t"}
    return {"observedGeneration": 1, "conditions": [entry], **fields}


def see(body: dict[str, Any] | None = None, **fields: Any) -> Observed:
    return replace(Observed(body or job(), "acme", TYPE), **fields)


def kinds(plan: plans.Plan) -> list[str]:
    return [type(action).__name__ for action in plan.actions]


def reason(plan: plans.Plan) -> str:
    found = conditions.find((plan.status or {}).get("conditions"), "Succeeded")
    return str(found["reason"]) if found else ""


FINAL = status_of("Failed", "False")
RUNNING = status_of("Running", "Unknown", jobRef={"name": "a-01234567", "uid": "b1"})
NAMED = status_of("Admitted", "Unknown", jobRef={"name": "a-01234567", "uid": "b1"})
SUSPENDED = status_of("Suspended", "Unknown")
SUSPEND_WISH = job({"desiredState": "Suspended"})
CANCEL_WISH = job({"desiredState": "Cancelled"})
ADMITTED = holder(State.ADMITTED)


@pytest.mark.parametrize(
    ("why", "observed", "reason_", "actions", "again"),
    [
        ("first sight", see(), "", ["Claim"], True),
        ("the webhook has charged it", see(holder=holder(State.RESERVED)), "", ["Claim"], True),
        ("it waits", see(holder=holder(State.QUEUED)), "Queued", [], False),
        (
            "its priority was edited",
            see(job({"priority": 3}), holder=holder(State.QUEUED)),
            "",
            ["Claim"],
            True,
        ),
        ("over quota", see(over_quota="quota exceeded: x"), "QuotaExceeded", [], False),
        ("it has a slot", see(holder=ADMITTED), "", ["CreateBatch"], True),
        ("its batch Job is refused for now", see(holder=ADMITTED, denied="quota"), "Admitted", [], False),
        (
            "its batch Job is suspended",
            see(holder=ADMITTED, batch=batch(suspend=True)),
            "Admitted",
            ["Unsuspend"],
            False,
        ),
        (
            "somebody has suspended its batch Job",
            see(job(status=RUNNING), holder=ADMITTED, batch=batch(suspend=True)),
            "",
            ["Unsuspend"],
            False,
        ),
        (
            "made, but it vanished before it ran",
            see(job(status=NAMED), holder=ADMITTED),
            "Failed",
            ["Release"],
            False,
        ),
        ("no pod yet", see(holder=ADMITTED, batch=batch()), "", [], False),
        ("a pod", see(holder=ADMITTED, batch=batch(active=1)), "Running", [], False),
        ("ready", see(holder=ADMITTED, batch=batch(active=1, ready=1)), "Running", [], False),
        ("between two pods", see(job(status=RUNNING), holder=ADMITTED, batch=batch()), "Running", [], False),
        ("its entry was lost", see(batch=batch(active=1)), "", ["Claim"], True),
        ("complete", see(holder=ADMITTED, batch=ended("Complete")), "Succeeded", ["Release"], False),
        ("complete, no entry", see(batch=ended("Complete")), "Succeeded", [], False),
        ("failed", see(holder=ADMITTED, batch=ended("Failed")), "Failed", ["Release"], False),
        (
            "too long",
            see(holder=ADMITTED, batch=ended("Failed", reason="DeadlineExceeded")),
            "DeadlineExceeded",
            ["Release"],
            False,
        ),
        ("refused for good", see(holder=ADMITTED, refused="bad"), "Failed", ["Release"], False),
        ("another's batch Job", see(holder=ADMITTED, batch=batch(uid="other")), "Failed", ["Release"], False),
        ("its batch Job is lost", see(job(status=RUNNING), holder=ADMITTED), "Failed", ["Release"], False),
        ("its batch Job leaves", see(holder=ADMITTED, batch=batch(deleting=True)), "", [], False),
        ("no tenant", see(tenant=None), "TenantNotFound", [], False),
        ("no type", see(job_type=None, holder=holder(State.RESERVED)), "JobTypeNotFound", [], False),
        ("no type, suspended", see(SUSPEND_WISH, job_type=None), "JobTypeNotFound", [], False),
        ("no type, cancelled", see(CANCEL_WISH, job_type=None), "Cancelled", [], False),
        (
            "its deadline was lowered",
            see(job({"activeDeadlineSeconds": 5}, RUNNING), holder=ADMITTED, batch=dated(9, active=1)),
            "",
            ["SetDeadline"],
            True,
        ),
        (
            "its deadline was lowered before it ran",
            see(job({"activeDeadlineSeconds": 5}), holder=ADMITTED, batch=dated(9, suspend=True)),
            "",
            ["SetDeadline"],
            True,
        ),
        (
            "its deadline holds",
            see(job({"activeDeadlineSeconds": 9}, RUNNING), holder=ADMITTED, batch=dated(9, active=1)),
            "Running",
            [],
            False,
        ),
        (
            "its deadline was changed after its end",
            see(job({"activeDeadlineSeconds": 5}, FINAL, generation=2), batch=ended("Failed")),
            "Failed",
            [],
            False,
        ),
        ("inputs", see(job({"inputs": [{"name": "i"}]})), "NotSupported", [], False),
        (
            "bad parameters",
            see(job({"parameters": [{"name": "n", "value": "1"}]})),
            "InvalidParameters",
            [],
            False,
        ),
        (
            "its type is gone but it runs",
            see(job_type=None, holder=ADMITTED, batch=batch(active=1)),
            "Running",
            [],
            False,
        ),
        ("cancelled early", see(job({"desiredState": "Cancelled"})), "Cancelled", [], False),
        (
            "cancelled while it waits",
            see(job({"desiredState": "Cancelled"}), holder=holder(State.QUEUED)),
            "Cancelled",
            ["Release"],
            False,
        ),
        (
            "cancelled while it runs",
            see(job({"desiredState": "Cancelled"}), holder=ADMITTED, batch=batch(active=1)),
            "",
            ["DeleteBatch"],
            False,
        ),
        (
            "cancelled, pods leaving",
            see(job({"desiredState": "Cancelled"}), holder=ADMITTED, batch=batch(deleting=True)),
            "",
            [],
            False,
        ),
        (
            "cancelled too late",
            see(job({"desiredState": "Cancelled"}), holder=ADMITTED, batch=ended("Complete")),
            "Succeeded",
            ["Release"],
            False,
        ),
        ("suspended early", see(job({"desiredState": "Suspended"})), "", ["Claim"], True),
        (
            "suspended and parked",
            see(job({"desiredState": "Suspended"}), holder=holder(State.RESERVED)),
            "Suspended",
            [],
            False,
        ),
        (
            "suspended while it waits",
            see(job({"desiredState": "Suspended"}), holder=holder(State.QUEUED)),
            "Suspended",
            ["Park"],
            False,
        ),
        (
            "suspended while it runs",
            see(job({"desiredState": "Suspended"}), holder=ADMITTED, batch=batch(active=1)),
            "Suspended",
            ["DeleteBatch"],
            False,
        ),
        (
            "an unknown wish",
            see(job({"desiredState": "Dancing"}), holder=ADMITTED),
            "Suspended",
            ["Park"],
            False,
        ),
        ("resumed before it was parked", see(job(status=SUSPENDED), holder=ADMITTED), "", ["Park"], True),
        (
            "resumed",
            see(job(status=SUSPENDED), holder=holder(State.RESERVED)),
            "Queued",
            ["Claim"],
            True,
        ),
        (
            "being deleted, nothing runs",
            see(job(deletionTimestamp="t"), holder=ADMITTED),
            "",
            ["Release"],
            False,
        ),
        (
            "being deleted while it runs",
            see(job(deletionTimestamp="t"), holder=ADMITTED, batch=batch(active=1)),
            "",
            ["DeleteBatch"],
            False,
        ),
        ("final", see(job(status=FINAL)), "", [], False),
        ("final, not yet released", see(job(status=FINAL), holder=ADMITTED), "", ["Release"], False),
        (
            "final, but a paused operator made a batch Job",
            see(job(status=FINAL), batch=batch(suspend=True)),
            "",
            ["DeleteBatch"],
            False,
        ),
        ("final, another's batch Job is let be", see(job(status=FINAL), batch=batch(uid="x")), "", [], False),
        ("final and edited", see(job(status=FINAL, generation=2)), "Failed", [], False),
    ],
)
def test_plan(why: str, observed: Observed, reason_: str, actions: list[str], *, again: bool) -> None:
    plan = steps.plan(observed, NOW)
    assert (reason(plan), kinds(plan), plan.again) == (reason_, actions, again), why


def test_actions_carry_what_their_doer_needs() -> None:
    assert steps.plan(see(), NOW).actions == (
        Claim(holders.LiveJob(UID, "a", created=datetime(2026, 1, 1, 11, 59, tzinfo=UTC))),
    )
    created = steps.plan(see(holder=ADMITTED), NOW).actions
    assert created == (CreateBatch(podspecs.build(job(), TYPE, "acme")),)
    assert steps.plan(see(holder=ADMITTED, batch=batch(suspend=True)), NOW).actions == (
        Unsuspend("a-01234567", "b1"),
    )
    cancelled = see(job({"desiredState": "Cancelled"}), batch=batch())
    assert steps.plan(cancelled, NOW).actions == (DeleteBatch("a-01234567", "b1"),)
    parked = see(job({"desiredState": "Suspended"}), holder=ADMITTED)
    assert steps.plan(parked, NOW).actions == (Park(ADMITTED),)


@pytest.mark.parametrize(
    ("why", "body", "found", "expected"),
    [
        (
            "the type's",
            job(status={"effective": {"ttlSecondsAfterFinished": 5}}),
            ended("Complete"),
            [SetTtl("a-01234567", 5)],
        ),
        ("the Job's own", job({"ttlSecondsAfterFinished": 0}), ended("Complete"), [SetTtl("a-01234567", 0)]),
        ("none", job(), ended("Complete"), []),
        (
            "set already",
            job({"ttlSecondsAfterFinished": 5}),
            {**ended("Complete"), "spec": {"ttlSecondsAfterFinished": 5}},
            [],
        ),
    ],
)
def test_the_batch_job_may_go_only_after_its_end(why: str, body: Any, found: Any, expected: Any) -> None:
    assert [*steps.plan(see(body, batch=found), NOW).actions] == expected, why


def test_a_finished_job_waits_for_no_pods_but_an_aborted_one_does() -> None:
    assert steps.plan(see(holder=ADMITTED, batch=ended("Failed")), NOW).actions == (
        Release(wait_for_pods=False),
    )
    lost = see(job(status=RUNNING), holder=ADMITTED)
    assert steps.plan(lost, NOW).actions == (Release(wait_for_pods=True),)


def message(observed: Observed) -> str:
    found = conditions.find((steps.plan(observed, NOW).status or {})["conditions"], "Succeeded")
    assert found is not None
    return str(found["message"])


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


SLOW = batch(active=1, startTime="2026-01-01T11:59:30Z")


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
    ("why", "observed", "wanted"),
    [
        ("no batch Job", see(), False),
        ("it has ended", see(batch=ended("Complete")), True),
        ("it should run by now", see(batch=SLOW), True),
        ("it has just begun", see(batch=batch(startTime="2026-01-01T11:59:59Z")), False),
        ("it runs", see(batch=batch(active=1, ready=1, startTime="2026-01-01T11:00:00Z")), False),
        ("all is written down", see(job(status=FINAL), batch=ended("Complete")), False),
    ],
)
def test_pods_are_read_only_when(why: str, observed: Observed, *, wanted: bool) -> None:
    assert steps.wants_pods(observed, NOW) is wanted, why


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


@pytest.mark.parametrize(
    ("why", "status", "found", "is_typed", "resting"),
    [
        ("it waits and the ledger says so", status_of("Queued", "Unknown"), State.QUEUED, True, True),
        ("nobody told it of its slot", status_of("Queued", "Unknown"), State.ADMITTED, True, False),
        ("its entry is lost", status_of("Queued", "Unknown"), None, True, False),
        ("suspended and parked", SUSPENDED, State.RESERVED, True, True),
        ("suspended, still with a slot", SUSPENDED, State.ADMITTED, True, False),
        ("ended and released", FINAL, None, True, True),
        ("ended, not yet released", FINAL, State.ADMITTED, True, False),
        ("it waits for its type", status_of("JobTypeNotFound", "Unknown"), None, False, True),
        ("its type is there now", status_of("JobTypeNotFound", "Unknown"), None, True, False),
        ("its tenant is there now", status_of("TenantNotFound", "Unknown"), None, True, False),
        ("under way", RUNNING, State.ADMITTED, True, False),
        ("never looked at", {}, None, True, False),
        ("edited", {**status_of("Queued", "Unknown"), "observedGeneration": 0}, State.QUEUED, True, False),
    ],
)
def test_a_job_rests_when_its_status_and_its_ledger_agree(
    why: str, status: Any, found: State | None, *, is_typed: bool, resting: bool
) -> None:
    entry = holder(found) if found else None
    assert lives.is_resting(job(status=status), entry, is_typed=is_typed) is resting, why


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


def test_what_leaves_slowly_is_looked_for_seldomer() -> None:
    leaving = see(CANCEL_WISH, holder=ADMITTED, batch=batch(deleting=True))
    waits = [steps.plan(leaving, NOW + timedelta(seconds=age)).after for age in (0, 60, 3600)]
    assert waits == [steps.POLL_SECONDS, 12.0, 30.0]


def test_a_job_without_a_pod_says_so_after_a_while() -> None:
    early = see(job(status=NAMED), holder=ADMITTED, batch=batch(startTime="2026-01-01T11:59:50Z"))
    assert steps.plan(early, NOW).status is None
    late = replace(early, batch=batch(startTime="2026-01-01T11:59:00Z"))
    assert "no pod could be made yet" in message(late)
    assert steps.plan(late, NOW).after == steps.PROBLEM_POLL_SECONDS


def test_a_job_without_times_is_planned_all_the_same() -> None:
    bare = job()
    del bare["metadata"]["creationTimestamp"]
    assert lives.live_job(bare, None, None).created is None
