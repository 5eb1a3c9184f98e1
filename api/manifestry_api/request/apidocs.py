"""Words and examples of the OpenAPI document that belong to no single route."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from manifestry.core import errors
from manifestry.core.access import headers, permissions
from manifestry.core.kube import names
from manifestry_api.request import fields

REQUIRED: Final[Mapping[str, tuple[str, str]]] = {
    headers.ACTOR: ("Who acts; must be the credential's subject.", "system:serviceaccount:acme:ci"),
    headers.TENANT: ("For which tenant; the caller must hold a role in it.", "acme"),
    headers.REASON: ("Why; kept in the audit log and with what is created.", "ticket 42"),
    headers.ROLES: (
        "In which of the granted roles, comma-separated: viewer, publisher, operator, admin.",
        "publisher",
    ),
}
_TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
TRACEPARENT: Final[Mapping[str, Any]] = {
    "name": "traceparent",
    "in": "header",
    "required": False,
    "description": "The caller's span (W3C Trace Context); without it, or with a bad one, a trace begins.",
    "schema": {"type": "string"},
    "example": _TRACEPARENT,
}
# On every answer, and on those to callers who were let in.
STAMPS: Final[Mapping[str, tuple[str, str]]] = {
    "Audit-ID": ("Names the request's audit record.", "0f7c2a4e-5d3b-4a86-9a43-7b1f0f5f3c11"),
    "traceparent": ("This request's own span.", _TRACEPARENT),
}
ECHOES: Final[tuple[str, ...]] = headers.REQUIRED
_BY_STATUS: Final[Mapping[int, tuple[str, str, str]]] = {
    401: ("WWW-Authenticate", "The challenge (RFC 6750).", 'Bearer realm="manifestry"'),
    416: ("Content-Range", "How many bytes there are.", "bytes */1234"),
    429: ("Retry-After", "Seconds after which to try again.", "5"),
    503: ("Retry-After", "Seconds after which to try again.", "1"),
}
REFUSALS: Final[Mapping[int, tuple[str, errors.ErrorKind]]] = {
    400: ("The request cannot be understood", errors.BAD_REQUEST),
    401: ("No valid credential, or a required header is missing", errors.AUDIT_HEADER_MISSING),
    403: ("The caller may not do this", errors.FORBIDDEN),
    404: ("No such object in this tenant", errors.NOT_FOUND),
    413: ("The body is too large", errors.PAYLOAD_TOO_LARGE),
    422: ("The request does not fit its schema", errors.VALIDATION_FAILED),
    429: ("The tenant's quota is used up", errors.QUOTA_EXCEEDED),
    500: ("An unexpected error", errors.INTERNAL),
    503: ("A dependency does not answer, or there is too much contention", errors.BUSY),
}
_CHARGED = frozenset({permissions.Action.ARTIFACTS_WRITE, permissions.Action.JOBS_SUBMIT})
_LABEL: Mapping[str, Any] = {"type": "string", "pattern": fields.LABEL_PATTERN}
_JOB_TYPE: Mapping[str, Any] = {
    "description": "The job type's name.",
    "schema": {**_LABEL, "maxLength": 63},
    "example": "render",
}
_PLACES: Mapping[tuple[str, str], Mapping[str, Any]] = {
    ("artifacts", "name"): {
        "description": "The artifact's id.",
        "schema": {**_LABEL, "maxLength": names.NAME_MAX_LENGTH},
        "example": "report-2026",
    },
    ("artifacts", "file"): {
        "description": "The name of one of the artifact's `files`.",
        "schema": {"type": "string", "minLength": 1, "maxLength": 255},
        "example": "data.csv",
    },
    ("uploads", "uid"): {
        "description": "The upload's id.",
        "schema": {"type": "string", "format": "uuid"},
        "example": "4b7e0f5a-3d1c-4f0e-9c53-2f9f6f1d8a77",
    },
    ("manifests", "digest"): {
        "description": "The manifest's digest.",
        "schema": {"type": "string", "pattern": fields.DIGEST_PATTERN, "maxLength": 71},
        "example": f"sha256:{'0' * 64}",
    },
    ("damaged", "digest"): {
        "description": "What the bytes should hash to.",
        "schema": {"type": "string", "pattern": fields.DIGEST_PATTERN, "maxLength": 71},
        "example": f"sha256:{'0' * 64}",
    },
    ("jobs", "name"): {
        "description": "The job's id.",
        "schema": {**_LABEL, "maxLength": names.NAME_MAX_LENGTH},
        "example": "render-7xk2p",
    },
    ("job-types", "name"): _JOB_TYPE,
    ("quotas", "job_type"): _JOB_TYPE,
    ("retained", "uid"): {
        "description": "The id of what is retained: `metadata.uid` of the artifact that was.",
        "schema": {"type": "string", "format": "uuid"},
        "example": "7c1f0f5a-3d1c-4f0e-9c53-2f9f6f1d8a12",
    },
}


def place(path: str, name: str) -> Mapping[str, Any]:
    """Return what the document says of a placeholder in a path.

    Raises:
        KeyError: nobody has described it.
    """
    return _PLACES[path.split("/")[1], name]


def refusals(method: str, path: str, action: permissions.Action, *, has_query: bool) -> Iterator[int]:
    """Yield the statuses of the refusals that a guarded route may answer with, beside its own."""
    yield from (400, 401, 403, 500, 503)
    if "{" in path:
        yield 404
    if method in {"POST", "PUT", "PATCH"}:
        yield 413
    if method in {"POST", "PUT", "PATCH"} or has_query:
        yield 422
    if method != "DELETE" and action in _CHARGED:
        yield 429


def stamps() -> dict[str, Any]:
    """Return the headers that every answer has."""
    return {name: {"$ref": f"#/components/headers/{name}"} for name in STAMPS}


def headers_of(status: int) -> dict[str, Any]:
    """Return the headers that every answer of a guarded route has by its status."""
    found = stamps()
    if status < 400:
        return found | {name: {"$ref": f"#/components/headers/{name}"} for name in ECHOES}
    if status in _BY_STATUS:
        name, description, example = _BY_STATUS[status]
        found[name] = {"description": description, "schema": {"type": "string"}, "example": example}
    return found


def components() -> dict[str, Any]:
    """Return the headers that every answer has, to be referred to."""
    echoed = {name: (f"As it was sent: {REQUIRED[name][0]}", REQUIRED[name][1]) for name in ECHOES}
    return {
        name: {"description": text, "schema": {"type": "string"}, "example": example}
        for name, (text, example) in {**STAMPS, **echoed}.items()
    }


def example(kind: errors.ErrorKind) -> dict[str, Any]:
    """Return a problem document of a kind."""
    return {
        "type": f"https://manifestry.dev/errors/{kind.code}",
        "title": kind.title,
        "status": kind.status,
        "detail": "what must be different, in one sentence",
        "instance": "/artifacts/report-2026",
        "code": kind.code,
        "auditId": STAMPS["Audit-ID"][1],
        "traceId": _TRACEPARENT.split("-")[1],
    }
