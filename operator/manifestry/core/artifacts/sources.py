"""Where an artifact's bytes come from, and whether they are there; `declarations` reads them from a spec."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import Enum
from typing import Any, Final, Literal, assert_never

from manifestry.core.blobs import digests
from manifestry.core.fetching import fetches
from manifestry.core.kube import names

# What is not there yet is looked for at once in a fresh Artifact (two files of one `kubectl apply`), more and
# more seldom in an old one: after a quarter of its age, at the latest after a minute.
RETRY_SHARE: Final = 0.25
RETRY_MIN_SECONDS: Final = 1.0
RETRY_MAX_SECONDS: Final = 60.0

# Who may write an Artifact may read its bytes, but perhaps not Secrets: so a Secret's owner must offer it.
OFFER_LABEL: Final = f"{names.GROUP}/artifact-source"
Reason = Literal[
    "AwaitingUpload",
    "Stored",
    "DigestMismatch",
    "SizeMismatch",
    "UploadExpired",
    "WaitingForQuota",
    "ExceedsMaxQuota",
    "StoreUnavailable",
    "SourceNotFound",
    "SourceNotSupported",
    "SourceUnavailable",
    "Fetching",
    "TooLarge",
    "InvalidSource",
    "TenantNotFound",
    "Damaged",
    "Missing",
]


@dataclass(frozen=True)
class Inline:
    """The bytes stand in the object."""

    data: bytes = field(repr=False)


@dataclass(frozen=True)
class Upload:
    """The bytes come through the REST API, which then writes digest and size."""

    digest: str | None
    size_bytes: int | None
    expires_after_seconds: int


@dataclass(frozen=True)
class Object:
    """The bytes are in the tenant's store already."""

    digest: str


@dataclass(frozen=True)
class Url:
    """The bytes are fetched once over https."""

    url: str = field(repr=False)  # its query may be a credential


@dataclass(frozen=True)
class Reference:
    """The bytes are copied once from a ConfigMap or Secret of the same namespace."""

    kind: Literal["ConfigMap", "Secret"]
    name: str
    key: str


_VALUES: Final = {"ConfigMap": "operator.references.configMaps", "Secret": "operator.references.secrets"}
Source = Inline | Upload | Object | Url | Reference


class Absent(Enum):
    """Why a reference has no bytes for us; the value is what the message says."""

    NO_OBJECT = "does not exist"
    NO_KEY = "does not have the key"
    NOT_OFFERED = f"must carry the label `{OFFER_LABEL}: 'true'`"
    FORBIDDEN = "may not be read by the operator"


@dataclass(frozen=True)
class Payload:
    """One blob that the artifact will have.

    Args:
        name: the name in `files`; empty for the payload of an artifact without `files`.
        digest: what the bytes must hash to, where the publisher says so.
        size_bytes: how many bytes they must be, where the publisher says so.
    """

    name: str
    media_type: str
    source: Source
    digest: str | None
    size_bytes: int | None


@dataclass(frozen=True)
class Found:
    """The bytes are known.

    Args:
        data: the bytes themselves; None when they are in the store already.
        upload_id: under which they are staged in the store; empty when they are not.
    """

    payload: Payload
    digest: str
    size_bytes: int
    data: bytes | None = field(default=None, repr=False)
    upload_id: str = ""


@dataclass(frozen=True)
class Waiting:
    """Nothing is wrong, but the bytes are not there yet; look again after `seconds`."""

    reason: Reason
    message: str
    seconds: float | None = None


class RefusedError(Exception):
    """The publisher must act; trying again cannot help.

    Args:
        reason: reason of the condition Ready.
        message: a sentence that names the field, without any of its bytes.
    """

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason: Reason = reason
        self.message = message


@dataclass(frozen=True)
class Evidence:
    """What gathering has found out.

    Args:
        blobs: size in bytes of each digest that was looked for in the tenant's store, None when absent.
        contents: bytes of each reference that was looked for, or why there are none.
        created: when the Artifact was created, from which an upload's time runs.
        downloads: by the payload's name, how far its `url` has been fetched; None when nothing ever is.
    """

    blobs: Mapping[str, int | None] = field(default_factory=dict)
    contents: Mapping[Reference, bytes | Absent] = field(default_factory=dict, repr=False)
    created: datetime | None = None
    downloads: Mapping[str, fetches.Outcome] | None = field(default_factory=dict)


def pin(payload: Payload, digest: str | None) -> Payload:
    """Return the payload as it stands once stored: what is copied is read once, then it is what was stored.

    Args:
        payload: as the spec declares it.
        digest: the digest that the status records for this payload, None when there is none.
    """
    if isinstance(payload.source, Reference | Url) and digest is not None:
        return replace(payload, source=Object(digest))
    return payload


def stated_bytes(payload: Payload) -> int:
    """Return the size of a payload that is not there yet: what was recorded, or what a fetch must bring."""
    match payload.source:
        case Upload(size_bytes=size_bytes):
            return size_bytes or 0
        case Url():
            return payload.size_bytes or 0
        case _:
            return 0


def wanted_digest(source: Source) -> str | None:
    """Return the digest to look for in the store, None when none is known before the bytes are."""
    return source.digest if isinstance(source, Upload | Object) else None


def content(reference: Reference, body: Mapping[str, Any] | None) -> bytes | Absent:
    """Return the bytes under the reference's key.

    Args:
        reference: whose key.
        body: the ConfigMap or Secret, None when there is none.
    """
    if body is None:
        return Absent.NO_OBJECT
    if reference.kind == "Secret":
        labels = body["metadata"].get("labels") or {}
        return (
            _decoded(body, "data", reference.key) if labels.get(OFFER_LABEL) == "true" else Absent.NOT_OFFERED
        )
    text = (body.get("data") or {}).get(reference.key)
    return _decoded(body, "binaryData", reference.key) if text is None else str(text).encode()


def _decoded(body: Mapping[str, Any], field_name: str, key: str) -> bytes | Absent:
    encoded = (body.get(field_name) or {}).get(key)
    return Absent.NO_KEY if encoded is None else base64.b64decode(encoded)


def locate(payload: Payload, evidence: Evidence, now: datetime) -> Found | Waiting:
    """Return the payload's bytes as far as they are known.

    Raises:
        RefusedError: they will never come, or are not what the publisher said.
    """
    match payload.source:
        case Inline(data):
            return _checked(Found(payload, digests.of(data), len(data), data))
        case Upload() as upload:
            return _uploaded(payload, upload, evidence, now)
        case Object(digest):
            return _stored(payload, digest, evidence, now)
        case Reference() as reference:
            return _copied(payload, reference, evidence, now)
        case Url():
            return _fetched(payload, evidence, now)
        case other:
            assert_never(other)


def missing(message: str, evidence: Evidence, now: datetime) -> Waiting:
    """Return the wait for something that the spec points to and that is not there."""
    return Waiting("SourceNotFound", message, retry_seconds(evidence.created, now))


def retry_seconds(created: datetime | None, now: datetime) -> float:
    """Return after how many seconds to look again for what an Artifact points to and what is not there."""
    age_seconds = (now - (created or now)).total_seconds()
    return min(max(age_seconds * RETRY_SHARE, RETRY_MIN_SECONDS), RETRY_MAX_SECONDS)


def _uploaded(payload: Payload, upload: Upload, evidence: Evidence, now: datetime) -> Found | Waiting:
    if upload.digest is None:
        return _awaited(payload, upload, evidence.created or now, now)
    found = _stored(payload, upload.digest, evidence, now)
    return found if isinstance(found, Waiting) else _sized(found, upload.size_bytes)


def _awaited(payload: Payload, upload: Upload, created: datetime, now: datetime) -> Waiting:
    left = (created + timedelta(seconds=upload.expires_after_seconds) - now).total_seconds()
    if left <= 0:
        raise RefusedError(
            "UploadExpired", f"{_of(payload)}the upload was not completed in time; create a new Artifact"
        )
    return Waiting("AwaitingUpload", f"{_of(payload)}the bytes must be uploaded through the REST API", left)


def _stored(payload: Payload, digest: str, evidence: Evidence, now: datetime) -> Found | Waiting:
    size_bytes = evidence.blobs.get(digest)
    if size_bytes is None:
        message = f"{_of(payload)}the tenant's store has no bytes with digest '{digest}'"
        return missing(message, evidence, now)
    return _checked(Found(payload, digest, size_bytes))


def _copied(payload: Payload, reference: Reference, evidence: Evidence, now: datetime) -> Found | Waiting:
    data = evidence.contents.get(reference, Absent.NO_OBJECT)
    if isinstance(data, Absent):
        more = {
            Absent.NO_KEY: f" '{reference.key}'",
            Absent.FORBIDDEN: f"; the chart's value `{_VALUES[reference.kind]}` allows it",
        }
        message = f"{_of(payload)}{reference.kind} '{reference.name}' {data.value}{more.get(data, '')}"
        return missing(message, evidence, now)
    return _checked(Found(payload, digests.of(data), len(data), data))


def _fetched(payload: Payload, evidence: Evidence, now: datetime) -> Found | Waiting:
    if evidence.downloads is None:
        raise RefusedError("SourceNotSupported", f"{_of(payload)}`url` is not served by this installation")
    outcome = evidence.downloads.get(payload.name, fetches.Pending())
    match outcome:
        case fetches.Fetched(upload_id, digest, size_bytes):
            return _checked(Found(payload, digest, size_bytes, upload_id=upload_id))
        case fetches.Failure():
            return _failed(payload, outcome, retry_seconds(evidence.created, now))
        case fetches.NoRoom():  # seen only where there is room again: it is fetched once more
            return Waiting("Fetching", f"{_of(payload)}the bytes are being fetched", RETRY_MIN_SECONDS)
        case fetches.Pending(previous):  # the end of the fetch wakes the Artifact
            if previous is not None:
                return _failed(payload, previous, None)
            return Waiting("Fetching", f"{_of(payload)}the bytes are being fetched")
        case other:
            assert_never(other)


def _failed(payload: Payload, failure: fetches.Failure, seconds: float | None) -> Waiting:
    message = f"{_of(payload)}{failure.message}"
    if failure.is_refusal:
        raise RefusedError(failure.reason, message)
    return Waiting(failure.reason, message, seconds)


def _checked(found: Found) -> Found:
    expected = found.payload.digest
    if expected is not None and not digests.equal(expected, found.digest):
        message = f"{_of(found.payload)}the bytes have digest '{found.digest}', `digest` says '{expected}'"
        raise RefusedError("DigestMismatch", message)
    return _sized(found, found.payload.size_bytes)


def _sized(found: Found, size_bytes: int | None) -> Found:
    if size_bytes is not None and size_bytes != found.size_bytes:
        message = f"{_of(found.payload)}there are {found.size_bytes} bytes, `sizeBytes` says {size_bytes}"
        raise RefusedError("SizeMismatch", message)
    return found


def _of(payload: Payload) -> str:
    return f"file '{payload.name}': " if payload.name else ""
