"""What is known about one request: filled in on its way in, read when it is answered and audited."""

import uuid
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from manifestry.core.access import headers, identities, permissions
from manifestry.core.kube import traceparents

SCOPE_KEY = "manifestry.context"
FIELDS_KEY = "manifestry.fields"

Fields = Mapping[bytes, Sequence[bytes]]  # a header's lines by its name in lower case


@dataclass(slots=True)
class RequestContext:
    """One request.

    Args:
        audit_id: of the record and of the `Audit-ID` header.
        trace: this request's own span.
        received: when it came.
        received_seconds: the same on the monotonic clock.
        status: of the answer; 0 before it begins.
        caller: a `deps.Caller` once the guard has let it in.
        claimed: what the required headers say, by their short names, believed or not.
    """

    audit_id: str
    trace: traceparents.TraceParent
    received: datetime
    received_seconds: float = 0.0
    action: permissions.Action | None = None
    identity: identities.Identity | None = None
    claims: headers.Claims | None = None
    namespace: str = ""
    caller: object = None
    code: str = ""
    detail: str = ""
    status: int = 0
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


def fields(scope: MutableMapping[str, Any]) -> Fields:
    """Return the request's header fields; the block is read once, for everybody who asks in the request."""
    found: dict[bytes, list[bytes]] | None = scope.get(FIELDS_KEY)
    if found is None:
        found = scope[FIELDS_KEY] = {}
        for name, value in scope["headers"]:
            if name in found:
                found[name].append(value)
            else:
                found[name] = [value]
    return found


def header(scope: MutableMapping[str, Any], name: bytes) -> str | None:
    """Return the first line of a header, None when there is none."""
    lines = fields(scope).get(name)
    return lines[0].decode("latin-1") if lines else None
