"""Conditions as Kubernetes' API conventions ask for them, and the kstatus word that follows from them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

Status = Literal["True", "False", "Unknown"]
KStatus = Literal["InProgress", "Failed", "Current", "Terminating"]
MESSAGE_MAX_LENGTH = 1024
ABNORMAL = ("Reconciling", "Stalled")  # present only while True


@dataclass(frozen=True)
class Condition:
    """What a reconcile wants a condition to say; times are filled in by `merge`."""

    type: str
    status: Status
    reason: str
    message: str = ""


def timestamp(now: datetime) -> str:
    """Return an RFC 3339 time in UTC with whole seconds, as metav1.Time has it."""
    return now.strftime("%Y-%m-%dT%H:%M:%SZ")


def find(conditions: Iterable[Mapping[str, Any]] | None, kind: str) -> Mapping[str, Any] | None:
    """Return the condition of type `kind`, or None; what is not a condition is passed over."""
    return next((c for c in _entries(conditions) if c["type"] == kind), None)


def _entries(conditions: Any) -> list[Mapping[str, Any]]:
    """Return the well-formed conditions of whatever stands in their place."""
    found = conditions if isinstance(conditions, list | tuple) else ()
    return [c for c in found if isinstance(c, Mapping) and isinstance(c.get("type"), str)]


def is_status(conditions: Iterable[Mapping[str, Any]] | None, kind: str, status: Status) -> bool:
    """Tell whether the condition of type `kind` is there with `status`."""
    found = find(conditions, kind)
    return found is not None and found.get("status") == status


def merge(
    current: Sequence[Mapping[str, Any]] | None, wanted: Iterable[Condition], generation: int, now: datetime
) -> list[dict[str, Any]]:
    """Return the new full list: `wanted` first, conditions of types we do not own kept as they are.

    `lastTransitionTime` moves only when the status does. Reconciling and Stalled vanish unless wanted.
    References: KEP-1623; api-conventions.md "Typical status properties".
    """
    wanted = list(wanted)
    named = {condition.type for condition in wanted}
    foreign = [dict(c) for c in _entries(current) if c["type"] not in named and c["type"] not in ABNORMAL]
    return [
        _render(condition, find(current, condition.type), generation, now) for condition in wanted
    ] + foreign


def _render(
    wanted: Condition, old: Mapping[str, Any] | None, generation: int, now: datetime
) -> dict[str, Any]:
    since = old.get("lastTransitionTime") if old and old.get("status") == wanted.status else None
    return {
        "type": wanted.type,
        "status": wanted.status,
        "reason": wanted.reason,
        "message": wanted.message[:MESSAGE_MAX_LENGTH],
        "observedGeneration": generation,
        "lastTransitionTime": since if isinstance(since, str) else timestamp(now),
    }


def kstatus(body: Mapping[str, Any]) -> KStatus:
    """Return what Flux, Argo CD and `helm --wait` make of a custom resource.

    References: kubernetes-sigs/cli-utils pkg/kstatus/status/generic.go, in the order it checks.
    """
    metadata, status = body.get("metadata") or {}, body.get("status") or {}
    if metadata.get("deletionTimestamp"):
        return "Terminating"
    if "observedGeneration" in status and status["observedGeneration"] != metadata.get("generation"):
        return "InProgress"
    conditions = status.get("conditions")
    if is_status(conditions, "Reconciling", "True"):
        return "InProgress"
    if is_status(conditions, "Stalled", "True"):
        return "Failed"
    ready = find(conditions, "Ready")
    return "InProgress" if ready is not None and ready.get("status") != "True" else "Current"
