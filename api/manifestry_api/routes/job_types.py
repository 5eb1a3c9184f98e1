"""Job types: what may be asked of each, made by the platform team with kubectl."""

from typing import Annotated

from fastapi import Depends, Query
from starlette.requests import Request
from starlette.responses import Response

from manifestry.core.access import permissions
from manifestry.core.http import pages
from manifestry_api.guard import deps
from manifestry_api.objects import answers, lookups, representations, schemas, views

router = deps.api_router(tags=["job types"])

Reader = Annotated[deps.Caller, Depends(deps.require(permissions.Action.JOB_TYPES_READ))]


def _by_name(body: lookups.Object) -> pages.Key:
    return (str(body["metadata"]["name"]),)


@router.get("/job-types", responses={200: {"model": views.JobTypePage}, **answers.EXPIRED})
async def list_job_types(
    ports: deps.PortsDep,
    caller: Reader,  # noqa: ARG001 - the guard
    query: Annotated[schemas.PageQuery, Query()],
) -> Response:
    """List the job types by name."""
    asked = pages.Query(query.limit, query.token, {"list": "job-types"})
    page = pages.take(ports.caches.job_types.items.values(), _by_name, asked, ports.clock())
    items = [representations.job_type(body) for body in page.items]
    return answers.json(representations.page(items, page.token))


@router.get(
    "/job-types/{name}",
    responses={
        200: {"model": views.JobTypeView, "headers": answers.ETAG},
        **answers.NOT_MODIFIED,
        **answers.PRECONDITION,
    },
    openapi_extra={"parameters": [answers.IF_MATCH, answers.IF_NONE_MATCH]},
)
async def get_job_type(name: str, request: Request, ports: deps.PortsDep, caller: Reader) -> Response:  # noqa: ARG001
    """Show one job type: the JSON Schema of its parameters, its defaults, what a job may override."""
    found = await lookups.find_shared(ports, ports.caches.job_types, name)
    return answers.conditional(request, representations.job_type(found), representations.etag(found))
