"""What FastAPI cannot know for the OpenAPI document: credentials, required headers, refusals, roles."""

from collections.abc import Iterator, Mapping
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute, iter_route_contexts

from manifestry.core import access, headers
from manifestry_api import deps, problems

DESCRIPTION = """Artifacts and jobs over HTTP. The same objects are custom resources of group
`manifestry.dev`: both doors have the same rules, because writes go through the Kubernetes API in the
caller's name."""
_SUMMARIES: Mapping[str, str] = {
    headers.ACTOR: "Who acts; must be the credential's subject.",
    headers.TENANT: "For which tenant; the caller must hold a role in it.",
    headers.REASON: "Why; kept in the audit log and with what is created.",
    headers.ROLES: "In which of the granted roles, comma-separated: viewer, publisher, operator, admin.",
}
_REFUSALS: Mapping[int, str] = {
    400: "The request cannot be understood",
    401: "No valid credential, or a required header is missing",
    403: "The caller may not do this",
    404: "No such object in this tenant",
    413: "The body is too large",
    422: "The request does not fit its schema",
    429: "The tenant's quota is used up",
    500: "An unexpected error",
    503: "A dependency does not answer, or there is too much contention",
}
SECURITY_SCHEME = "bearer"


def guarded_actions(app: FastAPI) -> dict[tuple[str, str], access.Action]:
    """Return the action of every API route by (method, path); routes without a guard are not in it."""
    return {
        (method, route.path_format): found[0].action
        for route in _api_routes(app)
        if (found := deps.requirements(route.dependant))
        for method in route.methods
    }


def _api_routes(app: FastAPI) -> Iterator[Any]:
    for context in iter_route_contexts(app.routes):
        if isinstance(context.original_route, APIRoute):
            yield context


def install(app: FastAPI) -> None:
    """Let `app.openapi()` return the complete document, made once."""
    document: dict[str, Any] = {}

    def build() -> dict[str, Any]:
        if not document:
            document.update(complete(app))
        return document

    app.openapi = build  # type: ignore[method-assign]


def complete(app: FastAPI) -> dict[str, Any]:
    """Return FastAPI's document with credentials, headers, refusals and roles on every guarded route."""
    document = get_openapi(
        title=app.title,
        version=app.version,
        description=DESCRIPTION,
        routes=app.routes,
        openapi_version="3.1.0",
    )
    components = document.setdefault("components", {})
    components.setdefault("schemas", {})["Problem"] = dict(problems.schema())
    components["securitySchemes"] = {
        SECURITY_SCHEME: {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}
    }
    components["parameters"] = {name: _parameter(name) for name in headers.REQUIRED}
    components["responses"] = {"Problem": _problem_response("A refusal, as RFC 9457 has it")}
    for (method, path), action in guarded_actions(app).items():
        operation = document["paths"].get(path, {}).get(method.lower())
        if operation is not None:
            _guard(operation, action)
    return document


def _guard(operation: dict[str, Any], action: access.Action) -> None:
    operation["security"] = [{SECURITY_SCHEME: []}]
    parameters = operation.setdefault("parameters", [])
    parameters += [{"$ref": f"#/components/parameters/{name}"} for name in headers.REQUIRED]
    operation["x-manifestry-action"] = action.value
    operation["x-manifestry-roles"] = [role for role in access.Role if role in access.TABLE[action]]
    responses = operation.setdefault("responses", {})
    for status, text in _REFUSALS.items():
        key = str(status)
        if key not in responses or status == 422:
            responses[key] = _problem_response(text)


def _parameter(name: str) -> dict[str, Any]:
    schema = {"type": "string", "minLength": 1, "maxLength": headers.LIMITS[name]}
    return {
        "name": name, "in": "header", "required": True, "description": _SUMMARIES[name], "schema": schema,
    }  # fmt: skip


def _problem_response(text: str) -> dict[str, Any]:
    schema = {"$ref": "#/components/schemas/Problem"}
    return {"description": text, "content": {problems.MEDIA_TYPE: {"schema": schema}}}
