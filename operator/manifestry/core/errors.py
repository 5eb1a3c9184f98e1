"""The one table of errors: stable code, HTTP status, title, whether trying again can help."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class ErrorKind:
    """A row of the table.

    References: RFC 9457; docs/errors.md lists every code.
    """

    code: str
    status: int
    title: str
    retryable: bool = False


UNAUTHENTICATED = ErrorKind("unauthenticated", 401, "Credentials are missing or not valid")
AUDIT_HEADER_MISSING = ErrorKind("audit-header-missing", 401, "A required header is missing")
FORBIDDEN = ErrorKind("forbidden", 403, "The caller may not do this")
NOT_FOUND = ErrorKind("not-found", 404, "No such object in this tenant")
METHOD_NOT_ALLOWED = ErrorKind("method-not-allowed", 405, "The route does not serve this method")
NOT_ACCEPTABLE = ErrorKind("not-acceptable", 406, "No representation fits the Accept header")
BAD_REQUEST = ErrorKind("bad-request", 400, "The request cannot be understood")
CONFLICT = ErrorKind("conflict", 409, "The object's state does not allow this")
ALREADY_EXISTS = ErrorKind("already-exists", 409, "An object of this name exists")
GONE = ErrorKind("gone", 410, "The page token has expired")
PRECONDITION_FAILED = ErrorKind("precondition-failed", 412, "The object has changed")
PAYLOAD_TOO_LARGE = ErrorKind("payload-too-large", 413, "The body is over the limit")
URI_TOO_LONG = ErrorKind("uri-too-long", 414, "The URL is too long")
UNSUPPORTED_MEDIA_TYPE = ErrorKind("unsupported-media-type", 415, "The body's media type is not served here")
RANGE_NOT_SATISFIABLE = ErrorKind("range-not-satisfiable", 416, "No part of the range exists")
VALIDATION_FAILED = ErrorKind("validation-failed", 422, "A field is not valid")
IMMUTABLE_FIELD = ErrorKind("immutable-field", 422, "An immutable field was changed")
DIGEST_MISMATCH = ErrorKind("digest-mismatch", 422, "The bytes do not match the stated digest")
QUOTA_EXCEEDED = ErrorKind("quota-exceeded", 429, "The tenant's quota is used up", retryable=True)
HEAD_TOO_LARGE = ErrorKind("head-too-large", 431, "The request's head is too large")
INTERNAL = ErrorKind("internal", 500, "An unexpected error")
BUSY = ErrorKind("busy", 503, "Too much contention at the moment", retryable=True)
DEPENDENCY_UNAVAILABLE = ErrorKind(
    "dependency-unavailable", 503, "A dependency does not answer", retryable=True
)
STORE_REFUSED = ErrorKind("store-refused", 503, "The object store may not be written to", retryable=True)
STORAGE_FULL = ErrorKind("storage-full", 507, "The object store is full")

TABLE: tuple[ErrorKind, ...] = tuple(kind for kind in list(globals().values()) if isinstance(kind, ErrorKind))


@dataclass(frozen=True)
class FieldError:
    """One bad field.

    Args:
        pointer: RFC 6901 pointer into the body, such as `/spec/inline/data`.
        message: a sentence with "must", the field in back-quotes, no secrets.
    """

    pointer: str
    message: str


@dataclass
class Problem(Exception):  # noqa: N818 - RFC 9457 calls it a problem
    """A refusal that its caller can act on; mapped to problem+json and to conditions in one place each."""

    kind: ErrorKind
    detail: str
    errors: tuple[FieldError, ...] = ()
    usage: Mapping[str, Any] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        """Return the code and the detail."""
        return f"{self.kind.code}: {self.detail}"


def invalid(pointer: str, message: str) -> Problem:
    """Return the `validation-failed` problem for one field."""
    return Problem(VALIDATION_FAILED, message, (FieldError(pointer, message),))


def already_exists(name: str) -> Problem:
    """Return the problem for a name that is taken."""
    message = f"`name` must not be the name of an existing object, '{name}' is"
    return Problem(ALREADY_EXISTS, message, (FieldError("/name", message),))
