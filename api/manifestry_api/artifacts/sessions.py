"""Resumable uploads behind their routes: begin one, take more bytes, complete it as PUT does.

Nothing of a session is in this process: every request reads it from the store, so any replica can go on.
"""

import contextlib
import uuid
from collections.abc import AsyncIterator

from starlette.requests import Request
from starlette.responses import Response

from manifestry.adapters.quota import reservations
from manifestry.adapters.store.contract import ports as store_ports
from manifestry.adapters.store.contract import session_ports
from manifestry.core import errors
from manifestry.core.artifacts import uploads
from manifestry_api.artifacts import payloads, session_states
from manifestry_api.artifacts import uploads as puts
from manifestry_api.artifacts.session_states import Found
from manifestry_api.guard import deps
from manifestry_api.objects import lookups
from manifestry_api.request import bodies, fields

# A piece with a `Content-Digest` is held until it is verified, if it is no larger than this.
VERIFIED_MAX_BYTES = 8 << 20


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
    if recorded is not None and not await puts.needs_repair(ports, caller, artifact, file):
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


async def append(ports: deps.Ports, caller: deps.Caller, found: Found, request: Request) -> Response:
    """Take more bytes, and complete the upload with the last ones.

    Raises:
        Problem: conflict with the right `Upload-Offset`, range-not-satisfiable, unsupported-media-type,
            bad-request, payload-too-large, digest-mismatch, validation-failed, quota-exceeded.
        StoreError: the object store refuses; `HEAD` tells what it has.
    """
    try:
        return await _append(ports, caller, found, request)
    except session_ports.SessionLostError as error:
        await ports.reservations.release(caller, found.session.artifact_uid, found.session.session_id)
        raise errors.Problem(error.kind, str(error)) from error


async def _append(ports: deps.Ports, caller: deps.Caller, found: Found, request: Request) -> Response:
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
            return Response(status_code=204, headers=session_states.state_headers(ports, found, end))
        _check_end(end, found.session.length_bytes)
        stored = await _complete(ports, caller, found, request, hold, end=end)
    return await _completed(ports, caller, stored, request, end)


async def abort(ports: deps.Ports, caller: deps.Caller, found: Found) -> None:
    """Remove a session with its bytes, and give back what it was charged."""
    await ports.sessions.abort(found.session)
    await ports.reservations.release(caller, found.session.artifact_uid, found.session.session_id)


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
        raise session_states.absent() from None
    try:
        body.check()
    except errors.Problem as problem:
        if problem.kind is errors.DIGEST_MISMATCH:  # the bytes are among the others already
            if not await _take_back(ports, found, wanted.offset):
                raise
            end = wanted.offset
        raise session_states.with_offset(problem, end) from None
    return end


async def _take_back(ports: deps.Ports, found: Found, offset: int) -> bool:
    """Remove a piece that is not what was sent; tell whether the upload is still there.

    Whoever cannot be rid of the piece gives the upload up: nobody may go on behind wrong bytes.
    """
    try:
        await ports.sessions.cut(found.session, offset)
    except (session_ports.OffsetError, session_ports.SessionNotFoundError):
        raise session_states.absent() from None
    except session_ports.SessionLostError:
        return False
    except store_ports.StoreError:
        await ports.sessions.abort(found.session)
        raise
    return True


async def _again(data: bytes) -> AsyncIterator[bytes]:
    if data:
        yield data


async def _refused(
    ports: deps.Ports, found: Found, wanted: uploads.Append, *, is_too_large: bool
) -> errors.Problem:
    state = await ports.sessions.head(found.session.session_id)
    if state is None:
        return session_states.absent()
    if not is_too_large:
        return uploads.mismatch(state.offset, wanted.offset)
    problem = errors.Problem(
        errors.RANGE_NOT_SATISFIABLE, "the piece has more bytes than the upload may have"
    )
    return session_states.with_offset(problem, state.offset)


async def _complete(
    ports: deps.Ports,
    caller: deps.Caller,
    found: Found,
    request: Request,
    hold: reservations.Hold,
    *,
    end: int,
) -> lookups.Object:
    """Seal, verify, publish and record; what can never succeed is removed, what may is left for a retry.

    Sealed are as many bytes as were acknowledged, or none: since then a piece may have been taken away.
    """
    session = found.session
    digest = _digest(found.holder, request, session.digest)
    promise = puts.Promise(digest, found.holder.get("sizeBytes"), ports.settings.max_upload_bytes)
    if found.is_repair:
        promise = puts.repairing(promise, found.holder)
    staged = await _sealed(ports, found, end)
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


async def _sealed(ports: deps.Ports, found: Found, end: int) -> store_ports.Staged:
    try:
        return await ports.sessions.seal(found.session, size_bytes=end)
    except session_ports.SessionNotFoundError:
        raise session_states.absent() from None
    except session_ports.OffsetError:
        raise errors.Problem(errors.CONFLICT, "another request appends to this upload") from None
    except session_ports.PieceDamagedError as error:
        detail = f"bytes were damaged in the store; send them again from {error.offset} on"
        raise session_states.with_offset(errors.Problem(errors.CONFLICT, detail), error.offset) from None


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
        raise session_states.with_offset(problem, end) from None


def _has_payload() -> errors.Problem:
    return errors.Problem(
        errors.CONFLICT, "the artifact has its payload already; other bytes need a new artifact"
    )
