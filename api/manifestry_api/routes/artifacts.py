"""Artifacts: create, list, read, change, delete. The bytes are in `contents`."""

from typing import Annotated

from fastapi import Depends, Query
from starlette.requests import Request
from starlette.responses import Response

from manifestry.core import errors
from manifestry.core.access import permissions
from manifestry.core.artifacts import changes, requests
from manifestry.core.jobs import inputs
from manifestry.core.kube import names
from manifestry_api.artifacts import creations, updates
from manifestry_api.guard import deps
from manifestry_api.objects import answers, listings, lookups, representations, schemas, views, waiting
from manifestry_api.request import bodies
from manifestry_api.routes import contents, manifests

router = deps.api_router(tags=["artifacts"])
router.include_router(contents.router)
router.include_router(manifests.router)

Reader = Annotated[deps.Caller, Depends(deps.require(permissions.Action.ARTIFACTS_READ))]
Writer = Annotated[deps.Caller, Depends(deps.require(permissions.Action.ARTIFACTS_WRITE))]
Deleter = Annotated[deps.Caller, Depends(deps.require(permissions.Action.ARTIFACTS_DELETE))]

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
    **answers.refusal(409, "An artifact of this name exists", errors.ALREADY_EXISTS),
    **answers.refusal(415, "The body is not JSON"),
    **answers.refusal(429, "The tenant's storage quota is used up"),
}
_CHANGED: answers.Documented = {
    200: {
        "description": "Changed, and the manifest says so; or it was so already.",
        "model": views.ArtifactView,
        "headers": {**answers.APPLIED, **answers.ETAG},
    },
    202: {
        "description": "Changed; the manifest did not follow within the time to wait.",
        "model": views.ArtifactView,
        "headers": {**answers.APPLIED, **answers.ETAG},
    },
    **answers.PRECONDITION,
    **answers.refusal(415, "The body is of another media type"),
}
_DELETED: answers.Documented = {
    204: {"description": "Deleted."},
    **answers.refusal(409, "The artifact is protected, or a job that has not ended uses it"),
    **answers.PRECONDITION,
}
_CONDITIONS = [answers.IF_MATCH, answers.IF_NONE_MATCH]
USERS_SHOWN = 3


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
    requests.check_source(body)
    changes.check_labels({}, body.get("labels") or {})
    resource = requests.artifact(body, caller.namespace, lookups.provenance(caller))
    created = await creations.create(ports, caller, resource)
    preferred = waiting.preference(request.headers.getlist("prefer"), ports.settings.wait_seconds)
    seconds = 0.0 if requests.awaits_upload(body) else preferred.wait_seconds
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


@router.get(
    "/artifacts",
    responses={200: {"model": views.ArtifactPage}, **answers.EXPIRED},
)
async def list_artifacts(
    ports: deps.PortsDep, caller: Reader, query: Annotated[schemas.ArtifactQuery, Query()]
) -> Response:
    """List the tenant's artifacts, newest first, in pages that stay stable while artifacts come and go."""
    cache = ports.caches.artifacts
    page = listings.take(ports, caller, cache, query, lambda body: _matches(body, query))
    items = [representations.artifact_summary(body, caller.tenant) for body in page.items]
    return answers.json(representations.page(items, page.token))


def _matches(body: lookups.Object, query: schemas.ArtifactQuery) -> bool:
    return (
        (query.media_type is None or body["spec"].get("mediaType") == query.media_type)
        and (query.digest is None or query.digest in _digests(body))
        and (query.status is None or representations.artifact_status(body) == query.status)
    )


def _digests(body: lookups.Object) -> set[str]:
    status = body.get("status") or {}
    return {each.get("digest", "") for each in (status.get("artifact") or {}, *(status.get("files") or ()))}


@router.head(
    "/artifacts/{name}",
    response_class=Response,
    responses={
        200: {"description": "The artifact's headers.", "headers": answers.ETAG},
        **answers.NOT_MODIFIED,
        **answers.PRECONDITION,
    },
    openapi_extra={"parameters": _CONDITIONS},
)
@router.get(
    "/artifacts/{name}",
    responses={
        200: {"model": views.ArtifactView, "headers": answers.ETAG},
        **answers.NOT_MODIFIED,
        **answers.PRECONDITION,
    },
    openapi_extra={"parameters": _CONDITIONS},
)
async def get_artifact(name: str, request: Request, ports: deps.PortsDep, caller: Reader) -> Response:
    """Show one artifact: its state, digest, manifest pointer and conditions."""
    found = await lookups.find(ports, caller, ports.caches.artifacts, name)
    content = representations.artifact(found, caller.tenant)
    return answers.conditional(request, content, representations.etag(found))


@router.patch(
    "/artifacts/{name}",
    responses=_CHANGED,
    openapi_extra={
        **bodies.openapi(schemas.ArtifactUpdate, bodies.MERGE_PATCH),
        "parameters": [*_CONDITIONS, answers.PREFER],
    },
)
async def patch_artifact(name: str, request: Request, ports: deps.PortsDep, caller: Writer) -> Response:
    """Change metadata by a JSON merge patch (RFC 7396): `null` removes, what is left out stays."""
    bodies.check_media_type(request, bodies.MERGE_PATCH)
    changed = await updates.apply(ports, caller, name, request, changes.patched)
    return await _changed(changed, request, ports, caller)


@router.put(
    "/artifacts/{name}",
    responses=_CHANGED,
    openapi_extra={
        **bodies.openapi(schemas.ArtifactUpdate),
        "parameters": [*_CONDITIONS, answers.PREFER],
    },
)
async def put_artifact(name: str, request: Request, ports: deps.PortsDep, caller: Writer) -> Response:
    """Replace metadata: what is left out goes, only `labels` stay. The answer of a GET may be sent back."""
    bodies.check_media_type(request)
    changed = await updates.apply(ports, caller, name, request, changes.replaced)
    return await _changed(changed, request, ports, caller)


async def _changed(
    body: lookups.Object, request: Request, ports: deps.Ports, caller: deps.Caller
) -> Response:
    preferred = waiting.preference(request.headers.getlist("prefer"), ports.settings.wait_seconds)
    found = await waiting.until(
        ports, ports.caches.artifacts, body, representations.is_observed, preferred.wait_seconds
    )
    headers = {"ETag": representations.etag(found), **preferred.headers}
    content = representations.artifact(found, caller.tenant)
    return answers.json(content, 200 if representations.is_observed(found) else 202, headers)


@router.delete(
    "/artifacts/{name}",
    status_code=204,
    response_class=Response,
    responses=_DELETED,
    openapi_extra={"parameters": _CONDITIONS},
)
async def delete_artifact(name: str, request: Request, ports: deps.PortsDep, caller: Deleter) -> Response:
    """Delete the reference; the bytes go when nothing refers to them, or never (`deletionPolicy: Retain`)."""
    found = await lookups.find_live(ports, caller, ports.caches.artifacts, name)
    _check_deletable(ports, found)
    answers.check_preconditions(request, representations.etag(found))
    await lookups.delete(
        ports, caller, ports.caches.artifacts, found, only_this_version=answers.is_conditional(request)
    )
    await waiting.until_gone(ports.caches.artifacts, found, representations.is_deleting)
    return Response(status_code=204)


def _check_deletable(ports: deps.Ports, body: lookups.Object) -> None:
    metadata = body["metadata"]
    if (metadata.get("labels") or {}).get(names.PROTECTED_LABEL) == "true":
        detail = f"the artifact must not be deleted while its label `{names.PROTECTED_LABEL}` is 'true'"
        raise errors.Problem(errors.CONFLICT, detail)
    users = ports.caches.jobs.select(inputs.in_use, (metadata["namespace"], metadata["name"]))
    found = [job["metadata"]["name"] for job in users if not representations.is_deleting(job)]
    if found:
        shown = ", ".join(f"'{name}'" for name in sorted(found)[:USERS_SHOWN])
        more = f" and {len(found) - USERS_SHOWN} more" if len(found) > USERS_SHOWN else ""
        raise errors.Problem(
            errors.CONFLICT, f"the artifact must not be deleted while a job uses it: {shown}{more}"
        )
