"""What the ledger, and the repair that looks after it, must know about a Job."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal

from manifestry.core.jobs import batchjobs, jobtypes, statuses
from manifestry.core.jobs.statuses import is_terminal
from manifestry.core.kube import bodies
from manifestry.core.quota import holders

Body = Mapping[str, Any]
DesiredState = Literal["Active", "Suspended", "Cancelled"]


def desired_state(spec: Body) -> DesiredState:
    """Return what the user wants; unset is Active, a word we do not know is Suspended."""
    match spec.get("desiredState"):
        case None | "" | "Active":
            return "Active"
        case "Cancelled":
            return "Cancelled"
        case _:
            return "Suspended"


def is_resting(job: Body, holder: holders.Holder | None, *, is_typed: bool) -> bool:
    """Tell whether a Job has nothing to do by itself: its status and its ledger agree that it waits or ended.

    A Job that has a slot and does not know of it is not resting: the write that admitted it may have lost
    its answer, and then nobody was woken.

    Args:
        job: the Job's body.
        holder: its entry in the ledger, None without one.
        is_typed: its JobType exists.
    """
    status = job.get("status") or {}
    if status.get("observedGeneration") != job["metadata"].get("generation"):
        return False
    if is_terminal(job):
        return holder is None
    match statuses.reason(job), holder.state if holder else None:
        case ("Queued", holders.State.QUEUED) | ("Suspended", holders.State.RESERVED):
            return True
        case "JobTypeNotFound", _:
            return not is_typed
        case _:
            return False


def live_job(job: Body, job_type: Body | None, batch: Body | None) -> holders.LiveJob:
    """Return what the ledger must know about a Job."""
    return holders.LiveJob(
        uid=str(job["metadata"]["uid"]),
        name=str(job["metadata"]["name"]),
        terminal=is_terminal(job),
        running=batch is not None and batchjobs.is_running(batch),
        parked=desired_state(bodies.spec_of(job)) == "Suspended",
        priority=jobtypes.priority(bodies.spec_of(job), job_type),
        created=_created(job),
    )


def _created(job: Body) -> datetime | None:
    text = job["metadata"].get("creationTimestamp")
    return datetime.fromisoformat(text) if isinstance(text, str) else None
