"""Resumable uploads behind their routes: find the caller's session, take more bytes, complete it as PUT does.

Nothing of a session is in this process: every request reads it from the store, so any replica can go on.
"""

import contextlib
import uuid
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import timedelta

from starlette.requests import Request
from starlette.responses import Response

from manifestry.adapters.quota import reservations
from manifestry.adapters.store import ports as store_ports
from manifestry.adapters.store import session_ports
from manifestry.core import errors
from manifestry.core.artifacts import lives, uploads
from manifestry.core.blobs import digests, keys
from manifestry_api.artifacts import payloads
from manifestry_api.artifacts import uploads as puts
from manifestry_api.guard import deps
from manifestry_api.objects import lookups, representations
from manifestry_api.request import bodies, fields

# A piece with a `Content-Digest` is held until it is verified, if it is no larger than this.
VERIFIED_MAX_BYTES = 8 << 20


@dataclass(frozen=True)
class Found:
    """A session of the caller's tenant, and the Artifact that it is for."""

    state: uploads.State
    artifact: lookups.Object

    @property
    def session(self) -> uploads.Session:
        """Return the session."""
        return self.state.session

    @property
    def recorded(self) -> str | None:
        """Return the digest of the payload that is there, None while there is none."""
        digest: str | None = self.holder.get("upload", {}).get("digest")
        return digest

    @property
    def holder(self) -> lookups.Object:
        """Return what gets the payload: the artifact's spec, or one of its files."""
        return puts.holder(self.artifact, self.session.file)

    @property
    def is_repair(self) -> bool:
        """Tell whether the artifact's payload was stored once and is damaged or missing by now."""
        return self.recorded is not None and lives.is_lost(self.artifact)

    @property
    def is_complete(self) -> bool:
        """Tell whether the artifact's payload is what this session brought."""
        seal = self.state.seal
        return self.recorded is not None and seal is not None and digests.equal(seal.digest, self.recorded)


async def create(
    ports: deps.Ports, caller: deps.Caller, artifact: lookups.Object, request: Request, file: str = ""
) -> uploads.Session:
    """Begin a session for an artifact that awaits its upload; its bytes are charged to the quota.

    Args:
        ports: the process's ports.
        caller: who uploads.
        artifact: for which; just read.
        request: whose headers say what will come.
        file: which of its `files`; empty for an artifact without `files`.

    Raises:
        Problem: conflict, validation-failed, digest-mismatch, payload-too-large, bad-request,
            quota-exceeded by the sessions or by the bytes.
    """
    puts.check_state(artifact, file)
    _check_empty(request)
    holder, metadata = puts.holder(artifact, file), artifact["metadata"]
    recorded = holder["upload"].get("digest")
    if recorded is not None and not lives.is_lost(artifact):
        raise _has_payload()
    wanted = uploads.Session(
        session_id=str(uuid.uuid4()),
        tenant_uid=caller.tenant_uid,
        namespace=caller.namespace,
        artifact_name=metadata["name"],
        artifact_uid=metadata["uid"],
        file=file,
        length_bytes=_length(holder, request, ports.settings.max_upload_bytes),
        digest=_digest(holder, request, recorded),
    )
    limit = ports.settings.max_upload_sessions
    async with _charged(ports, caller, wanted, is_charged=recorded is not None) as hold:
        try:
            created = await ports.sessions.create(wanted, limit=limit)
        except session_ports.SessionLimitError as error:
            raise uploads.over_limit(error.sessions, limit) from None
        hold.keep()
    return created


async def find(ports: deps.Ports, caller: deps.Caller, session_id: str) -> Found:
    """Return a session of the caller's tenant with its Artifact.

    Raises:
        Problem: not-found, also for another tenant's session and for one whose Artifact is gone.
    """
    try:
        state = await ports.sessions.head(session_id)
    except keys.KeyPartError:
        raise _absent() from None
    if state is None or state.session.tenant_uid != caller.tenant_uid:
        raise _absent()
    cache, name = ports.caches.artifacts, state.session.artifact_name
    for look in (lookups.find, lookups.find_live):  # the cache may still show an older one of this name
        try:
            artifact = await look(ports, caller, cache, name)
        except errors.Problem:
            raise _absent() from None
        if artifact["metadata"]["uid"] == state.session.artifact_uid:
            return Found(state, artifact)
    raise _absent()


async def append(ports: deps.Ports, caller: deps.Caller, found: Found, request: Request) -> Response:
    """Take more bytes, and complete the upload with the last ones.

    Raises:
        Problem: conflict with the right `Upload-Offset`, range-not-satisfiable, unsupported-media-type,
            bad-request, payload-too-large, digest-mismatch, validation-failed, quota-exceeded.
        StoreError: the object store refuses; `HEAD` tells what it has.
    """
    _check_piece(request)
    wanted = _wanted(request)
    if found.recorded is not None and not found.is_repair:
        return await _repeated(ports, caller, found, wanted, request)
    puts.check_state(found.artifact, found.session.file)
    limit_bytes = uploads.check_append(found.state, wanted, ports.settings.max_upload_bytes)
    async with _charged(ports, caller, found.session, is_charged=found.is_repair) as hold:
        hold.keep()
        stated = next(iter(puts.stated_digests(request, ("content-digest",))), None)
        body = payloads.Payload(request, hold, wanted.offset, stated)
        end = await _take(ports, found, body, wanted, limit_bytes)
        if not wanted.is_last:
            return Response(status_code=204, headers=state_headers(ports, found, end))
        _check_end(end, found.session.length_bytes)
        stored = await _complete(ports, caller, found, request, hold)
    return await _completed(ports, caller, stored, request, end)


async def abort(ports: deps.Ports, caller: deps.Caller, found: Found) -> None:
    """Remove a session with its bytes, and give back what it was charged."""
    await ports.sessions.abort(found.session)
    await ports.reservations.release(caller, found.session.artifact_uid, found.session.session_id)


def state_headers(ports: deps.Ports, found: Found, offset: int | None = None) -> dict[str, str]:
    """Return the headers that say how far a session is.

    Args:
        ports: whose clock and limits.
        found: the session.
        offset: the end of its bytes if more came since.
    """
    is_untouched = offset is None
    known = found.state.offset if offset is None else offset
    length = known if found.is_complete else found.session.length_bytes
    touched = found.state.touched if is_untouched else ports.clock()
    return {
        "Upload-Offset": str(known),
        "Upload-Complete": uploads.format_complete(found.is_complete),
        **({} if length is None else {"Upload-Length": str(length)}),
        "Upload-Limit": _limit(ports, touched + _expiry(ports) - ports.clock()),
        "Cache-Control": "no-store",
    }


def created_headers(ports: deps.Ports, session: uploads.Session) -> dict[str, str]:
    """Return the headers of a session that has just begun."""
    length = session.length_bytes
    return {
        "Location": path(session),
        "Upload-Offset": "0",
        "Upload-Complete": uploads.format_complete(False),
        **({} if length is None else {"Upload-Length": str(length)}),
        "Upload-Limit": _limit(ports, _expiry(ports)),
    }


def path(session: uploads.Session) -> str:
    """Return the path of a session."""
    return f"/uploads/{session.session_id}"


def representation(ports: deps.Ports, caller: deps.Caller, session: uploads.Session) -> dict[str, object]:
    """Return a session that has just begun as REST shows it."""
    optional = {"file": session.file or None, "sizeBytes": session.length_bytes}
    return {
        "id": session.session_id,
        "tenant": caller.tenant,
        "artifact": session.artifact_name,
        "offset": 0,
        "expiresAfterSeconds": ports.settings.upload_expiry_seconds,
        "links": {
            "self": path(session),
            "artifact": representations.artifact_links(session.artifact_name)["self"],
        },
        **{name: value for name, value in optional.items() if value is not None},
    }


def _expiry(ports: deps.Ports) -> timedelta:
    return timedelta(seconds=ports.settings.upload_expiry_seconds)


def _limit(ports: deps.Ports, left: timedelta) -> str:
    return f"max-size={ports.settings.max_upload_bytes}, max-age={max(0, int(left.total_seconds()))}"


@contextlib.asynccontextmanager
async def _charged(
    ports: deps.Ports, caller: deps.Caller, session: uploads.Session, *, is_charged: bool
) -> AsyncIterator[reservations.Hold]:
    """Charge a session's bytes, unless the artifact was charged for them when it had them first."""
    if is_charged:
        yield reservations.Hold()
        return
    async with ports.reservations.hold(
        caller,
        session.artifact_uid,
        session.artifact_name,
        session.length_bytes,
        upload=reservations.Upload(session.file, session.session_id),
        lease_seconds=float(ports.settings.upload_expiry_seconds),
    ) as hold:
        yield hold


def _check_empty(request: Request) -> None:
    if bodies.declared_length(request) not in {None, 0} or "transfer-encoding" in request.headers:
        raise errors.Problem(errors.BAD_REQUEST, "the body must be empty: the bytes come by PATCH")
    if uploads.parse_complete(request.headers.get("upload-complete")):
        raise errors.Problem(
            errors.BAD_REQUEST, "header `Upload-Complete` must be ?0: the bytes come by PATCH"
        )


def _length(holder: lookups.Object, request: Request, limit_bytes: int) -> int | None:
    stated = uploads.parse_integer("Upload-Length", request.headers.get("upload-length"))
    expected = holder["upload"].get("sizeBytes", holder.get("sizeBytes"))
    if stated is not None and expected not in {None, stated}:
        raise puts.wrong_size(expected, stated)
    length = stated if stated is not None else expected
    if length is not None and length > limit_bytes:
        raise bodies.too_large(limit_bytes)
    return length


def _digest(holder: lookups.Object, request: Request, known: str | None) -> str | None:
    stated = {
        digest
        for digest in (holder.get("digest"), known, *puts.stated_digests(request, ("repr-digest",)))
        if digest is not None
    }
    if len(stated) > 1:
        raise puts.mismatch("the digests in `Repr-Digest`, of the upload and of the artifact must agree")
    return next(iter(stated), None)


def _check_piece(request: Request) -> None:
    headers = request.headers
    if fields.essence(headers.get("content-type", "")) != uploads.MEDIA_TYPE:
        raise errors.Problem(
            errors.UNSUPPORTED_MEDIA_TYPE,
            f"header `Content-Type` must be '{uploads.MEDIA_TYPE}'",
            headers={"Accept-Patch": uploads.MEDIA_TYPE},
        )
    if headers.get("content-encoding", "identity").lower() != "identity":
        raise errors.Problem(
            errors.UNSUPPORTED_MEDIA_TYPE,
            "header `Content-Encoding` must not be set: the bytes are stored as they come",
        )


def _wanted(request: Request) -> uploads.Append:
    offset = uploads.parse_integer("Upload-Offset", request.headers.get("upload-offset"))
    is_last = uploads.parse_complete(request.headers.get("upload-complete"))
    if offset is None or is_last is None:
        missing = "Upload-Offset" if offset is None else "Upload-Complete"
        raise errors.Problem(errors.BAD_REQUEST, f"header `{missing}` must be set")
    return uploads.Append(offset, is_last, bodies.declared_length(request))


async def _take(
    ports: deps.Ports, found: Found, body: payloads.Payload, wanted: uploads.Append, limit_bytes: int
) -> int:
    chunks = aiter(body)
    is_held = body.is_promised and wanted.count is not None and wanted.count <= VERIFIED_MAX_BYTES
    if is_held:
        chunks = _again(b"".join([bytes(chunk) async for chunk in body]))
        body.check()
    try:
        end = await ports.sessions.append(found.session, wanted.offset, chunks, limit_bytes=limit_bytes)
    except (session_ports.OffsetError, store_ports.TooLargeError) as error:
        raise await _refused(
            ports, found, wanted, is_too_large=isinstance(error, store_ports.TooLargeError)
        ) from None
    except session_ports.SessionNotFoundError:
        raise _absent() from None
    try:
        body.check()
    except errors.Problem as problem:
        if problem.kind is errors.DIGEST_MISMATCH:  # the bytes are among the others already
            await ports.sessions.abort(found.session)
            raise
        raise _with_offset(problem, end) from None
    return end


async def _again(data: bytes) -> AsyncIterator[bytes]:
    if data:
        yield data


async def _refused(
    ports: deps.Ports, found: Found, wanted: uploads.Append, *, is_too_large: bool
) -> errors.Problem:
    state = await ports.sessions.head(found.session.session_id)
    if state is None:
        return _absent()
    if not is_too_large:
        return uploads.mismatch(state.offset, wanted.offset)
    problem = errors.Problem(
        errors.RANGE_NOT_SATISFIABLE, "the piece has more bytes than the upload may have"
    )
    return _with_offset(problem, state.offset)


async def _complete(
    ports: deps.Ports, caller: deps.Caller, found: Found, request: Request, hold: reservations.Hold
) -> lookups.Object:
    """Seal, verify, publish and record; what can never succeed is removed, what may is left for a retry."""
    session = found.session
    digest = _digest(found.holder, request, session.digest)
    promise = puts.Promise(digest, found.holder.get("sizeBytes"), ports.settings.max_upload_bytes)
    if found.is_repair:
        promise = puts.repairing(promise, found.holder)
    staged = await _sealed(ports, found)
    try:
        puts.verify(staged, promise)
        blob = await ports.store.publish(caller.tenant_uid, staged)
    except errors.Problem:
        await abort(ports, caller, found)
        raise
    except store_ports.BlobNotFoundError:
        await abort(ports, caller, found)
        raise errors.Problem(errors.CONFLICT, "the upload's bytes are gone; begin a new one") from None
    await hold.land(blob)
    try:
        stored = await puts.record_landed(ports, caller, found.artifact, blob, session.file, hold=hold)
    except errors.Problem as problem:
        if problem.kind is errors.CONFLICT:  # the artifact has other bytes, and these no use
            await ports.sessions.abort(session)
        raise
    with contextlib.suppress(store_ports.StoreError):  # recorded is recorded; a left-over is collected later
        await ports.sessions.finish(session)
    return stored


async def _sealed(ports: deps.Ports, found: Found) -> store_ports.Staged:
    try:
        return await ports.sessions.seal(found.session)
    except session_ports.SessionNotFoundError:
        raise _absent() from None
    except session_ports.OffsetError:
        raise errors.Problem(errors.CONFLICT, "another request appends to this upload") from None


async def _repeated(
    ports: deps.Ports, caller: deps.Caller, found: Found, wanted: uploads.Append, request: Request
) -> Response:
    """Answer once more to a client that has not heard of its success."""
    if not found.is_complete:
        raise _has_payload()
    if wanted.offset != found.state.offset or wanted.count != 0 or not wanted.is_last:
        raise uploads.mismatch(found.state.offset, wanted.offset)
    return await _completed(ports, caller, found.artifact, request, found.state.offset)


async def _completed(
    ports: deps.Ports, caller: deps.Caller, stored: lookups.Object, request: Request, end: int
) -> Response:
    answer = await puts.answer(ports, caller, stored, request)
    answer.headers["Upload-Offset"] = str(end)
    answer.headers["Upload-Complete"] = uploads.format_complete(True)
    return answer


def _check_end(end: int, length_bytes: int | None) -> None:
    try:
        uploads.check_end(end, length_bytes)
    except errors.Problem as problem:
        raise _with_offset(problem, end) from None


def _with_offset(problem: errors.Problem, offset: int) -> errors.Problem:
    headers: Mapping[str, str] = {**problem.headers, "Upload-Offset": str(offset)}
    return errors.Problem(problem.kind, problem.detail, problem.errors, problem.usage, headers)


def _has_payload() -> errors.Problem:
    return errors.Problem(
        errors.CONFLICT, "the artifact has its payload already; other bytes need a new artifact"
    )


def _absent() -> errors.Problem:
    return errors.Problem(errors.NOT_FOUND, "no such upload in this tenant")
