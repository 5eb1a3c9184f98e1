"""What others' refusals mean in our terms: Kubernetes, the object store, FastAPI, Starlette."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from manifestry.adapters.kube import apierrors
from manifestry.adapters.store.contract import ports
from manifestry.core import errors
from manifestry.core.jobs import admission

ERRORS_MAX_COUNT = 64
DETAIL_MAX_LENGTH = 1024
_INDEX = re.compile(r"\[([^\]]*)\]")
_WEBHOOK_PREFIX = re.compile(r'^admission webhook "[^"]*" denied the request: ')

_HTTP: Mapping[int, errors.ErrorKind] = {
    400: errors.BAD_REQUEST,
    401: errors.UNAUTHENTICATED,
    403: errors.FORBIDDEN,
    404: errors.NOT_FOUND,
    405: errors.METHOD_NOT_ALLOWED,
    406: errors.NOT_ACCEPTABLE,
    409: errors.CONFLICT,
    410: errors.GONE,
    412: errors.PRECONDITION_FAILED,
    413: errors.PAYLOAD_TOO_LARGE,
    415: errors.UNSUPPORTED_MEDIA_TYPE,
    416: errors.RANGE_NOT_SATISFIABLE,
    422: errors.VALIDATION_FAILED,
    503: errors.DEPENDENCY_UNAVAILABLE,
}
_API: Mapping[int, errors.ErrorKind] = {
    400: errors.BAD_REQUEST,
    403: errors.FORBIDDEN,
    404: errors.NOT_FOUND,
    409: errors.CONFLICT,
    410: errors.GONE,
    413: errors.PAYLOAD_TOO_LARGE,
}


def from_api(error: apierrors.ApiError) -> errors.Problem:
    """Return the problem for a refusal of the Kubernetes API.

    An exceeded quota is known by its causes: priority and fairness answers 429 as well, and a webhook's
    403 or 409 may be anybody's.
    """
    if (usage := admission.parse_usage(error.details)) is not None:
        return errors.Problem(errors.QUOTA_EXCEEDED, _detail(error), usage=usage, headers=_wait(error, "5"))
    if error.status == 422:
        return _invalid(error)
    if isinstance(error, apierrors.AlreadyExistsError):
        return errors.Problem(errors.ALREADY_EXISTS, _detail(error))
    if error.status == 429 or (error.status == 503 and "retryAfterSeconds" in error.details):
        return errors.Problem(errors.BUSY, "the Kubernetes API is busy", headers=_wait(error, "1"))
    kind = _API.get(error.status)
    if kind is None:
        return errors.Problem(
            errors.DEPENDENCY_UNAVAILABLE, "the Kubernetes API does not answer as it should"
        )
    return errors.Problem(kind, _detail(error))


def _detail(error: apierrors.ApiError) -> str:
    return _WEBHOOK_PREFIX.sub("", error.message)[:DETAIL_MAX_LENGTH] or error.reason


def _wait(error: apierrors.ApiError, default: str) -> dict[str, str]:
    return {"Retry-After": str(error.details.get("retryAfterSeconds") or default)}


def _invalid(error: apierrors.ApiError) -> errors.Problem:
    fields = admission.parse_fields(error.details) or _fields(error.details)
    shown = tuple(errors.FieldError(in_body(each.pointer), each.message) for each in fields)
    immutable = any("immutable" in each.message for each in shown)
    kind = errors.IMMUTABLE_FIELD if immutable else errors.VALIDATION_FAILED
    return errors.Problem(kind, _detail(error), shown[:ERRORS_MAX_COUNT])


def _fields(details: Mapping[str, Any]) -> tuple[errors.FieldError, ...]:
    """Return the causes that are not of our own webhook: schema and CEL."""
    causes = [cause for cause in details.get("causes") or () if isinstance(cause, Mapping)]
    return tuple(
        errors.FieldError(pointer(str(cause.get("field", ""))), str(cause.get("message", "")))
        for cause in causes
    )


def pointer(field: str) -> str:
    """Return the RFC 6901 pointer for a Kubernetes field path such as `spec.files[0].name`."""
    parts = _INDEX.sub(r".\1", field).split(".")
    return "".join(f"/{_escape(part)}" for part in parts if part and part != "<nil>")


def in_body(where: str) -> str:
    """Return a custom resource's pointer as the REST body has it: `spec` and `metadata` are its top level."""
    for prefix in ("/spec/", "/metadata/"):
        if where.startswith(prefix):
            return where.removeprefix(prefix[:-1])
    return where


def _escape(part: object) -> str:
    return str(part).replace("~", "~0").replace("/", "~1")


def from_store(error: ports.StoreError) -> errors.Problem:
    """Return the problem for a refusal of the object store; keys and endpoints are not in it."""
    if isinstance(error, ports.StoreRefusedError):
        return errors.Problem(error.kind, str(error))
    return errors.Problem(error.kind, f"the object store: {error.kind.title.lower()}")


def from_http(error: HTTPException) -> errors.Problem:
    """Return the problem for what Starlette refuses by itself: no route, no method, a body too large."""
    kind = _HTTP.get(error.status_code, errors.INTERNAL if error.status_code >= 500 else errors.BAD_REQUEST)
    detail = "no such route" if kind is errors.NOT_FOUND else str(error.detail)
    return errors.Problem(kind, detail, headers=dict(error.headers or {}))


def from_validation(error: RequestValidationError) -> errors.Problem:
    """Return the problem for a request that does not fit its schema; input values are not in it."""
    found: Sequence[Mapping[str, Any]] = error.errors()
    if any(each["type"] == "json_invalid" for each in found):
        return errors.Problem(errors.BAD_REQUEST, "the body must be JSON")
    fields = tuple(_field(each) for each in found[:ERRORS_MAX_COUNT])
    return errors.Problem(errors.VALIDATION_FAILED, _sentence(fields), fields)


def _field(found: Mapping[str, Any]) -> errors.FieldError:
    place, *path = found["loc"]
    if place == "body":
        return errors.FieldError("".join(f"/{_escape(part)}" for part in path), found["msg"])
    return errors.FieldError(f"{place}:{'.'.join(map(str, path))}", found["msg"])


def _sentence(fields: Sequence[errors.FieldError]) -> str:
    if not fields:
        return "the request must fit its schema"
    first = fields[0]
    return f"`{first.pointer.removeprefix('query:') or '/'}`: {first.message}"[:DETAIL_MAX_LENGTH]


def render_field(error: errors.FieldError) -> dict[str, str]:
    """Return one row of `errors[]`: `pointer` into the body, or `parameter` of query, path or header."""
    place, colon, name = error.pointer.partition(":")
    if colon and place in {"query", "path", "header", "cookie"}:
        return {"parameter": name, "message": error.message}
    return {"pointer": error.pointer, "message": error.message}
