"""The files of an artifact that has several: each is uploaded and downloaded like a payload of its own."""

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from manifestry.core import errors
from manifestry_api.artifacts import downloads, suspects, uploads
from manifestry_api.guard import deps
from manifestry_api.objects import lookups
from manifestry_api.routes import contents

router: APIRouter = deps.api_router(tags=["contents"])


@router.put(
    "/artifacts/{name}/files/{file}/content", responses=contents.UPLOADED, openapi_extra=contents.UPLOAD
)
async def put_file(
    name: str, file: str, request: Request, ports: deps.PortsDep, caller: contents.Writer
) -> Response:
    """Upload one file; the artifact is ready when it has all of them."""
    found = await lookups.find_live(ports, caller, ports.caches.artifacts, name)
    stored = await uploads.receive(ports, caller, found, request, file)
    return await uploads.answer(ports, caller, stored, request)


@router.get(
    "/artifacts/{name}/files/{file}/content",
    response_class=Response,
    responses=contents.PAYLOAD,
    openapi_extra={"parameters": contents.CONDITIONS},
)
async def get_file(
    name: str, file: str, request: Request, ports: deps.PortsDep, caller: contents.Downloader
) -> Response:
    """Download one file, or some ranges of it."""
    found = await lookups.find(ports, caller, ports.caches.artifacts, name)
    return await downloads.answer(ports, caller, request, _content(found, file))


@router.head(
    "/artifacts/{name}/files/{file}/content",
    response_class=Response,
    responses=contents.HEADERS_ONLY,
    openapi_extra={"parameters": contents.CONDITIONS[:2]},
)
async def head_file(
    name: str, file: str, request: Request, ports: deps.PortsDep, caller: contents.Downloader
) -> Response:
    """Show the headers of one file without its bytes."""
    return await get_file(name, file, request, ports, caller)


def _content(body: lookups.Object, file: str) -> downloads.Content:
    spec = uploads.holder(body, file)  # whether there is such a file, before whether it is ready
    stored = {each["name"]: each for each in contents.ready(body)["status"].get("files") or ()}
    if file not in stored:
        raise errors.Problem(errors.CONFLICT, "the file is not stored yet")
    found = stored[file]
    return downloads.Content(
        found["digest"], found["sizeBytes"], spec.get("mediaType", ""), file, suspects.of(body)
    )
