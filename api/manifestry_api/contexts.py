"""What is known about one request: filled in on its way in, read when it is answered and audited."""

import uuid
from collections.abc import MutableMapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from manifestry.core import access, headers, identities, traceparents

SCOPE_KEY = "manifestry.context"


@dataclass
class RequestContext:
    """One request.

    Args:
        audit_id: of the record and of the `Audit-ID` header.
        trace: this request's own span.
        received: when it came.
        received_seconds: the same on the monotonic clock.
        caller: a `deps.Caller` once the guard has let it in.
    """

    audit_id: str
    trace: traceparents.TraceParent
    received: datetime
    received_seconds: float = 0.0
    action: access.Action | None = None
    identity: identities.Identity | None = None
    claims: headers.Claims | None = None
    namespace: str = ""
    caller: object = None
    code: str = ""
    detail: str = ""
    claimed: dict[str, str] = field(default_factory=dict)


def new(trace: traceparents.TraceParent, received: datetime, received_seconds: float) -> RequestContext:
    """Return the context of a request that has just come."""
    return RequestContext(str(uuid.uuid4()), trace, received, received_seconds)


def of(scope: MutableMapping[str, Any]) -> RequestContext:
    """Return the context that the envelope middleware has put into `scope`.

    Raises:
        KeyError: the application runs without its middleware, which must never answer anybody.
    """
    context: RequestContext = scope[SCOPE_KEY]
    return context
