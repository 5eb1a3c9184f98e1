"""Jobs: submit, list, read, control, delete. The output is in `logs`."""

from typing import Annotated

from fastapi import Depends, Query
from starlette.requests import Request
from starlette.responses import Response

from manifestry.adapters.kube import apierrors
from manifestry.core import errors
from manifestry.core.access import permissions
from manifestry.core.jobs import controls
from manifestry.core.jobs import statuses as core_jobs
from manifestry_api.guard import deps
from manifestry_api.jobs import submissions
from manifestry_api.objects import answers, listings, lookups, representations, schemas, views, waiting
from manifestry_api.request import bodies, refusals

router = deps.api_router(tags=["jobs"])

Reader = Annotated[deps.Caller, Depends(deps.require(permissions.Action.JOBS_READ))]
Submitter = Annotated[deps.Caller, Depends(deps.require(permissions.Action.JOBS_SUBMIT))]
Controller = Annotated[deps.Caller, Depends(deps.require(permissions.Action.JOBS_CONTROL))]
Deleter = Annotated[deps.Caller, Depends(deps.require(permissions.Action.JOBS_DELETE))]

REPLAYED = "Idempotency-Replayed"
_SUBMITTED: answers.Documented = {
    200: {"description": "`dryRun=true`: nothing was created.", "model": views.DryRunView},
    202: {
        "description": "Accepted; the same answer for a replay.",
        "model": views.JobView,
        "headers": {
            **answers.LOCATION,
            **answers.ETAG,
            REPLAYED: answers.header("`true` on a replay.", "true"),
        },
    },
    **answers.refusal(409, "A job of this name exists", errors.ALREADY_EXISTS),
    **answers.refusal(415, "The body is not JSON"),
}
_ACCEPTED: answers.Documented = {
    202: {
        "description": "Accepted.",
        "model": views.JobView,
        "headers": {**answers.LOCATION, **answers.ETAG},
    },
    **answers.refusal(409, "Not legal in the job's state"),
    **answers.PRECONDITION,
}
_CONDITIONS = [answers.IF_MATCH, answers.IF_NONE_MATCH]
_KEY = answers.parameter(
    "Idempotency-Key",
    "A replay with the same key gives the same job for as long as the job exists; the same key with another "
    "body is 422. Keys belong to the actor.",
    type="string",
    pattern="^[!-~]([ -~]*[!-~])?$",
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
    return _accepted(ports, found, caller, headers)


def _accepted(
    ports: deps.Ports, found: lookups.Object, caller: deps.Caller, headers: dict[str, str] | None = None
) -> Response:
    content = representations.job(found, caller.tenant, _type_of(ports, found))
    located = {"Location": content["links"]["self"], "ETag": _etag(ports, found)}
    return answers.json(content, 202, {**located, **(headers or {})})


def _type_of(ports: deps.Ports, job: lookups.Object) -> lookups.Object | None:
    return ports.caches.job_types.items.get(("", job["spec"].get("jobType", "")))


def _etag(ports: deps.Ports, job: lookups.Object) -> str:
    return representations.job_etag(job, _type_of(ports, job))


@router.get(
    "/jobs",
    responses={200: {"model": views.JobPage}, **answers.EXPIRED},
)
async def list_jobs(
    ports: deps.PortsDep, caller: Reader, query: Annotated[schemas.JobQuery, Query()]
) -> Response:
    """List the tenant's jobs, newest first, in pages that stay stable while jobs come and go."""
    page = listings.take(ports, caller, ports.caches.jobs, query, lambda body: _matches(body, query))
    items = [representations.job_summary(body, caller.tenant) for body in page.items]
    return answers.json(representations.page(items, page.token))


def _matches(body: lookups.Object, query: schemas.JobQuery) -> bool:
    return (query.job_type is None or body["spec"].get("jobType") == query.job_type) and (
        query.status is None or core_jobs.rest_status(body) == query.status
    )


@router.head(
    "/jobs/{name}",
    response_class=Response,
    responses={
        200: {"description": "The job's headers.", "headers": answers.ETAG},
        **answers.NOT_MODIFIED,
        **answers.PRECONDITION,
    },
    openapi_extra={"parameters": _CONDITIONS},
)
@router.get(
    "/jobs/{name}",
    responses={
        200: {"model": views.JobView, "headers": answers.ETAG},
        **answers.NOT_MODIFIED,
        **answers.PRECONDITION,
    },
    openapi_extra={"parameters": _CONDITIONS},
)
async def get_job(name: str, request: Request, ports: deps.PortsDep, caller: Reader) -> Response:
    """Show one job: its state, times, exit code and conditions."""
    found = await lookups.find(ports, caller, ports.caches.jobs, name)
    content = representations.job(found, caller.tenant, _type_of(ports, found))
    return answers.conditional(request, content, _etag(ports, found))


@router.post(
    "/jobs/{name}/cancel",
    status_code=202,
    responses=_ACCEPTED,
    openapi_extra={"parameters": _CONDITIONS},
)
async def cancel_job(name: str, request: Request, ports: deps.PortsDep, caller: Controller) -> Response:
    """Cancel a job for good: it is taken from the queue, or its pods are ended."""
    return await _control(request, ports, caller, name, controls.Control.CANCEL)


@router.post(
    "/jobs/{name}/suspend",
    status_code=202,
    responses=_ACCEPTED,
    openapi_extra={"parameters": _CONDITIONS},
)
async def suspend_job(name: str, request: Request, ports: deps.PortsDep, caller: Controller) -> Response:
    """Suspend a job: its pods are ended and its slot is given to others."""
    return await _control(request, ports, caller, name, controls.Control.SUSPEND)


@router.post(
    "/jobs/{name}/resume",
    status_code=202,
    responses=_ACCEPTED,
    openapi_extra={"parameters": _CONDITIONS},
)
async def resume_job(name: str, request: Request, ports: deps.PortsDep, caller: Controller) -> Response:
    """Resume a suspended job: it queues again."""
    return await _control(request, ports, caller, name, controls.Control.RESUME)


async def _control(
    request: Request, ports: deps.Ports, caller: deps.Caller, name: str, control: controls.Control
) -> Response:
    found = await lookups.find_live(ports, caller, ports.caches.jobs, name)
    desired = (found.get("spec") or {}).get("desiredState", "Active")
    wanted = controls.decide(control, desired, core_jobs.rest_status(found))
    answers.check_preconditions(request, _etag(ports, found))
    if wanted is None:
        return _accepted(ports, found, caller)
    change: lookups.Object = {"spec": {"desiredState": wanted}}
    if answers.is_conditional(request):
        change["metadata"] = {"resourceVersion": found["metadata"]["resourceVersion"]}
    try:
        patched = await lookups.patch(ports, caller, ports.caches.jobs, name, change)
    except apierrors.InvalidError as error:  # cancelled by somebody else in between: one-way by CEL
        raise errors.Problem(errors.CONFLICT, refusals.from_api(error).detail) from None
    except apierrors.ConflictError:
        raise errors.Problem(errors.PRECONDITION_FAILED, "the job has changed meanwhile") from None
    return _accepted(ports, patched, caller)


@router.delete(
    "/jobs/{name}",
    status_code=202,
    response_class=Response,
    responses={
        202: {"description": "Being deleted; its pods are ended, then its place is given to others."},
        **answers.PRECONDITION,
    },
    openapi_extra={"parameters": _CONDITIONS},
)
async def delete_job(name: str, request: Request, ports: deps.PortsDep, caller: Deleter) -> Response:
    """Delete a job with its batch Job and pods."""
    found = await lookups.find_live(ports, caller, ports.caches.jobs, name)
    answers.check_preconditions(request, _etag(ports, found))
    await lookups.delete(
        ports, caller, ports.caches.jobs, found, only_this_version=answers.is_conditional(request)
    )
    await waiting.until_gone(ports.caches.jobs, found, representations.is_deleting)
    return Response(status_code=202)
