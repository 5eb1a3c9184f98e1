"""A payload on its way out: conditions, ranges, and the cheapest way that its bytes can take.

The ways, best first: a signed link, where an administrator wants clients to go to the store themselves; from
the file to the socket inside the kernel; windows read from the store at the client's pace.
"""

import asyncio
import contextlib
import functools
import hashlib
import secrets
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from starlette.requests import Request
from starlette.responses import Response

from manifestry.adapters.store.contract import ports as store_ports
from manifestry.core import errors
from manifestry.core.artifacts.suspects import Suspect
from manifestry.core.blobs import digests
from manifestry.core.http import dispositions, etags, ranges
from manifestry_api.artifacts import suspects
from manifestry_api.guard import deps
from manifestry_api.objects import answers
from manifestry_api.request import contexts, fields
from manifestry_api.wire import streams, zerocopy

LINK_SECONDS = 300.0  # long enough for a client that begins at once; the link needs no credential
_BOUNDARY_BYTES = 16


class Content(NamedTuple):
    """What is downloaded.

    Args:
        digest: of all bytes.
        size_bytes: of all bytes.
        media_type: as the client gave it.
        file_name: as the client gave it.
        owner: whose it is.
    """

    digest: str
    size_bytes: int
    media_type: str
    file_name: str
    owner: Suspect


async def answer(ports: deps.Ports, caller: deps.Caller, request: Request, content: Content) -> Response:
    """Return the answer to a GET or HEAD: 200, 206, 304 or 307.

    Raises:
        Problem: precondition-failed, range-not-satisfiable, internal when the bytes are missing or damaged.
        StoreError: the store does not answer.

    References: RFC 9110 sections 13.2.2 (order of the conditions) and 14.
    """
    etag = etags.strong(content.digest)
    if unchanged := answers.not_modified(request, etag):
        return unchanged
    if request.method == "HEAD":  # a Range has no meaning there: RFC 9110 section 14.2
        return Response(headers=_whole(content).headers)
    spans = _spans(request, etag, content.size_bytes)
    body = _whole(content) if spans is None else _parts(content, spans)
    if ports.settings.download_redirect and (link := await _link(ports, caller, content)):
        return link
    is_direct = zerocopy.EXTENSION in (request.scope.get("extensions") or ())
    try:
        payload = await ports.store.open(caller.tenant_uid, content.digest) if is_direct else None
        if payload is not None:
            return await _sent(ports, payload, content, body)
        return await _streamed(ports, caller, content, body)
    except (store_ports.BlobNotFoundError, store_ports.BlobDamagedError) as error:
        await suspects.tell(ports, content.owner)
        raise errors.Problem(
            errors.INTERNAL, "the stored bytes of this artifact are missing or damaged"
        ) from error


@dataclass(frozen=True)
class _Body:
    """An answer's status, its body, and its headers."""

    status: int
    pieces: streams.Pieces
    headers: Mapping[str, str]

    @functools.cached_property
    def raw_headers(self) -> streams.RawHeaders:
        """Return the headers as ASGI wants them."""
        return streams.raw(self.headers)


def _spans(request: Request, etag: str, size_bytes: int) -> tuple[ranges.Span, ...] | None:
    wanted = contexts.header(request.scope, b"range")
    if wanted is None or not etags.if_range_holds(contexts.header(request.scope, b"if-range"), etag):
        return None
    found = ranges.parse(wanted, size_bytes)
    return None if found is None else ranges.merged(found)


@functools.lru_cache(maxsize=1024)  # it depends on nothing else, and takes as long as sending a short file
def _whole(content: Content) -> _Body:
    length = {
        "Content-Length": str(content.size_bytes),
        "Content-Digest": digests.format_field(content.digest),
    }
    pieces = (ranges.Span(0, content.size_bytes),) if content.size_bytes else ()
    return _Body(200, pieces, {**_headers(content), **length})


def _parts(content: Content, spans: tuple[ranges.Span, ...]) -> _Body:
    headers, size_bytes = _headers(content), content.size_bytes
    if len(spans) == 1:
        span = spans[0]
        part = {"Content-Length": str(span.count), "Content-Range": span.content_range(size_bytes)}
        return _Body(206, spans, {**headers, **part})
    boundary = secrets.token_hex(_BOUNDARY_BYTES)
    frames = ranges.multipart(spans, size_bytes, headers["Content-Type"], boundary)
    kind, length = f"multipart/byteranges; boundary={boundary}", str(ranges.length(frames))
    return _Body(206, frames, {**headers, "Content-Type": kind, "Content-Length": length})


async def _link(ports: deps.Ports, caller: deps.Caller, content: Content) -> Response | None:
    url = await ports.store.link(caller.tenant_uid, content.digest, LINK_SECONDS)
    if url is None:
        return None
    ports.instruments.redirects.inc()
    return Response(
        status_code=307,
        headers={"Location": url, "Cache-Control": "no-store", "Referrer-Policy": "no-referrer"},
    )


async def _sent(ports: deps.Ports, payload: store_ports.Payload, content: Content, body: _Body) -> Response:
    if payload.size_bytes != content.size_bytes:
        await payload.aclose()
        raise store_ports.BlobDamagedError("the blob has another size than was recorded")
    return streams.PayloadResponse(
        payload,
        body.pieces,
        status_code=body.status,
        raw_headers=body.raw_headers,
        count_sent=ports.instruments.count_zerocopy,
    )


async def _streamed(ports: deps.Ports, caller: deps.Caller, content: Content, body: _Body) -> Response:
    chunks = _read(ports, caller, content, body.pieces)
    if body.status == 200:
        chunks = _verified(chunks, content)
    first = await streams.primed(_told(ports, chunks, content))
    return streams.StreamedResponse(first, status_code=body.status, headers=body.headers)


async def _read(
    ports: deps.Ports, caller: deps.Caller, content: Content, pieces: streams.Pieces
) -> AsyncGenerator[streams.Chunk, None]:
    """Yield the body at the client's pace; the store reads one window ahead at most."""
    for piece in pieces:
        if isinstance(piece, bytes):
            yield piece
            continue
        chunks = ports.store.stream(caller.tenant_uid, content.digest, offset=piece.offset, count=piece.count)
        try:
            async for chunk in chunks:
                yield chunk
                ports.instruments.count_stream(len(chunk))
        finally:
            await streams.close(chunks)


async def _verified(
    chunks: AsyncGenerator[streams.Chunk, None], content: Content
) -> AsyncGenerator[streams.Chunk, None]:
    """Yield a whole payload, the last chunk only once all of it hashes to its digest.

    Raises:
        BlobDamagedError: it does not; the answer then ends before its `Content-Length`.
    """
    sha256, left_bytes = hashlib.sha256(), content.size_bytes
    async with contextlib.aclosing(chunks):
        async for chunk in chunks:
            await asyncio.to_thread(sha256.update, chunk)
            left_bytes -= len(chunk)
            found = f"{digests.ALGORITHM}:{sha256.hexdigest()}" if left_bytes <= 0 else content.digest
            if not digests.equal(found, content.digest):
                raise store_ports.BlobDamagedError("the stored bytes do not match their digest")
            yield chunk


async def _told(
    ports: deps.Ports, chunks: AsyncGenerator[streams.Chunk, None], content: Content
) -> AsyncGenerator[streams.Chunk, None]:
    """Yield the body; that its bytes are bad is noted also when the head has been sent."""
    async with contextlib.aclosing(chunks):
        try:
            async for chunk in chunks:
                yield chunk
        except (store_ports.BlobNotFoundError, store_ports.BlobDamagedError):
            await suspects.tell(ports, content.owner)
            raise


def _headers(content: Content) -> dict[str, str]:
    return {
        **immutable(content.digest, etags.strong(content.digest)),
        "Content-Type": fields.safe_media_type(content.media_type),
        "Content-Disposition": dispositions.attachment(content.file_name),
        "Content-Security-Policy": "sandbox; default-src 'none'",
        "Accept-Ranges": "bytes",
    }


def immutable(digest: str, etag: str) -> dict[str, str]:
    """Return the headers of bytes that their digest names."""
    return {
        "ETag": etag,
        "Repr-Digest": digests.format_field(digest),
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": answers.REVALIDATE,
        "Vary": answers.VARY,
    }
