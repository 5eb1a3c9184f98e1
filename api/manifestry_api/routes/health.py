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
        503: {"description": "At least one vital check fails", "model": views.ReadinessView},
    },
)
async def readyz(
    request: Request,
    exclude: Annotated[
        list[str] | None, Query(max_length=16, description="Names of checks that do not count.")
    ] = None,
) -> Response:
    """Answer 200 when every vital check is well, else 503; `exclude` leaves a check out of the verdict.

    What still serves, only not everything, is `degraded` with 200: a store that takes no bytes must take
    neither the downloads nor the webhook out of the Service.

    References: https://kubernetes.io/docs/reference/using-api/health-checks/ (`?exclude=`).
    """
    rows: list[checks.Row] = request.app.state.health.rows()
    verdict = checks.verdict(rows, exclude or ())
    body = {"status": verdict, "checks": [row.render() for row in rows]}
    return JSONResponse(body, 503 if verdict == "failed" else 200, headers=NO_STORE)


@router.get(
    "/healthz",
    summary="Overall state and the slowest recent calls",
    responses={200: {"model": views.HealthView}},
)
async def healthz(request: Request, ports: deps.PortsDep) -> Response:
    """Answer 200 while the process serves; the body says how well."""
    rows: list[checks.Row] = request.app.state.health.rows()
    body: dict[str, Any] = {
        "status": _state(rows),
        "database": _state(rows, "kubernetes-api"),
        "queue": _state(rows, "job-runner"),
        "objectStore": _state(rows, "object-store", "object-store-writes"),
        "checks": [row.render() for row in rows],
        "slowCalls": ports.instruments.slow_calls.report(),
    }
    return JSONResponse(body, headers=NO_STORE)


def _state(rows: list[checks.Row], *names: str) -> str:
    is_well = all(row.ok for row in rows if not names or row.name in names)
    return "ok" if is_well else "degraded"


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
