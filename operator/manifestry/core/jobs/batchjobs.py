"""What a batch/v1 Job and its pods say about a run: finished or not, how it ended, what it waits for."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from manifestry.core.jobs.podspecs import CONTAINER
from manifestry.core.kube import conditions, names

Body = Mapping[str, Any]

_PULL_PROBLEMS = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull")
_STABLE_PROBLEMS = ("CreateContainerConfigError", "CreateContainerError", "RunContainerError")
_MAX_TEXT_LENGTH = 512
MIN_PATIENCE_SECONDS = 1.0
MAX_PATIENCE_SECONDS = 30.0


@dataclass(frozen=True)
class Exit:
    """How the container of a pod ended.

    Args:
        pod: the pod's name.
        code: the exit code, None when the container never ended by itself.
        reason: the kubelet's word, such as `OOMKilled`, or empty.
    """

    pod: str
    code: int | None
    reason: str = ""


@dataclass(frozen=True)
class Result:
    """How a finished batch Job ended."""

    succeeded: bool
    reason: str
    message: str
    time: str | None


def result(batch: Body) -> Result | None:
    """Return how a batch Job ended, None while it has not; its pods are gone or terminal then (KEP-3939)."""
    status = _status(batch)
    for kind, succeeded in (("Complete", True), ("Failed", False)):
        found = conditions.find(status.get("conditions"), kind)
        if found is not None and found.get("status") == "True":
            time = status.get("completionTime") or found.get("lastTransitionTime")
            return Result(succeeded, str(found.get("reason") or ""), str(found.get("message") or ""), time)
    return None


def is_finished(batch: Body) -> bool:
    """Tell whether a batch Job has ended."""
    return result(batch) is not None


def is_suspended(batch: Body) -> bool:
    """Tell whether a batch Job may not have pods."""
    return (batch.get("spec") or {}).get("suspend") is True


def is_deleting(batch: Body) -> bool:
    """Tell whether a batch Job is on its way out; with foreground deletion it goes after its pods."""
    return bool((batch.get("metadata") or {}).get("deletionTimestamp"))


def is_running(batch: Body) -> bool:
    """Tell whether a batch Job counts against I2: it may have pods and has not ended."""
    return not is_suspended(batch) and not is_finished(batch)


def has_pods(batch: Body) -> bool:
    """Tell whether a pod of it exists now."""
    return _count(batch, "active") > 0


def is_ready(batch: Body) -> bool:
    """Tell whether a pod of it is ready now."""
    return _count(batch, "ready") > 0


def deadline(batch: Body) -> int | None:
    """Return how long a batch Job may run in seconds, None for no limit."""
    seconds = (batch.get("spec") or {}).get("activeDeadlineSeconds")
    return seconds if isinstance(seconds, int) else None


def leaving_seconds(body: Body, now: datetime) -> float:
    """Return for how long a batch Job or pod has been on its way out, 0 when it is not."""
    text = (body.get("metadata") or {}).get("deletionTimestamp")
    return max(0.0, (now - datetime.fromisoformat(text)).total_seconds()) if text else 0.0


def patience(leaving: Iterable[Body], now: datetime) -> float:
    """Return the seconds after which to look again for batch Jobs or pods that are on their way out.

    What takes long takes longer: a pod of a node that has vanished may never go, and must not be asked for
    every second.
    """
    return pause(max((leaving_seconds(body, now) for body in leaving), default=0.0))


def pause(waited_seconds: float) -> float:
    """Return how long to wait before the next look at something that has taken so long already."""
    return min(MAX_PATIENCE_SECONDS, max(MIN_PATIENCE_SECONDS, waited_seconds / 5))


def attempts(batch: Body) -> int:
    """Return how many pods were started and ended."""
    return _count(batch, "failed") + _count(batch, "succeeded")


def start_time(batch: Body) -> str | None:
    """Return when it was last unsuspended."""
    return _status(batch).get("startTime")


def job_uid(body: Body) -> str | None:
    """Return the uid of the Job that a batch Job or pod belongs to, by its label."""
    return ((body.get("metadata") or {}).get("labels") or {}).get(names.JOB_UID_LABEL)


def job_name(body: Body) -> str | None:
    """Return the name of the Job that a batch Job or pod belongs to, by its label."""
    return ((body.get("metadata") or {}).get("labels") or {}).get(names.JOB_NAME_LABEL)


def is_pod_unfinished(pod: Body) -> bool:
    """Tell whether a pod may still do something, also while it is being deleted."""
    return _status(pod).get("phase") not in {"Succeeded", "Failed"}


def last_exit(pods: Iterable[Body]) -> Exit | None:
    """Return how the newest pod's main container ended, None without pods."""
    newest = max(pods, key=_created, default=None)
    if newest is None:
        return None
    ended = ((_main(newest).get("state") or {}).get("terminated")) or {}
    code = ended.get("exitCode")
    reason = str(ended.get("reason") or "")
    return Exit(
        str((newest.get("metadata") or {}).get("name") or ""),
        code if isinstance(code, int) else None,
        "" if reason in {"Error", "Completed"} else reason,
    )


def describe_exit(ended: Exit) -> str:
    """Return the sentence for a failed container, such as "container `main` exited with code 3"."""
    suffix = f" ({ended.reason})" if ended.reason else ""
    if ended.code is None:
        return f"pod '{ended.pod}' failed before its container ended{suffix}"
    return f"container `{CONTAINER}` exited with code {ended.code}{suffix}"


def pod_problem(pods: Iterable[Body]) -> str:
    """Return why the newest pod does not start, empty when nothing is known.

    The text says the same for the same problem: it becomes a condition's message, and each new wording
    would be a write.
    """
    newest = max(pods, key=_created, default=None)
    if newest is None:
        return ""
    waiting = ((_main(newest).get("state") or {}).get("waiting")) or {}
    reason = str(waiting.get("reason") or "")
    if reason in _PULL_PROBLEMS:
        return f"the image '{_main(newest).get('image')}' cannot be pulled"
    if reason in _STABLE_PROBLEMS:
        return f"the container cannot start: {reason}: {str(waiting.get('message') or '')[:_MAX_TEXT_LENGTH]}"
    if conditions.is_status(_status(newest).get("conditions"), "PodScheduled", "False"):
        return "the pod cannot be scheduled yet"
    return ""


def _main(pod: Body) -> Body:
    statuses = _status(pod).get("containerStatuses") or ()
    return next((item for item in statuses if item.get("name") == CONTAINER), {})


def _status(body: Body) -> Body:
    return body.get("status") or {}


def _count(batch: Body, field: str) -> int:
    count = _status(batch).get(field)
    return count if isinstance(count, int) else 0


def _created(pod: Body) -> tuple[str, str]:
    metadata = pod.get("metadata") or {}
    return str(metadata.get("creationTimestamp") or ""), str(metadata.get("name") or "")
