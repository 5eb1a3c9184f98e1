"""Resumable uploads without I/O: what a session is, where its bytes lie, who may go on, when it ends.

References: draft-ietf-httpbis-resumable-upload (Upload-Offset, Upload-Length, Upload-Complete, Upload-Limit).
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Literal, NamedTuple

from manifestry.core import errors
from manifestry.core.artifacts import filelists
from manifestry.core.blobs import digests, keys

MEDIA_TYPE: Final = "application/partial-upload"
SESSIONS: Final = "sessions/"
# A remote store keeps one object per piece; this many of 8 MiB are far above the largest upload.
PIECES_MAX_COUNT: Final = 10_000
# What no running request can still need: a request idles 30 s at most, a copy takes 160 s.
GRACE: Final = timedelta(hours=1)
# A sealed upload's staged copy is used again only while no collector can take it away (`GRACE`).
RESEAL_AFTER: Final = GRACE / 2

_RECORD_MAX_BYTES: Final = 16 << 10
_INTEGER = re.compile(r"[0-9]{1,15}")  # a structured field's integer, without a sign (RFC 9651 section 3.3.1)
_PIECE = re.compile(r"[0-9]{20}")
_SLOT = re.compile(rf"{SESSIONS}([0-9a-f-]{{36}})/([0-9]{{5}})")


@dataclass(frozen=True)
class Session:
    """What is known of an upload when it begins; never changed.

    Args:
        session_id: a UUID, the last part of `/uploads/{uid}`.
        tenant_uid: uid of the tenant's namespace; nobody else is shown the session.
        namespace: the tenant's namespace.
        artifact_name: the Artifact that gets the bytes.
        artifact_uid: its uid: one of the same name that is made later gets nothing.
        file: which of its `files`; empty for an artifact without `files`.
        length_bytes: the whole size, None until the last piece tells.
        digest: what the bytes must hash to, or None.
        slot: which of the tenant's places the session takes.
    """

    session_id: str
    tenant_uid: str
    namespace: str
    artifact_name: str
    artifact_uid: str
    file: str = ""
    length_bytes: int | None = None
    digest: str | None = None
    slot: int = 0


class Seal(NamedTuple):
    """The end of the bytes: no more may come, and this is what they are."""

    staged_id: str
    digest: str
    size_bytes: int


@dataclass(frozen=True)
class State:
    """How far a session is.

    Args:
        offset: the bytes that are durable, from the first one without a gap.
        touched: when the last of them came.
        pieces: in how many they are kept.
        pieces_max: how many there may be.
    """

    session: Session
    offset: int
    touched: datetime
    seal: Seal | None = None
    pieces: int = 0
    pieces_max: int = PIECES_MAX_COUNT


@dataclass(frozen=True)
class Leftover:
    """Bytes below `uploads/` that belong to no session: a plain upload's, or a removed session's."""

    upload_id: str
    touched: datetime


def upload_id(entry: State | Leftover) -> str:
    """Return the name below `uploads/` of what lies there."""
    return entry.session.session_id if isinstance(entry, State) else entry.upload_id


@dataclass(frozen=True)
class Append:
    """What a PATCH says about itself.

    Args:
        offset: where its bytes begin.
        is_last: whether the upload is complete with them.
        count: how many there are, None when the body is chunked.
    """

    offset: int
    is_last: bool
    count: int | None


def to_bytes(value: Session | Seal) -> bytes:
    """Return what is stored of a session or a seal."""
    fields = asdict(value) if isinstance(value, Session) else value._asdict()
    return json.dumps(fields, sort_keys=True).encode()


def session_from(data: bytes) -> Session | None:
    """Return the session in a stored record; None when the record was cut off or is not one."""
    fields = _object(data)
    try:
        keys.parse_uuid(fields.get("session_id"))
        keys.parse_uuid(fields.get("tenant_uid"))
        return Session(**fields)
    except (TypeError, keys.KeyPartError):
        return None


def seal_from(data: bytes) -> Seal | None:
    """Return the stored seal; None when it was cut off or is not one."""
    fields = _object(data)
    try:
        digests.parse(fields.get("digest"))
        return Seal(keys.parse_uuid(fields.get("staged_id")), fields["digest"], int(fields["size_bytes"]))
    except (KeyError, TypeError, ValueError):
        return None


def _object(data: bytes) -> Mapping[str, Any]:
    try:
        found = json.loads(data) if len(data) <= _RECORD_MAX_BYTES else None
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def slots(tenant_uid: str) -> str:
    """Return the prefix of a tenant's slots: one object each, so that nobody can take one twice.

    Raises:
        KeyPartError: `tenant_uid` is not a UUID.
    """
    return f"{SESSIONS}{keys.parse_uuid(tenant_uid)}/"


def slot(tenant_uid: str, number: int) -> str:
    """Return a slot's key."""
    return f"{slots(tenant_uid)}{number:05}"


def parse_slot(key: str) -> tuple[str, int] | None:
    """Return (tenant uid, number) of a slot's key, or None for any other key."""
    match = _SLOT.fullmatch(key)
    return None if match is None else (match[1], int(match[2]))


def free_slots(taken: Iterable[int], limit: int) -> list[int]:
    """Return the slots that may be tried; none when the tenant has as many as it may, however numbered."""
    used = set(taken)
    return [] if len(used) >= limit else [number for number in range(limit) if number not in used]


def piece(session_id: str, offset: int) -> str:
    """Return the key of the piece that begins at `offset`, in a store of whole objects."""
    return f"{keys.upload(session_id)}/{offset:020}"


def parse_piece(name: str) -> int | None:
    """Return the offset in the last part of a piece's key, or None for any other name."""
    return int(name) if _PIECE.fullmatch(name) else None


def chain(pieces: Mapping[int, int], end: int | None = None) -> list[tuple[int, int]]:
    """Return the pieces (offset, size) that follow each other from 0 without a gap, up to `end`."""
    found: list[tuple[int, int]] = []
    at = 0
    while (size := pieces.get(at, 0)) > 0 and (end is None or at < end):
        found.append((at, size))
        at += size
    return found


def parse_integer(name: str, value: str | None) -> int | None:
    """Return the non-negative integer of a field, None when the field is absent.

    Raises:
        Problem: bad-request.
    """
    if value is None:
        return None
    if not _INTEGER.fullmatch(value.strip()):
        raise errors.Problem(errors.BAD_REQUEST, f"header `{name}` must be an integer of at most 15 digits")
    return int(value)


def parse_complete(value: str | None) -> bool | None:
    """Return what `Upload-Complete` says, None when it is absent.

    Raises:
        Problem: bad-request.
    """
    match value.strip() if value is not None else None:
        case None:
            return None
        case "?1":
            return True
        case "?0":
            return False
        case _:
            raise errors.Problem(errors.BAD_REQUEST, "header `Upload-Complete` must be ?0 or ?1")


def format_complete(is_complete: bool) -> str:
    """Return the value of `Upload-Complete`."""
    return "?1" if is_complete else "?0"


def check_append(state: State, append: Append, limit_bytes: int) -> int:
    """Return how many bytes may come at most.

    Args:
        state: how far the session is.
        append: what the request says.
        limit_bytes: the largest upload.

    Raises:
        Problem: conflict when the bytes do not begin where the stored ones end, range-not-satisfiable when
            they lie outside of the upload, payload-too-large, bad-request when the last ones are not at
            its end.
    """
    length = state.session.length_bytes if state.seal is None else state.seal.size_bytes
    end = None if append.count is None else append.offset + append.count
    if length is not None and max(append.offset, end or 0) > length:
        raise _refused(state, errors.RANGE_NOT_SATISFIABLE, f"the upload has {length} bytes, no more")
    if append.offset != state.offset:
        raise mismatch(state.offset, append.offset)
    if end is not None and end > limit_bytes:
        raise _refused(state, errors.PAYLOAD_TOO_LARGE, f"an upload must have at most {limit_bytes} bytes")
    if state.pieces >= state.pieces_max and append.count != 0:
        raise _refused(state, errors.PAYLOAD_TOO_LARGE, "the upload has too many pieces; send larger ones")
    if end is not None and append.is_last and length is not None:
        check_end(end, length)
    return (limit_bytes if length is None else length) - append.offset


def check_end(end: int, length_bytes: int | None) -> None:
    """Refuse to complete an upload that has not all of its bytes.

    Raises:
        Problem: bad-request.
    """
    if length_bytes is not None and end != length_bytes:
        detail = (
            f"`Upload-Complete` must not be ?1: with this piece the upload has {end} of {length_bytes} bytes"
        )
        raise errors.Problem(errors.BAD_REQUEST, detail)


def mismatch(expected: int, given: int) -> errors.Problem:
    """Return the refusal of bytes that do not begin where the stored ones end."""
    detail = f"header `Upload-Offset` must be {expected}, where the stored bytes end; it is {given}"
    return errors.Problem(errors.CONFLICT, detail, headers={"Upload-Offset": str(expected)})


def over_limit(sessions: int, limit: int) -> errors.Problem:
    """Return the refusal of a session more than the tenant may have."""
    detail = f"the tenant has {sessions} unfinished uploads of at most {limit}; finish or delete one"
    return errors.Problem(
        errors.QUOTA_EXCEEDED,
        detail,
        usage={"sessions": sessions, "maxSessions": limit},
        headers={"Retry-After": "60"},
    )


def _refused(state: State, kind: errors.ErrorKind, detail: str) -> errors.Problem:
    return errors.Problem(kind, detail, headers={"Upload-Offset": str(state.offset)})


Verdict = Literal["keep", "ask", "remove"]


def verdict(entry: State | Leftover, now: datetime, expiry: timedelta) -> Verdict:
    """Say what becomes of what lies below `uploads/`.

    Args:
        entry: a session or bytes without one.
        now: the time.
        expiry: how long a session may rest.

    Returns:
        `remove`; `ask` whether its Artifact still waits for it, and remove it if not; or `keep`.
    """
    idle = now - entry.touched
    if isinstance(entry, Leftover):
        return "remove" if idle >= GRACE else "keep"
    if idle >= expiry:
        return "remove"
    return "ask" if idle >= GRACE else "keep"


def is_awaited(
    session: Session, artifact: Mapping[str, Any] | None, *, has_failed: bool, is_lost: bool = False
) -> bool:
    """Tell whether the Artifact of this name still waits for the session's bytes.

    Args:
        session: whose Artifact it should be.
        artifact: the object of that name, None when there is none.
        has_failed: whether it can never become Ready.
        is_lost: whether its bytes were stored once, and the same must be stored again.
    """
    if artifact is None or artifact["metadata"].get("deletionTimestamp") or (has_failed and not is_lost):
        return False
    spec = artifact["spec"]
    holders = [item for item in filelists.merged(spec) if item["name"] == session.file]
    upload = (holders[0] if holders else {} if session.file else spec).get("upload")
    is_same = artifact["metadata"].get("uid") == session.artifact_uid
    return is_same and upload is not None and (is_lost or not upload.get("digest"))
