"""What is to be done for an artifact and what its status must say: pure, from the object and the evidence."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Final

from manifestry.core import (
    conditions,
    declarations,
    digests,
    fetches,
    garbage,
    manifests,
    names,
    sources,
)
from manifestry.core.conditions import Condition
from manifestry.core.manifests import Descriptor
from manifestry.core.sources import (
    Evidence,
    Found,
    Payload,
    Reference,
    RefusedError,
    Upload,
    Url,
    Waiting,
)

STORE_RETRY_SECONDS: Final = 5.0  # a store that restarts is back in seconds; each try costs one request
TENANT_RETRY_SECONDS: Final = 60.0  # a label is set by a person
LOST_RETRY_SECONDS: Final = 30.0  # bytes that were stored and are gone: somebody uploads or restores them
_FINAL: Final = ("DigestMismatch", "SizeMismatch")
_REFUSED_FETCHES: Final = ("InvalidSource", "TooLarge")
_LOST: Final = ("Damaged", "Missing")
_KEPT: Final = ("artifact", "manifest", "files", "lastVerifiedTime", "attestations")

Body = Mapping[str, Any]
Status = dict[str, Any]


@dataclass(frozen=True)
class Tenant:
    """The owner of an artifact.

    Args:
        name: the tenant's name, from the namespace's label.
        uid: `metadata.uid` of the namespace, which is the prefix of its blobs.
    """

    name: str
    uid: str


@dataclass(frozen=True)
class Lookups:
    """What must be gathered before a plan can be made.

    Args:
        digests: blobs to look for in the tenant's store.
        references: ConfigMaps and Secrets to read.
        subject: name of the Artifact that this one describes, empty when there is none.
    """

    digests: frozenset[str] = frozenset()
    references: frozenset[Reference] = frozenset()
    subject: str = ""


@dataclass(frozen=True)
class Observed:
    """An Artifact and what is known about its surroundings.

    Args:
        tenant: None when the namespace belongs to no tenant, or to one that another claims too.
        subject: manifest of the Artifact in `spec.subjectRef`, None when it has none yet.
        quota: the condition QuotaReserved; None without a storage quota.
    """

    body: Body
    tenant: Tenant | None
    evidence: Evidence = field(default_factory=Evidence)
    subject: Descriptor | None = None
    quota: Condition | None = None

    @property
    def is_over_quota(self) -> bool:
        """Tell whether nothing may be stored, because there is no room."""
        return self.quota is not None and self.quota.status == "False"


@dataclass(frozen=True)
class PutBlob:
    """Publish these bytes in the tenant's store; harmless when they are there."""

    tenant_uid: str
    digest: str
    data: bytes = field(repr=False)


@dataclass(frozen=True)
class PublishStaged:
    """Make fetched bytes visible in the tenant's store; harmless when they are."""

    tenant_uid: str
    upload_id: str
    digest: str
    size_bytes: int


@dataclass(frozen=True)
class PutPin:
    """Keep the bytes after the Artifact's deletion."""

    tenant_uid: str
    artifact_uid: str
    content: bytes = field(repr=False)


@dataclass(frozen=True)
class DropPin:
    """Let the bytes go with the Artifact; harmless when they were never kept."""

    tenant_uid: str
    artifact_uid: str


@dataclass(frozen=True)
class DropFetched:
    """Forget what was fetched for this Artifact: it is not what the publisher said."""


Action = PutBlob | PublishStaged | DropFetched | PutPin | DropPin


@dataclass(frozen=True)
class Plan:
    """What to do, in this order: the actions, then the status.

    Args:
        status: the whole new status; None when it already stands so.
        again_seconds: when to look again; None when only a change of the object matters.
    """

    actions: tuple[Action, ...] = ()
    status: Status | None = None
    again_seconds: float | None = None


def is_ready(body: Body) -> bool:
    """Tell whether payload and manifest are stored as the current spec asks for."""
    status, generation = _mapping(body.get("status")), _mapping(body.get("metadata")).get("generation")
    return status.get("observedGeneration") == generation and conditions.is_status(
        _conditions(status), "Ready", "True"
    )


def reason(body: Body) -> tuple[str, str]:
    """Return reason and message of the condition Ready; two empty strings before the first reconcile."""
    found = conditions.find(_conditions(_mapping(body.get("status"))), "Ready") or {}
    return str(found.get("reason", "")), str(found.get("message", ""))


def is_lost(body: Body) -> bool:
    """Tell whether stored bytes are damaged or missing: whoever has them may store them again."""
    return reason(body)[0] in _LOST


def lookups(body: Body) -> Lookups | None:
    """Return what to gather for `plan`; None when nothing needs to be done for the object at all."""
    if _mapping(body.get("metadata")).get("deletionTimestamp") or is_ready(body) or _is_final(body):
        return None
    try:
        payloads, subject = _payloads(body), _subject(body)
    except RefusedError:
        return Lookups()
    wanted = (sources.wanted_digest(payload.source) for payload in payloads)
    references = (payload.source for payload in payloads if isinstance(payload.source, Reference))
    return Lookups(frozenset(filter(None, wanted)), frozenset(references), subject)


def orders(observed: Observed, now: datetime) -> dict[str, fetches.Order]:
    """Return by the payload's name what is to be fetched now: nothing before all else is there.

    A fetch costs others' bandwidth and our disk, and what it brings is held until the whole is published.
    """
    try:
        payloads = _payloads(observed.body)
        wanted = {item.name: item for item in payloads if isinstance(item.source, Url)}
        others = [item for item in payloads if item.name not in wanted]
        if isinstance(_locate_all(observed, others, now), Waiting):
            return {}
    except RefusedError:
        return {}
    return {
        name: fetches.Order(item.source.url, item.digest, item.size_bytes)
        for name, item in wanted.items()
        if isinstance(item.source, Url)
    }


def needed_bytes(observed: Observed, now: datetime) -> int | None:
    """Return how much must be charged to the quota before `plan` is carried out, None when it is refused.

    While an upload is awaited, nothing counts but what was uploaded; else what is not there yet counts as
    what the publisher has stated, or as nothing. A download that found no room has found out how much is
    needed at least.
    """
    try:
        payloads = _payloads(observed.body)
        located = [(item, sources.locate(item, observed.evidence, now)) for item in payloads]
    except RefusedError:
        return None
    if any(isinstance(item.source, Upload) and item.source.digest is None for item in payloads):
        return sum(sources.stated_bytes(item) for item in payloads if isinstance(item.source, Upload))
    known = sum(
        found.size_bytes if isinstance(found, Found) else sources.stated_bytes(payload)
        for payload, found in located
    )
    return max([known, *(each.size_bytes for each in short_of_room(observed))])


def short_of_room(observed: Observed) -> list[fetches.NoRoom]:
    """Return the downloads that the quota has stopped."""
    outcomes = (observed.evidence.downloads or {}).values()
    return [outcome for outcome in outcomes if isinstance(outcome, fetches.NoRoom)]


def is_fetched(body: Body) -> bool:
    """Tell whether any of the bytes come, or are to come, from a `url`; not of what is stored."""
    try:
        return any(isinstance(payload.source, Url) for payload in _payloads(body))
    except RefusedError:
        return False


def plan(observed: Observed, now: datetime) -> Plan:
    """Return what to do for an artifact, whatever its spec looks like.

    Args:
        observed: gathered as `lookups` asked for.
        now: for the conditions' times and an upload's expiry.
    """
    if observed.tenant is None:
        message = f"the namespace must carry the label `{names.TENANT_LABEL}`, and no other the same tenant"
        return _refused(observed, RefusedError("TenantNotFound", message), now, TENANT_RETRY_SECONDS)
    try:
        found = _locate_all(observed, _payloads(observed.body), now)
        if isinstance(found, Waiting) or observed.is_over_quota:
            return _held_back(observed, found, now)
        manifest = manifests.render(_manifest(observed.body, observed.tenant, found, observed.subject))
    except manifests.ManifestError as error:
        return _refused(observed, RefusedError("InvalidSource", str(error)), now)
    except RefusedError as error:
        return _refused(observed, error, now, LOST_RETRY_SECONDS if error.reason in _LOST else None)
    staged = [
        PublishStaged(observed.tenant.uid, item.upload_id, item.digest, item.size_bytes)
        for item in found
        if item.upload_id
    ]
    blobs = {item.digest: item.data for item in found if item.data is not None}
    blobs[digests.of(manifest)] = manifest  # last: nothing refers to the payload before it is there
    puts = [PutBlob(observed.tenant.uid, digest, data) for digest, data in blobs.items()]
    pins = _pins(observed.body, observed.tenant, (*(item.digest for item in found), digests.of(manifest)))
    return Plan((*staged, *puts, *pins), _ready(observed, found, manifest, now))


def unavailable(observed: Observed, message: str, now: datetime) -> Plan:
    """Return the plan for a store that did not do what was asked: say so and try again.

    Args:
        observed: what was known when the store failed.
        message: constant for a kind of failure, because a new one is a new write.
        now: for the condition's times.
    """
    waiting = Waiting("StoreUnavailable", message, STORE_RETRY_SECONDS)
    return _waiting(observed, waiting, now)


def created(body: Body) -> datetime | None:
    """Return when the object was created, None when it does not say so."""
    try:
        when = datetime.fromisoformat(str(_mapping(body.get("metadata")).get("creationTimestamp")))
    except ValueError:
        return None
    return when if when.tzinfo else when.replace(tzinfo=UTC)


def manifest_of(body: Body) -> Descriptor | None:
    """Return the manifest of a ready Artifact, to be the subject of another; else None."""
    pointer = _mapping(_mapping(body.get("status")).get("manifest"))
    digest, size_bytes = pointer.get("digest"), pointer.get("sizeBytes")
    if not (is_ready(body) and isinstance(digest, str) and isinstance(size_bytes, int)):
        return None
    return Descriptor(manifests.MEDIA_TYPE, digest, size_bytes)


def _payloads(body: Body) -> tuple[Payload, ...]:
    recorded = _recorded(_mapping(body.get("status")))
    payloads = declarations.parse(body.get("spec"))
    return tuple(sources.pin(payload, recorded.get(payload.name)) for payload in payloads)


def _pins(body: Body, tenant: Tenant, found: Sequence[str]) -> tuple[PutPin | DropPin, ...]:
    """Return what `deletionPolicy` asks for; only an edited Artifact may have a pin to be dropped."""
    metadata = _mapping(body.get("metadata"))
    uid = str(metadata.get("uid", ""))
    if garbage.is_retained(body):
        return (PutPin(tenant.uid, uid, garbage.render_pin(body, found)),)
    return (DropPin(tenant.uid, uid),) if uid and metadata.get("generation", 1) != 1 else ()


def _lost(observed: Observed, payload: Payload) -> RefusedError | None:
    """Return the refusal for bytes that were stored once and are not in the store; None for any others."""
    recorded = _recorded(_mapping(observed.body.get("status"))).get(payload.name)
    if recorded is None or recorded != sources.wanted_digest(payload.source):
        return None
    said, text = reason(observed.body)
    if said == "Damaged":  # by the scrub, which set them aside
        return RefusedError("Damaged", text)
    return RefusedError("Missing", f"the bytes with digest '{recorded}' are not in the store")


def _subject(body: Body) -> str:
    subject = declarations.parse_subject(body.get("spec"))
    if subject and subject == _name(body):
        raise RefusedError("InvalidSource", "`spec.subjectRef.name` must not be the Artifact itself")
    return subject


def _recorded(status: Mapping[str, Any]) -> dict[str, str]:
    files = status.get("files")
    entries: list[Mapping[str, Any]] = [{**_mapping(status.get("artifact")), "name": ""}]
    entries += [_mapping(item) for item in files] if isinstance(files, list) else []
    return {
        str(entry.get("name")): entry["digest"]
        for entry in entries
        if names.is_digest(str(entry.get("digest")))
    }


def _is_final(body: Body) -> bool:
    """Tell whether fetched bytes were refused for what they are: then they are not fetched once more."""
    return _stalled(body) in _FINAL and is_fetched(body)


def _stalled(body: Body) -> object:
    """Return the reason of the condition Stalled for the spec as it is, None when there is none."""
    status, generation = _mapping(body.get("status")), _mapping(body.get("metadata")).get("generation")
    stalled = conditions.find(_conditions(status), "Stalled") or {}
    is_current = status.get("observedGeneration") == generation == stalled.get("observedGeneration")
    return stalled.get("reason") if is_current else None


def _locate_all(
    observed: Observed, payloads: Sequence[Payload], now: datetime
) -> tuple[Found, ...] | Waiting:
    located = [sources.locate(payload, observed.evidence, now) for payload in payloads]
    for payload, item in zip(payloads, located, strict=True):
        if isinstance(item, Waiting) and (lost := _lost(observed, payload)) is not None:
            raise lost
    subject = _subject(observed.body)
    if subject and observed.subject is None:
        located.append(sources.missing(f"the subject '{subject}' is not ready", observed.evidence, now))
    waiting = [item for item in located if isinstance(item, Waiting)]
    return _first(waiting) if waiting else tuple(item for item in located if isinstance(item, Found))


def _first(waiting: Sequence[Waiting]) -> Waiting:
    """Return the wait to show: a fetch last, as it begins after all others; look when any one is due."""
    shown = min(waiting, key=lambda item: item.reason == "Fetching")
    return replace(shown, seconds=min((item.seconds for item in waiting if item.seconds), default=None))


def _manifest(
    body: Body, tenant: Tenant, found: Sequence[Found], subject: Descriptor | None
) -> manifests.Manifest:
    spec, name = _mapping(body.get("spec")), _name(body)
    layers = [_layer(item, str(spec.get("fileName") or name)) for item in found]
    artifact_type = str(spec.get("artifactType") or spec.get("mediaType"))
    return manifests.Manifest(artifact_type, layers, manifests.describe(name, tenant.name, spec), subject)


def _layer(found: Found, title: str) -> Descriptor:
    annotations = {manifests.TITLE: found.payload.name or title}
    return Descriptor(found.payload.media_type, found.digest, found.size_bytes, annotations)


def _ready(observed: Observed, found: Sequence[Found], manifest: bytes, now: datetime) -> Status | None:
    pointer = {"digest": digests.of(manifest), "sizeBytes": len(manifest)}
    wanted = [
        Condition("Ready", "True", "Stored", "payload and manifest are stored"),
        Condition("Stored", "True", "Stored", "the bytes are in the store"),
    ]
    return _status(observed, wanted, now, {**_stored(observed, found, now), "manifest": pointer})


def _stored(observed: Observed, found: Sequence[Found], now: datetime) -> Status:
    if found[0].payload.name:
        return {"files": [{"name": item.payload.name, **_pointer(item)} for item in found]}
    old = _mapping(_mapping(observed.body.get("status")).get("artifact"))
    same = old.get("digest") == found[0].digest and "storedTime" in old
    when = old["storedTime"] if same else conditions.timestamp(now)
    return {"artifact": {**_pointer(found[0]), "mediaType": found[0].payload.media_type, "storedTime": when}}


def _pointer(found: Found) -> Status:
    return {"digest": found.digest, "sizeBytes": found.size_bytes}


def _waiting(observed: Observed, waiting: Waiting, now: datetime) -> Plan:
    if waiting.reason == "Fetching" and _stalled(observed.body) in _REFUSED_FETCHES:
        return Plan((), None, waiting.seconds)  # after a restart: what was found out stands until it ends
    wanted = [Condition(kind, "Unknown", waiting.reason, waiting.message) for kind in ("Ready", "Stored")] + [
        Condition("Reconciling", "True", waiting.reason, waiting.message)
    ]
    return Plan((), _status(observed, wanted, now), waiting.seconds)


def _held_back(observed: Observed, found: tuple[Found, ...] | Waiting, now: datetime) -> Plan:
    """Store nothing; freed room, or a greater quota, wakes an artifact over the quota."""
    quota = observed.quota
    if quota is None or not observed.is_over_quota:
        return _waiting(observed, found, now) if isinstance(found, Waiting) else Plan()
    if quota.reason == "ExceedsMaxQuota":
        refused = _refused(observed, RefusedError("ExceedsMaxQuota", quota.message), now)
        return Plan((DropFetched(),), refused.status)
    waiting = _waiting(observed, Waiting("WaitingForQuota", quota.message), now)
    return Plan((DropFetched(),), waiting.status)


def _refused(
    observed: Observed, refused: RefusedError, now: datetime, again_seconds: float | None = None
) -> Plan:
    wanted = [Condition(kind, "False", refused.reason, refused.message) for kind in ("Ready", "Stored")] + [
        Condition("Stalled", "True", refused.reason, refused.message)
    ]
    dropped = (DropFetched(),) if refused.reason in _FINAL and observed.evidence.downloads else ()
    return Plan(dropped, _status(observed, wanted, now), again_seconds)


def _status(
    observed: Observed, wanted: Sequence[Condition], now: datetime, stored: Status | None = None
) -> Status | None:
    old = _mapping(observed.body.get("status"))
    generation = _mapping(observed.body.get("metadata")).get("generation", 0)
    new = {name: old[name] for name in _KEPT if name in old} | (stored or {})
    if observed.tenant is not None:
        new["tenant"] = observed.tenant.name
    new["observedGeneration"] = generation
    wanted = [*wanted, *_quota(observed, old)]
    new["conditions"] = conditions.merge(_conditions(old), wanted, generation, now)
    return None if new == old else new


def _quota(observed: Observed, old: Mapping[str, Any]) -> tuple[Condition, ...]:
    """Return the condition QuotaReserved; one that was set must not outlive the quota."""
    if observed.quota is not None:
        return (observed.quota,)
    if conditions.is_status(_conditions(old), "QuotaReserved", "False"):
        return (Condition("QuotaReserved", "True", "Unlimited", "the tenant's storage is not limited"),)
    return ()


def _conditions(status: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    given = status.get("conditions")
    listed = given if isinstance(given, list) else []
    return [item for item in listed if isinstance(item, Mapping) and "lastTransitionTime" in item]


def _name(body: Body) -> str:
    return str(_mapping(body.get("metadata")).get("name", ""))


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
