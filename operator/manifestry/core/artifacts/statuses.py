"""An Artifact's status: always the whole of it, None where it already stands so."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from manifestry.core.artifacts import lives
from manifestry.core.artifacts.plans import Observed, Status
from manifestry.core.artifacts.sources import Found
from manifestry.core.blobs import digests
from manifestry.core.kube import conditions
from manifestry.core.kube.conditions import Condition

_KEPT: Final = ("artifact", "manifest", "files", "lastVerifiedTime", "attestations")


def ready(observed: Observed, found: Sequence[Found], manifest: bytes, now: datetime) -> Status | None:
    """Return the status of an artifact whose payload and manifest are stored."""
    pointer = {"digest": digests.of(manifest), "sizeBytes": len(manifest)}
    wanted = [
        Condition("Ready", "True", "Stored", "payload and manifest are stored"),
        Condition("Stored", "True", "Stored", "the bytes are in the store"),
    ]
    return render(observed, wanted, now, {**_stored(observed, found, now), "manifest": pointer})


def _stored(observed: Observed, found: Sequence[Found], now: datetime) -> Status:
    if found[0].payload.name:
        return {"files": [{"name": item.payload.name, **_pointer(item)} for item in found]}
    old = lives.mapping(lives.mapping(observed.body.get("status")).get("artifact"))
    same = old.get("digest") == found[0].digest and "storedTime" in old
    when = old["storedTime"] if same else conditions.timestamp(now)
    return {"artifact": {**_pointer(found[0]), "mediaType": found[0].payload.media_type, "storedTime": when}}


def _pointer(found: Found) -> Status:
    return {"digest": found.digest, "sizeBytes": found.size_bytes}


def render(
    observed: Observed, wanted: Sequence[Condition], now: datetime, stored: Status | None = None
) -> Status | None:
    """Return the whole status with these conditions, and what is stored as it was if that is not said."""
    old = lives.mapping(observed.body.get("status"))
    generation = lives.mapping(observed.body.get("metadata")).get("generation", 0)
    new = {name: old[name] for name in _KEPT if name in old} | (stored or {})
    if observed.tenant is not None:
        new["tenant"] = observed.tenant.name
    new["observedGeneration"] = generation
    wanted = [*wanted, *_quota(observed, old)]
    new["conditions"] = conditions.merge(lives.conditions_of(old), wanted, generation, now)
    return None if new == old else new


def _quota(observed: Observed, old: Mapping[str, Any]) -> tuple[Condition, ...]:
    """Return the condition QuotaReserved; one that was set must not outlive the quota."""
    if observed.quota is not None:
        return (observed.quota,)
    if conditions.is_status(lives.conditions_of(old), "QuotaReserved", "False"):
        return (Condition("QuotaReserved", "True", "Unlimited", "the tenant's storage is not limited"),)
    return ()
