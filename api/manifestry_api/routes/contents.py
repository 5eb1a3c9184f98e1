"""The bytes of an artifact and its manifest: in by one streamed PUT, out with Range and validators."""

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import Depends
from starlette.requests import Request
from starlette.responses import Response

from manifestry.adapters import store
from manifestry.core import access, digests, dispositions, errors, etags, ranges
from manifestry_api import (
    answers,
    deps,
    fields,
    lookups,
    representations,
    streams,
    uploads,
    views,
    waiting,
)

router = deps.api_router(tags=["contents"])

Reader = Annotated[deps.Caller, Depends(deps.require(access.Action.ARTIFACTS_READ))]
Downloader = Annotated[deps.Caller, Depends(deps.require(access.Action.ARTIFACTS_DOWNLOAD))]
Writer = Annotated[deps.Caller, Depends(deps.require(access.Action.ARTIFACTS_WRITE))]

MANIFEST_MEDIA_TYPE = "application/vnd.oci.image.manifest.v1+json"
MANIFEST_MAX_BYTES = 4 << 20
_BINARY: dict[str, Any] = {"schema": {"type": "string", "format": "binary"}}
_PAYLOAD_HEADERS = {
    "ETag": answers.header("The payload's digest.", f'"sha256:{"0" * 64}"'),
    "Repr-Digest": answers.header("The payload's digest (RFC 9530).", "sha-256=:...:"),
    "Content-Disposition": answers.header("The stored file name.", 'attachment; filename="report.pdf"'),
    "Accept-Ranges": answers.header("Always `bytes`.", "bytes"),
}
_PAYLOAD: answers.Documented = {
    200: {
        "description": "The payload.",
        "content": {"application/octet-stream": _BINARY},
        "headers": _PAYLOAD_HEADERS,
    },
    206: {
        "description": "One part of the payload.",
        "content": {"application/octet-stream": _BINARY},
        "headers": {**_PAYLOAD_HEADERS, "Content-Range": answers.header("Which part.", "bytes 0-99/1234")},
    },
    304: {"description": "The client has this payload.", "headers": _PAYLOAD_HEADERS},
    **answers.refusal(409, "The artifact is not ready"),
    **answers.refusal(416, "The range begins after the last byte"),
}
_CONDITIONS = [
    answers.IF_NONE_MATCH,
    answers.parameter("Range", "One byte range (RFC 9110 section 14); several are answered with all bytes."),
    answers.parameter("If-Range", "The entity tag for which the range holds."),
]
_DIGEST_HEADERS = [
    answers.parameter("Content-Digest", "sha-256 of the body (RFC 9530), verified."),
    answers.parameter("Repr-Digest", "sha-256 of the payload (RFC 9530), verified."),
    answers.PREFER,
]


@router.put(
    "/artifacts/{name}/content",
    responses={
        200: {"description": "Stored and verified.", "model": views.ArtifactView},
        202: {"description": "Stored; not ready within the time to wait.", "model": views.ArtifactView},
        **answers.refusal(409, "The artifact takes no upload, or has other bytes already"),
        **answers.refusal(415, "`Content-Type` is not the artifact's media type"),
        **answers.refusal(507, "The object store is full"),
    },
    openapi_extra={
        "requestBody": {"required": True, "content": {"*/*": _BINARY}},
        "parameters": _DIGEST_HEADERS,
    },
)
async def put_content(name: str, request: Request, ports: deps.PortsDep, caller: Writer) -> Response:
    """Upload the payload: streamed, hashed, verified, and visible only when all of it is there."""
    found = await lookups.find_live(ports, caller, ports.caches.artifacts, name)
    stored = await uploads.receive(ports, caller, found, request)
    preferred = waiting.preference(request.headers.getlist("prefer"), ports.settings.wait_seconds)
    settled = await waiting.until(
        ports, ports.caches.artifacts, stored, representations.is_settled, preferred.wait_seconds
    )
    content = representations.artifact(settled, caller.tenant)
    headers = {
        "ETag": representations.etag(settled),
        "Content-Location": f"/artifacts/{name}",
        **preferred.headers,
    }
    return answers.json(content, 200 if content["status"] == representations.READY else 202, headers)


@router.get(
    "/artifacts/{name}/content",
    response_class=Response,
    responses=_PAYLOAD,
    openapi_extra={"parameters": _CONDITIONS},
)
async def get_content(name: str, request: Request, ports: deps.PortsDep, caller: Downloader) -> Response:
    """Download the payload, or one range of it."""
    found = _ready(await lookups.find(ports, caller, ports.caches.artifacts, name))
    digest, size_bytes = found["status"]["artifact"]["digest"], found["status"]["artifact"]["sizeBytes"]
    etag = etags.strong(digest)
    headers = _payload_headers(found, digest)
    if unchanged := answers.not_modified(request, etag):
        return unchanged
    span = _span(request, etag, size_bytes)
    if span is None:
        chunks = ports.store.stream(caller.tenant_uid, digest)
        return await _streamed(chunks, {**headers, "Content-Length": str(size_bytes)}, 200)
    chunks = ports.store.stream(caller.tenant_uid, digest, offset=span.offset, count=span.count)
    part = {"Content-Length": str(span.count), "Content-Range": span.content_range(size_bytes)}
    return await _streamed(chunks, headers | part, 206)


@router.head(
    "/artifacts/{name}/content",
    response_class=Response,
    responses={200: {"description": "The payload's headers.", "headers": _PAYLOAD_HEADERS}},
)
async def head_content(name: str, request: Request, ports: deps.PortsDep, caller: Downloader) -> Response:
    """Show the headers of the payload without its bytes."""
    found = _ready(await lookups.find(ports, caller, ports.caches.artifacts, name))
    stored = found["status"]["artifact"]
    if unchanged := answers.not_modified(request, etags.strong(stored["digest"])):
        return unchanged
    headers = {**_payload_headers(found, stored["digest"]), "Content-Length": str(stored["sizeBytes"])}
    return Response(headers=headers)


@router.get(
    "/artifacts/{name}/manifest",
    response_class=Response,
    responses={
        200: {
            "description": "The canonical manifest; its digest is the manifest pointer.",
            "content": {MANIFEST_MEDIA_TYPE: {"schema": {"type": "object"}}},
            "headers": {key: _PAYLOAD_HEADERS[key] for key in ("ETag", "Repr-Digest")},
        },
        **answers.NOT_MODIFIED,
    },
    openapi_extra={"parameters": [answers.IF_NONE_MATCH]},
)
async def get_manifest(name: str, request: Request, ports: deps.PortsDep, caller: Reader) -> Response:
    """Read the OCI image manifest, byte for byte as it was hashed."""
    found = _ready(await lookups.find(ports, caller, ports.caches.artifacts, name))
    digest = found["status"]["manifest"]["digest"]
    if unchanged := answers.not_modified(request, etags.strong(digest)):
        return unchanged
    content = await ports.store.read(caller.tenant_uid, digest, limit_bytes=MANIFEST_MAX_BYTES)
    return Response(content, headers={**_immutable(digest), "Content-Type": MANIFEST_MEDIA_TYPE})


def _ready(body: lookups.Object) -> lookups.Object:
    status = representations.artifact_status(body)
    parts = body.get("status") or {}
    if status == representations.READY and parts.get("artifact") and parts.get("manifest"):
        return body
    shown = representations.not_ready_reason(body)
    raise errors.Problem(errors.CONFLICT, f"the artifact is {status}{shown}")


def _span(request: Request, etag: str, size_bytes: int) -> ranges.Span | None:
    if not etags.if_range_holds(request.headers.get("if-range"), etag):
        return None
    return ranges.single(ranges.parse(request.headers.get("range"), size_bytes))


def _payload_headers(body: lookups.Object, digest: str) -> dict[str, str]:
    spec = body["spec"]
    return {
        **_immutable(digest),
        "Content-Type": fields.safe_media_type(spec.get("mediaType", "")),
        "Content-Disposition": dispositions.attachment(spec.get("fileName") or body["metadata"]["name"]),
        "Content-Security-Policy": "sandbox; default-src 'none'",
        "Accept-Ranges": "bytes",
    }


def _immutable(digest: str) -> dict[str, str]:
    return {
        "ETag": etags.strong(digest),
        "Repr-Digest": digests.format_field(digest),
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": answers.REVALIDATE,
        "Vary": answers.VARY,
    }


async def _streamed(chunks: streams.Chunks, headers: Mapping[str, str], status: int) -> Response:
    try:
        primed = await streams.primed(chunks)
    except store.BlobNotFoundError as error:
        raise errors.Problem(errors.INTERNAL, "the stored bytes of this artifact are missing") from error
    return streams.StreamedResponse(primed, status_code=status, headers=headers)
