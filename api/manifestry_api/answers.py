"""JSON answers with their conditional and caching headers, and how they stand in the OpenAPI document."""

from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from manifestry.core import etags

REVALIDATE = "private, no-cache"  # a URL names an id, which may be deleted and made anew: always ask
VARY = "Authorization, X-Tenant"

Documented = dict[int | str, dict[str, Any]]


def json(content: Mapping[str, Any], status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return a JSON answer that nobody but the caller may keep."""
    return JSONResponse(dict(content), status, {"Cache-Control": REVALIDATE, "Vary": VARY, **(headers or {})})


def conditional(request: Request, content: Mapping[str, Any], etag: str) -> Response:
    """Return 304 when the client has this version already, else the JSON answer with its `ETag`."""
    return not_modified(request, etag) or json(content, headers={"ETag": etag})


def not_modified(request: Request, etag: str) -> Response | None:
    """Return the 304 answer, or None when the client needs the content.

    References: RFC 9110 section 15.4.5 (which headers a 304 carries).
    """
    if etags.none_match(request.headers.get("if-none-match"), etag):
        return None
    return Response(status_code=304, headers={"ETag": etag, "Cache-Control": REVALIDATE, "Vary": VARY})


def header(description: str, example: str = "") -> dict[str, Any]:
    """Return an OpenAPI header object."""
    found: dict[str, Any] = {"description": description, "schema": {"type": "string"}}
    return {**found, "example": example} if example else found


def parameter(name: str, description: str, **schema: Any) -> dict[str, Any]:
    """Return an OpenAPI parameter object for an optional request header."""
    return {
        "name": name,
        "in": "header",
        "required": False,
        "description": description,
        "schema": schema or {"type": "string"},
    }


def refusal(status: int, description: str) -> Documented:
    """Return how a problem document stands among a route's answers."""
    schema = {"$ref": "#/components/schemas/Problem"}
    content = {"application/problem+json": {"schema": schema}}
    return {status: {"description": description, "content": content}}


IF_NONE_MATCH = parameter("If-None-Match", "Entity tags that the client has; a match is 304.")
PREFER = parameter("Prefer", "`wait=N`: wait up to N seconds (at most 60); `respond-async`: do not wait.")
ETAG = {"ETag": header("Changes with every change.", '"0c5f.4711"')}
LOCATION = {"Location": header("The path of the object.", "/artifacts/report-2026")}
APPLIED = {"Preference-Applied": header("The preference that was followed (RFC 7240).", "wait=5")}
NOT_MODIFIED: Documented = {304: {"description": "The client has this version.", "headers": ETAG}}
