"""Which container's log answers a request, or why there is none: pure, from the Job's pods.

References: rest-api.md `GET /jobs/{id}/logs`; Kubernetes core/v1 PodStatus.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from manifestry.core import errors

Object = Mapping[str, Any]
ContainerState = Literal["waiting", "running", "terminated"]


@dataclass(frozen=True)
class Wanted:
    """What the client asked for.

    Args:
        attempt: 1 is the first pod; None is the latest.
        container: None is the pod's first container.
        follow: whether to wait for what is not there yet.
    """

    attempt: int | None = None
    container: str | None = None
    follow: bool = False


@dataclass(frozen=True)
class Target:
    """A log that can be opened."""

    pod: str
    container: str
    attempt: int
    ended: bool


def choose(job_status: str, ended: bool, pods: Iterable[Object], wanted: Wanted) -> Target | None:
    """Return the log to open, or None while there is something to wait for.

    Args:
        job_status: the Job's REST status word, for the message.
        ended: whether the Job will never get another pod.
        pods: the Job's pods in any order.
        wanted: what the client asked for.

    Raises:
        Problem: not-found (there never was such a log, or its pod is gone), conflict (not yet, and the client
            does not follow), validation-failed (no such container).
    """
    ordered = attempts(pods)
    number = wanted.attempt or len(ordered) or 1
    if number > len(ordered):
        _require_patience(job_status, ended, wanted, f"attempt {number} has no pod")
        return None
    pod = ordered[number - 1]
    name = _container(pod, wanted.container)
    state = container_state(pod, name)
    if state == "waiting":
        gone = ended or _phase(pod) in {"Succeeded", "Failed"}
        _require_patience(job_status, gone, wanted, f"its container has not started{_why(pod, name)}")
        return None
    return Target(pod["metadata"]["name"], name, number, state == "terminated")


def attempts(pods: Iterable[Object]) -> list[Object]:
    """Return the pods in the order of their creation: the first attempt first."""
    return sorted(
        pods,
        key=lambda pod: (str(pod["metadata"].get("creationTimestamp", "")), str(pod["metadata"]["name"])),
    )


def container_state(pod: Object, name: str) -> ContainerState:
    """Return what the kubelet last said about a container; waiting before it has said anything.

    Without a node there is no kubelet, and the API server would answer an empty 200 for the log.
    References: kubernetes/kubernetes pkg/registry/core/pod/strategy.go, LogLocation.
    """
    if not (pod.get("spec") or {}).get("nodeName"):
        return "waiting"
    status = _status(pod, name)
    state = status.get("state") or {}
    if "running" in state:
        return "running"
    return "terminated" if "terminated" in state else "waiting"


def _require_patience(job_status: str, ended: bool, wanted: Wanted, reason: str) -> None:
    if ended:
        raise errors.Problem(errors.NOT_FOUND, f"there is no log: the job has {job_status}, and {reason}")
    if not wanted.follow:
        raise errors.Problem(
            errors.CONFLICT,
            f"there is no log yet: the job is {job_status}, and {reason}; `follow=true` waits for it",
        )


def _container(pod: Object, wanted: str | None) -> str:
    spec = pod.get("spec") or {}
    main = [str(each["name"]) for each in spec.get("containers") or ()]
    known = [*main, *(str(each["name"]) for each in spec.get("initContainers") or ())]
    if wanted is None:
        return main[0]
    if wanted not in known:
        raise errors.invalid("query:container", f"`container` must be one of: {', '.join(known)}")
    return wanted


def _status(pod: Object, name: str) -> Object:
    status = pod.get("status") or {}
    found = [*(status.get("containerStatuses") or ()), *(status.get("initContainerStatuses") or ())]
    return next((each for each in found if each.get("name") == name), {})


def _why(pod: Object, name: str) -> str:
    waiting = (_status(pod, name).get("state") or {}).get("waiting") or {}
    reason = waiting.get("reason") or (pod.get("status") or {}).get("reason")
    return f" ({reason})" if reason else ""


def _phase(pod: Object) -> str:
    return str((pod.get("status") or {}).get("phase", ""))
