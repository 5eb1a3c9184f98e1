"""Pure ASGI middleware, outermost first: Traced, Audited, Bounded; each may be read without the others."""

import asyncio
import functools
import logging
import re
import time
from collections.abc import Iterable, Mapping
from datetime import datetime

from opentelemetry import context as current
from opentelemetry import trace
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from manifestry.core import errors
from manifestry.core.access import audit, headers
from manifestry_api.guard import deps
from manifestry_api.request import audits, contexts, problems, telemetry

PUBLIC_PATHS = frozenset(
    {"/livez", "/readyz", "/healthz", "/metrics", "/openapi.json", "/docs", "/docs/style.css"}
)
UPLOADS: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("PUT", re.compile(r"/artifacts/[^/]+/content")),
    ("PUT", re.compile(r"/artifacts/[^/]+/files/[^/]+/content")),
    ("PATCH", re.compile(r"/uploads/[^/]+")),
)
BODILESS = frozenset({"GET", "HEAD"})  # mostly: a header says when there is one (RFC 9112 section 6.3)
BODY_IDLE_SECONDS = 30.0  # a client that sends nothing for so long is cut off
ECHOED = {b"x-actor": "actor", b"x-tenant": "tenant", b"x-reason": "reason"}
_ROLES = headers.ROLES.lower().encode()
_LENGTH_DIGITS = 19  # more would not fit 64 bits
Fields = Iterable[tuple[bytes, bytes]]
logger = logging.getLogger(__name__)


def route_template(scope: Scope) -> str:
    """Return the matched route's path with its placeholders, empty when none matched."""
    return str(getattr(scope.get("route"), "path_format", ""))


class Traced:
    """Begins the request's context and span, measures it, and ends the span."""

    def __init__(self, app: ASGIApp, instruments: telemetry.Telemetry, clock: deps.Clock) -> None:
        self._app = app
        self._instruments = instruments
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        span = self._instruments.start_span(scope["method"], contexts.header(scope, b"traceparent"))
        context = contexts.new(telemetry.place(span), self._clock(), time.monotonic())
        scope[contexts.SCOPE_KEY] = context
        token = current.attach(trace.set_span_in_context(span))
        try:
            await self._app(scope, receive, send)
        finally:
            current.detach(token)
            self._finish(scope, span, context)

    def _finish(self, scope: Scope, span: trace.Span, context: contexts.RequestContext) -> None:
        method, route, status = scope["method"], route_template(scope), context.status
        elapsed = time.monotonic() - context.received_seconds
        self._instruments.observe_request(method, route, status, context.code, elapsed)
        if not span.is_recording():
            return
        attributes: dict[str, str | int] = {
            "http.request.method": method,
            "http.route": route,
            "http.response.status_code": status,
            "url.path": scope["path"],
            "manifestry.audit_id": context.audit_id,
            "manifestry.tenant": context.claims.tenant if context.namespace and context.claims else "",
        }
        telemetry.end_span(
            span, f"{method} {route}".strip(), {key: value for key, value in attributes.items() if value}
        )


class Audited:
    """Puts `Audit-ID`, `traceparent` and the echoed headers on every answer, and writes the audit record.

    It is also the outermost boundary: what escapes the application becomes a problem document here.
    """

    def __init__(self, app: ASGIApp, sink: audits.AuditSink, clock: deps.Clock) -> None:
        self._app = app
        self._sink = sink
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        context = contexts.of(scope)

        async def stamping(message: Message) -> None:
            if message["type"] == "http.response.start":
                context.status = message["status"]
                if scope["path"] not in PUBLIC_PATHS:
                    await self._record(scope, context, message)
                message["headers"] = _stamped(message.get("headers", ()), context)
            await send(message)

        try:
            await self._app(scope, receive, stamping)
        except Exception as error:
            if context.status:  # the answer has begun
                raise
            await problems.caught(error, Request(scope))(scope, receive, stamping)

    async def _record(self, scope: Scope, context: contexts.RequestContext, message: Message) -> None:
        whole = message["status"] == 204 or b"content-length" in dict(message.get("headers", ()))
        record = audit.record(_event(scope, context, self._clock(), whole=whole))
        try:
            await self._sink.write(record)
        except OSError:
            logger.exception("audit record could not be written", extra={"auditId": record["auditID"]})


def _event(scope: Scope, context: contexts.RequestContext, decided: datetime, *, whole: bool) -> audit.Event:
    who, status = context.identity, context.status
    raw_path = scope.get("raw_path") or scope["path"].encode()
    return audit.Event(
        audit_id=context.audit_id,
        stage="ResponseComplete" if whole else "ResponseStarted",
        method=scope["method"],
        uri=raw_path.decode("ascii", "backslashreplace"),
        path=scope["path"],
        subject=who.subject if who else "",
        groups=who.groups if who else (),
        namespace=context.namespace,
        source_ips=(scope["client"][0],) if scope.get("client") else (),
        user_agent=contexts.header(scope, b"user-agent") or "",
        status=status,
        code=context.code,
        detail=context.detail,
        received=context.received,
        decided=decided,
        decision="allow" if context.caller else "forbid" if status in {401, 403} else "",
        annotations={
            **context.claimed,
            "action": context.action or "",
            "trace-id": context.trace.trace_id,
        },
    )


def _stamped(own: Fields, context: contexts.RequestContext) -> list[tuple[bytes, bytes]]:
    """Return an answer's header fields with ours in the place of its own; ASGI has names in lower case."""
    stamps = {
        b"audit-id": context.audit_id.encode(),
        b"traceparent": str(context.trace).encode(),
        b"x-content-type-options": b"nosniff",
    }
    if context.claims is not None:
        stamps |= _echo(context.claims)
    return [*(pair for pair in own if pair[0] not in stamps), *stamps.items()]


@functools.lru_cache(maxsize=256)
def _echo(claims: headers.Claims) -> Mapping[bytes, bytes]:
    found = {name: getattr(claims, field).encode() for name, field in ECHOED.items()}
    return {**found, _ROLES: ",".join(sorted(claims.roles)).encode()}


class Bounded:
    """Refuses a body that is longer than its route may have, and a client that stops sending it.

    Args:
        app: what is protected.
        json_bytes: the limit of every route that is not an upload.
        upload_bytes: the limit of the routes in `uploads`.
        uploads: method and path of the routes that stream payloads.
        idle_seconds: the longest wait for the next piece of a body.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        json_bytes: int,
        upload_bytes: int,
        uploads: Iterable[tuple[str, re.Pattern[str]]] = UPLOADS,
        idle_seconds: float = BODY_IDLE_SECONDS,
    ) -> None:
        self._app = app
        self._json_bytes = json_bytes
        self._upload_bytes = upload_bytes
        self._uploads = tuple(uploads)
        self._idle_seconds = idle_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if scope["method"] in BODILESS and not _has_body(scope):
            await self._app(scope, receive, send)
            return
        limit = self._limit(scope)
        if _content_length(scope) > limit:
            raise errors.Problem(errors.PAYLOAD_TOO_LARGE, _too_large(limit))
        await self._app(scope, self._counting(receive, limit), send)

    def _limit(self, scope: Scope) -> int:
        is_upload = any(
            scope["method"] == method and pattern.fullmatch(scope["path"])
            for method, pattern in self._uploads
        )
        return self._upload_bytes if is_upload else self._json_bytes

    def _counting(self, receive: Receive, limit: int) -> Receive:
        total, complete = 0, False

        async def counted() -> Message:
            nonlocal total, complete
            if complete:  # what comes now is the client's leaving, which may take its time
                return await receive()
            message = await self._in_time(receive)
            total += len(message.get("body", b""))
            complete = not message.get("more_body", False)
            if total > limit:
                raise HTTPException(413, _too_large(limit))
            return message

        return counted

    async def _in_time(self, receive: Receive) -> Message:
        try:
            async with asyncio.timeout(self._idle_seconds):
                return await receive()
        except TimeoutError as error:
            raise HTTPException(400, "the body must be sent without long pauses") from error


def _has_body(scope: Scope) -> bool:
    fields = contexts.fields(scope)
    return b"content-length" in fields or b"transfer-encoding" in fields


def _content_length(scope: Scope) -> int:
    text = contexts.header(scope, b"content-length") or ""
    if not (text.isascii() and text.isdigit()):
        return 0
    return int(text) if len(text) < _LENGTH_DIGITS else 1 << 62


def _too_large(limit: int) -> str:
    return f"the body must have at most {limit} bytes"
