"""Errors by status and reason, delays by failures."""

import json

import pytest

from manifestry.adapters.kube import apierrors, retries


@pytest.mark.parametrize(
    ("status", "reason", "kind"),
    [
        (400, "BadRequest", apierrors.ApiError),
        (401, "Unauthorized", apierrors.UnauthorizedError),
        (403, "Forbidden", apierrors.ForbiddenError),
        (404, "NotFound", apierrors.NotFoundError),
        (409, "Conflict", apierrors.ConflictError),
        (409, "", apierrors.ConflictError),
        (409, "AlreadyExists", apierrors.AlreadyExistsError),
        (410, "Expired", apierrors.GoneError),
        (422, "Invalid", apierrors.InvalidError),
        (429, "TooManyRequests", apierrors.TooManyRequestsError),
        (500, "InternalError", apierrors.UnavailableError),
        (504, "Timeout", apierrors.UnavailableError),
    ],
)
def test_each_refusal_has_its_class(status: int, reason: str, kind: type[apierrors.ApiError]) -> None:
    body = {"kind": "Status", "reason": reason, "message": "m", "details": {"name": "x"}, "code": 999}
    error = apierrors.parse_error(status, json.dumps(body).encode())
    assert type(error) is kind
    assert (error.status, error.reason, error.message, error.details) == (status, reason, "m", {"name": "x"})


@pytest.mark.parametrize(
    "body", [b"", b"nonsense", b'{"kind": "Pod"}', b"[]", b'{"kind":"Status","details":3}']
)
def test_any_body_will_do(body: bytes) -> None:
    assert apierrors.parse_error(404, body).details == {}


def test_a_status_without_a_code_is_a_server_error() -> None:
    assert apierrors.from_status({"code": "410"}).status == 500


def test_delays_double_up_to_the_cap_and_differ() -> None:
    backoff = retries.Backoff(base_seconds=1.0, cap_seconds=60.0)
    for failures, whole in ((0, 1), (1, 1), (2, 2), (3, 4), (7, 60), (100_000, 60)):
        drawn = {backoff.delay(failures) for _ in range(50)}
        assert all(whole / 2 <= seconds <= whole for seconds in drawn)
        assert len(drawn) > 1
