"""What FastAPI cannot know for the OpenAPI document: credentials, required headers, refusals, roles."""

from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute, iter_route_contexts

from manifestry.core import errors
from manifestry.core.access import headers, permissions
from manifestry_api.guard import deps
from manifestry_api.request import apidocs, problems

DESCRIPTION = """Artifacts and jobs over HTTP. The same objects are custom resources of group
`manifestry.dev`: both doors have the same rules, because writes go through the Kubernetes API in the
caller's name."""
SECURITY_SCHEME = "bearer"
FASTAPI_SCHEMAS = ("HTTPValidationError", "ValidationError")  # of its own 422, which is nowhere answered


def guarded_actions(app: FastAPI) -> dict[tuple[str, str], permissions.Action]:
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
    schemas = components.setdefault("schemas", {})
    schemas["Problem"] = dict(problems.schema())
    for name in FASTAPI_SCHEMAS:
        schemas.pop(name, None)
    components["securitySchemes"] = {
        SECURITY_SCHEME: {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}
    }
    components["headers"] = apidocs.components()
    components["parameters"] = {
        **{name: _required(name) for name in headers.REQUIRED},
        "traceparent": dict(apidocs.TRACEPARENT),
    }
    actions = guarded_actions(app)
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            action = actions.get((method.upper(), path))
            if operation["responses"].pop("422", None):
                operation["responses"]["422"] = _refusal(*apidocs.REFUSALS[422])
            if action is not None:
                _guard(operation, method.upper(), path, action)
            _describe(operation, path)
    return document


def operation_id(route: APIRoute) -> str:
    """Return a name for client generators, such as `createArtifact`; HEAD shares its function with GET."""
    stem = route.name.replace("get_", "head_", 1) if "HEAD" in (route.methods or ()) else route.name
    first, *rest = stem.split("_")
    return first + "".join(part.capitalize() for part in rest)


def _guard(operation: dict[str, Any], method: str, path: str, action: permissions.Action) -> None:
    operation["security"] = [{SECURITY_SCHEME: []}]
    parameters = operation.setdefault("parameters", [])
    has_query = any(parameter.get("in") == "query" for parameter in parameters)
    parameters += [{"$ref": f"#/components/parameters/{name}"} for name in headers.REQUIRED]
    operation["x-manifestry-action"] = action.value
    operation["x-manifestry-roles"] = [role for role in permissions.Role if role in permissions.TABLE[action]]
    responses = operation.setdefault("responses", {})
    for status in apidocs.refusals(method, path, action, has_query=has_query):
        responses.setdefault(str(status), _refusal(*apidocs.REFUSALS[status]))


def _describe(operation: dict[str, Any], path: str) -> None:
    """Add to an operation what all of them have: the trace, the stamps, and words for its placeholders."""
    parameters = operation.setdefault("parameters", [])
    parameters.append({"$ref": "#/components/parameters/traceparent"})
    for parameter in parameters:
        if parameter.get("in") == "path":
            parameter.update(apidocs.place(path, parameter["name"]))
    for status, response in operation["responses"].items():
        known = apidocs.headers_of(int(status)) if "security" in operation else apidocs.stamps()
        response["headers"] = {**known, **response.get("headers", {})}


def _required(name: str) -> dict[str, Any]:
    text, example = apidocs.REQUIRED[name]
    schema = {"type": "string", "minLength": 1, "maxLength": headers.LIMITS[name]}
    return {
        "name": name, "in": "header", "required": True, "description": text, "schema": schema,
        "example": example,
    }  # fmt: skip


def _refusal(text: str, kind: errors.ErrorKind) -> dict[str, Any]:
    content = {"schema": {"$ref": "#/components/schemas/Problem"}, "example": apidocs.example(kind)}
    return {"description": text, "content": {problems.MEDIA_TYPE: content}}
