"""The HTTP connection as uvicorn has it, with the bounds that it lacks, and one way for every refusal.

Bounded are: size and time of a request's head, a body that nobody reads any more, an answer that the client
does not take, an idle connection. Without them one client can hold a connection for ever, before any
middleware is asked. Files leave from here, too (`zerocopy`), and client certificates will be read here:
uvicorn shows both the socket and the certificate to a protocol only.

References: uvicorn 0.54 protocols/http/httptools_impl.py; kopf-and-clients.md section 5.
"""

import asyncio
import functools
from typing import Any

import httptools
from starlette.exceptions import HTTPException
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from manifestry.core import errors
from manifestry_api.wire import heads, intakes, stalls, zerocopy

HEAD_SECONDS = 10.0
UNREAD_SECONDS = 30.0  # how long a client may go on with a body after its answer; nginx lingers as long
PIECE_BYTES = 256 << 10  # asyncio's own
# A chunked upload is read in larger pieces: each costs 100 us on its way to the store, beside its bytes.
CHUNKED_PIECE_BYTES = 1 << 20
INTAKE_BYTES = 128 << 10  # what is still to come of a shorter body is not worth the buffers


class BoundedProtocol(HttpToolsProtocol):
    """Refuses a request whose head is too large or no HTTP, and closes a connection that gets nowhere."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head_bytes = 0
        self._is_in_head = True
        self._is_in_body = False
        self._is_refused = False
        self._problem: errors.Problem | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._files: zerocopy.Connection | None = None
        self._watch: stalls.Watch | None = None
        self._intake: intakes.Intake | None = None
        self._left_bytes = 0  # of a body of known length, for the parser

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Expect the first request's head from now on."""
        super().connection_made(transport)
        self._files = zerocopy.Connection(transport, self.loop)
        self._watch = stalls.Watch(transport, self.loop)
        self._arm(HEAD_SECONDS)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the timers, and end a transfer that nobody receives."""
        self._disarm()
        super().connection_lost(exc)
        if self._watch is not None:
            self._watch.stop()
        if self._files is not None:
            self._files.lose()

    def pause_writing(self) -> None:
        """Expect the client to take something of what waits for it."""
        super().pause_writing()
        if self._watch is not None:
            self._watch.start()

    def resume_writing(self) -> None:
        """Go on: the client has taken enough."""
        super().resume_writing()
        if self._watch is not None:
            self._watch.stop()

    def on_message_begin(self) -> None:
        """Expect a head."""
        super().on_message_begin()
        self._is_in_head = True

    def on_headers_complete(self) -> None:
        """Take the head as complete, then let the request begin, or its refusal."""
        self._disarm()
        version = self.parser.get_http_version()
        if found := self._problem or heads.problem(version, self.url, self.headers):
            self.scope[heads.SCOPE_KEY] = found  # type: ignore[typeddict-unknown-key]
            self.url = self.url[: heads.URL_MAX_BYTES]  # of longer ones uvicorn cannot find the path
        super().on_headers_complete()
        self._is_in_head, self._is_in_body = False, True
        if self._files is not None:
            self._files.offer(self.cycle, self.flow)
        length = self._left_bytes = self._body_length()
        if length != 0:
            self.cycle.receive = self._receiver(self.cycle)  # type: ignore[method-assign]
        if length > INTAKE_BYTES:
            intakes.offer(self.cycle)
        self._read_in_pieces_of(CHUNKED_PIECE_BYTES if length < 0 else PIECE_BYTES)

    def on_body(self, body: bytes) -> None:
        """Keep a piece of the body, the first one as it is: uvicorn copies each byte twice on its way."""
        cycle = self.cycle
        self._left_bytes -= len(body)
        if cycle.body or cycle.response_complete:
            if isinstance(cycle.body, bytes):
                cycle.body = bytearray(cycle.body)  # many small pieces are appended in place
            super().on_body(body)
            return
        cycle.body = body  # type: ignore[assignment]
        if len(body) > HIGH_WATER_LIMIT:
            self.flow.pause_reading()
        cycle.message_event.set()

    def on_message_complete(self) -> None:
        """Take the body as complete."""
        self._is_in_body = False
        super().on_message_complete()
        if self.cycle.response_complete:  # long ago: nobody has read the body
            self._disarm()

    def on_response_complete(self) -> None:
        """Give a client some time for the rest of a body that was refused, and for taking the answer."""
        super().on_response_complete()
        if self._watch is not None and self.transport.get_write_buffer_size():
            self._watch.start()
        if self._intake is not None:
            self._intake.discard()
            self._intake = None
        if self._is_in_body and self.cycle.response_complete:
            self._arm(UNREAD_SECONDS)

    def data_received(self, data: bytes) -> None:
        """Parse the bytes, and count those of a head that has not ended with them."""
        if self._is_refused:
            return  # whatever follows what could not be read cannot be read either
        super().data_received(data)
        if self.transport.is_closing() or self._is_refused:
            return
        if not self._is_in_head:
            self._head_bytes = 0
            self._keep_alive()
            return
        self._arm(HEAD_SECONDS)  # no sooner: most heads come in one piece, and never need a timer
        self._head_bytes += len(data)
        if self._head_bytes > heads.HEAD_MAX_BYTES:
            self._refuse(heads.too_large())

    def send_400_response(self, msg: str) -> None:
        """Refuse what the parser cannot read."""
        if self._is_refused:
            super().send_400_response(msg)
        else:
            self._refuse(heads.malformed())

    def _unsupported_upgrade_warning(self) -> None:
        """Say nothing: a client may ask for another protocol, and gets this one (RFC 9110 section 7.8)."""

    def _refuse(self, problem: errors.Problem) -> None:
        """Bring a refusal to the application, after what it is still answering; then close."""
        self._disarm()
        self._is_refused, self._problem = True, problem
        if self._is_in_body:
            self.cycle.keep_alive = False
            self.cycle.message_event.set()
            if self.cycle.response_complete:
                self.transport.close()
            return
        self.parser = httptools.HttpRequestParser(self)
        self.parser.feed_data(heads.STAND_IN)

    def _receiver(self, cycle: Any) -> Any:
        plain = cycle.receive
        intake: intakes.Intake | None = None

        async def receive() -> Any:
            nonlocal intake
            if intake is None and self._may_take_in(cycle):
                intake = self._take_in(cycle)
            if intake is not None and (piece := await intake.receive()) is not None:
                return piece
            message = await plain()
            if message.get("more_body") and self._is_refused and self.cycle is cycle:
                raise HTTPException(400, "the body must be framed as HTTP/1.1 has it")
            return message

        return receive

    def _may_take_in(self, cycle: Any) -> bool:
        return (
            self.cycle is cycle
            and self._is_in_body
            and not (self._is_refused or cycle.disconnected or cycle.response_complete)
            and self._left_bytes > INTAKE_BYTES
            and len(cycle.body) <= intakes.PIECE_BYTES
            and intakes.is_wanted(cycle.scope)
        )

    def _take_in(self, cycle: Any) -> intakes.Intake:
        """Let the rest of the body go past the parser, into buffers."""
        if cycle.waiting_for_100_continue and not self.transport.is_closing():
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            cycle.waiting_for_100_continue = False
        first, cycle.body = cycle.body, bytearray()
        cycle.message_event.clear()
        taken_in = functools.partial(self._taken_in, cycle)
        self._intake = intakes.Intake(self, self.flow, first, self._left_bytes, taken_in)
        self.transport.set_protocol(self._intake)
        self._intake.start()
        return self._intake

    def _taken_in(self, cycle: Any) -> None:
        """Go on with the next request: the parser has not seen the end of this one, so it is a new one."""
        self._left_bytes = 0
        self.transport.set_protocol(self)
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn makes its own
        self._is_in_body = cycle.more_body = False
        if cycle.response_complete:
            self._disarm()
            self._keep_alive()

    def _body_length(self) -> int:
        """Return how long the body is that follows; -1 when nobody knows."""
        for name, value in self.headers:
            if name == b"content-length":
                return int(value) if value.isdigit() else 0
            if name == b"transfer-encoding":
                return -1
        return 0

    def _read_in_pieces_of(self, count_bytes: int) -> None:
        if isinstance(getattr(self.transport, "max_size", None), int):
            self.transport.max_size = count_bytes  # type: ignore[attr-defined]

    def _keep_alive(self) -> None:
        """Let an idle connection end: uvicorn forgets its timer when bytes come that begin no request."""
        is_idle = not self._is_in_body and self.cycle.response_complete
        if is_idle and self.timeout_keep_alive_task is None:
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def _arm(self, seconds: float) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(seconds, self._give_up)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self) -> None:
        self._timer = None
        if not self.transport.is_closing():
            self.transport.close()
