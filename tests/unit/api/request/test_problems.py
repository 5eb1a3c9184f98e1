"""What others' refusals become."""

from datetime import UTC, datetime
from typing import Any

import pytest
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection

from manifestry.adapters.kube import apierrors
from manifestry.adapters.store.contract import ports
from manifestry.core import errors
from manifestry.core.kube import traceparents
from manifestry_api.request import contexts, problems, refusals

USAGE = {
    "tenant": "acme",
    "jobType": "render",
    "running": "10",
    "maxRunning": "10",
    "queued": "5",
    "maxQueued": "5",
}


def api(status: int, reason: str = "", message: str = "m", **details: Any) -> apierrors.ApiError:
    body = {"code": status, "reason": reason, "message": message, "details": details}
    return apierrors.from_status(body)


def quota(status: int = 429) -> apierrors.ApiError:
    causes = [{"reason": "QuotaExceeded", "field": key, "message": text} for key, text in USAGE.items()]
    message = 'admission webhook "jobs.manifestry.dev" denied the request: quota exceeded: tenant "acme"'
    return api(status, "TooManyRequests", message, causes=causes)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.Problem(errors.GONE, "x"), "gone"),
        (api(400, "BadRequest"), "bad-request"),
        (api(401, "Unauthorized"), "dependency-unavailable"),
        (api(403, "Forbidden"), "forbidden"),
        (api(404, "NotFound"), "not-found"),
        (api(409, "AlreadyExists"), "already-exists"),
        (api(409, "Conflict"), "conflict"),
        (api(410, "Expired"), "gone"),
        (api(413, "RequestEntityTooLarge"), "payload-too-large"),
        (api(422, "Invalid"), "validation-failed"),
        (api(429, "TooManyRequests"), "busy"),
        (api(503, "ServiceUnavailable", retryAfterSeconds=1), "busy"),
        (api(503, "ServiceUnavailable"), "dependency-unavailable"),
        (api(500, "InternalError", "failed calling webhook"), "dependency-unavailable"),
        (api(418), "dependency-unavailable"),
        (quota(), "quota-exceeded"),
        (quota(403), "quota-exceeded"),
        (ports.StoreUnavailableError("x"), "dependency-unavailable"),
        (ports.StoreFullError("x"), "storage-full"),
        (ports.TooLargeError("x"), "payload-too-large"),
        (ports.BlobNotFoundError("x"), "not-found"),
        (HTTPException(404), "not-found"),
        (HTTPException(405), "method-not-allowed"),
        (HTTPException(413, "big"), "payload-too-large"),
        (HTTPException(415), "unsupported-media-type"),
        (HTTPException(418), "bad-request"),
        (HTTPException(502), "internal"),
        (RequestValidationError([]), "validation-failed"),
        (RequestValidationError([{"type": "json_invalid", "loc": ("body", 1), "msg": "m"}]), "bad-request"),
        (RuntimeError("secret"), "internal"),
    ],
)
def test_each_error_has_one_code(error: Exception, code: str) -> None:
    assert problems.from_error(error).kind.code == code


def test_an_exceeded_quota_carries_its_numbers_and_a_retry_after() -> None:
    problem = problems.from_error(quota())
    assert problem.usage == {
        "tenant": "acme", "jobType": "render", "running": 10, "maxRunning": 10, "queued": 5, "maxQueued": 5,
    }  # fmt: skip
    assert problem.headers == {"Retry-After": "5"}
    assert problem.detail == 'quota exceeded: tenant "acme"'


@pytest.mark.parametrize(
    ("kind", "expected"), [(errors.QUOTA_EXCEEDED, "1"), (errors.BUSY, "1"), (errors.CONFLICT, None)]
)
def test_what_may_be_tried_again_says_when(kind: errors.ErrorKind, expected: str | None) -> None:
    found = problems.response(errors.Problem(kind, "x"), connection())
    assert found.headers.get("retry-after") == expected


def connection() -> HTTPConnection:
    scope: dict[str, Any] = {"type": "http", "method": "GET", "path": "/jobs", "headers": []}
    trace = traceparents.TraceParent("1" * 32, "2" * 16)
    scope[contexts.SCOPE_KEY] = contexts.new(trace, datetime.now(UTC), 0.0)
    return HTTPConnection(scope)


def test_api_priority_and_fairness_is_no_quota() -> None:
    problem = problems.from_error(api(429, "TooManyRequests", retryAfterSeconds=3))
    assert (problem.kind, problem.headers) == (errors.BUSY, {"Retry-After": "3"})


@pytest.mark.parametrize(
    ("field", "pointer"),
    [
        ("spec.files[0].name", "/files/0/name"),
        ("metadata.name", "/name"),
        ("spec", "/spec"),
        ("spec.annotations[a/b]", "/annotations/a~1b"),
        ("<nil>", ""),
        ("", ""),
    ],
)
def test_field_paths_become_pointers_into_the_rest_body(field: str, pointer: str) -> None:
    assert refusals.in_body(refusals.pointer(field)) == pointer


def test_causes_become_errors_and_immutable_fields_have_their_own_code() -> None:
    causes = [
        {"reason": "FieldValueInvalid", "field": "spec.mediaType", "message": "`mediaType` is immutable"}
    ]
    problem = problems.from_error(api(422, "Invalid", causes=causes))
    assert problem.kind is errors.IMMUTABLE_FIELD
    assert problem.errors == (errors.FieldError("/mediaType", "`mediaType` is immutable"),)


def test_schema_causes_of_other_reasons_are_kept() -> None:
    causes = [{"reason": "FieldValueTypeInvalid", "field": "spec.priority", "message": "must be integer"}]
    problem = problems.from_error(api(422, "Invalid", causes=causes))
    assert problem.errors == (errors.FieldError("/priority", "must be integer"),)


def test_bad_fields_are_pointers_or_parameters_and_values_stay_out() -> None:
    error = RequestValidationError(
        [
            {"type": "x", "loc": ("body", "a/b", 0), "msg": "must be text", "input": "secret"},
            {"type": "x", "loc": ("query", "limit"), "msg": "must be less", "input": "secret"},
        ]
    )
    problem = problems.from_error(error)
    assert [refusals.render_field(row) for row in problem.errors] == [
        {"pointer": "/a~1b/0", "message": "must be text"},
        {"parameter": "limit", "message": "must be less"},
    ]
    assert "secret" not in repr(problem)


def test_the_schema_lists_every_code() -> None:
    assert problems.schema()["properties"]["code"]["enum"] == sorted({kind.code for kind in errors.TABLE})
