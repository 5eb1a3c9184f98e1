"""Who may lead: decisions on a Lease object, without a clock of their own.

Wall clocks of two nodes differ, so a Lease is never judged by the times written in it: it has expired when
*we* have seen no change of it for its duration.
References: KEP-589; client-go tools/leaderelection, which decides the same way.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Any

from manifestry.core.kube import names

Lease = Mapping[str, Any]


@dataclass(frozen=True)
class Terms:
    """The three times of an election.

    Args:
        duration_seconds: a Lease that nobody renews is free after so long.
        renew_seconds: a leader that could not renew for so long must stop; less than the duration, so that
            it has stopped before the next one begins.
        retry_seconds: the pause between two attempts.
    """

    duration_seconds: int = 15
    renew_seconds: float = 10.0
    retry_seconds: float = 2.0

    def __post_init__(self) -> None:
        if not self.retry_seconds < self.renew_seconds < self.duration_seconds:
            raise ValueError("`retry_seconds` < `renew_seconds` < `duration_seconds` must hold")


class Step(Enum):
    """What a candidate or leader does next."""

    CREATE = "create"
    TAKE = "take"
    RENEW = "renew"
    WAIT = "wait"


def decide(lease: Lease | None, identity: str, unchanged_seconds: float) -> Step:
    """Return the next step.

    Args:
        lease: the Lease as last read, None where there is none.
        identity: who asks.
        unchanged_seconds: for how long the asker has seen the Lease unchanged, by its own clock.
    """
    if lease is None:
        return Step.CREATE
    found = holder(lease)
    if found == identity:
        return Step.RENEW
    expired = unchanged_seconds >= _duration(lease)
    return Step.TAKE if not found or expired else Step.WAIT


def must_stop(since_renewal_seconds: float, terms: Terms) -> bool:
    """Tell whether a leader whose last renewal is so long ago may no longer act."""
    return since_renewal_seconds >= terms.renew_seconds


def holder(lease: Lease) -> str:
    """Return who holds a Lease, "" for nobody."""
    return str(_spec(lease).get("holderIdentity") or "")


def create(name: str, namespace: str, identity: str, now: datetime, terms: Terms) -> dict[str, Any]:
    """Return a new Lease that `identity` holds."""
    spec = _held(identity, now, terms) | {"acquireTime": microtime(now), "leaseTransitions": 0}
    return {
        "apiVersion": names.LEASES.api_version,
        "kind": names.LEASES.kind,
        "metadata": {"name": name, "namespace": namespace},
        "spec": spec,
    }


def take(lease: Lease, identity: str, now: datetime, terms: Terms) -> dict[str, Any]:
    """Return the Lease after it has changed hands; its resourceVersion is the precondition."""
    moved = {"acquireTime": microtime(now), "leaseTransitions": _transitions(lease) + 1}
    return {**lease, "spec": {**_spec(lease), **_held(identity, now, terms), **moved}}


def renew(lease: Lease, identity: str, now: datetime, terms: Terms) -> dict[str, Any]:
    """Return the Lease after its holder has renewed it."""
    return {**lease, "spec": {**_spec(lease), **_held(identity, now, terms)}}


def release(lease: Lease, now: datetime) -> dict[str, Any]:
    """Return the Lease after its holder gave it up: the next candidate need not wait."""
    freed = {"holderIdentity": "", "leaseDurationSeconds": 1, "renewTime": microtime(now)}
    return {**lease, "spec": {**_spec(lease), **freed}}


def microtime(now: datetime) -> str:
    """Return metav1.MicroTime: RFC 3339 in UTC with six digits, not more and not fewer."""
    return now.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _held(identity: str, now: datetime, terms: Terms) -> dict[str, Any]:
    return {
        "holderIdentity": identity,
        "leaseDurationSeconds": terms.duration_seconds,
        "renewTime": microtime(now),
    }


def _spec(lease: Lease) -> Mapping[str, Any]:
    return lease.get("spec") or {}


def _duration(lease: Lease) -> float:
    seconds = _spec(lease).get("leaseDurationSeconds")
    return float(seconds) if isinstance(seconds, int) else float(Terms.duration_seconds)


def _transitions(lease: Lease) -> int:
    count = _spec(lease).get("leaseTransitions")
    return count if isinstance(count, int) else 0
