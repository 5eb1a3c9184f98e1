"""One streamed upload: check what is known, stage, verify, publish, and only then record it in the spec.

Nothing is visible before the last byte has been verified. The order publish -> record means that a crash in
between leaves bytes that nobody refers to, which garbage collection removes; never a reference without bytes.
"""

import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from manifestry.adapters.kube import apierrors
from manifestry.adapters.quota import reservations
from manifestry.adapters.store.contract import ports as store_ports
from manifestry.core import errors
from manifestry.core.artifacts import filelists, lives, requests
from manifestry.core.blobs import digests
from manifestry.core.http import etags
from manifestry_api.guard import deps
from manifestry_api.objects import answers, lookups, representations, waiting
from manifestry_api.request import bodies, fields
from manifestry_api.wire import intakes

RECORD_ATTEMPTS = 5


@dataclass(frozen=True)
class Promise:
    """What the upload must turn out to be.

    Args:
        digest: from `spec.digest`, `Content-Digest` and `Repr-Digest`, which must agree; or None.
        size_bytes: from `spec.sizeBytes`, or None.
        limit_bytes: the most that may come; how long a client may pause is `middleware.Bounded`'s.
    """

    digest: str | None
    size_bytes: int | None
    limit_bytes: int


async def receive(
    ports: deps.Ports, caller: deps.Caller, artifact: lookups.Object, request: Request, file: str = ""
) -> lookups.Object:
    """Take the body as the artifact's payload; the same bytes again are accepted without an effect.

    Args:
        ports: the process's ports.
        caller: who uploads.
        artifact: for which; just read.
        request: whose body.
        file: which of its `files`; empty for an artifact without `files`.

    Returns:
        The Artifact with `upload.digest` set.

    Raises:
        Problem: conflict, unsupported-media-type, payload-too-large, digest-mismatch, validation-failed.
        StoreError: the object store refuses.
    """
    check_state(artifact, file)
    check_headers(artifact, request, file)
    check_preconditions(artifact, request, file)
    promise = _promise(holder(artifact, file), request, ports.settings.max_upload_bytes)
    chunks = _chunks(request)
    recorded = holder(artifact, file)["upload"].get("digest")
    if await needs_repair(ports, caller, artifact, file):
        return await _repair(ports, caller, artifact, chunks, repairing(promise, holder(artifact, file)))
    if recorded is not None:
        return _same(artifact, recorded, await _hash(chunks))
    metadata, length = artifact["metadata"], bodies.declared_length(request)
    wanted = promise.size_bytes if length is None else length
    async with ports.reservations.hold(
        caller, metadata["uid"], metadata["name"], wanted, upload=reservations.Upload(file)
    ) as hold:
        staged = await _stage(ports, _charged(chunks, hold), promise)
        return await _publish(ports, caller, _Place(artifact, file), staged, hold)


async def answer(
    ports: deps.Ports, caller: deps.Caller, stored: lookups.Object, request: Request
) -> Response:
    """Return the answer to the last byte of a payload: 200 when it became Ready in time, else 202."""
    preferred = waiting.preference(request.headers.getlist("prefer"), ports.settings.wait_seconds)
    settled = await waiting.until(
        ports, ports.caches.artifacts, stored, representations.is_settled, preferred.wait_seconds
    )
    content = representations.artifact(settled, caller.tenant)
    headers = {
        "ETag": representations.etag(settled),
        "Content-Location": content["links"]["self"],
        **preferred.headers,
    }
    return answers.json(content, 200 if content["status"] == representations.READY else 202, headers)


def holder(artifact: lookups.Object, file: str = "") -> lookups.Object:
    """Return what has the source: the spec, or one of its `files`.

    Raises:
        Problem: not-found.
    """
    if not file:
        return dict(artifact["spec"])
    found = next((each for each in filelists.merged(artifact["spec"]) if each["name"] == file), None)
    if found is None:
        raise errors.Problem(errors.NOT_FOUND, "the artifact has no file of this name")
    return dict(found)


async def needs_repair(
    ports: deps.Ports, caller: deps.Caller, artifact: lookups.Object, file: str = ""
) -> bool:
    """Tell whether recorded bytes must be stored once more: found damaged or missing, or not there now.

    The status may not know yet: a store that was restored from an older copy, a file that was lost since the
    last scrub. That bytes of the right size are sound only the scrub can tell.

    Raises:
        StoreError: the store does not answer.
    """
    upload = holder(artifact, file).get("upload") or {}
    if upload.get("digest") is None:
        return False
    if lives.is_lost(artifact):
        return True
    try:
        blob = await ports.store.head(caller.tenant_uid, upload["digest"])
    except store_ports.BlobDamagedError:  # not even a file
        return True
    return blob is None or upload.get("sizeBytes") not in {None, blob.size_bytes}


def check_state(artifact: lookups.Object, file: str = "") -> None:
    """Refuse bytes for an artifact that takes none.

    Raises:
        Problem: conflict.
    """
    found = holder(artifact, file)
    if "upload" not in found:
        whose, kind = "file's" if file else "artifact's", representations.source({"spec": found})
        raise errors.Problem(errors.CONFLICT, f"the {whose} source must be `upload`, it is `{kind}`")
    failed = representations.artifact_status(artifact) == representations.FAILED
    if failed and not lives.is_lost(artifact):
        reason = representations.not_ready_reason(artifact)
        raise errors.Problem(errors.CONFLICT, f"the artifact has failed{reason}")


def check_headers(artifact: lookups.Object, request: Request, file: str = "") -> None:
    """Refuse a payload of another media type, an encoded one, and a part of one.

    Raises:
        Problem: unsupported-media-type, bad-request.
    """
    wanted, stated = holder(artifact, file)["mediaType"], request.headers.get("content-type")
    if stated is not None and fields.essence(stated) != wanted.lower():
        whose = "file's" if file else "artifact's"
        raise _unsupported(f"header `Content-Type` must be the {whose} `mediaType`, '{wanted}'")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise _unsupported("header `Content-Encoding` must not be set: the bytes are stored as they come")
    if "content-range" in request.headers:  # RFC 9110 section 14.5
        raise errors.Problem(
            errors.BAD_REQUEST, "header `Content-Range` must not be set: a PUT is the whole payload"
        )


def check_preconditions(artifact: lookups.Object, request: Request, file: str = "") -> None:
    """Refuse bytes that the request's conditions do not want; the payload's tag is its digest.

    Raises:
        Problem: precondition-failed.

    References: RFC 9110 section 13.1: a method whose condition is false must not be performed.
    """
    recorded = holder(artifact, file)["upload"].get("digest")
    if recorded is not None:
        answers.check_preconditions(request, etags.strong(recorded))
    elif "if-match" in request.headers:  # `*`, too, asks for a payload that is there
        raise errors.Problem(errors.PRECONDITION_FAILED, "the artifact has no payload yet")


def _promise(spec: lookups.Object, request: Request, limit_bytes: int) -> Promise:
    length = bodies.declared_length(request)
    size_bytes = spec.get("sizeBytes")
    if length is not None and length > limit_bytes:
        raise bodies.too_large(limit_bytes)
    if size_bytes is not None and length not in {None, size_bytes}:
        raise wrong_size(size_bytes, length)
    stated = {digest for digest in (spec.get("digest"), *stated_digests(request)) if digest is not None}
    if len(stated) > 1:
        raise mismatch("the digests in `Content-Digest`, `Repr-Digest` and the artifact must agree")
    return Promise(next(iter(stated), None), size_bytes, limit_bytes)


def stated_digests(
    request: Request, names: tuple[str, ...] = ("content-digest", "repr-digest")
) -> list[str | None]:
    """Return the digest that each of the headers states, if it is there.

    Raises:
        Problem: bad-request.
    """
    try:
        return [
            digests.parse_field(",".join(values))
            for name in names
            if (values := request.headers.getlist(name))
        ]
    except digests.DigestError as error:
        raise errors.Problem(errors.BAD_REQUEST, str(error)) from None


async def _chunks(request: Request) -> AsyncIterator[store_ports.Chunk]:
    intakes.want(request.scope)
    try:
        async for chunk in request.stream():
            yield chunk
    except ClientDisconnect:
        raise errors.Problem(errors.BAD_REQUEST, "the client left before the last byte") from None


async def _charged(
    chunks: AsyncIterator[store_ports.Chunk], hold: reservations.Hold
) -> AsyncIterator[store_ports.Chunk]:
    total_bytes = 0
    async for chunk in chunks:
        total_bytes += len(chunk)
        await hold.grow(total_bytes)
        yield chunk


async def _hash(chunks: AsyncIterator[store_ports.Chunk]) -> str:
    digest = hashlib.sha256()
    async for chunk in chunks:
        digest.update(chunk)
    return f"sha256:{digest.hexdigest()}"


def _same(artifact: lookups.Object, recorded: str, digest: str) -> lookups.Object:
    if not digests.equal(recorded, digest):
        raise errors.Problem(
            errors.CONFLICT, "the artifact has its payload already; other bytes need a new artifact"
        )
    return artifact


async def _stage(
    ports: deps.Ports, chunks: AsyncIterator[store_ports.Chunk], promise: Promise
) -> store_ports.Staged:
    staged = await ports.store.stage(chunks, limit_bytes=promise.limit_bytes)
    try:
        verify(staged, promise)
    except errors.Problem:
        await ports.store.discard(staged)
        raise
    return staged


def verify(staged: store_ports.Staged, promise: Promise) -> None:
    """Refuse bytes that are not what was promised.

    Raises:
        Problem: validation-failed, digest-mismatch.
    """
    if promise.size_bytes is not None and staged.size_bytes != promise.size_bytes:
        raise wrong_size(promise.size_bytes, staged.size_bytes)
    if promise.digest is not None and not digests.equal(staged.digest, promise.digest):
        raise mismatch(f"the payload's digest must be {promise.digest}, it is {staged.digest}")


def repairing(promise: Promise, found: lookups.Object) -> Promise:
    """Return the promise for bytes that were stored once: they must be the same.

    Args:
        promise: by the spec and the request.
        found: the spec or the file, whose upload is recorded.

    Raises:
        Problem: digest-mismatch, when the request promises others.
    """
    digest, size_bytes = found["upload"]["digest"], found["upload"].get("sizeBytes", promise.size_bytes)
    if promise.digest is not None and not digests.equal(promise.digest, digest):
        raise mismatch(f"the payload's digest must be {digest} as it was stored, it is {promise.digest}")
    limit_bytes = promise.limit_bytes if size_bytes is None else min(promise.limit_bytes, size_bytes)
    return Promise(digest, size_bytes, limit_bytes)


async def _repair(
    ports: deps.Ports,
    caller: deps.Caller,
    artifact: lookups.Object,
    chunks: AsyncIterator[store_ports.Chunk],
    promise: Promise,
) -> lookups.Object:
    """Store the same bytes once more, after they were found damaged or missing; they are charged already."""
    staged = await _stage(ports, chunks, promise)
    try:
        await ports.store.publish(caller.tenant_uid, staged)
    except BaseException:
        await ports.store.discard(staged)
        raise
    return artifact


@dataclass(frozen=True)
class _Place:
    """Where an upload goes."""

    artifact: lookups.Object
    file: str


async def _publish(
    ports: deps.Ports, caller: deps.Caller, place: _Place, staged: store_ports.Staged, hold: reservations.Hold
) -> lookups.Object:
    try:
        blob = await ports.store.publish(caller.tenant_uid, staged)
        await hold.land(blob)
    except BaseException:
        await ports.store.discard(staged)
        raise
    return await record_landed(ports, caller, place.artifact, blob, place.file, hold=hold)


async def record_landed(
    ports: deps.Ports,
    caller: deps.Caller,
    artifact: lookups.Object,
    blob: store_ports.Blob,
    file: str = "",
    *,
    hold: reservations.Hold,
) -> lookups.Object:
    """Write the intent; the charge stays when nobody but the operator can tell whether it arrived.

    Raises:
        Problem: as `record`.
    """
    try:
        return await record(ports, caller, artifact, blob, file)
    except errors.Problem as problem:
        if problem.kind in {errors.CONFLICT, errors.NOT_FOUND}:  # it will never be the artifact's
            await hold.withdraw()
        raise


async def record(
    ports: deps.Ports, caller: deps.Caller, artifact: lookups.Object, blob: store_ports.Blob, file: str = ""
) -> lookups.Object:
    """Write the intent; the resourceVersion makes the first of two different uploads win."""
    uid, name = artifact["metadata"]["uid"], artifact["metadata"]["name"]
    rivals = len(artifact["spec"].get("files") or ())  # all files may be recorded at the same moment
    for _ in range(RECORD_ATTEMPTS + rivals):
        recorded = holder(artifact, file).get("upload", {}).get("digest")
        if recorded is not None:
            return _same(artifact, recorded, blob.digest)
        try:
            change = requests.uploaded(artifact, *blob, file=file)
            return await lookups.patch(ports, caller, ports.caches.artifacts, name, change)
        except apierrors.ConflictError:
            artifact = await lookups.find_live(ports, caller, ports.caches.artifacts, name)
        if artifact["metadata"]["uid"] != uid:
            raise errors.Problem(errors.CONFLICT, "the artifact was deleted and made anew meanwhile")
    raise errors.Problem(errors.BUSY, "the artifact keeps changing", headers={"Retry-After": "1"})


def wrong_size(expected: int, actual: int | None) -> errors.Problem:
    """Return the refusal of a payload whose size is not the promised one."""
    message = f"the payload must have {expected} bytes as `sizeBytes` says, it has {actual}"
    return errors.Problem(errors.VALIDATION_FAILED, message, (errors.FieldError("/sizeBytes", message),))


def mismatch(message: str) -> errors.Problem:
    """Return the refusal of a payload whose digest is not the promised one."""
    return errors.Problem(errors.DIGEST_MISMATCH, message, (errors.FieldError("/digest", message),))


def _unsupported(message: str) -> errors.Problem:
    return errors.Problem(errors.UNSUPPORTED_MEDIA_TYPE, message)
