"""Jobs: submit, list, read, control, delete. The output is in `logs`."""

from typing import Annotated

from fastapi import Depends, Query
from starlette.requests import Request
from starlette.responses import Response

from manifestry.adapters import cluster
from manifestry.core import access, controls, errors, pages
from manifestry.core import jobs as core_jobs
from manifestry_api import (
    answers,
    bodies,
    deps,
    lookups,
    refusals,
    representations,
    schemas,
    submissions,
    views,
    waiting,
)

router = deps.api_router(tags=["jobs"])

Reader = Annotated[deps.Caller, Depends(deps.require(access.Action.JOBS_READ))]
Submitter = Annotated[deps.Caller, Depends(deps.require(access.Action.JOBS_SUBMIT))]
Controller = Annotated[deps.Caller, Depends(deps.require(access.Action.JOBS_CONTROL))]
Deleter = Annotated[deps.Caller, Depends(deps.require(access.Action.JOBS_DELETE))]

REPLAYED = "Idempotency-Replayed"
_SUBMITTED: answers.Documented = {
    200: {"description": "`dryRun=true`: nothing was created.", "model": views.DryRunView},
    202: {
        "description": "Accepted; the same answer for a replay.",
        "model": views.JobView,
        "headers": {**answers.LOCATION, REPLAYED: answers.header("`true` on a replay.", "true")},
    },
    **answers.refusal(409, "A job of this name exists"),
    **answers.refusal(415, "The body is not JSON"),
}
_ACCEPTED: answers.Documented = {
    202: {"description": "Accepted.", "model": views.JobView},
    **answers.refusal(409, "Not legal in the job's state"),
}
_KEY = answers.parameter(
    "Idempotency-Key",
    "A replay with the same key gives the same job for as long as the job exists; the same key with another "
    "body is 422. Keys belong to the actor.",
    type="string",
    minLength=1,
    maxLength=submissions.KEY_MAX_LENGTH,
)


@router.post(
    "/jobs",
    status_code=202,
    responses=_SUBMITTED,
    openapi_extra={**bodies.openapi(schemas.JobCreate), "parameters": [_KEY]},
)
async def create_job(
    request: Request, ports: deps.PortsDep, caller: Submitter, query: Annotated[schemas.SubmitQuery, Query()]
) -> Response:
    """Submit a job: its parameters are checked against the job type's schema, then the quota decides."""
    key = submissions.parse_key(request.headers.getlist("idempotency-key"))
    wanted = await bodies.read(request, schemas.JobCreate, ports.settings.max_body_bytes)
    body = wanted.model_dump(by_alias=True, exclude_none=True)
    submission = await submissions.prepare(ports, caller, body, None if query.dry_run else key)
    if query.dry_run:
        return answers.json(await submissions.rehearse(ports, caller, submission))
    found, is_replay = await submissions.submit(ports, caller, submission)
    headers = {REPLAYED: "true"} if is_replay else {}
    return _accepted(found, caller, headers)


def _accepted(found: lookups.Object, caller: deps.Caller, headers: dict[str, str] | None = None) -> Response:
    content = representations.job(found, caller.tenant)
    located = {"Location": content["links"]["self"], "ETag": representations.etag(found)}
    return answers.json(content, 202, {**located, **(headers or {})})


@router.get("/jobs", responses={200: {"model": views.JobPage}})
async def list_jobs(
    ports: deps.PortsDep, caller: Reader, query: Annotated[schemas.JobQuery, Query()]
) -> Response:
    """List the tenant's jobs, newest first, in pages that stay stable while jobs come and go."""
    filters = query.model_dump(by_alias=True, exclude={"limit", "token"}, exclude_none=True)
    found = (body for body in lookups.of_tenant(ports.caches.jobs, caller) if _matches(body, filters))
    asked = pages.Query(query.limit, query.token, {"list": "jobs", "tenant": caller.tenant, **filters})
    page = pages.take(found, pages.newest_first, asked, ports.clock())
    items = [representations.job_summary(body, caller.tenant) for body in page.items]
    return answers.json(representations.page(items, page.token))


def _matches(body: lookups.Object, filters: dict[str, str]) -> bool:
    spec = body.get("spec") or {}
    if any(spec.get(name) != filters[name] for name in ("jobType", "project") if name in filters):
        return False
    return "status" not in filters or core_jobs.rest_status(body) == filters["status"]


@router.get(
    "/jobs/{name}",
    responses={200: {"model": views.JobView, "headers": answers.ETAG}, **answers.NOT_MODIFIED},
    openapi_extra={"parameters": [answers.IF_NONE_MATCH]},
)
async def get_job(name: str, request: Request, ports: deps.PortsDep, caller: Reader) -> Response:
    """Show one job: its state, times, exit code and conditions."""
    found = await lookups.find(ports, caller, ports.caches.jobs, name)
    return answers.conditional(
        request, representations.job(found, caller.tenant), representations.etag(found)
    )


@router.post("/jobs/{name}/cancel", status_code=202, responses=_ACCEPTED)
async def cancel_job(name: str, ports: deps.PortsDep, caller: Controller) -> Response:
    """Cancel a job for good: it is taken from the queue, or its pods are ended."""
    return await _control(ports, caller, name, controls.Control.CANCEL)


@router.post("/jobs/{name}/suspend", status_code=202, responses=_ACCEPTED)
async def suspend_job(name: str, ports: deps.PortsDep, caller: Controller) -> Response:
    """Suspend a job: its pods are ended and its slot is given to others."""
    return await _control(ports, caller, name, controls.Control.SUSPEND)


@router.post("/jobs/{name}/resume", status_code=202, responses=_ACCEPTED)
async def resume_job(name: str, ports: deps.PortsDep, caller: Controller) -> Response:
    """Resume a suspended job: it queues again."""
    return await _control(ports, caller, name, controls.Control.RESUME)


async def _control(ports: deps.Ports, caller: deps.Caller, name: str, control: controls.Control) -> Response:
    found = await lookups.find_live(ports, caller, ports.caches.jobs, name)
    desired = (found.get("spec") or {}).get("desiredState", "Active")
    wanted = controls.decide(control, desired, core_jobs.rest_status(found))
    if wanted is None:
        return _accepted(found, caller)
    change = {"spec": {"desiredState": wanted}}
    try:
        patched = await lookups.patch(ports, caller, ports.caches.jobs, name, change)
    except cluster.InvalidError as error:  # cancelled by somebody else in between: one-way by CEL
        raise errors.Problem(errors.CONFLICT, refusals.from_api(error).detail) from None
    return _accepted(patched, caller)


@router.delete(
    "/jobs/{name}",
    status_code=202,
    response_class=Response,
    responses={202: {"description": "Being deleted; its pods are ended, then its place is given to others."}},
)
async def delete_job(name: str, ports: deps.PortsDep, caller: Deleter) -> Response:
    """Delete a job with its batch Job and pods."""
    found = await lookups.find_live(ports, caller, ports.caches.jobs, name)
    await lookups.delete(ports, caller, ports.caches.jobs, found)
    await waiting.until_gone(ports.caches.jobs, found, representations.is_deleting)
    return Response(status_code=202)
