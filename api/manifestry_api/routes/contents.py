"""The bytes of an artifact and its manifest: in by one streamed PUT, out with ranges and validators."""

from typing import Annotated, Any

from fastapi import Depends
from starlette.requests import Request
from starlette.responses import Response

from manifestry.adapters.store.contract import ports as store_ports
from manifestry.core import errors
from manifestry.core.access import permissions
from manifestry.core.artifacts import manifests
from manifestry.core.http import etags
from manifestry_api.artifacts import downloads, suspects, uploads
from manifestry_api.guard import deps
from manifestry_api.objects import answers, lookups, representations, views

router = deps.api_router(tags=["contents"])

Reader = Annotated[deps.Caller, Depends(deps.require(permissions.Action.ARTIFACTS_READ))]
Downloader = Annotated[deps.Caller, Depends(deps.require(permissions.Action.ARTIFACTS_DOWNLOAD))]
Writer = Annotated[deps.Caller, Depends(deps.require(permissions.Action.ARTIFACTS_WRITE))]

_BINARY: dict[str, Any] = {"schema": {"type": "string", "format": "binary"}}
_PAYLOAD_HEADERS = {
    "ETag": answers.header("The payload's digest.", f'"sha256:{"0" * 64}"'),
    "Repr-Digest": answers.header("The whole payload's digest (RFC 9530).", "sha-256=:...:"),
    "Content-Disposition": answers.header("The stored file name.", 'attachment; filename="report.pdf"'),
    "Accept-Ranges": answers.header("Always `bytes`.", "bytes"),
}
PAYLOAD: answers.Documented = {
    200: {
        "description": "The payload.",
        "content": {"*/*": _BINARY},
        "headers": _PAYLOAD_HEADERS,
    },
    206: {
        "description": "One part of the payload, or several with a frame around each.",
        "content": {"*/*": _BINARY, "multipart/byteranges": _BINARY},
        "headers": {
            **_PAYLOAD_HEADERS,
            "Content-Range": answers.header("Which part, when it is one.", "bytes 0-99/1234"),
        },
    },
    304: {"description": "The client has this payload.", "headers": _PAYLOAD_HEADERS},
    307: {
        "description": "Fetch it from the object store (only with `downloadRedirect`).",
        "headers": {"Location": answers.header("A signed link, good for five minutes.")},
    },
    **answers.PRECONDITION,
    **answers.refusal(409, "The artifact is not ready"),
    **answers.refusal(416, "The range begins after the last byte"),
}
HEADERS_ONLY: answers.Documented = {
    200: {"description": "The payload's headers.", "headers": _PAYLOAD_HEADERS},
    304: {"description": "The client has this payload.", "headers": _PAYLOAD_HEADERS},
    **answers.PRECONDITION,
    **answers.refusal(409, "The artifact is not ready"),
}
CONDITIONS = [
    answers.IF_MATCH,
    answers.IF_NONE_MATCH,
    answers.parameter("Range", "Up to 16 byte ranges (RFC 9110 section 14); of more, all bytes come."),
    answers.parameter("If-Range", "The entity tag for which the range holds."),
]
UPLOAD: dict[str, Any] = {
    "requestBody": {"required": True, "content": {"*/*": _BINARY}},
    "parameters": [
        answers.parameter("Content-Digest", "sha-256 of the body (RFC 9530), verified."),
        answers.parameter("Repr-Digest", "sha-256 of the payload (RFC 9530), verified."),
        answers.PREFER,
    ],
}
_STORED_HEADERS = {
    **answers.ETAG,
    **answers.APPLIED,
    "Content-Location": answers.header("The artifact that the answer shows.", "/artifacts/report-2026"),
}
UPLOADED: answers.Documented = {
    200: {"description": "Stored and verified.", "model": views.ArtifactView, "headers": _STORED_HEADERS},
    202: {
        "description": "Stored; not ready within the time to wait.",
        "model": views.ArtifactView,
        "headers": _STORED_HEADERS,
    },
    **answers.refusal(409, "The artifact takes no upload, or has other bytes already"),
    **answers.refusal(415, "`Content-Type` is not the artifact's media type"),
    **answers.refusal(429, "The tenant's storage quota is used up"),
    **answers.refusal(507, "The object store is full"),
}


@router.put(
    "/artifacts/{name}/content",
    responses=UPLOADED,
    openapi_extra=UPLOAD,
)
async def put_content(name: str, request: Request, ports: deps.PortsDep, caller: Writer) -> Response:
    """Upload the payload: streamed, hashed, verified, and visible only when all of it is there."""
    found = await lookups.find_live(ports, caller, ports.caches.artifacts, name)
    stored = await uploads.receive(ports, caller, found, request)
    return await uploads.answer(ports, caller, stored, request)


@router.get(
    "/artifacts/{name}/content",
    response_class=Response,
    responses=PAYLOAD,
    openapi_extra={"parameters": CONDITIONS},
)
async def get_content(name: str, request: Request, ports: deps.PortsDep, caller: Downloader) -> Response:
    """Download the payload, or some ranges of it."""
    found = ready(await lookups.find(ports, caller, ports.caches.artifacts, name))
    return await downloads.answer(ports, caller, request, _content(found))


@router.head(
    "/artifacts/{name}/content",
    response_class=Response,
    responses=HEADERS_ONLY,
    openapi_extra={"parameters": CONDITIONS[:2]},
)
async def head_content(name: str, request: Request, ports: deps.PortsDep, caller: Downloader) -> Response:
    """Show the headers of the payload without its bytes."""
    return await get_content(name, request, ports, caller)


SHORT = (get_content, head_content)


@router.get(
    "/artifacts/{name}/manifest",
    response_class=Response,
    responses={
        200: {
            "description": "The canonical manifest; its digest is the manifest pointer.",
            "content": {manifests.MEDIA_TYPE: {"schema": {"type": "object"}}},
            "headers": {key: _PAYLOAD_HEADERS[key] for key in ("ETag", "Repr-Digest")},
        },
        **answers.NOT_MODIFIED,
        **answers.PRECONDITION,
        **answers.refusal(409, "The artifact is not ready"),
    },
    openapi_extra={"parameters": [answers.IF_MATCH, answers.IF_NONE_MATCH]},
)
async def get_manifest(name: str, request: Request, ports: deps.PortsDep, caller: Reader) -> Response:
    """Read the OCI image manifest, byte for byte as it was hashed."""
    found = ready(await lookups.find(ports, caller, ports.caches.artifacts, name))
    digest = found["status"]["manifest"]["digest"]
    etag = etags.strong(digest)
    if unchanged := answers.not_modified(request, etag):
        return unchanged
    try:
        content = await ports.store.read(caller.tenant_uid, digest, limit_bytes=manifests.MAX_BYTES)
    except (store_ports.BlobNotFoundError, store_ports.BlobDamagedError) as error:
        await suspects.tell(ports, suspects.of(found))
        raise errors.Problem(
            errors.INTERNAL, "the stored bytes of this manifest are missing or damaged"
        ) from error
    headers = {**downloads.immutable(digest, etag), "Content-Type": manifests.MEDIA_TYPE}
    return Response(content, headers=headers)


def ready(body: lookups.Object) -> lookups.Object:
    """Return an artifact whose bytes are all there.

    Raises:
        Problem: conflict.
    """
    status = representations.artifact_status(body)
    parts = body.get("status") or {}
    if status == representations.READY and parts.get("manifest"):
        return body
    shown = representations.not_ready_reason(body)
    raise errors.Problem(errors.CONFLICT, f"the artifact is {status}{shown}")


def _content(body: lookups.Object) -> downloads.Content:
    if "files" in body["spec"]:
        detail = "the artifact has `files`: each has its content at '/artifacts/{name}/files/{file}/content'"
        raise errors.Problem(errors.CONFLICT, detail)
    spec, stored = body["spec"], body["status"]["artifact"]
    return downloads.Content(
        stored["digest"],
        stored["sizeBytes"],
        spec.get("mediaType", ""),
        spec.get("fileName") or body["metadata"]["name"],
        suspects.of(body),
    )
