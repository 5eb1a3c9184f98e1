"""Which stored bytes may go, and why the others may not: pure, from what refers to them and since when not.

A blob goes through two phases. A run of the collector that finds nothing referring to it marks it; a run that
finds it still so after the grace period removes it. The grace period is also how long a blob may be without a
reference after it was published: the reference is written after the bytes.

Whoever makes something refer to stored bytes from a place other than an Artifact must pin them.
"""

import json
from array import array
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal, NamedTuple

from manifestry.core.blobs import digests
from manifestry.core.kube import names

DIGEST_LENGTH: Final = len(digests.ALGORITHM) + 65
PIN_MAX_BYTES: Final = 64 << 10  # 64 files make 5 KiB
REFERRERS_SHOWN: Final = 10
QUARANTINE: Final = timedelta(days=7)  # so long somebody may look at damaged bytes, and restore them

Action = Literal["keep", "mark", "remove"]
Reason = Literal["Referenced", "Pinned", "Young", "Marked", "Unreferenced", "Expired"]
Body = Mapping[str, Any]


class Blob(NamedTuple):
    """Stored bytes as a listing shows them.

    Args:
        modified: when they were last published, by the store's clock.
    """

    digest: str
    size_bytes: int
    modified: datetime


@dataclass(frozen=True)
class Pin:
    """Keeps the bytes of an Artifact with `deletionPolicy: Retain` after its deletion.

    Args:
        namespace: the Artifact's, by its name.
        size_bytes: sum of the payloads, as the quota counts them; None in a pin of an earlier version.
        since: when the bytes were pinned; None for the time of the pin itself.
    """

    artifact_uid: str
    name: str
    digests: frozenset[str]
    namespace: str = ""
    size_bytes: int | None = None
    since: datetime | None = None


class PinError(ValueError):
    """A pin cannot be read; nothing of its tenant may be removed until it can."""


class Verdict(NamedTuple):
    """What a run of the collector does with a blob.

    Args:
        until: when the reason ends to hold by itself, None when it does not.
        referrers: names of what refers to the blob, as far as it is known.
    """

    action: Action
    reason: Reason
    until: datetime | None = None
    referrers: tuple[str, ...] = ()


class Referrers(NamedTuple):
    """Who refers to a blob: names of Artifacts, and names of deleted ones that are pinned."""

    artifacts: tuple[str, ...] = ()
    pins: tuple[str, ...] = ()


@dataclass(frozen=True)
class Observed:
    """A blob and what is known of it.

    Args:
        marked: when it was marked, None when it is not.
    """

    blob: Blob
    referrers: Referrers | None
    marked: datetime | None
    now: datetime
    grace: timedelta


class References:
    """The set of digests that must stay, in 8 bytes each: a million of them must fit into an operator.

    Only the first 64 bits are kept. Two digests that agree in these make garbage stay, never a blob go.
    """

    def __init__(self, packed: "array[int]") -> None:
        self._sorted = array("Q", sorted(packed))

    def __contains__(self, digest: object) -> bool:
        if not isinstance(digest, str):
            return False
        short = _short(digest)
        at = bisect_left(self._sorted, short)
        return at < len(self._sorted) and self._sorted[at] == short

    def __len__(self) -> int:
        return len(self._sorted)


def pack(into: "array[int]", found: Iterable[str]) -> None:
    """Add digests to what `References` is made from: an `array("Q")`."""
    into.extend(map(_short, found))


def _short(digest: str) -> int:
    return int(digests.hex_of(digest)[:16], 16)


def digests_of(body: Body) -> Iterator[str]:
    """Yield every digest that stands anywhere in an Artifact's spec or status.

    Anywhere: a field that is added later must not have to be added here, too.
    """
    yield from _walk(body.get("spec"))
    yield from _walk(body.get("status"))


def _walk(value: object) -> Iterator[str]:
    if isinstance(value, str):
        if len(value) == DIGEST_LENGTH and names.is_digest(value):
            yield value
    elif isinstance(value, Mapping):
        for member in value.values():
            yield from _walk(member)
    elif isinstance(value, list):
        for member in value:
            yield from _walk(member)


def references(bodies: Iterable[Body], pins: Iterable[Pin] = ()) -> References:
    """Return what a tenant's Artifacts and pins refer to.

    Args:
        bodies: all of its Artifacts, whatever their state; read before the pins, because a pin is written
            while its Artifact is there.
        pins: all of its pins.
    """
    packed = array("Q")
    pack(packed, (digest for body in bodies for digest in digests_of(body)))
    pack(packed, (digest for pin in pins for digest in pin.digests))
    return References(packed)


@dataclass
class Named:
    """Who refers to some digests, gathered Artifact by Artifact.

    Args:
        wanted: the digests in question; nothing else is remembered.
    """

    wanted: Collection[str]
    artifacts: dict[str, list[str]] = field(default_factory=dict)
    pins: dict[str, list[str]] = field(default_factory=dict)

    def add(self, body: Body) -> None:
        """Look at one Artifact."""
        name = str((body.get("metadata") or {}).get("name", ""))
        self._note(self.artifacts, set(digests_of(body)), name)

    def add_pin(self, pin: Pin) -> None:
        """Look at one pin."""
        self._note(self.pins, pin.digests, pin.name)

    def _note(self, kept: dict[str, list[str]], found: Iterable[str], name: str) -> None:
        for digest in found:
            if digest in self.wanted:
                listed = kept.setdefault(digest, [])
                if len(listed) < REFERRERS_SHOWN:
                    listed.append(name)

    def of(self, digest: str) -> Referrers | None:
        """Return who refers to a digest, None when nobody does."""
        found = Referrers(tuple(self.artifacts.get(digest, ())), tuple(self.pins.get(digest, ())))
        return found if any(found) else None

    @property
    def digests(self) -> frozenset[str]:
        """Return the digests among the wanted ones that somebody refers to."""
        return frozenset(self.artifacts) | frozenset(self.pins)


def explain(observed: Observed) -> Verdict:
    """Return what the collector does with a blob, and why: the first rule that has something to say."""
    return next(verdict for rule in _RULES if (verdict := rule(observed)) is not None)


def _is_referenced(observed: Observed) -> Verdict | None:
    found = observed.referrers
    if found is None:
        return None
    if found.pins and not found.artifacts:
        return Verdict("keep", "Pinned", None, found.pins)
    return Verdict("keep", "Referenced", None, found.artifacts)


def _is_young(observed: Observed) -> Verdict | None:
    until = observed.blob.modified + observed.grace
    return Verdict("keep", "Young", until) if observed.now < until else None


def _is_unmarked(observed: Observed) -> Verdict | None:
    # A mark from before the last publishing belongs to an earlier life of the blob.
    stale = observed.marked is not None and observed.marked < observed.blob.modified
    return Verdict("mark", "Unreferenced") if observed.marked is None or stale else None


def _is_marked(observed: Observed) -> Verdict | None:
    if observed.marked is None:
        return None
    until = observed.marked + observed.grace
    return Verdict("keep", "Marked", until) if observed.now < until else None


def _has_expired(_: Observed) -> Verdict:
    return Verdict("remove", "Expired")


_RULES: tuple[Callable[[Observed], Verdict | None], ...] = (
    _is_referenced,
    _is_young,
    _is_unmarked,
    _is_marked,
    _has_expired,
)


def describe(verdict: Verdict) -> str:
    """Return the verdict as a sentence."""
    until = verdict.until.strftime("%Y-%m-%dT%H:%M:%SZ") if verdict.until else ""
    named = ", ".join(f"'{name}'" for name in verdict.referrers)
    match verdict.reason:
        case "Referenced":
            return f"kept: Artifacts refer to it ({named})" if named else "kept: an Artifact refers to it"
        case "Pinned":
            return f"kept: retained for the deleted Artifacts {named}"
        case "Young":
            return f"kept: published less than the grace period ago, until {until} at least"
        case "Marked":
            return f"kept: nothing refers to it; removed by the first run after {until}"
        case "Unreferenced":
            return "marked by the next run: nothing refers to it"
        case "Expired":
            return "removed by the next run: nothing has referred to it for the grace period"


def may_remove(blob: Blob | None, claimed: datetime, grace: timedelta) -> bool:
    """Tell whether a blob that was read again under its claim is old; both times are the store's own."""
    return blob is not None and blob.modified + grace <= claimed


def is_retained(body: Body) -> bool:
    """Tell whether an Artifact's bytes outlive it."""
    spec = body.get("spec")
    return isinstance(spec, Mapping) and spec.get("deletionPolicy") == "Retain"


def render_pin(body: Body, found: Iterable[str], size_bytes: int | None = None) -> bytes:
    """Return the content of an Artifact's pin: the same for the same Artifact, whenever it is asked for.

    Args:
        body: the Artifact.
        found: digests of its payload and of its manifest.
        size_bytes: the sum of its payloads; None where it is not known, as in pins of earlier versions.
    """
    metadata = body.get("metadata") or {}
    artifact = {key: str(metadata.get(key, "")) for key in ("uid", "namespace", "name")}
    return _render_pin(artifact, found, size_bytes)


def weighed_pin(pin: Pin, size_bytes: int, since: datetime) -> bytes:
    """Return the content of a pin of an earlier version with what it did not say."""
    artifact = {"uid": pin.artifact_uid, "namespace": pin.namespace, "name": pin.name}
    return _render_pin(artifact, pin.digests, size_bytes, since)


def _render_pin(
    artifact: Mapping[str, str],
    found: Iterable[str],
    size_bytes: int | None = None,
    since: datetime | None = None,
) -> bytes:
    document: dict[str, Any] = {"version": 1, "artifact": artifact, "digests": sorted(set(found))}
    if size_bytes is not None:
        document["sizeBytes"] = size_bytes
    if since is not None:
        document["since"] = since.isoformat()
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def parse_pin(artifact_uid: str, data: bytes | None) -> Pin:
    """Return what a pin says.

    Raises:
        PinError: it is damaged.
    """
    try:
        document: Any = json.loads(data or b"")
        match document:
            case {"artifact": {"name": str(name)} as about, "digests": [*listed]}:
                found, namespace = frozenset(map(digests.parse, listed)), str(about.get("namespace", ""))
                return Pin(artifact_uid, name, found, namespace, _size(document), _since(document))
    except ValueError:  # also DigestError
        pass
    raise PinError(f"the pin of artifact {artifact_uid} is damaged")


def _size(document: Mapping[str, Any]) -> int | None:
    size_bytes = document.get("sizeBytes")
    return size_bytes if isinstance(size_bytes, int) and size_bytes >= 0 else None


def _since(document: Mapping[str, Any]) -> datetime | None:
    try:
        when = datetime.fromisoformat(str(document.get("since")))
    except ValueError:
        return None
    return when if when.tzinfo else when.replace(tzinfo=UTC)
