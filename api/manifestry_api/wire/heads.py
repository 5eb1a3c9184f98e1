"""What HTTP asks of a request's head, and how the refusal of one takes the way of every other answer.

uvicorn answers what is no HTTP with a line of plain text, past the trace, the audit log and problem+json, and
lets some heads through that a recipient must refuse, because another one on the way may read them otherwise.

References: RFC 9112 sections 3.2 (Host), 5 (fields) and 6.1 (Transfer-Encoding); RFC 9110 section 4.1 (the
length of a URI).
"""

import re
from collections.abc import Callable, Iterable
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from manifestry.core import errors

SCOPE_KEY: Final = "manifestry.refusal"
HEAD_MAX_BYTES: Final = 64 << 10  # a token has at most 16 KiB; nginx allows 32 KiB
URL_MAX_BYTES: Final = 16 << 10  # RFC 9110 recommends 8,000 at least
# What stands in for a request that cannot be read: it brings the refusal to the application.
STAND_IN: Final = b"GET / HTTP/1.1\r\nhost: unreadable\r\nconnection: close\r\n\r\n"
_FRAME_BYTES = len(": \r\n")
_HOST = re.compile(rb"[A-Za-z0-9._~!$&'()*+,;=%:\[\]-]*")

Fields = Iterable[tuple[bytes, bytes]]
Answer = Callable[[errors.Problem, Request], Response]


class Refused:
    """Pure ASGI middleware: answers a request whose head was refused by the connection.

    Args:
        app: serves all others.
        answer: makes the answer.
    """

    def __init__(self, app: ASGIApp, answer: Answer) -> None:
        self._app = app
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        problem: errors.Problem | None = scope.get(SCOPE_KEY)
        if problem is None:
            await self._app(scope, receive, send)
        else:
            await self._answer(problem, Request(scope))(scope, receive, send)


def problem(version: str, url: bytes, fields: Fields) -> errors.Problem | None:
    """Return why a head that can be read must be refused all the same, None when it need not.

    Args:
        version: of HTTP, such as `1.1`.
        url: the request's target.
        fields: the header fields, names in lower case.
    """
    if len(url) > URL_MAX_BYTES:
        return _bad(f"the URL must have at most {URL_MAX_BYTES} bytes", errors.URI_TOO_LONG)
    size_bytes, hosts, codings = len(url), [], []
    for name, value in fields:
        size_bytes += len(name) + len(value) + _FRAME_BYTES
        if name == b"host":
            hosts.append(value)
        elif name == b"transfer-encoding":
            codings.append(value)
    if size_bytes > HEAD_MAX_BYTES:
        return too_large()
    return _check_host(version, hosts) or _check_codings(version, codings)


def malformed() -> errors.Problem:
    """Return the refusal of what is no HTTP request."""
    return _bad("the request must be a well-formed HTTP/1.1 request")


def too_large() -> errors.Problem:
    """Return the refusal of a head that is over its bound."""
    return _bad(f"the request's head must have at most {HEAD_MAX_BYTES} bytes", errors.HEAD_TOO_LARGE)


def _check_host(version: str, hosts: list[bytes]) -> errors.Problem | None:
    wanted = len(hosts) == 1 or (not hosts and version != "1.1")
    if wanted and (not hosts or _HOST.fullmatch(hosts[0])):
        return None
    return _bad("header `Host` must be sent once, as host and port")


def _check_codings(version: str, codings: list[bytes]) -> errors.Problem | None:
    if not codings:
        return None
    if version == "1.1" and [coding.strip().lower() for coding in codings] == [b"chunked"]:
        return None
    return _bad("header `Transfer-Encoding` must be `chunked`, in HTTP/1.1")


def _bad(detail: str, kind: errors.ErrorKind = errors.BAD_REQUEST) -> errors.Problem:
    return errors.Problem(kind, detail, headers={"Connection": "close"})
