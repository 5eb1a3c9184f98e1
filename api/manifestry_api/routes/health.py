"""Liveness, readiness, health and metrics: no credentials, no waiting for a dependency."""

from typing import Annotated, Any

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from manifestry_api.guard import deps
from manifestry_api.health import checks
from manifestry_api.objects import views

router = APIRouter(tags=["health"])
METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
NO_STORE = {"Cache-Control": "no-store"}


@router.get("/livez", summary="The event loop turns", responses={200: {"model": views.LivenessView}})
async def livez() -> Response:
    """Answer 200 for as long as the process can answer; no dependency and no backlog fails it."""
    return JSONResponse({"status": "ok"}, headers=NO_STORE)


@router.get(
    "/readyz",
    summary="Every check with its age and reason",
    responses={
        200: {"model": views.ReadinessView},
        503: {"description": "At least one check fails", "model": views.ReadinessView},
    },
)
async def readyz(
    request: Request,
    exclude: Annotated[
        list[str] | None, Query(max_length=16, description="Names of checks that do not count.")
    ] = None,
) -> Response:
    """Answer 200 when every check is well, else 503; `exclude` leaves a check out of the verdict.

    References: https://kubernetes.io/docs/reference/using-api/health-checks/ (`?exclude=`).
    """
    rows: list[checks.Row] = request.app.state.health.rows()
    ready = all(row.ok for row in rows if row.name not in (exclude or ()))
    body = {"status": "ok" if ready else "failed", "checks": [row.render() for row in rows]}
    return JSONResponse(body, 200 if ready else 503, headers=NO_STORE)


@router.get(
    "/healthz",
    summary="Overall state and the slowest recent calls",
    responses={200: {"model": views.HealthView}},
)
async def healthz(request: Request, ports: deps.PortsDep) -> Response:
    """Answer 200 while the process serves; the body says how well."""
    rows: list[checks.Row] = request.app.state.health.rows()
    states = {row.name: "ok" if row.ok else "degraded" for row in rows}
    body: dict[str, Any] = {
        "status": "ok" if all(row.ok for row in rows) else "degraded",
        "database": states["kubernetes-api"],
        "queue": states["job-runner"],
        "objectStore": states["object-store"],
        "checks": [row.render() for row in rows],
        "slowCalls": ports.instruments.slow_calls.report(),
    }
    return JSONResponse(body, headers=NO_STORE)


@router.get(
    "/metrics",
    summary="Metrics for Prometheus",
    response_class=Response,
    responses={
        200: {"description": "All metrics.", "content": {"text/plain": {"schema": {"type": "string"}}}}
    },
)
async def metrics(ports: deps.PortsDep) -> Response:
    """Answer in Prometheus' text format."""
    return Response(ports.instruments.expose(), media_type=METRICS_TYPE)
