"""What to do about a Job: an ordered list of steps, the first that applies decides.

`plan` is level-based: it looks at the Job, its ledger entry and its batch Job, never at what happened. So a
restart, a missed event or a second operator leads to the same end. References: quota-ledger.md T2 to T4;
conventions.md 2.4, the state matrix.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from manifestry.core.jobs import batchjobs, jobtypes, podspecs, statuses
from manifestry.core.jobs.lives import desired_state, live_job
from manifestry.core.jobs.plans import (
    Action,
    Claim,
    CreateBatch,
    DeleteBatch,
    Observed,
    Park,
    Plan,
    Release,
    SetDeadline,
    SetTtl,
    Unsuspend,
)
from manifestry.core.jobs.statuses import is_terminal
from manifestry.core.kube import names
from manifestry.core.quota import holders

POD_PATIENCE = timedelta(seconds=20)  # an image is usually there by then; before, nothing is worth a read
POLL_SECONDS = 2.0  # a batch Job that leaves says so itself; this is for the event that never comes
PROBLEM_POLL_SECONDS = 60.0

Body = Mapping[str, Any]


Step = Callable[[Observed, datetime], Plan | None]


def plan(observed: Observed, now: datetime) -> Plan:
    """Return the next thing to do for a Job; the first step that has an opinion decides."""
    return next((found for step in STEPS if (found := step(observed, now)) is not None), Plan())


def wants_pods(observed: Observed, now: datetime) -> bool:
    """Tell whether the pods are worth a read: the run has ended, or it should have begun by now."""
    batch = observed.batch
    if batch is None or is_terminal(observed.job):
        return False
    return batchjobs.is_finished(batch) or _is_slow(batch, now)


def _already_final(observed: Observed, now: datetime) -> Plan | None:
    if not is_terminal(observed.job):
        return None
    status = statuses.acknowledged(observed.job, now)
    batch = observed.batch
    if batch is not None and not observed.is_foreign and not batchjobs.is_finished(batch):
        return Plan(status, _stop(batch), after=_patience(batch, now))
    return Plan(status, _farewell(observed, wait_for_pods=batch is None))


def _being_deleted(observed: Observed, now: datetime) -> Plan | None:
    if not observed.job["metadata"].get("deletionTimestamp"):
        return None
    farewell = _farewell(observed, wait_for_pods=observed.batch is None)
    return _stop_first(observed, now) or Plan(actions=farewell)


def _malformed(observed: Observed, now: datetime) -> Plan | None:
    return _end(observed, now, "InvalidParameters", observed.malformed) if observed.malformed else None


def _refused(observed: Observed, now: datetime) -> Plan | None:
    if observed.over_quota:
        return _end(observed, now, "QuotaExceeded", observed.over_quota)
    if observed.refused:
        return _end(observed, now, "Failed", f"the batch Job was refused: {observed.refused}")
    return None


def _foreign(observed: Observed, now: datetime) -> Plan | None:
    batch = observed.batch
    if batch is None or not observed.is_foreign:
        return None
    message = f"a batch Job '{batch['metadata']['name']}' exists that does not belong to this Job"
    return _end(observed, now, "Failed", message)


def _finished(observed: Observed, now: datetime) -> Plan | None:
    batch = observed.batch
    ended = batchjobs.result(batch) if batch is not None else None
    if batch is None or ended is None:
        return None
    status = statuses.finished(observed.job, batch, ended, batchjobs.last_exit(observed.pods), now)
    return Plan(status, _farewell(observed, wait_for_pods=False))


def _cancelled(observed: Observed, now: datetime) -> Plan | None:
    if desired_state(observed.spec) != "Cancelled":
        return None
    return _stop_first(observed, now) or _end(observed, now, "Cancelled", "cancelled by `spec.desiredState`")


def _unprovided(observed: Observed, now: datetime) -> Plan | None:
    """Wait for what may be applied after the Job: Helm and Argo CD put a kind `Job` before unknown kinds.

    Nothing is claimed meanwhile: there may be no ledger either.
    References: conventions.md section 3.
    """
    if observed.is_started:
        return None
    if observed.tenant is None:
        label = names.TENANT_LABEL
        message = observed.untenanted or f"waiting: the namespace must carry the label `{label}`"
        return Plan(statuses.waiting(observed.job, None, "TenantNotFound", message, now))
    if observed.job_type is None:
        name = observed.spec.get("jobType")
        message = f"waiting: `jobType` must name a JobType, '{name}' does not exist yet"
        return Plan(statuses.waiting(observed.job, observed.tenant, "JobTypeNotFound", message, now))
    return None


def _invalid(observed: Observed, now: datetime) -> Plan | None:
    if observed.is_started or observed.job_type is None:
        return None
    found = jobtypes.validate_job(observed.spec, observed.job_type)
    if not found:
        return None
    reason = "NotSupported" if jobtypes.is_unsupported(found) else "InvalidParameters"
    return _end(observed, now, reason, "; ".join(error.message for error in found))


def _suspended(observed: Observed, now: datetime) -> Plan | None:
    if desired_state(observed.spec) != "Suspended":
        return None
    stopping = _stop_first(observed, now)
    if stopping is not None:  # the status first: a quick resume must not take the batch Job's end for a loss
        return replace(stopping, status=statuses.stopping(observed.job, now))
    if observed.holder is None:
        return _claim(observed)
    parked = observed.holder.state is holders.State.RESERVED
    status = statuses.suspended(observed.job, observed.tenant, observed.holder, now)
    return Plan(status, () if parked else (Park(observed.holder),))


def _resumed(observed: Observed, now: datetime) -> Plan | None:
    """Begin anew after a suspension.

    A paused operator may still be about to park: it has said Suspended in the status before. So the entry is
    parked first, which its late attempt then does not recognise, and the status is changed before the claim.
    """
    holder = observed.holder
    if not statuses.is_suspended(observed.job) or holder is None:
        return None
    if holder.state is not holders.State.RESERVED:
        return Plan(actions=(Park(holder),), again=True)
    return replace(_claim(observed), status=statuses.queued(observed.job, observed.tenant, holder, now))


def _unclaimed(observed: Observed, now: datetime) -> Plan | None:  # noqa: ARG001 - a Step
    holder = observed.holder
    if holder is None or holder.state is holders.State.RESERVED:
        return _claim(observed)
    outdated = holder.priority != jobtypes.priority(observed.spec, observed.job_type)
    return _claim(observed) if holder.state is holders.State.QUEUED and outdated else None


def _queued(observed: Observed, now: datetime) -> Plan | None:
    holder = observed.holder
    if holder is None or holder.state is not holders.State.QUEUED:
        return None
    return Plan(statuses.queued(observed.job, observed.tenant, holder, now))


def _vanished(observed: Observed, now: datetime) -> Plan | None:
    if observed.batch is not None or not observed.is_started:
        return None
    return _end(observed, now, "Failed", "the batch Job was deleted before it had ended")


def _admitted(observed: Observed, now: datetime) -> Plan | None:
    if observed.batch is not None or observed.job_type is None or observed.tenant is None:
        return None
    if observed.denied:
        problem = f"the batch Job is refused for now: {observed.denied}"
        return Plan(_admitted_status(observed, now, problem), after=PROBLEM_POLL_SECONDS)
    body = podspecs.build(observed.job, observed.job_type, observed.tenant)
    return Plan(actions=(CreateBatch(body),), again=True)


def _leaving(observed: Observed, now: datetime) -> Plan | None:
    batch = observed.batch
    return Plan(after=_patience(batch, now)) if batch is not None and batchjobs.is_deleting(batch) else None


def _redated(observed: Observed, now: datetime) -> Plan | None:  # noqa: ARG001 - a Step
    batch = observed.batch
    if batch is None:
        return None
    current = batchjobs.deadline(batch)
    wanted = jobtypes.deadline(observed.spec, observed.job_type, current)
    if wanted is None or wanted == current:
        return None
    metadata = batch["metadata"]
    return Plan(actions=(SetDeadline(metadata["name"], metadata["uid"], wanted),), again=True)


def _held_back(observed: Observed, now: datetime) -> Plan | None:
    """Let the batch Job run, once the status names it: should it vanish, it is not made and run again."""
    batch = observed.batch
    if batch is None or not batchjobs.is_suspended(batch):
        return None
    metadata = batch["metadata"]
    status = None if statuses.is_running(observed.job) else _admitted_status(observed, now)
    return Plan(status, (Unsuspend(metadata["name"], metadata["uid"]),))


def _running(observed: Observed, now: datetime) -> Plan | None:
    batch = observed.batch
    if batch is None:
        return None
    problem = batchjobs.pod_problem(observed.pods)
    if not batchjobs.has_pods(batch) and not statuses.is_running(observed.job):
        return _podless(observed, batch, now)
    status = statuses.running(observed.job, batch, problem, now)
    if batchjobs.is_ready(batch):
        return Plan(status)
    return Plan(status, after=PROBLEM_POLL_SECONDS if _is_slow(batch, now) else POD_PATIENCE.total_seconds())


def _podless(observed: Observed, batch: Body, now: datetime) -> Plan:
    """Wait for the first pod, and say so when none comes: a quota or a policy may refuse it."""
    if not _is_slow(batch, now):
        return Plan(after=POD_PATIENCE.total_seconds())
    problem = f"no pod could be made yet; see the events of batch Job '{batch['metadata']['name']}'"
    return Plan(_admitted_status(observed, now, problem), after=PROBLEM_POLL_SECONDS)


STEPS: tuple[Step, ...] = (
    _already_final,  # a terminal status never changes
    _foreign,  # what is not ours is never stopped
    _being_deleted,
    _malformed,
    _finished,  # before cancel: what has ended has ended
    _refused,
    _cancelled,
    _unprovided,
    _invalid,  # only before the start: a running Job does not care about its JobType any more
    _suspended,
    _resumed,
    _unclaimed,
    _queued,
    _vanished,
    _admitted,
    _leaving,
    _redated,
    _held_back,
    _running,
)


def _claim(observed: Observed) -> Plan:
    return Plan(actions=(Claim(live_job(observed.job, observed.job_type, observed.batch)),), again=True)


def _admitted_status(observed: Observed, now: datetime, problem: str = "") -> dict[str, Any]:
    job_type = observed.job_type
    effective = jobtypes.effective(observed.spec, job_type) if job_type is not None else None
    return statuses.admitted(
        observed.job, observed.tenant, observed.holder, effective, now, batch=observed.batch, problem=problem
    )


def _patience(batch: Body, now: datetime) -> float:
    return max(POLL_SECONDS, batchjobs.patience((batch,), now))


def _stop_first(observed: Observed, now: datetime) -> Plan | None:
    """Return the plan that stops an unfinished batch Job; a slot is given up only after it is gone.

    Deleting instead of suspending also fences a paused second operator: its precondition is gone for good.
    """
    batch = observed.batch
    if batch is None or batchjobs.is_finished(batch):
        return None
    return Plan(actions=_stop(batch), after=_patience(batch, now))


def _stop(batch: Body) -> tuple[Action, ...]:
    if batchjobs.is_deleting(batch):
        return ()
    return (DeleteBatch(batch["metadata"]["name"], batch["metadata"]["uid"]),)


def _end(observed: Observed, now: datetime, reason: str, message: str) -> Plan:
    status = statuses.ended(observed.job, observed.tenant, reason, message, now)
    return Plan(status, _farewell(observed, wait_for_pods=True))


def _farewell(observed: Observed, *, wait_for_pods: bool) -> tuple[Action, ...]:
    actions: list[Action] = [Release(wait_for_pods)] if observed.holder is not None else []
    batch, ttl = observed.batch, _ttl(observed)
    if batch is not None and ttl is not None and _needs_ttl(observed, batch, ttl):
        actions.append(SetTtl(batch["metadata"]["name"], ttl))
    return tuple(actions)


def _needs_ttl(observed: Observed, batch: Body, ttl: int) -> bool:
    differs = (batch.get("spec") or {}).get("ttlSecondsAfterFinished") != ttl
    return (
        not observed.is_foreign
        and differs
        and batchjobs.is_finished(batch)
        and not batchjobs.is_deleting(batch)
    )


def _ttl(observed: Observed) -> int | None:
    chosen = observed.spec.get("ttlSecondsAfterFinished")
    if chosen is None:
        chosen = ((observed.job.get("status") or {}).get("effective") or {}).get("ttlSecondsAfterFinished")
    return chosen if isinstance(chosen, int) else None


def _is_slow(batch: Body, now: datetime) -> bool:
    text = batchjobs.start_time(batch)
    if batchjobs.is_suspended(batch) or batchjobs.is_ready(batch) or not text:
        return False
    return now - datetime.fromisoformat(text) >= POD_PATIENCE
