"""What is done about a Job, from what is seen of it: a table, and what each action carries."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from manifestry.core.jobs import lives, podspecs, steps
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
from manifestry.core.quota import holders
from manifestry.core.quota.holders import State
from tests.unit.core.jobs.observations import (
    ADMITTED,
    CANCEL_WISH,
    FINAL,
    NAMED,
    NOW,
    RUNNING,
    SLOW,
    SUSPEND_WISH,
    SUSPENDED,
    TYPE,
    UID,
    batch,
    dated,
    ended,
    holder,
    job,
    kinds,
    reason,
    see,
    status_of,
)


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


def test_what_leaves_slowly_is_looked_for_seldomer() -> None:
    leaving = see(CANCEL_WISH, holder=ADMITTED, batch=batch(deleting=True))
    waits = [steps.plan(leaving, NOW + timedelta(seconds=age)).after for age in (0, 60, 3600)]
    assert waits == [steps.POLL_SECONDS, 12.0, 30.0]


def test_a_job_without_times_is_planned_all_the_same() -> None:
    bare = job()
    del bare["metadata"]["creationTimestamp"]
    assert lives.live_job(bare, None, None).created is None
