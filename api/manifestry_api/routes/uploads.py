"""Resumable uploads: begin one for an artifact, append to it by offset, ask how far it is, give it up.

References: draft-ietf-httpbis-resumable-upload.
"""

from typing import Annotated, Any

from fastapi import Depends
from starlette.requests import Request
from starlette.responses import Response

from manifestry.core.access import permissions
from manifestry.core.artifacts import uploads as rules
from manifestry_api.artifacts import session_states, sessions
from manifestry_api.guard import deps
from manifestry_api.objects import answers, lookups, views

router = deps.api_router(tags=["uploads"])

Writer = Annotated[deps.Caller, Depends(deps.require(permissions.Action.ARTIFACTS_WRITE))]

_INTEGER = {"type": "integer", "minimum": 0}
_BOOLEAN = {"type": "string", "enum": ["?0", "?1"]}
_OFFSET = answers.header("Where the stored bytes end, and the next ones must begin.", "1048576")
_STATE: dict[str, Any] = {
    "Upload-Offset": _OFFSET,
    "Upload-Complete": answers.header("`?1` once the artifact has the bytes.", "?0"),
    "Upload-Length": answers.header("The whole size, if it is known.", "5242880"),
    "Upload-Limit": answers.header(
        "`max-size`: the largest upload; `max-age`: seconds without a piece after which it is removed.",
        "max-size=5368709120, max-age=86400",
    ),
}


def _with_offset(status: int, description: str) -> answers.Documented:
    found = answers.refusal(status, description)
    found[status]["headers"] = {"Upload-Offset": _OFFSET}
    return found


_BEGUN: answers.Documented = {
    201: {
        "description": "Begun.",
        "model": views.UploadView,
        "headers": {**answers.LOCATION, **_STATE},
    },
    **answers.refusal(409, "The artifact takes no upload, or has its payload already"),
    **answers.refusal(429, "The tenant has too many unfinished uploads, or its storage quota is used up"),
    **answers.refusal(507, "The object store is full"),
}
_BEGINNING: dict[str, Any] = {
    "parameters": [
        answers.parameter("Upload-Length", "The whole size in bytes, if it is known.", **_INTEGER),
        answers.parameter("Upload-Complete", "`?0`: the bytes come by PATCH.", **_BOOLEAN),
        answers.parameter("Repr-Digest", "sha-256 of the whole payload (RFC 9530), verified at the end."),
    ]
}


@router.post("/artifacts/{name}/uploads", status_code=201, responses=_BEGUN, openapi_extra=_BEGINNING)
async def create_upload(name: str, request: Request, ports: deps.PortsDep, caller: Writer) -> Response:
    """Begin a resumable upload of an artifact's payload; it survives any restart of ours."""
    return await _begin(name, "", request, ports, caller)


@router.post(
    "/artifacts/{name}/files/{file}/uploads", status_code=201, responses=_BEGUN, openapi_extra=_BEGINNING
)
async def create_file_upload(
    name: str, file: str, request: Request, ports: deps.PortsDep, caller: Writer
) -> Response:
    """Begin a resumable upload of one file of an artifact."""
    return await _begin(name, file, request, ports, caller)


async def _begin(name: str, file: str, request: Request, ports: deps.Ports, caller: deps.Caller) -> Response:
    artifact = await lookups.find_live(ports, caller, ports.caches.artifacts, name)
    session = await sessions.create(ports, caller, artifact, request, file)
    content = session_states.representation(ports, caller, session)
    return answers.json(content, 201, session_states.created_headers(ports, session))


@router.head(
    "/uploads/{uid}",
    status_code=204,
    response_class=Response,
    responses={204: {"description": "How far the upload is.", "headers": _STATE}},
)
async def head_upload(uid: str, ports: deps.PortsDep, caller: Writer) -> Response:
    """Show where to go on: every byte before `Upload-Offset` is durable."""
    found = await session_states.find(ports, caller, uid)
    return Response(status_code=204, headers=session_states.state_headers(ports, found))


@router.patch(
    "/uploads/{uid}",
    status_code=200,
    responses={
        200: {
            "description": "Complete, verified and stored.",
            "model": views.ArtifactView,
            "headers": _STATE,
        },
        202: {
            "description": "Complete; the artifact is not ready within the time to wait.",
            "model": views.ArtifactView,
            "headers": _STATE,
        },
        204: {"description": "Durable; the upload is not complete yet.", "headers": _STATE},
        **_with_offset(409, "The bytes do not begin where the stored ones end"),
        **_with_offset(416, "The bytes lie outside of the upload"),
        **answers.refusal(415, "`Content-Type` is not `application/partial-upload`"),
        **answers.refusal(507, "The object store is full"),
    },
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {rules.MEDIA_TYPE: {"schema": {"type": "string", "format": "binary"}}},
        },
        "parameters": [
            {**answers.parameter("Upload-Offset", "Where these bytes begin.", **_INTEGER), "required": True},
            {
                **answers.parameter("Upload-Complete", "`?1` with the last bytes.", **_BOOLEAN),
                "required": True,
            },
            answers.parameter("Content-Digest", "sha-256 of these bytes (RFC 9530), verified."),
            answers.parameter("Repr-Digest", "sha-256 of the whole payload (RFC 9530), with the last bytes."),
            answers.PREFER,
        ],
    },
)
async def append_upload(uid: str, request: Request, ports: deps.PortsDep, caller: Writer) -> Response:
    """Append bytes; with the last ones the payload is verified, published and the artifact becomes ready."""
    found = await session_states.find(ports, caller, uid)
    return await sessions.append(ports, caller, found, request)


@router.delete(
    "/uploads/{uid}",
    status_code=204,
    response_class=Response,
    responses={204: {"description": "Given up; its bytes are gone."}},
)
async def delete_upload(uid: str, ports: deps.PortsDep, caller: Writer) -> Response:
    """Give an upload up; the artifact goes on waiting for another one."""
    found = await session_states.find(ports, caller, uid)
    await sessions.abort(ports, caller, found)
    return Response(status_code=204)
