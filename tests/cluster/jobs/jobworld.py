"""What the tests of jobs and quotas ask of a control plane."""

import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from manifestry.core.kube import conditions, names
from tests.controlplane import pods
from tests.controlplane.clusterapi import ClusterApi
from tests.controlplane.controlplane import ControlPlane
from tests.controlplane.tenants import Tenant

Body = dict[str, Any]


def unique(prefix: str) -> str:
    """Return a name that no other test uses: job types and quotas are cluster-scoped."""
    return f"{prefix}-{uuid.uuid4().hex[:6]}"


def make_type(cp: ClusterApi, **spec: Any) -> str:
    """Create a JobType and return its name."""
    name = unique("type")
    cp.create(names.JOB_TYPES, typed(names.JOB_TYPES, name, {"image": "example.org/none:1", **spec}))
    return name


def make_quota(cp: ClusterApi, tenant: Tenant, job_type: str, running: int, queued: int) -> str:
    """Create a TenantQuota and return its name."""
    name = unique("quota")
    row = {"jobType": job_type, "maxRunning": running, "maxQueued": queued}
    cp.create(
        names.TENANT_QUOTAS, typed(names.TENANT_QUOTAS, name, {"tenants": [tenant.name], "jobs": [row]})
    )
    return name


def submit(cp: ClusterApi, tenant: Tenant, job_type: str, name: str | None = None, **spec: Any) -> str:
    """Create a Job past every webhook that is not registered and return its name."""
    name = name or unique("job")
    body = typed(names.JOBS, name, {"jobType": job_type, **spec})
    cp.create(names.JOBS, body, tenant.namespace)
    return name


def typed(resource: names.Resource, name: str, spec: Mapping[str, Any]) -> Body:
    """Return a body."""
    return {
        "apiVersion": resource.api_version,
        "kind": resource.kind,
        "metadata": {"name": name},
        "spec": dict(spec),
    }


def reason(job: Body | None) -> str:
    """Return the reason of a Job's condition Succeeded, empty before the first status."""
    status = (job or {}).get("status") or {}
    found = conditions.find(status.get("conditions"), "Succeeded")
    return str(found["reason"]) if found else ""


def wait_reason(cp: ClusterApi, tenant: Tenant, name: str, *wanted: str, seconds: float = 30) -> Body:
    """Wait until a Job's condition has one of these reasons."""
    return cp.wait_for(
        names.JOBS, name, tenant.namespace, lambda job: reason(job) in wanted, timeout_seconds=seconds
    )


def batch_name(job: Body) -> str:
    """Return the name of a Job's batch Job."""
    return names.batch_job_name(job["metadata"]["name"], job["metadata"]["uid"])


def finish(cp: ControlPlane, tenant: Tenant, job: Body, exit_code: int = 0) -> None:
    """Let the pod of a Job end."""
    pod = pods.wait_for_pod(cp, tenant.namespace, batch_name(job))
    pods.finish_pod(cp, pod, exit_code)


def holders(cp: ClusterApi, tenant: Tenant, job_type: str) -> dict[str, str]:
    """Return the states in a ledger by Job name."""
    ledger = cp.find(names.QUOTA_LEDGERS, job_type, tenant.namespace) or {}
    entries = (ledger.get("status") or {}).get("holders") or {}
    return {entry["name"]: entry["state"] for entry in entries.values()}


def running_batches(cp: ClusterApi, tenant: Tenant) -> list[Body]:
    """Return the batch Jobs that count against the run gate."""
    found = cp.list(names.BATCH_JOBS, tenant.namespace)
    return [batch for batch in found if not batch["spec"].get("suspend") and not _is_finished(batch)]


def _is_finished(batch: Body) -> bool:
    found = (batch.get("status") or {}).get("conditions") or ()
    return any(c["type"] in {"Complete", "Failed"} and c["status"] == "True" for c in found)


def has_condition(kind: str, status: conditions.Status) -> Callable[[Body | None], bool]:
    """Return a predicate for `wait_for`."""

    def check(body: Body | None) -> bool:
        found = ((body or {}).get("status") or {}).get("conditions")
        return conditions.is_status(found, kind, status)

    return check


def eventually(check: Callable[[], bool], what: str, seconds: float = 30) -> None:
    """Wait until `check` holds."""
    end = time.monotonic() + seconds
    while not check():
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds} s: {what}")
        time.sleep(0.05)
