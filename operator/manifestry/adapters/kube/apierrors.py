"""The Kubernetes API's refusals as exceptions, chosen by HTTP status and `reason`."""

import json
from collections.abc import Mapping
from typing import Any


class ApiError(Exception):
    """A call that the Kubernetes API did not answer with success.

    Args:
        status: the HTTP status, 503 where there was no answer at all.
        reason: metav1.Status `reason`, such as `NotFound`.
        message: what the server said; may quote user input, never credentials.
        details: metav1.Status `details` (causes, retryAfterSeconds), or empty.
    References: k8s.io/apimachinery pkg/apis/meta/v1 Status.
    """

    def __init__(
        self, status: int, reason: str, message: str, details: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(f"{status} {reason}: {message}")
        self.status = status
        self.reason = reason
        self.message = message
        self.details: dict[str, Any] = dict(details or {})


class NotFoundError(ApiError):
    """404: no such object, namespace or kind."""


class ConflictError(ApiError):
    """409 Conflict: the object has changed, or a precondition does not hold."""


class AlreadyExistsError(ApiError):
    """409 AlreadyExists: an object of this name exists."""


class GoneError(ApiError):
    """410: the resourceVersion or the continue token is too old; list again."""


class InvalidError(ApiError):
    """422: the object is refused by its schema or by CEL."""


class UnauthorizedError(ApiError):
    """401: our own credentials are not accepted."""


class ForbiddenError(ApiError):
    """403: RBAC or an admission plugin refuses."""


class TooManyRequestsError(ApiError):
    """429: priority and fairness, or a webhook's exceeded quota; branch on `details.causes`."""


class UnavailableError(ApiError):
    """No usable answer: connection refused, timeout, an over-long body, 5xx after the retries."""


_BY_STATUS: Mapping[int, type[ApiError]] = {
    401: UnauthorizedError,
    403: ForbiddenError,
    404: NotFoundError,
    410: GoneError,
    422: InvalidError,
    429: TooManyRequestsError,
}


def unavailable(message: str) -> UnavailableError:
    """Return the error for a call without an answer."""
    return UnavailableError(503, "ServiceUnavailable", message)


def parse_error(status: int, body: bytes) -> ApiError:
    """Return the exception for a non-2xx answer; a body that is no metav1.Status becomes the message."""
    try:
        content = json.loads(body)
    except ValueError:
        content = None
    if not isinstance(content, dict) or content.get("kind") != "Status":
        content = {"message": body[:512].decode("utf-8", "replace").strip()}
    return from_status({**content, "code": status})


def from_status(content: Mapping[str, Any]) -> ApiError:
    """Return the exception for a metav1.Status object, as a watch's ERROR event carries it."""
    code = content.get("code")
    status = code if isinstance(code, int) else 500
    reason, message = str(content.get("reason") or ""), str(content.get("message") or "")
    details = content.get("details")
    return _error_class(status, reason)(
        status, reason, message, details if isinstance(details, Mapping) else {}
    )


def _error_class(status: int, reason: str) -> type[ApiError]:
    if status == 409:
        return AlreadyExistsError if reason == "AlreadyExists" else ConflictError
    return UnavailableError if status >= 500 else _BY_STATUS.get(status, ApiError)
