"""HTTP to the Kubernetes API: pooled sessions, deadlines, size caps, bounded retries, one observer."""

import asyncio
import contextlib
import json
import logging
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from multidict import CIMultiDict
from opentelemetry import trace

from manifestry.adapters.kube import apierrors, kubeconfigs, retries
from manifestry.core.kube import traceparents

MAX_BODY_BYTES = 64 << 20  # a page of 500 objects at etcd's 1.5 MB limit would be more; ours are ~3 KB
MAX_ERROR_BYTES = 64 << 10
MAX_WARNINGS = 100
CONNECT_SECONDS = 10.0
LEAST_SECONDS = 0.05  # what a last attempt gets at least
STREAM_POOL_SIZE = 512  # log followers hold a connection each; they must starve neither calls nor watches
WATCH_POOL_SIZE = 64
KEEPALIVE_IDLE_SECONDS = 30
# Older asyncio waits half a minute for a vanished peer's farewell on a closed connection.
LINGERING_TLS = sys.version_info < (3, 12, 8)

_logger = logging.getLogger(__name__)
Observer = Callable[[str, str, int, float], None]
NETWORK_ERRORS = (aiohttp.ClientError, TimeoutError, OSError)


class OversizeError(apierrors.UnavailableError):
    """The answer is larger than what is read of one: asking again in the same way does not help."""


@dataclass(frozen=True)
class Call:
    """One request.

    Args:
        verb: the Kubernetes verb (get, list, create, ...), for metrics and for the retry rule.
        resource: `plural.group`, for metrics.
        method: the HTTP method.
        path: an absolute path whose parts are already checked.
        query: the query parameters.
        body: a JSON body, or None.
        content_type: the body's media type.
        headers: further headers, such as impersonation.
    """

    verb: str
    resource: str
    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    body: Any = None
    content_type: str = "application/json"
    headers: Sequence[tuple[str, str]] = ()


class Transport:
    """Sends calls with shared credentials; `send` for short answers, `stream` for watches and logs."""

    def __init__(
        self,
        credentials: kubeconfigs.Credentials,
        *,
        pool_size: int,
        request_timeout_seconds: float,
        user_agent: str,
        trace_configs: Sequence[aiohttp.TraceConfig] = (),
        observer: Observer | None = None,
    ) -> None:
        self._credentials = credentials
        self._timeout_seconds = request_timeout_seconds
        self._user_agent = user_agent
        self._trace_configs = trace_configs
        self._context = credentials.ssl_context()
        self._backoff = retries.Backoff(base_seconds=0.1, cap_seconds=2.0)
        self._warnings: set[str] = set()
        self.observer = observer
        self.session = self.new_session(pool_size)
        self._streams = self.new_session(STREAM_POOL_SIZE)
        self._watches = self.new_session(WATCH_POOL_SIZE)

    @property
    def server(self) -> str:
        """Return the API server's base URL."""
        return self._credentials.server

    def new_session(
        self, pool_size: int, trace_configs: Sequence[aiohttp.TraceConfig] = ()
    ) -> aiohttp.ClientSession:
        """Return a session of its own with our credentials; whoever asks for it closes it."""
        connector = aiohttp.TCPConnector(
            limit=pool_size,
            ssl=self._context,
            socket_factory=_keepalive_socket,
            keepalive_timeout=60,
            enable_cleanup_closed=LINGERING_TLS,
        )
        return aiohttp.ClientSession(
            connector=connector,
            headers={"User-Agent": self._user_agent, "Accept": "application/json"},
            skip_auto_headers=("Accept-Encoding",),  # gzip costs more CPU than a cluster network costs time
            middlewares=(self._credentials.authorize,),
            trace_configs=[*self._trace_configs, *trace_configs],
            proxy=self._credentials.proxy,
            timeout=aiohttp.ClientTimeout(total=self._timeout_seconds, connect=CONNECT_SECONDS),
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    async def close(self) -> None:
        """Close the connections; calls under way fail."""
        await self.session.close()
        await self._streams.close()
        await self._watches.close()

    async def send(self, call: Call) -> bytes:
        """Send a call until it succeeds, may not be repeated, or the deadline is near.

        Raises:
            OversizeError: the answer is over MAX_BODY_BYTES.
            ApiError: the server's refusal, or UnavailableError without an answer.
        """
        deadline = time.monotonic() + self._timeout_seconds
        for attempt in range(1, retries.MAX_ATTEMPTS + 1):
            # aiohttp takes 0 and less for "no limit", and a sleep may last longer than it was asked to
            left_seconds = max(deadline - time.monotonic(), LEAST_SECONDS)
            outcome = await self._attempt(call, left_seconds)
            if isinstance(outcome, bytes):
                return outcome
            delay = self._delay(outcome, attempt, first=attempt == 1)
            if delay is None or attempt == retries.MAX_ATTEMPTS or time.monotonic() + delay >= deadline:
                raise outcome.error
            await asyncio.sleep(delay)
        raise AssertionError("the last attempt returns or raises")

    def _delay(self, failure: "_Failure", attempt: int, *, first: bool) -> float | None:
        if failure.error.status == 401 and first:
            self._credentials.expire()
            return 0.0
        if not failure.repeatable:
            return None
        return max(failure.retry_after or 0.0, self._backoff.delay(attempt))

    async def _attempt(self, call: Call, timeout_seconds: float) -> "bytes | _Failure":
        started = time.monotonic()
        try:
            async with self._request(
                self.session, call, aiohttp.ClientTimeout(total=timeout_seconds)
            ) as answer:
                body = await _read_capped(answer, MAX_BODY_BYTES)
        except OversizeError:
            self._observe(call, answer.status, started)
            raise
        except NETWORK_ERRORS as error:
            self._observe(call, 0, started)
            safe = call.verb in retries.SAFE_VERBS or isinstance(error, aiohttp.ClientConnectorError)
            return _Failure(_no_answer(call, error), safe, None)
        self._observe(call, answer.status, started)
        self._report(call, answer.headers.getall("Warning", ()))
        return body if answer.status < 300 else _Failure.of(call, answer, body)

    @contextlib.asynccontextmanager
    async def stream(
        self, call: Call, *, inactivity_seconds: float | None
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """Open a long answer; yields the chunks of its body. Errors of the caller's own block are not ours.

        Args:
            call: the request; it is sent once.
            inactivity_seconds: no bytes for so long end the stream with UnavailableError; None = never.

        Raises:
            ApiError: the server's refusal, or UnavailableError for a broken stream.
        """
        started = time.monotonic()
        timeout = aiohttp.ClientTimeout(total=None, connect=CONNECT_SECONDS, sock_read=inactivity_seconds)
        pool = self._watches if call.verb == "watch" else self._streams
        async with contextlib.AsyncExitStack() as stack:
            try:
                answer = await stack.enter_async_context(self._request(pool, call, timeout))
                self._observe(call, answer.status, started)
                if answer.status >= 300:
                    raise self._refusal(answer.status, await _read_capped(answer, MAX_ERROR_BYTES))
            except NETWORK_ERRORS as error:
                self._observe(call, 0, started)
                raise _no_answer(call, error) from error
            yield _chunks(call, answer.content)

    def _refusal(self, status: int, body: bytes) -> apierrors.ApiError:
        if status == 401:
            self._credentials.expire()
        return apierrors.parse_error(status, body)

    def _request(
        self, session: aiohttp.ClientSession, call: Call, timeout: aiohttp.ClientTimeout
    ) -> "aiohttp.client._RequestContextManager":
        headers = CIMultiDict(call.headers)
        data = None
        span = trace.get_current_span().get_span_context()
        if span.is_valid:
            headers["traceparent"] = str(traceparents.from_ids(span.trace_id, span.span_id, span.trace_flags))
        if call.body is not None:
            headers["Content-Type"] = call.content_type
            data = json.dumps(call.body, separators=(",", ":")).encode()
        return session.request(
            call.method,
            self.server + call.path,
            params=call.query,
            data=data,
            headers=headers,
            timeout=timeout,
            allow_redirects=False,
        )

    def _report(self, call: Call, warnings: Sequence[str]) -> None:
        """Log what the server warns of, such as an unknown field, once per text."""
        for text in warnings:
            if text not in self._warnings and len(self._warnings) < MAX_WARNINGS:
                self._warnings.add(text)
                _logger.warning("API server warning", extra={"resource": call.resource, "text": text[:512]})

    def _observe(self, call: Call, status: int, started: float) -> None:
        if self.observer is not None:
            self.observer(call.verb, call.resource, status, time.monotonic() - started)


@dataclass(frozen=True)
class _Failure:
    error: apierrors.ApiError
    repeatable: bool
    retry_after: float | None

    @classmethod
    def of(cls, call: Call, answer: aiohttp.ClientResponse, body: bytes) -> "_Failure":
        wait = retries.retry_after(answer.headers)
        repeatable = retries.may_retry(call.verb, answer.status, wait is not None)
        return cls(apierrors.parse_error(answer.status, body), repeatable, wait)


async def _read_capped(answer: aiohttp.ClientResponse, limit_bytes: int) -> bytes:
    body = bytearray()
    async for chunk in answer.content.iter_any():
        body += chunk
        if len(body) > limit_bytes:
            answer.close()
            raise OversizeError(503, "ServiceUnavailable", f"the answer is over {limit_bytes} bytes")
    return bytes(body)


async def _chunks(call: Call, content: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    try:
        async for chunk in content.iter_any():
            yield chunk
    except NETWORK_ERRORS as error:
        raise _no_answer(call, error) from error


def _no_answer(call: Call, error: BaseException) -> apierrors.UnavailableError:
    cause = str(error) or type(error).__name__
    return apierrors.unavailable(f"{call.method} {call.path}: {cause}")


def _keepalive_socket(address: Any) -> socket.socket:
    """Make a socket that notices a vanished peer: a follower of a quiet log has no other sign."""
    family, kind, protocol, _, _ = address
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE_SECONDS)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
    return made
