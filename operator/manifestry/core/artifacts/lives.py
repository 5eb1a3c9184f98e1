"""What an Artifact says of itself: ready, lost, refused for good; read without trusting what is in etcd."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from manifestry.core.artifacts import declarations, manifests, sources
from manifestry.core.artifacts.manifests import Descriptor
from manifestry.core.artifacts.sources import Payload, RefusedError, Url
from manifestry.core.kube import conditions, names

FINAL: Final = ("DigestMismatch", "SizeMismatch")
LOST: Final = ("Damaged", "Missing")

Body = Mapping[str, Any]


def is_ready(body: Body) -> bool:
    """Tell whether payload and manifest are stored as the current spec asks for."""
    status, generation = mapping(body.get("status")), mapping(body.get("metadata")).get("generation")
    return status.get("observedGeneration") == generation and conditions.is_status(
        conditions_of(status), "Ready", "True"
    )


def reason(body: Body) -> tuple[str, str]:
    """Return reason and message of the condition Ready; two empty strings before the first reconcile."""
    found = conditions.find(conditions_of(mapping(body.get("status"))), "Ready") or {}
    return str(found.get("reason", "")), str(found.get("message", ""))


def is_lost(body: Body) -> bool:
    """Tell whether stored bytes are damaged or missing: whoever has them may store them again."""
    return reason(body)[0] in LOST


def is_fetched(body: Body) -> bool:
    """Tell whether any of the bytes come, or are to come, from a `url`; not of what is stored."""
    try:
        return any(isinstance(payload.source, Url) for payload in payloads(body))
    except RefusedError:
        return False


def created(body: Body) -> datetime | None:
    """Return when the object was created, None when it does not say so."""
    try:
        when = datetime.fromisoformat(str(mapping(body.get("metadata")).get("creationTimestamp")))
    except ValueError:
        return None
    return when if when.tzinfo else when.replace(tzinfo=UTC)


def manifest_of(body: Body) -> Descriptor | None:
    """Return the manifest of a ready Artifact, to be the subject of another; else None."""
    pointer = mapping(mapping(body.get("status")).get("manifest"))
    digest, size_bytes = pointer.get("digest"), pointer.get("sizeBytes")
    if not (is_ready(body) and isinstance(digest, str) and isinstance(size_bytes, int)):
        return None
    return Descriptor(manifests.MEDIA_TYPE, digest, size_bytes)


def payloads(body: Body) -> tuple[Payload, ...]:
    """Return the payloads that the spec names, each pinned to what was stored of it.

    Raises:
        RefusedError: the spec cannot be understood.
    """
    stored = recorded(mapping(body.get("status")))
    declared = declarations.parse(body.get("spec"))
    return tuple(sources.pin(payload, stored.get(payload.name)) for payload in declared)


def recorded(status: Mapping[str, Any]) -> dict[str, str]:
    """Return by each payload's name the digest that was stored; an artifact of one has an empty name."""
    files = status.get("files")
    entries: list[Mapping[str, Any]] = [{**mapping(status.get("artifact")), "name": ""}]
    entries += [mapping(item) for item in files] if isinstance(files, list) else []
    return {
        str(entry.get("name")): entry["digest"]
        for entry in entries
        if names.is_digest(str(entry.get("digest")))
    }


def is_final(body: Body) -> bool:
    """Tell whether fetched bytes were refused for what they are: then they are not fetched once more."""
    return stalled_reason(body) in FINAL and is_fetched(body)


def stalled_reason(body: Body) -> object:
    """Return the reason of the condition Stalled for the spec as it is, None when there is none."""
    status, generation = mapping(body.get("status")), mapping(body.get("metadata")).get("generation")
    stalled = conditions.find(conditions_of(status), "Stalled") or {}
    is_current = status.get("observedGeneration") == generation == stalled.get("observedGeneration")
    return stalled.get("reason") if is_current else None


def conditions_of(status: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the conditions that are well formed."""
    given = status.get("conditions")
    listed = given if isinstance(given, list) else []
    return [item for item in listed if isinstance(item, Mapping) and "lastTransitionTime" in item]


def name_of(body: Body) -> str:
    """Return the object's name, empty where there is none."""
    return str(mapping(body.get("metadata")).get("name", ""))


def mapping(value: object) -> Mapping[str, Any]:
    """Return the value if it is an object, else an empty one: in etcd may be what nobody has declared."""
    return value if isinstance(value, Mapping) else {}
