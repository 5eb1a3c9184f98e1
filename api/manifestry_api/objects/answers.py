"""JSON answers with their conditional and caching headers, and how they stand in the OpenAPI document."""

from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from manifestry.core import errors
from manifestry.core.http import etags
from manifestry_api.request import apidocs, contexts

REVALIDATE = "private, no-cache"  # a URL names an id, which may be deleted and made anew: always ask
VARY = "Authorization, X-Tenant"

Documented = dict[int | str, dict[str, Any]]
_KINDS: Mapping[int, errors.ErrorKind] = {
    409: errors.CONFLICT,
    410: errors.GONE,
    412: errors.PRECONDITION_FAILED,
    415: errors.UNSUPPORTED_MEDIA_TYPE,
    416: errors.RANGE_NOT_SATISFIABLE,
    429: errors.QUOTA_EXCEEDED,
    507: errors.STORAGE_FULL,
}


def json(content: Mapping[str, Any], status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return a JSON answer that nobody but the caller may keep."""
    return JSONResponse(dict(content), status, {"Cache-Control": REVALIDATE, "Vary": VARY, **(headers or {})})


def conditional(request: Request, content: Mapping[str, Any], etag: str) -> Response:
    """Return 304 when the client has this version already, else the JSON answer with its `ETag`.

    Raises:
        Problem: precondition-failed, by `If-Match`.
    """
    return not_modified(request, etag) or json(content, headers={"ETag": etag})


def not_modified(request: Request, etag: str) -> Response | None:
    """Return the 304 answer, or None when the client needs the content.

    Raises:
        Problem: precondition-failed, by `If-Match`.

    References: RFC 9110 sections 13.2.2 and 15.4.5 (which headers a 304 carries).
    """
    if _outcome(request, etag) is etags.Outcome.PROCEED:
        return None
    return Response(status_code=304, headers={"ETag": etag, "Cache-Control": REVALIDATE, "Vary": VARY})


def check_preconditions(request: Request, etag: str) -> None:
    """Let a change go on only if the object is as the client believes it to be.

    Raises:
        Problem: precondition-failed, by `If-Match` or `If-None-Match`.
    """
    _outcome(request, etag)


def is_conditional(request: Request) -> bool:
    """Tell whether a change depends on the object's version; `*` only asks whether there is one."""
    stated = (_field(request, name) for name in (b"if-match", b"if-none-match"))
    return any(header is not None and header.strip() != "*" for header in stated)


def _outcome(request: Request, etag: str) -> etags.Outcome:
    found = etags.evaluate(
        request.method, _field(request, b"if-match"), _field(request, b"if-none-match"), etag
    )
    if found is etags.Outcome.FAILED:
        raise errors.Problem(errors.PRECONDITION_FAILED, "the object must be as the request's conditions say")
    return found


def _field(request: Request, name: bytes) -> str | None:
    """Return a list-valued header with its lines joined (RFC 9110 section 5.3), None when there is none."""
    lines = contexts.fields(request.scope).get(name)
    return b",".join(lines).decode("latin-1") if lines else None


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


def refusal(status: int, description: str, kind: errors.ErrorKind | None = None) -> Documented:
    """Return how a problem document stands among a route's answers.

    Args:
        status: of the answer.
        description: when it comes.
        kind: of the example; by default the status's own.
    """
    schema = {"$ref": "#/components/schemas/Problem"}
    example = apidocs.example(kind or _KINDS[status])
    content = {"application/problem+json": {"schema": schema, "example": example}}
    return {status: {"description": description, "content": content}}


IF_MATCH = parameter("If-Match", "Entity tags of which the object must have one; else 412.")
IF_NONE_MATCH = parameter("If-None-Match", "Entity tags that the client has; a match is 304.")
PREFER = parameter("Prefer", "`wait=N`: wait up to N seconds (at most 60); `respond-async`: do not wait.")
ETAG = {"ETag": header("Changes with every change.", '"0c5f.4711"')}
LOCATION = {"Location": header("The path of the object.", "/artifacts/report-2026")}
APPLIED = {"Preference-Applied": header("The preference that was followed (RFC 7240).", "wait=5")}
PRECONDITION: Documented = refusal(412, "The object is not as `If-Match` or `If-None-Match` wants it")
EXPIRED: Documented = refusal(410, "The page token has expired")
NOT_MODIFIED: Documented = {304: {"description": "The client has this version.", "headers": ETAG}}
