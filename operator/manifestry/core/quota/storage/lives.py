"""What the storage quota must know about an Artifact: whether it is stored, and how large it is."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import Enum
from typing import Any

from manifestry.core.artifacts import filelists
from manifestry.core.kube import conditions
from manifestry.core.quota.storage import charges

Body = Mapping[str, Any]


class State(Enum):
    """Where an Artifact is on its way."""

    AWAITING = "awaiting its bytes from an upload"
    PENDING = "on its way to be stored"
    STORED = "stored; it counts in the totals"
    ENDED = "failed; it does not count, but what was uploaded of it does"
    RETAINED = "deleted; its bytes are kept, and count as before"


@dataclass(frozen=True, slots=True)  # there may be many
class Live:
    """An Artifact that exists, or one that is gone and whose bytes are kept.

    Args:
        size_bytes: what is stored; for one that is awaited, what has been uploaded of it.
        since: when it ended; None for unknown.
        recorded: the keys of the charges of uploads that are recorded, of `charges.landed`.
        is_pinned: what is stored of it will outlive it.
    """

    uid: str
    name: str
    state: State
    size_bytes: int = 0
    since: datetime | None = None
    recorded: frozenset[str] = frozenset()
    is_pinned: bool = False


def live(body: Body) -> Live:
    """Return what the quota must know about an Artifact."""
    metadata = _mapping(body.get("metadata"))
    uid, name = str(metadata.get("uid", "")), str(metadata.get("name", ""))
    if is_stored(body):
        return Live(uid, name, State.STORED, stored_bytes(body), recorded=recorded(body))
    status = _mapping(body.get("status"))
    stalled = conditions.find(_list(status.get("conditions")), "Stalled")
    is_current = status.get("observedGeneration") == metadata.get("generation")
    if is_current and stalled is not None and stalled.get("status") == "True":
        return Live(
            uid, name, State.ENDED, 0, _time(stalled.get("lastTransitionTime")), recorded=recorded(body)
        )
    awaiting = any("digest" not in upload for _, upload in _uploads(body))
    state = State.AWAITING if awaiting else State.PENDING
    return Live(uid, name, state, uploaded_bytes(body), recorded=recorded(body))


def with_retained(artifacts: Iterable[Live], retained: Iterable[Live]) -> list[Live]:
    """Return the Artifacts that exist, and those of the retained ones that do not.

    Args:
        artifacts: listed BEFORE the pins were: a pin is written while its Artifact is there.
        retained: one for each pin.
    """
    pins = {each.uid: each for each in retained}
    found = [replace(each, is_pinned=True) if pins.pop(each.uid, None) else each for each in artifacts]
    return [*found, *pins.values()]


def is_stored(body: Body) -> bool:
    """Tell whether the Artifact's bytes were all stored once; a change of its metadata does not undo that."""
    return bool(_mapping(_mapping(body.get("status")).get("manifest")).get("digest"))


def stored_bytes(body: Body) -> int:
    """Return the logical size: the sum of the payloads, whatever they share with others."""
    status = _mapping(body.get("status"))
    files = _list(status.get("files"))
    return sum(_size(each) for each in files) if files else _size(_mapping(status.get("artifact")))


def uploaded_bytes(body: Body) -> int:
    """Return how many bytes have been uploaded and recorded."""
    return sum(_size(upload) for _, upload in _uploads(body) if "digest" in upload)


def recorded(body: Body) -> frozenset[str]:
    """Return the keys of the charges of the uploads that the spec records."""
    uid = str(_mapping(body.get("metadata")).get("uid", ""))
    return frozenset(
        charges.landed(uid, file, str(upload["digest"]))
        for file, upload in _uploads(body)
        if "digest" in upload
    )


def _uploads(body: Body) -> Iterator[tuple[str, Body]]:
    """Yield (file, upload) for each upload of the spec; the file is empty without `files`."""
    spec = _mapping(body.get("spec"))
    holders = [("", spec), *((str(each.get("name", "")), each) for each in _list(filelists.merged(spec)))]
    return ((file, holder["upload"]) for file, holder in holders if isinstance(holder.get("upload"), Mapping))


def _size(entry: Body) -> int:
    size_bytes = entry.get("sizeBytes")
    return size_bytes if isinstance(size_bytes, int) and size_bytes > 0 else 0


def _time(text: object) -> datetime | None:
    try:
        when = datetime.fromisoformat(str(text))
    except ValueError:
        return None
    return when if when.tzinfo else when.replace(tzinfo=UTC)


def _mapping(value: object) -> Body:
    return value if isinstance(value, Mapping) else {}


def _list(value: object) -> list[Body]:
    return [each for each in value if isinstance(each, Mapping)] if isinstance(value, list) else []
