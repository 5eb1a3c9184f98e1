"""A Job's way against a real API server and Job controller; the pods' ends are played."""

from collections import Counter
from typing import Any

import pytest

from manifestry.core.jobs import statuses
from manifestry.core.kube import conditions, names
from tests.cluster.jobs import jobworld
from tests.controlplane import audit
from tests.controlplane.controlplane import ControlPlane
from tests.controlplane.tenants import Tenant

MINE = "manifestry-operator"


@pytest.fixture
def operator(control_plane: ControlPlane, start_operator: Any) -> Any:
    return start_operator(control_plane, {"MANIFESTRY_RESYNC_SECONDS": "5"})


def test_a_job_runs_to_its_end_within_ten_writes(
    control_plane: ControlPlane, tenant: Tenant, operator: Any
) -> None:
    cp, kind = control_plane, jobworld.make_type(control_plane, ttlSecondsAfterFinished=600)
    jobworld.eventually(lambda: _is_initialized(cp, tenant, kind), "the ledger is initialised")
    mark = cp.audit_mark()
    name = jobworld.submit(cp, tenant, kind, project="p1")
    job = jobworld.wait_reason(cp, tenant, name, "Running")
    assert conditions.kstatus(job) == "InProgress"
    assert statuses.rest_status(job) == "running"
    assert jobworld.holders(cp, tenant, kind) == {name: "Admitted"}
    jobworld.finish(cp, tenant, job)
    job = jobworld.wait_reason(cp, tenant, name, "Succeeded")
    jobworld.eventually(lambda: jobworld.holders(cp, tenant, kind) == {}, "the slot is released")
    status = job["status"]
    assert conditions.kstatus(job) == "Current"
    assert (status["exitCode"], status["attempts"], status["tenant"]) == (0, 1, tenant.name)
    assert status["queuedTime"] <= status["startTime"] <= status["completionTime"]
    assert status["jobRef"]["name"] == jobworld.batch_name(job)
    batch = cp.wait_for(
        names.BATCH_JOBS,
        status["jobRef"]["name"],
        tenant.namespace,
        lambda found: bool(found and found["spec"].get("ttlSecondsAfterFinished") == 600),
    )
    assert batch["metadata"]["labels"][names.PROJECT_LABEL] == "p1"
    ours = cp.writes(audit.WriteFilter(user=MINE, namespace=tenant.namespace), since=mark)
    listed = [(event.verb, event.resource, event.subresource, event.code) for event in ours]
    assert all(event.code < 300 for event in ours), f"no write in vain: {listed}"
    about_job = [entry for entry in listed if entry[1] == "jobs" and entry[2] == "status"]
    assert len(about_job) <= 4, listed
    assert len(listed) + 1 <= 10, listed  # and the create, which was ours here
    print_writes(control_plane, tenant, mark)


def test_a_failing_job_says_how_its_container_ended(
    control_plane: ControlPlane, tenant: Tenant, operator: Any
) -> None:
    kind = jobworld.make_type(control_plane)
    name = jobworld.submit(control_plane, tenant, kind)
    jobworld.finish(control_plane, tenant, jobworld.wait_reason(control_plane, tenant, name, "Running"), 3)
    job = jobworld.wait_reason(control_plane, tenant, name, "Failed")
    assert job["status"]["exitCode"] == 3
    found = conditions.find(job["status"]["conditions"], "Succeeded")
    assert found is not None
    assert found["message"] == "container `main` exited with code 3"
    assert conditions.kstatus(job) == "Failed"
    jobworld.eventually(lambda: jobworld.holders(control_plane, tenant, kind) == {}, "released")


def test_a_deadline_ends_a_job(control_plane: ControlPlane, tenant: Tenant, operator: Any) -> None:
    kind = jobworld.make_type(control_plane, activeDeadlineSeconds=1)
    name = jobworld.submit(control_plane, tenant, kind)
    job = jobworld.wait_reason(control_plane, tenant, name, "DeadlineExceeded")
    assert "activeDeadlineSeconds` of 1" in job["status"]["conditions"][0]["message"]


def test_the_second_job_waits_for_the_first(
    control_plane: ControlPlane, tenant: Tenant, operator: Any
) -> None:
    cp, kind = control_plane, jobworld.make_type(control_plane)
    jobworld.make_quota(cp, tenant, kind, 1, 5)
    first = jobworld.submit(cp, tenant, kind)
    job = jobworld.wait_reason(cp, tenant, first, "Running")
    second = jobworld.submit(cp, tenant, kind)
    waiting = jobworld.wait_reason(cp, tenant, second, "Queued")
    assert statuses.rest_status(waiting) == "queued"
    assert cp.find(names.BATCH_JOBS, jobworld.batch_name(waiting), tenant.namespace) is None
    jobworld.finish(cp, tenant, job)
    jobworld.wait_reason(cp, tenant, second, "Running")


@pytest.mark.parametrize("started", [False, True])
def test_cancel(control_plane: ControlPlane, tenant: Tenant, operator: Any, *, started: bool) -> None:
    cp, kind = control_plane, jobworld.make_type(control_plane)
    jobworld.make_quota(cp, tenant, kind, 1 if started else 0, 5)
    name = jobworld.submit(cp, tenant, kind)
    jobworld.wait_reason(cp, tenant, name, "Running" if started else "Queued")
    cp.patch(names.JOBS, name, {"spec": {"desiredState": "Cancelled"}}, tenant.namespace)
    job = jobworld.wait_reason(cp, tenant, name, "Cancelled")
    assert conditions.kstatus(job) == "Current"
    assert statuses.rest_status(job) == "cancelled"
    jobworld.eventually(lambda: jobworld.holders(cp, tenant, kind) == {}, "released")
    assert jobworld.running_batches(cp, tenant) == []
    assert cp.list(names.PODS, tenant.namespace) == []


def test_suspend_gives_the_slot_away_and_resume_waits_for_one(
    control_plane: ControlPlane, tenant: Tenant, operator: Any
) -> None:
    cp, kind = control_plane, jobworld.make_type(control_plane)
    jobworld.make_quota(cp, tenant, kind, 1, 5)
    first = jobworld.submit(cp, tenant, kind)
    jobworld.wait_reason(cp, tenant, first, "Running")
    second = jobworld.submit(cp, tenant, kind)
    jobworld.wait_reason(cp, tenant, second, "Queued")
    cp.patch(names.JOBS, first, {"spec": {"desiredState": "Suspended"}}, tenant.namespace)
    job = jobworld.wait_reason(cp, tenant, second, "Running")
    suspended = jobworld.wait_reason(cp, tenant, first, "Suspended")
    assert statuses.rest_status(suspended) == "suspended"
    assert jobworld.holders(cp, tenant, kind) == {first: "Reserved", second: "Admitted"}
    cp.patch(names.JOBS, first, {"spec": {"desiredState": "Active"}}, tenant.namespace)
    jobworld.wait_reason(cp, tenant, first, "Queued")
    jobworld.finish(cp, tenant, job)
    again = jobworld.wait_reason(cp, tenant, first, "Running")
    jobworld.finish(cp, tenant, again)
    jobworld.wait_reason(cp, tenant, first, "Succeeded")


def test_deleting_a_running_job_stops_its_pod_and_frees_its_slot(
    control_plane: ControlPlane, tenant: Tenant, operator: Any
) -> None:
    cp, kind = control_plane, jobworld.make_type(control_plane)
    jobworld.make_quota(cp, tenant, kind, 1, 5)
    first = jobworld.submit(cp, tenant, kind)
    jobworld.wait_reason(cp, tenant, first, "Running")
    second = jobworld.submit(cp, tenant, kind)
    jobworld.wait_reason(cp, tenant, second, "Queued")
    cp.delete(names.JOBS, first, tenant.namespace)
    jobworld.wait_reason(cp, tenant, second, "Running")
    assert jobworld.holders(cp, tenant, kind) == {second: "Admitted"}


def test_a_lost_batch_job_is_a_failure_and_not_run_again(
    control_plane: ControlPlane, tenant: Tenant, operator: Any
) -> None:
    cp, kind = control_plane, jobworld.make_type(control_plane)
    name = jobworld.submit(cp, tenant, kind)
    job = jobworld.wait_reason(cp, tenant, name, "Running")
    cp.delete(names.BATCH_JOBS, jobworld.batch_name(job), tenant.namespace)
    ended = jobworld.wait_reason(cp, tenant, name, "Failed")
    assert "was deleted before it had ended" in ended["status"]["conditions"][0]["message"]
    jobworld.eventually(lambda: jobworld.holders(cp, tenant, kind) == {}, "released")


def test_jobs_that_cannot_run_end_at_once_and_stop_no_other(
    control_plane: ControlPlane, tenant: Tenant, operator: Any
) -> None:
    cp = control_plane
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    kind = jobworld.make_type(cp, parametersSchema=schema, resources={"limits": {"cpu": "1"}})
    broken = jobworld.make_type(cp, parametersSchema={"type": "object", "patternProperties": {"x": {}}})
    huge = jobworld.make_type(cp, resources={"requests": {"cpu": "2"}, "limits": {"cpu": "1"}})
    good = [{"name": "n", "value": "1"}]
    wrong = {
        "InvalidParameters": jobworld.submit(cp, tenant, kind, parameters=[{"name": "n", "value": "x"}]),
        "NotSupported": jobworld.submit(
            cp, tenant, kind, parameters=good, outputs=[{"name": "o", "path": "/o"}]
        ),
        "Failed": jobworld.submit(cp, tenant, huge),
    }
    refused = jobworld.submit(cp, tenant, broken)
    name = jobworld.submit(cp, tenant, kind, parameters=good)
    jobworld.wait_reason(cp, tenant, name, "Running")
    for reason, bad in wrong.items():
        job = jobworld.wait_reason(cp, tenant, bad, reason)
        assert conditions.kstatus(job) == "Failed"
    jobworld.wait_reason(cp, tenant, refused, "InvalidParameters")
    found = cp.wait_for(
        names.JOB_TYPES,
        broken,
        None,
        jobworld.has_condition("Ready", "False"),
    )
    assert conditions.is_status(found["status"]["conditions"], "Stalled", "True")
    odd = jobworld.make_type(cp, parametersSchema={"$schema": {}})  # the definition cannot look inside
    cp.wait_for(names.JOB_TYPES, odd, None, jobworld.has_condition("Ready", "False"))
    cp.wait_for(
        names.QUOTA_LEDGERS, huge, tenant.namespace, lambda found: not (found or {})["status"].get("holders")
    )


def test_a_namespace_without_the_label_is_not_served_until_it_has_one(
    control_plane: ControlPlane, operator: Any
) -> None:
    namespace = jobworld.unique("plain")
    control_plane.create(names.NAMESPACES, {"metadata": {"name": namespace}})
    nobody = Tenant("nobody", namespace, "")
    name = jobworld.submit(control_plane, nobody, jobworld.make_type(control_plane))
    job = jobworld.wait_reason(control_plane, nobody, name, "TenantNotFound")
    assert conditions.kstatus(job) == "InProgress"
    assert control_plane.list(names.BATCH_JOBS, namespace) == []
    labels = {"metadata": {"labels": {names.TENANT_LABEL: jobworld.unique("late")}}}
    control_plane.patch(names.NAMESPACES, namespace, labels)
    jobworld.wait_reason(control_plane, nobody, name, "Running")


def test_a_job_before_its_type_waits_and_goes_on(
    control_plane: ControlPlane, tenant: Tenant, operator: Any
) -> None:
    cp, kind = control_plane, jobworld.unique("type")
    name = jobworld.submit(cp, tenant, kind)
    job = jobworld.wait_reason(cp, tenant, name, "JobTypeNotFound")
    assert conditions.kstatus(job) == "InProgress"
    assert statuses.rest_status(job) == "queued"
    body = jobworld.typed(names.JOB_TYPES, kind, {"image": "example.org/none:1"})
    cp.create(names.JOB_TYPES, body)
    jobworld.finish(cp, tenant, jobworld.wait_reason(cp, tenant, name, "Running", seconds=15))
    jobworld.wait_reason(cp, tenant, name, "Succeeded")


def test_a_changed_deadline_reaches_a_running_job(
    control_plane: ControlPlane, tenant: Tenant, operator: Any
) -> None:
    cp, kind = control_plane, jobworld.make_type(control_plane, activeDeadlineSeconds=600)
    name = jobworld.submit(cp, tenant, kind)
    job = jobworld.wait_reason(cp, tenant, name, "Running")
    assert job["status"]["effective"]["activeDeadlineSeconds"] == 600
    cp.patch(names.JOBS, name, {"spec": {"activeDeadlineSeconds": 900}}, tenant.namespace)
    job = cp.wait_for(
        names.JOBS, name, tenant.namespace, lambda found: bool(found and has_seen_its_spec(found))
    )
    assert job["status"]["effective"]["activeDeadlineSeconds"] == 600, "the type does not allow more"
    cp.patch(names.JOBS, name, {"spec": {"activeDeadlineSeconds": 1}}, tenant.namespace)
    ended = jobworld.wait_reason(cp, tenant, name, "DeadlineExceeded")
    assert "activeDeadlineSeconds` of 1" in ended["status"]["conditions"][0]["message"]


def has_seen_its_spec(job: dict[str, Any]) -> bool:
    return bool(job["status"].get("observedGeneration") == job["metadata"]["generation"])


def print_writes(cp: ControlPlane, tenant: Tenant, mark: Any) -> None:
    """Print every write in the tenant's namespace by who, verb and resource: `pytest -s` shows it."""
    writes = cp.writes(audit.WriteFilter(namespace=tenant.namespace), since=mark)
    counted = Counter((event.user, event.verb, _resource_of(event)) for event in writes)
    print("\nKubernetes writes of one job, from the API server's audit log:")
    for (user, verb, resource), count in sorted(counted.items()):
        print(f"  {count} {verb:7} {resource:36} {user}")
    ours = [event for event in writes if event.user == MINE]
    print(f"  = {len(ours)} by the operator, and the create")


def _resource_of(event: audit.AuditEvent) -> str:
    name = f"{event.resource}.{event.group}".rstrip(".")
    return f"{name}/{event.subresource}" if event.subresource else name


def _is_initialized(cp: ControlPlane, tenant: Tenant, kind: str) -> bool:
    ledger = cp.find(names.QUOTA_LEDGERS, kind, tenant.namespace) or {}
    return bool((ledger.get("status") or {}).get("initializedTime"))
