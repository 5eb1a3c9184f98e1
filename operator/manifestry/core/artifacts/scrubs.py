"""What reading stored bytes back says about the Artifacts that have them: pure."""

import heapq
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal, NamedTuple

from manifestry.core.artifacts import lives
from manifestry.core.blobs.garbage import Pin
from manifestry.core.kube import conditions, names
from manifestry.core.kube.conditions import Condition

Finding = Literal["Damaged", "Missing"]
CONTROLLER: Final = f"{names.GROUP}/operator"
NOTE_MAX_LENGTH: Final = 1024  # events.k8s.io/v1
_NEVER: Final = datetime.min.replace(tzinfo=UTC)

Body = Mapping[str, Any]


class Due(NamedTuple):
    """An Artifact whose bytes are to be read; ordered by when that was last done."""

    verified: datetime
    namespace: str
    name: str


class DuePin(NamedTuple):
    """A pin whose bytes are to be read; ordered by when that was last done."""

    verified: datetime
    artifact_uid: str
    pin: Pin


class Part(NamedTuple):
    """Stored bytes of an Artifact."""

    digest: str
    size_bytes: int


def due(body: Body, now: datetime, period: timedelta) -> Due | None:
    """Return the Artifact's place in the order, None when it is not its time or it is not ready.

    Args:
        body: the Artifact.
        now: the time.
        period: how long bytes are believed after they were stored or read.
    """
    if not lives.is_ready(body) or not parts(body):
        return None
    status = body["status"]
    stored = (status.get("artifact") or {}).get("storedTime")
    times = (_time(status.get("lastVerifiedTime")), _time(stored), lives.created(body))
    verified = max((time for time in times if time is not None), default=_NEVER)
    metadata = body["metadata"]
    return Due(verified, metadata["namespace"], metadata["name"]) if verified + period <= now else None


def first(found: Iterable[Due], limit: int) -> list[Due]:
    """Return the `limit` that were read longest ago."""
    return heapq.nsmallest(limit, found)


def due_pins(
    pins: Iterable[Pin], verified: Mapping[str, datetime], now: datetime, period: timedelta, limit: int
) -> list[DuePin]:
    """Return the `limit` pins that were read longest ago, of those whose time it is.

    Args:
        pins: of one tenant.
        verified: by the artifact's uid, when its bytes were last read.
        now: the time.
        period: how long bytes are believed after they were read.
        limit: how many at most.
    """
    each = (DuePin(verified.get(pin.artifact_uid, _NEVER), pin.artifact_uid, pin) for pin in pins)
    return heapq.nsmallest(
        limit, (due for due in each if due.verified <= now - period), key=lambda due: due[:2]
    )


def parts(body: Body) -> tuple[Part, ...]:
    """Return the stored bytes that the status points to, each once: payloads, then the manifest."""
    status = body.get("status")
    if not isinstance(status, Mapping):
        return ()
    files = status.get("files")
    entries = [status.get("artifact"), *(files if isinstance(files, list) else ()), status.get("manifest")]
    found = (_part(entry) for entry in entries)
    return tuple(dict.fromkeys(part for part in found if part is not None))


def _part(entry: object) -> Part | None:
    match entry:
        case {"digest": str(digest), "sizeBytes": int(size_bytes)} if names.is_digest(digest):
            return Part(digest, size_bytes)
    return None


def verified(body: Body, now: datetime) -> dict[str, Any]:
    """Return the status of an Artifact all of whose bytes were read back and found right."""
    return {**body["status"], "lastVerifiedTime": conditions.timestamp(now)}


def broken(body: Body, digest: str, finding: Finding, now: datetime) -> dict[str, Any]:
    """Return the status of an Artifact with bytes that are damaged or missing."""
    text = message(body, digest, finding)
    wanted = [Condition(kind, "False", finding, text) for kind in ("Ready", "Stored")]
    wanted.append(Condition("Stalled", "True", finding, text))
    status, generation = body["status"], body["metadata"].get("generation", 1)
    merged = conditions.merge(status.get("conditions"), wanted, generation, now)
    return {**status, "conditions": merged}


def message(body: Body, digest: str, finding: Finding) -> str:
    """Return the sentence of the condition and of the event."""
    part = _title(body, digest)
    if finding == "Damaged":
        return f"{part} read back do not hash to '{digest}'; they were set aside"
    return f"{part} with digest '{digest}' are not in the store"


def retained(digest: str, finding: Finding) -> str:
    """Return the sentence of the event for bytes that are retained after their Artifact."""
    if finding == "Damaged":
        return f"retained bytes read back do not hash to '{digest}'; they were set aside"
    return f"retained bytes with digest '{digest}' are not in the store"


def _title(body: Body, digest: str) -> str:
    status = body.get("status") or {}
    if (status.get("manifest") or {}).get("digest") == digest:
        return "the manifest's bytes"
    name = next((each.get("name") for each in status.get("files") or () if each.get("digest") == digest), "")
    return f"the bytes of file '{name}'" if name else "the payload's bytes"


def event(body: Body, finding: Finding, text: str, now: datetime, instance: str) -> dict[str, Any]:
    """Return the Event that tells of a finding.

    Args:
        body: the Artifact.
        finding: becomes the reason.
        text: becomes the note.
        now: the time; it makes the name unique, as client-go's recorder does.
        instance: which operator says so.

    References: events.k8s.io/v1.
    """
    metadata = body["metadata"]
    return {
        "apiVersion": names.EVENTS.api_version,
        "kind": names.EVENTS.kind,
        "metadata": {
            "name": f"{metadata['name']}.{int(now.timestamp() * 1_000_000):x}",
            "namespace": metadata["namespace"],
        },
        "eventTime": now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "reportingController": CONTROLLER,
        "reportingInstance": (instance or "operator")[:128],
        "action": "Verify",
        "reason": finding,
        "type": "Warning",
        "note": text[:NOTE_MAX_LENGTH],
        "regarding": {
            "apiVersion": names.API_VERSION,
            "kind": names.ARTIFACTS.kind,
            "namespace": metadata["namespace"],
            "name": metadata["name"],
            "uid": metadata["uid"],
        },
    }


def _time(text: object) -> datetime | None:
    try:
        found = datetime.fromisoformat(str(text))
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)
