"""The run gate with two operators, kills in the middle, and changed limits."""

import time
from datetime import UTC, datetime
from typing import Any

import pytest

from manifestry.core.kube import conditions, names
from tests.cluster.jobs import jobworld
from tests.controlplane import audit, pods
from tests.controlplane.controlplane import ControlPlane
from tests.controlplane.tenants import Tenant

ALONE = {"MANIFESTRY_LEADER_ELECTION": "false", "MANIFESTRY_RESYNC_SECONDS": "2"}


def watch_limit(cp: ControlPlane, tenant: Tenant, kind: str, limit: int, names_: list[str]) -> int:
    """Look until all Jobs have succeeded; return the greatest number that ran at once."""
    most, end = 0, time.monotonic() + 90
    while time.monotonic() < end:
        most = max(most, len(jobworld.running_batches(cp, tenant)))
        admitted = [state for state in jobworld.holders(cp, tenant, kind).values() if state == "Admitted"]
        assert len(admitted) <= limit
        found = [cp.find(names.JOBS, name, tenant.namespace) for name in names_]
        if {jobworld.reason(job) for job in found} == {"Succeeded"}:
            return most
        time.sleep(0.1)
    raise AssertionError("the Jobs did not end")


def test_two_operators_at_once_never_exceed_the_limit(
    control_plane: ControlPlane, tenant: Tenant, start_operator: Any
) -> None:
    cp, kind = control_plane, jobworld.make_type(control_plane)
    jobworld.make_quota(cp, tenant, kind, 2, 20)
    start_operator(cp, ALONE)
    start_operator(cp, ALONE)
    submitted = [jobworld.submit(cp, tenant, kind) for _ in range(10)]
    with pods.Kubelet(cp, tenant.namespace, run_seconds=0.5):
        assert watch_limit(cp, tenant, kind, 2, submitted) <= 2
    created = cp.writes(audit.WriteFilter(verb="create", resource="jobs.batch", namespace=tenant.namespace))
    assert len([event for event in created if event.code == 201]) == 10
    jobworld.eventually(lambda: jobworld.holders(cp, tenant, kind) == {}, "all slots are released")


def test_an_operator_killed_again_and_again_runs_each_job_once(
    control_plane: ControlPlane, tenant: Tenant, start_operator: Any
) -> None:
    cp, kind = control_plane, jobworld.make_type(control_plane)
    jobworld.make_quota(cp, tenant, kind, 2, 20)
    operator = start_operator(cp, ALONE)
    mark = cp.audit_mark()
    submitted = [jobworld.submit(cp, tenant, kind) for _ in range(6)]
    with pods.Kubelet(cp, tenant.namespace, run_seconds=0.3):
        for pause in (0.05, 0.3, 0.7):
            time.sleep(pause)
            operator.kill()
            operator.start()
        assert watch_limit(cp, tenant, kind, 2, submitted) <= 2
    created = cp.writes(
        audit.WriteFilter(verb="create", resource="jobs.batch", namespace=tenant.namespace), since=mark
    )
    made = [event.name for event in created if event.code == 201]  # a killed client's may lack its answer
    assert len(made) == len(set(made))
    assert len(cp.list(names.BATCH_JOBS, tenant.namespace)) == 6
    jobworld.eventually(lambda: jobworld.holders(cp, tenant, kind) == {}, "all slots are released")


def test_past_the_webhook_and_over_the_limit_is_rejected(
    control_plane: ControlPlane, tenant: Tenant, start_operator: Any
) -> None:
    cp, kind = control_plane, jobworld.make_type(control_plane)
    jobworld.make_quota(cp, tenant, kind, 1, 1)
    start_operator(cp, ALONE)
    submitted = [jobworld.submit(cp, tenant, kind) for _ in range(4)]
    found = [
        jobworld.wait_reason(cp, tenant, name, "Running", "Queued", "QuotaExceeded") for name in submitted
    ]
    assert sorted(jobworld.reason(job) for job in found) == ["Queued", *["QuotaExceeded"] * 2, "Running"]
    rejected = next(job for job in found if jobworld.reason(job) == "QuotaExceeded")
    said = conditions.find(rejected["status"]["conditions"], "Succeeded")
    assert said is not None
    assert said["message"].startswith(f'quota exceeded: tenant "{tenant.name}", job type "{kind}": running ')
    assert conditions.kstatus(rejected) == "Failed"


def test_a_changed_limit_counts_at_once_and_evicts_nobody(
    control_plane: ControlPlane, tenant: Tenant, start_operator: Any
) -> None:
    cp, kind = control_plane, jobworld.make_type(control_plane)
    quota = jobworld.make_quota(cp, tenant, kind, 2, 20)
    start_operator(cp, {**ALONE, "MANIFESTRY_RESYNC_SECONDS": "600"})
    submitted = [jobworld.submit(cp, tenant, kind) for _ in range(4)]
    jobworld.eventually(lambda: len(jobworld.running_batches(cp, tenant)) == 2, "two run")
    set_limit(cp, quota, kind, 1, 20)
    over = cp.wait_for(
        names.TENANT_QUOTAS,
        quota,
        None,
        jobworld.has_condition("OverLimit", "True"),
    )
    assert conditions.is_status(over["status"]["conditions"], "Ready", "True")
    running = [name for name, state in jobworld.holders(cp, tenant, kind).items() if state == "Admitted"]
    assert len(running) == 2
    first = cp.get(names.JOBS, running[0], tenant.namespace)
    jobworld.finish(cp, tenant, first)
    jobworld.wait_reason(cp, tenant, running[0], "Succeeded")
    jobworld.eventually(lambda: len(jobworld.holders(cp, tenant, kind)) == 3, "released")
    assert len(jobworld.running_batches(cp, tenant)) == 1, "one was over the limit: nobody takes its place"
    set_limit(cp, quota, kind, 9, 20)
    jobworld.eventually(lambda: len(jobworld.running_batches(cp, tenant)) == 3, "raised: all run")
    assert set(submitted) - {running[0]} == set(jobworld.holders(cp, tenant, kind))


def test_waiting_jobs_are_admitted_by_priority_then_age(
    control_plane: ControlPlane, tenant: Tenant, start_operator: Any
) -> None:
    cp, kind = control_plane, jobworld.make_type(control_plane, allowedOverrides=["Priority"])
    quota = jobworld.make_quota(cp, tenant, kind, 0, 20)
    start_operator(cp, ALONE)
    raised, middle, last, first = (jobworld.submit(cp, tenant, kind, priority=wish) for wish in (0, 5, 0, 9))
    for name in (raised, middle, last, first):
        jobworld.wait_reason(cp, tenant, name, "Queued")
    cp.patch(names.JOBS, raised, {"spec": {"priority": 7}}, tenant.namespace)
    jobworld.eventually(lambda: _priority(cp, tenant, kind, raised) == 7, "the ledger has the priority")
    for count, name in enumerate((first, raised, middle, last), start=1):
        set_limit(cp, quota, kind, count, 20)
        jobworld.wait_reason(cp, tenant, name, "Running")


def test_the_younger_quota_of_a_tenant_is_not_ready(
    control_plane: ControlPlane, tenant: Tenant, start_operator: Any
) -> None:
    cp = control_plane
    start_operator(cp, ALONE)
    older = jobworld.make_quota(cp, tenant, "*", 1, 1)
    time.sleep(1.1)  # creationTimestamp has whole seconds
    younger = jobworld.make_quota(cp, tenant, "*", 9, 9)

    cp.wait_for(names.TENANT_QUOTAS, younger, None, jobworld.has_condition("Ready", "False"))
    cp.wait_for(names.TENANT_QUOTAS, older, None, jobworld.has_condition("Ready", "True"))
    cp.delete(names.TENANT_QUOTAS, older)
    cp.wait_for(names.TENANT_QUOTAS, younger, None, jobworld.has_condition("Ready", "True"))


@pytest.mark.parametrize("count", [30])
def test_nothing_is_written_when_nothing_changes(
    control_plane: ControlPlane, tenant: Tenant, start_operator: Any, count: int
) -> None:
    cp, kind = control_plane, jobworld.make_type(control_plane)
    jobworld.make_quota(cp, tenant, kind, 1, count)
    start_operator(cp, {**ALONE, "MANIFESTRY_RESYNC_SECONDS": "1"})
    submitted = [jobworld.submit(cp, tenant, kind) for _ in range(count)]
    for name in submitted:
        jobworld.wait_reason(cp, tenant, name, "Queued", "Running")
    time.sleep(1)
    mark = cp.audit_mark()
    time.sleep(4)
    ours = cp.writes(audit.WriteFilter(user="manifestry-operator", namespace=tenant.namespace), since=mark)
    assert [(event.verb, event.resource, event.name) for event in ours] == []


def test_a_reservation_told_of_after_its_job_was_deleted_is_released_at_once(
    control_plane: ControlPlane, tenant: Tenant, start_operator: Any
) -> None:
    cp, kind = control_plane, jobworld.make_type(control_plane)
    jobworld.make_quota(cp, tenant, kind, 1, 9)
    start_operator(cp, {**ALONE, "MANIFESTRY_RESYNC_SECONDS": "600"})
    name = jobworld.submit(cp, tenant, kind)
    uid = jobworld.wait_reason(cp, tenant, name, "Running")["metadata"]["uid"]
    cp.delete(names.JOBS, name, tenant.namespace)
    jobworld.eventually(lambda: jobworld.holders(cp, tenant, kind) == {}, "the Job was seen to go")
    entry = {"name": name, "state": "Reserved", "since": datetime.now(UTC).isoformat()}
    late = {"status": {"holders": {uid: entry}}}
    cp.patch(names.QUOTA_LEDGERS, kind, late, tenant.namespace, subresource="status")
    jobworld.eventually(lambda: jobworld.holders(cp, tenant, kind) == {}, "released before it is old", 20)


def set_limit(cp: ControlPlane, quota: str, kind: str, running: int, queued: int) -> None:
    row = {"jobType": kind, "maxRunning": running, "maxQueued": queued}
    cp.patch(names.TENANT_QUOTAS, quota, {"spec": {"jobs": [row]}})


def _priority(cp: ControlPlane, tenant: Tenant, kind: str, name: str) -> int:
    ledger = cp.get(names.QUOTA_LEDGERS, kind, tenant.namespace)
    entries = ledger["status"]["holders"].values()
    return next((int(entry.get("priority", 0)) for entry in entries if entry["name"] == name), 0)
