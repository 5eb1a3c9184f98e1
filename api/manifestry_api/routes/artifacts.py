"""Artifacts: create, list, read, delete. The bytes are in `contents`."""

from typing import Annotated

from fastapi import Depends, Query
from starlette.requests import Request
from starlette.responses import Response

from manifestry.core import access, errors, names, pages, requests
from manifestry_api import answers, bodies, deps, lookups, representations, schemas, views, waiting
from manifestry_api.routes import contents

router = deps.api_router(tags=["artifacts"])
router.include_router(contents.router)

Reader = Annotated[deps.Caller, Depends(deps.require(access.Action.ARTIFACTS_READ))]
Writer = Annotated[deps.Caller, Depends(deps.require(access.Action.ARTIFACTS_WRITE))]
Deleter = Annotated[deps.Caller, Depends(deps.require(access.Action.ARTIFACTS_DELETE))]

_CREATED: answers.Documented = {
    201: {
        "description": "Stored and verified.",
        "model": views.ArtifactView,
        "headers": {**answers.LOCATION, **answers.APPLIED, **answers.ETAG},
    },
    202: {
        "description": "Accepted; awaiting its upload, or not ready within the time to wait.",
        "model": views.ArtifactView,
        "headers": {**answers.LOCATION, **answers.APPLIED, **answers.ETAG},
    },
    **answers.refusal(409, "An artifact of this name exists"),
    **answers.refusal(415, "The body is not JSON"),
}
_DELETED: answers.Documented = {
    204: {"description": "Deleted."},
    **answers.refusal(409, "The artifact is protected"),
}


@router.post(
    "/artifacts",
    status_code=201,
    responses=_CREATED,
    openapi_extra={**bodies.openapi(schemas.ArtifactCreate), "parameters": [answers.PREFER]},
)
async def create_artifact(request: Request, ports: deps.PortsDep, caller: Writer) -> Response:
    """Create an artifact; inline bytes must fit `digest` and `sizeBytes`, or nothing is created."""
    wanted = await bodies.read(request, schemas.ArtifactCreate, ports.settings.max_body_bytes)
    body = wanted.model_dump(by_alias=True, exclude_none=True)
    source = requests.check_source(body)
    resource = requests.artifact(body, caller.namespace, lookups.provenance(caller))
    created = await lookups.create(ports, caller, ports.caches.artifacts, resource)
    preferred = waiting.preference(request.headers.getlist("prefer"), ports.settings.wait_seconds)
    seconds = 0.0 if source == "upload" else preferred.wait_seconds
    found = await waiting.until(ports, ports.caches.artifacts, created, representations.is_settled, seconds)
    return _created(found, caller, preferred)


def _created(found: lookups.Object, caller: deps.Caller, preferred: waiting.Preference) -> Response:
    content = representations.artifact(found, caller.tenant)
    headers = {
        "Location": content["links"]["self"],
        "ETag": representations.etag(found),
        **preferred.headers,
    }
    return answers.json(content, 201 if content["status"] == representations.READY else 202, headers)


@router.get("/artifacts", responses={200: {"model": views.ArtifactPage}})
async def list_artifacts(
    ports: deps.PortsDep, caller: Reader, query: Annotated[schemas.ArtifactQuery, Query()]
) -> Response:
    """List the tenant's artifacts, newest first, in pages that stay stable while artifacts come and go."""
    filters = query.model_dump(by_alias=True, exclude={"limit", "token"}, exclude_none=True)
    found = (body for body in lookups.of_tenant(ports.caches.artifacts, caller) if _matches(body, filters))
    asked = pages.Query(query.limit, query.token, {"list": "artifacts", "tenant": caller.tenant, **filters})
    page = pages.take(found, pages.newest_first, asked, ports.clock())
    items = [representations.artifact_summary(body, caller.tenant) for body in page.items]
    return answers.json(representations.page(items, page.token))


def _matches(body: lookups.Object, filters: dict[str, str]) -> bool:
    spec = body.get("spec") or {}
    stored = (body.get("status") or {}).get("artifact") or {}
    actual = {
        "name": body["metadata"]["name"],
        "project": spec.get("project"),
        "mediaType": spec.get("mediaType"),
        "digest": stored.get("digest"),
    }
    if "status" in filters and representations.artifact_status(body) != filters["status"]:
        return False
    return all(actual[name] == value for name, value in filters.items() if name in actual)


@router.get(
    "/artifacts/{name}",
    responses={200: {"model": views.ArtifactView, "headers": answers.ETAG}, **answers.NOT_MODIFIED},
    openapi_extra={"parameters": [answers.IF_NONE_MATCH]},
)
async def get_artifact(name: str, request: Request, ports: deps.PortsDep, caller: Reader) -> Response:
    """Show one artifact: its state, digest, manifest pointer and conditions."""
    found = await lookups.find(ports, caller, ports.caches.artifacts, name)
    content = representations.artifact(found, caller.tenant)
    return answers.conditional(request, content, representations.etag(found))


@router.delete("/artifacts/{name}", status_code=204, response_class=Response, responses=_DELETED)
async def delete_artifact(name: str, ports: deps.PortsDep, caller: Deleter) -> Response:
    """Delete the reference; the bytes go when nothing refers to them, or never (`deletionPolicy: Retain`)."""
    found = await lookups.find_live(ports, caller, ports.caches.artifacts, name)
    _check_deletable(found)
    await lookups.delete(ports, caller, ports.caches.artifacts, found)
    await waiting.until_gone(ports.caches.artifacts, found, representations.is_deleting)
    return Response(status_code=204)


def _check_deletable(body: lookups.Object) -> None:
    labels = body["metadata"].get("labels") or {}
    if labels.get(names.PROTECTED_LABEL) == "true":
        detail = f"the artifact must not be deleted while its label `{names.PROTECTED_LABEL}` is 'true'"
        raise errors.Problem(errors.CONFLICT, detail)
