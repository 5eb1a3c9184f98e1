"""What is to be done for an artifact: gather what `lookups` asks for, then `plan`."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Final

from manifestry.core.artifacts import declarations, lives, manifests, sources, statuses
from manifestry.core.artifacts.lives import Body
from manifestry.core.artifacts.manifests import Descriptor
from manifestry.core.artifacts.plans import (
    DropFetched,
    DropPin,
    Lookups,
    Observed,
    Plan,
    PublishStaged,
    PutBlob,
    PutPin,
    Tenant,
)
from manifestry.core.artifacts.sources import Found, Payload, Reference, RefusedError, Upload, Url, Waiting
from manifestry.core.blobs import digests, garbage
from manifestry.core.fetching import fetches
from manifestry.core.kube import names
from manifestry.core.kube.conditions import Condition

STORE_RETRY_SECONDS: Final = 5.0  # a store that restarts is back in seconds; each try costs one request
TENANT_RETRY_SECONDS: Final = 60.0  # a label is set by a person
LOST_RETRY_SECONDS: Final = 30.0  # bytes that were stored and are gone: somebody uploads or restores them
_REFUSED_FETCHES: Final = ("InvalidSource", "TooLarge")


def lookups(body: Body) -> Lookups | None:
    """Return what to gather for `plan`; None when nothing needs to be done for the object at all."""
    if (
        lives.mapping(body.get("metadata")).get("deletionTimestamp")
        or lives.is_ready(body)
        or lives.is_final(body)
    ):
        return None
    try:
        payloads, subject = lives.payloads(body), _subject(body)
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
        payloads = lives.payloads(observed.body)
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
        payloads = lives.payloads(observed.body)
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
        found = _locate_all(observed, lives.payloads(observed.body), now)
        if isinstance(found, Waiting) or observed.is_over_quota:
            return _held_back(observed, found, now)
        manifest = manifests.render(_manifest(observed.body, observed.tenant, found, observed.subject))
    except manifests.ManifestError as error:
        return _refused(observed, RefusedError("InvalidSource", str(error)), now)
    except RefusedError as error:
        return _refused(observed, error, now, LOST_RETRY_SECONDS if error.reason in lives.LOST else None)
    staged = [
        PublishStaged(observed.tenant.uid, item.upload_id, item.digest, item.size_bytes)
        for item in found
        if item.upload_id
    ]
    blobs = {item.digest: item.data for item in found if item.data is not None}
    blobs[digests.of(manifest)] = manifest  # last: nothing refers to the payload before it is there
    puts = [PutBlob(observed.tenant.uid, digest, data) for digest, data in blobs.items()]
    pins = _pins(observed.body, observed.tenant, found, digests.of(manifest))
    return Plan((*staged, *puts, *pins), statuses.ready(observed, found, manifest, now))


def unavailable(observed: Observed, message: str, now: datetime) -> Plan:
    """Return the plan for a store that did not do what was asked: say so and try again.

    Args:
        observed: what was known when the store failed.
        message: constant for a kind of failure, because a new one is a new write.
        now: for the condition's times.
    """
    waiting = Waiting("StoreUnavailable", message, STORE_RETRY_SECONDS)
    return _waiting(observed, waiting, now)


def _pins(body: Body, tenant: Tenant, found: Sequence[Found], manifest: str) -> tuple[PutPin | DropPin, ...]:
    """Return what `deletionPolicy` asks for; only an edited Artifact may have a pin to be dropped."""
    metadata = lives.mapping(body.get("metadata"))
    uid = str(metadata.get("uid", ""))
    if garbage.is_retained(body):
        kept, size_bytes = [item.digest for item in found], sum(item.size_bytes for item in found)
        return (PutPin(tenant.uid, uid, garbage.render_pin(body, [*kept, manifest], size_bytes)),)
    return (DropPin(tenant.uid, uid),) if uid and metadata.get("generation", 1) != 1 else ()


def _lost(observed: Observed, payload: Payload) -> RefusedError | None:
    """Return the refusal for bytes that were stored once and are not in the store; None for any others."""
    recorded = lives.recorded(lives.mapping(observed.body.get("status"))).get(payload.name)
    if recorded is None or recorded != sources.wanted_digest(payload.source):
        return None
    said, text = lives.reason(observed.body)
    if said == "Damaged":  # by the scrub, which set them aside
        return RefusedError("Damaged", text)
    return RefusedError("Missing", f"the bytes with digest '{recorded}' are not in the store")


def _subject(body: Body) -> str:
    subject = declarations.parse_subject(body.get("spec"))
    if subject and subject == lives.name_of(body):
        raise RefusedError("InvalidSource", "`spec.subjectRef.name` must not be the Artifact itself")
    return subject


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
    spec, name = lives.mapping(body.get("spec")), lives.name_of(body)
    layers = [_layer(item, str(spec.get("fileName") or name)) for item in found]
    artifact_type = str(spec.get("artifactType") or spec.get("mediaType"))
    return manifests.Manifest(artifact_type, layers, manifests.describe(name, tenant.name, spec), subject)


def _layer(found: Found, title: str) -> Descriptor:
    annotations = {manifests.TITLE: found.payload.name or title}
    return Descriptor(found.payload.media_type, found.digest, found.size_bytes, annotations)


def _waiting(observed: Observed, waiting: Waiting, now: datetime) -> Plan:
    if waiting.reason == "Fetching" and lives.stalled_reason(observed.body) in _REFUSED_FETCHES:
        return Plan((), None, waiting.seconds)  # after a restart: what was found out stands until it ends
    wanted = [Condition(kind, "Unknown", waiting.reason, waiting.message) for kind in ("Ready", "Stored")] + [
        Condition("Reconciling", "True", waiting.reason, waiting.message)
    ]
    return Plan((), statuses.render(observed, wanted, now), waiting.seconds)


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
    dropped = (DropFetched(),) if refused.reason in lives.FINAL and observed.evidence.downloads else ()
    return Plan(dropped, statuses.render(observed, wanted, now), again_seconds)
