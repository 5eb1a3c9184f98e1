"""Every refusal as RFC 9457 problem+json: the one place where a problem becomes an answer.

References: RFC 9457; docs/errors.md lists the codes of `errors.TABLE`.
"""

import json
import logging
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.routing import iter_route_contexts
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response

from manifestry.adapters.kube import apierrors
from manifestry.adapters.store.contract import ports
from manifestry.core import errors
from manifestry_api.request import contexts, refusals

MEDIA_TYPE = "application/problem+json"
TYPE_PREFIX = "https://manifestry.dev/errors/"
RETRY_AFTER_SECONDS = "1"
logger = logging.getLogger(__name__)


def from_error(error: Exception) -> errors.Problem:
    """Return the problem for any exception; one we do not know is `internal` and says nothing."""
    match error:
        case errors.Problem():
            return error
        case apierrors.ApiError():
            return refusals.from_api(error)
        case RequestValidationError():
            return refusals.from_validation(error)
        case HTTPException():
            return refusals.from_http(error)
        case ports.StoreError():
            return refusals.from_store(error)
        case _:
            return errors.Problem(errors.INTERNAL, "the request failed unexpectedly; see the audit id")


def body(problem: errors.Problem, context: contexts.RequestContext, path: str) -> dict[str, Any]:
    """Return the members of the problem document."""
    document: dict[str, Any] = {
        "type": TYPE_PREFIX + problem.kind.code,
        "title": problem.kind.title,
        "status": problem.kind.status,
        "detail": problem.detail,
        "instance": path,
        "code": problem.kind.code,
        "auditId": context.audit_id,
        "traceId": context.trace.trace_id,
    }
    if problem.errors:
        document["errors"] = [refusals.render_field(error) for error in problem.errors]
    if problem.usage is not None:
        document["usage"] = dict(problem.usage)
    return document


def response(problem: errors.Problem, connection: HTTPConnection) -> Response:
    """Return the answer, and note in the request's context what the audit record will say."""
    context = contexts.of(connection.scope)
    context.code, context.detail = problem.kind.code, problem.detail
    document = body(problem, context, connection.url.path)
    return Response(
        json.dumps(document, separators=(",", ":")).encode(),
        problem.kind.status,
        headers=_headers(problem),
        media_type=MEDIA_TYPE,
    )


def _headers(problem: errors.Problem) -> dict[str, str]:
    headers = {"Cache-Control": "no-store", **problem.headers}
    if problem.kind.status == 401:
        headers.setdefault("WWW-Authenticate", 'Bearer realm="manifestry"')
    if problem.kind.status in {429, 503}:
        headers.setdefault("Retry-After", RETRY_AFTER_SECONDS)
    return headers


def caught(error: Exception, connection: HTTPConnection) -> Response:
    """Return the answer for an exception; the unknown ones are logged with their traceback."""
    problem = from_error(error)
    if problem.kind is errors.INTERNAL:
        audit_id = contexts.of(connection.scope).audit_id
        logger.error("unexpected error", exc_info=error, extra={"auditId": audit_id})
    return response(problem, connection)


async def handle(request: Request, error: Exception) -> Response:
    """Answer for FastAPI's exception middleware."""
    answer = caught(error, request)
    if answer.status_code == 405:
        answer.headers["Allow"] = ", ".join(sorted(_methods(request)))
    return answer


def _methods(request: Request) -> set[str]:
    """Return the methods of every route at this path; Starlette only knows those of the first."""
    path = request.scope["path"]
    return {
        method
        for route in iter_route_contexts(request.app.routes)
        if route.path_regex.match(path)
        for method in route.methods or ()
    }


HANDLED: tuple[type[Exception], ...] = (
    errors.Problem,
    apierrors.ApiError,
    ports.StoreError,
    RequestValidationError,
    HTTPException,
)


def install(app: FastAPI) -> None:
    """Register the mapper for every exception that routes may raise."""
    for kind in HANDLED:
        app.add_exception_handler(kind, handle)


def schema() -> Mapping[str, Any]:
    """Return the JSON Schema of a problem document, for the OpenAPI document."""
    text = {"type": "string"}
    field = {"type": "object", "properties": {"pointer": text, "parameter": text, "message": text}}
    return {
        "type": "object",
        "required": ["type", "title", "status", "detail", "instance", "code", "auditId", "traceId"],
        "properties": {
            "type": {"type": "string", "format": "uri"},
            "title": text,
            "status": {"type": "integer"},
            "detail": text,
            "instance": text,
            "code": {"type": "string", "enum": sorted({kind.code for kind in errors.TABLE})},
            "auditId": {"type": "string", "format": "uuid"},
            "traceId": {"type": "string", "pattern": "^[0-9a-f]{32}$"},
            "errors": {"type": "array", "items": field},
            "usage": {"type": "object", "additionalProperties": True},
        },
    }
