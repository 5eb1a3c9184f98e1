"""A Job's status in each state of the state matrix, always the whole status, so that equal means no write.

References: conventions.md 2.4; CRD Job `status`. kstatus, Argo CD and the REST word follow from these.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Literal

from manifestry.core.jobs import batchjobs, jobtypes
from manifestry.core.kube import bodies, conditions
from manifestry.core.kube.conditions import Condition
from manifestry.core.quota import holders

Body = Mapping[str, Any]
RestStatus = Literal["queued", "running", "succeeded", "failed", "cancelled", "suspended"]

_NO_RETRY = "; a retry is not supported yet, create a new Job"
_RUN_FIELDS = ("jobRef", "podName", "startTime")


def is_terminal(job: Body) -> bool:
    """Tell whether a Job's status is final."""
    return (_summary(job) or {}).get("status") in {"True", "False"}


def reason(job: Body) -> str:
    """Return the reason of the condition Succeeded, empty before the first status."""
    return str((_summary(job) or {}).get("reason") or "")


def is_running(job: Body) -> bool:
    """Tell whether a Job was seen with a pod and has not ended."""
    return reason(job) == "Running"


def is_suspended(job: Body) -> bool:
    """Tell whether a Job was last seen as suspended, or as being suspended."""
    return reason(job) == "Suspended"


def rest_status(job: Body) -> RestStatus:
    """Return the one lower-case word for a Job's state that REST clients see.

    References: architecture.md "Words"; conventions.md 2.4.
    """
    summary = _summary(job) or {}
    status, reason = summary.get("status"), summary.get("reason")
    if status == "True":
        return "succeeded"
    if status == "False":
        return "cancelled" if reason == "Cancelled" else "failed"
    if reason == "Suspended":
        return "suspended"
    return "running" if reason == "Running" else "queued"


def waiting(job: Body, tenant: str | None, reason: str, message: str, now: datetime) -> dict[str, Any]:
    """Return the status of a Job that cannot be queued before something else exists, such as its JobType."""
    wanted = (
        Condition("Succeeded", "Unknown", reason, message),
        Condition("QuotaReserved", "Unknown", reason, "not looked at yet"),
        Condition("Reconciling", "True", reason, message),
    )
    return _render(job, now, wanted, tenant=tenant)


def queued(job: Body, tenant: str | None, holder: holders.Holder, now: datetime) -> dict[str, Any]:
    """Return the status of a Job that waits for a slot."""
    wanted = (
        Condition("Succeeded", "Unknown", "Queued", "waiting for a free slot of the tenant's quota"),
        Condition("QuotaReserved", "False", "WaitingForQuota", "all slots are taken"),
        Condition("Reconciling", "True", "Queued"),
    )
    return _render(job, now, wanted, tenant=tenant, queuedTime=_queued_time(job, holder, now))


def admitted(
    job: Body,
    tenant: str | None,
    holder: holders.Holder | None,
    effective: jobtypes.Effective | None,
    now: datetime,
    *,
    batch: Body | None,
    problem: str = "",
) -> dict[str, Any]:
    """Return the status of a Job that has a slot and no pod yet.

    Args:
        job: the Job's body.
        tenant: its tenant; None keeps the one it had.
        holder: its entry in the ledger.
        effective: what it runs with; None, its JobType being gone, keeps what is there.
        now: the clock.
        batch: its batch Job, None before there is one.
        problem: why there is no batch Job or pod, or empty.
    """
    wanted = (
        Condition("Succeeded", "Unknown", "Admitted", problem or "the pod is being started"),
        Condition("QuotaReserved", "True", "QuotaReserved", "the Job has a slot"),
        Condition("Reconciling", "True", "Admitted", problem),
    )
    fields: dict[str, Any] = {"queuedTime": _queued_time(job, holder, now)}
    if tenant is not None:
        fields["tenant"] = tenant
    if effective is not None:
        fields["effective"] = effective.to_status()
    if batch is not None:
        fields["jobRef"] = _reference(batch)
        fields["effective"] = _in_force(fields.get("effective") or _effective(job), batch)
    return _render(job, now, wanted, **fields)


def running(job: Body, batch: Body, problem: str, now: datetime) -> dict[str, Any]:
    """Return the status of a Job with a pod.

    Args:
        job: the Job's body.
        batch: its batch Job.
        problem: why the pod does not start, or empty.
        now: the clock.
    """
    wanted = (
        Condition("Succeeded", "Unknown", "Running", problem or "a pod is active"),
        Condition("QuotaReserved", "True", "QuotaReserved", "the Job has a slot"),
        Condition("Reconciling", "True", "Running", problem),
    )
    fields = {"jobRef": _reference(batch), "effective": _in_force(_effective(job), batch)}
    return _render(job, now, wanted, startTime=batchjobs.start_time(batch), **fields)


def stopping(job: Body, now: datetime) -> dict[str, Any]:
    """Return the status of a Job that is being suspended and whose pods are still there."""
    wanted = (
        Condition("Succeeded", "Unknown", "Suspended", "the pods are being stopped"),
        Condition("QuotaReserved", "True", "QuotaReserved", "the Job has a slot until its pods are gone"),
        Condition("Reconciling", "True", "Suspended"),
    )
    return _render(job, now, wanted, **dict.fromkeys(_RUN_FIELDS))


def suspended(job: Body, tenant: str | None, holder: holders.Holder, now: datetime) -> dict[str, Any]:
    """Return the status of a Job that its user has suspended; its next run starts from nothing."""
    wanted = (
        Condition("Succeeded", "Unknown", "Suspended", "suspended by `spec.desiredState`"),
        Condition("QuotaReserved", "False", "Suspended", "a suspended Job has no slot"),
    )
    cleared = dict.fromkeys(_RUN_FIELDS)
    return _render(job, now, wanted, tenant=tenant, queuedTime=_queued_time(job, holder, now), **cleared)


def finished(
    job: Body, batch: Body, result: batchjobs.Result, ended: batchjobs.Exit | None, now: datetime
) -> dict[str, Any]:
    """Return the final status of a Job whose batch Job has ended.

    Args:
        job: the Job's body.
        batch: its batch Job.
        result: what the batch Job's condition says.
        ended: how the last container ended, None when its pod is gone.
        now: the clock.
    """
    reason, message = _verdict(job, batch, result, ended)
    fields = {
        "startTime": batchjobs.start_time(batch),
        "completionTime": result.time or conditions.timestamp(now),
        "attempts": batchjobs.attempts(batch),
        "jobRef": _reference(batch),
        "podName": ended.pod if ended else None,
        "exitCode": ended.code if ended else None,
    }
    kept = {name: value for name, value in fields.items() if value is not None}
    return _render(job, now, _final(reason, message), **kept)


def ended(job: Body, tenant: str | None, reason: str, message: str, now: datetime) -> dict[str, Any]:
    """Return the final status of a Job that ends without its batch Job having ended."""
    fields = {"tenant": tenant} if tenant else {}
    return _render(job, now, _final(reason, message), completionTime=conditions.timestamp(now), **fields)


def acknowledged(job: Body, now: datetime) -> dict[str, Any] | None:
    """Return the status after a spec change that a finished Job does not act on, None without a change.

    Without it `observedGeneration` would lag for ever and kstatus would say InProgress.
    """
    status, metadata = job.get("status") or {}, job["metadata"]
    if status.get("observedGeneration") == metadata.get("generation"):
        return None
    summary = _summary(job) or {}
    reason, message = str(summary.get("reason")), str(summary.get("message") or "")
    wish = bodies.spec_of(job).get("retryGeneration")
    if isinstance(wish, int) and wish > (status.get("retryGeneration") or 0):
        message = message.removesuffix(_NO_RETRY) + _NO_RETRY
        return _render(job, now, _final(reason, message), retryGeneration=wish)
    return _render(job, now, _final(reason, message))


def _verdict(
    job: Body, batch: Body, result: batchjobs.Result, ended: batchjobs.Exit | None
) -> tuple[str, str]:
    if result.succeeded:
        return "Succeeded", "the pod has succeeded"
    if result.reason == "DeadlineExceeded":
        seconds = batchjobs.deadline(batch) or _effective(job).get("activeDeadlineSeconds")
        limit = f"its `activeDeadlineSeconds` of {seconds}" if seconds else "its deadline"
        return "DeadlineExceeded", f"the Job was active longer than {limit}"
    return "Failed", batchjobs.describe_exit(ended) if ended else result.message or "the pod has failed"


def _final(reason: str, message: str) -> tuple[Condition, ...]:
    """Return the conditions of an end; only a failure that a user must act on is Stalled."""
    released = Condition("QuotaReserved", "False", _quota_reason(reason), "the Job has no slot any more")
    if reason == "Succeeded":
        return Condition("Succeeded", "True", reason, message), released
    summary = Condition("Succeeded", "False", reason, message)
    if reason == "Cancelled":
        return summary, released
    return summary, released, Condition("Stalled", "True", reason, message)


def _quota_reason(reason: str) -> str:
    return "ExceedsMaxQuota" if reason == "QuotaExceeded" else "Released"


def _render(job: Body, now: datetime, wanted: Iterable[Condition], **fields: Any) -> dict[str, Any]:
    """Return the current status with these conditions and fields; a field that is None is removed."""
    current, generation = job.get("status") or {}, job["metadata"].get("generation", 1)
    status = {**current, **fields, "observedGeneration": generation}
    status = {name: value for name, value in status.items() if value is not None}
    status["conditions"] = conditions.merge(current.get("conditions"), wanted, generation, now)
    return status


def _queued_time(job: Body, holder: holders.Holder | None, now: datetime) -> str:
    known = (job.get("status") or {}).get("queuedTime")
    return str(known) if known else conditions.timestamp(holder.since if holder else now)


def _effective(job: Body) -> dict[str, Any]:
    return dict((job.get("status") or {}).get("effective") or {})


def _in_force(effective: dict[str, Any], batch: Body) -> dict[str, Any] | None:
    """Return `status.effective` with the deadline that the batch Job has: it may be changed while it runs."""
    kept = {name: value for name, value in effective.items() if name != "activeDeadlineSeconds"}
    seconds = batchjobs.deadline(batch)
    return {**kept, **({} if seconds is None else {"activeDeadlineSeconds": seconds})} or None


def _reference(batch: Body) -> dict[str, str]:
    return {"name": batch["metadata"]["name"], "uid": batch["metadata"]["uid"]}


def _summary(job: Body) -> Mapping[str, Any] | None:
    return conditions.find((job.get("status") or {}).get("conditions"), "Succeeded")
