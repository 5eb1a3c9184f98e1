"""Bytes from a file to a socket inside the kernel, as an extension of ASGI.

uvicorn sends files through Python only (its issues 35 and 1210, pull request 2840), and asyncio's own
`loop.sendfile` registers the socket anew for every piece, takes a peer's reset for a missing system call,
and never ends when the transport is closed under it. So this module waits for the socket by itself, on a
duplicate of its descriptor: asyncio lets nobody else wait for a descriptor that a transport has.

An application sees `EXTENSION` in `scope["extensions"]` when it may send such messages::

    {"type": EXTENSION, "file": <has fileno()>, "offset": int, "count": int, "more_body": bool}

and gets a `GoneError` when the client has left. A start message with `HELD` says that a file's bytes follow
at once: the head leaves with them (MSG_MORE, tcp(7)). On its own it costs a packet and a wake-up of the
client, 7 % of a MiB over loopback; held back by TCP_CORK it costs more than it saves.

References: https://asgi.readthedocs.io/en/latest/extensions.html "Zero Copy Send".
"""

import asyncio
import contextlib
import fcntl
import os
import socket
import ssl
import sys
import termios
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final, Protocol

EXTENSION: Final = "http.response.zerocopysend"
HELD: Final = "manifestry.held"
# One system call: from the page cache 4 MiB take 0.9 ms, in which nobody else is served. It is twice nginx's
# piece, because a wake-up costs more here.
STEP_BYTES: Final = 4 << 20
STALL_SECONDS: Final = 60.0  # a client that takes nothing for so long is cut off, as nginx does it
_END: Final = {"type": "http.response.body"}
# What is used of uvicorn's RequestResponseCycle, which is not a public interface: without all of it the
# extension is not offered.
CYCLE_NAMES: Final = frozenset(
    {
        "disconnected",
        "expected_content_length",
        "chunked_encoding",
        "response_complete",
        "response_started",
        "transport",
    }
)

Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]


class TruncatedError(Exception):
    """The file ended before the promised bytes; the connection closes without them."""


class GoneError(ConnectionError):
    """The client has left, or was cut off; whoever reads on for it reads in vain."""


class Flow(Protocol):
    """uvicorn's FlowControl."""

    async def drain(self) -> None:
        """Wait until the transport's buffer is below its limit."""


class Connection:
    """A plain connection, and the transfer that is going on over it.

    Args:
        transport: of the connection.
        loop: waits for its socket.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._socket: socket.socket | None = None  # a duplicate, from the first file on
        self._transfer: Transfer | None = None
        self._has_sockets = is_plain(transport) and isinstance(loop, asyncio.SelectorEventLoop)

    def offer(self, cycle: Any, flow: Flow) -> None:
        """Let one request's application use the extension, where this connection has it."""
        if self._has_sockets and vars(cycle).keys() >= CYCLE_NAMES:
            cycle.send = _sender(self, cycle, flow)
            cycle.scope.setdefault("extensions", {})[EXTENSION] = {}

    def lose(self) -> None:
        """End the transfer: nobody is there any more."""
        if self._transfer is not None:
            self._transfer.abandon()
        if self._socket is not None:
            self._socket.close()

    def begin(self, head: bytes) -> None:
        """Send the head of an answer whose next bytes are a file's, so that they leave together."""
        sent = 0
        if not self._transport.is_closing() and not self._transport.get_write_buffer_size():
            with contextlib.suppress(OSError):  # the transport finds out, and deals with it
                sent = self._duplicate().send(head, socket.MSG_MORE)
        if sent < len(head):
            self._transport.write(head[sent:])

    async def drain(self, flow: Flow) -> None:
        """Wait until the transport has nothing left to write: what it has comes before the file's bytes."""
        if not self._transport.get_write_buffer_size():
            return
        self._transport.set_write_buffer_limits(high=0)
        try:
            await flow.drain()
        finally:
            self._transport.set_write_buffer_limits()

    async def send(self, file: int, offset: int, count: int) -> None:
        """Send `count` bytes.

        Raises:
            GoneError: the client has left, or takes nothing.
            TruncatedError: the file has fewer.
        """
        if self._transport.is_closing():
            raise GoneError("the client has left")
        target = self._duplicate().fileno()
        transfer = self._transfer = Transfer(self._loop, target, file, offset, count)
        try:
            if not transfer.push():
                await transfer.run()
        except (ConnectionError, TimeoutError) as error:
            self._transport.abort()
            await asyncio.sleep(0)  # the server takes note of the loss before we are through
            raise GoneError("the client has left") from error
        finally:
            self._transfer = None

    def _duplicate(self) -> socket.socket:
        if self._socket is None:
            made: socket.socket = self._transport.get_extra_info("socket").dup()
            self._socket = made
        return self._socket


class Transfer:
    """One part of a file on its way.

    Args:
        loop: waits for the socket.
        target: the socket's descriptor, which nobody else waits for.
        source: the file's.
        offset: its first byte.
        count: how many.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, target: int, source: int, offset: int, count: int
    ) -> None:
        self._loop = loop
        self._target = target
        self._source = source
        self._offset = offset
        self._end = offset + count
        self._done: asyncio.Future[None] | None = None
        self._watch: asyncio.TimerHandle | None = None

    async def run(self) -> None:
        """Send the rest at the client's pace.

        Raises:
            TruncatedError: the file ends before.
            ConnectionError: the client has left.
            TimeoutError: the client takes nothing.
        """
        self._done = self._loop.create_future()
        self._loop.add_writer(self._target, self._writable)
        self._expect_progress()
        try:
            await self._done
        finally:
            self._stop()

    def abandon(self) -> None:
        """End: the connection is gone."""
        self._finish(GoneError("the client has left"))

    def _writable(self) -> None:
        try:
            is_sent = self.push()
        except (OSError, TruncatedError) as error:
            self._finish(error)
        else:
            if is_sent:
                self._finish(None)

    def push(self) -> bool:
        """Send one piece, and tell whether it was the last one.

        Raises:
            TruncatedError: the file ends before.
            ConnectionError: the client has left.
        """
        try:
            sent = os.sendfile(
                self._target, self._source, self._offset, min(STEP_BYTES, self._end - self._offset)
            )
        except (BlockingIOError, InterruptedError):
            return False
        if sent == 0:
            raise TruncatedError("the file is shorter than it was")
        self._offset += sent
        return self._offset >= self._end

    def _expect_progress(self) -> None:
        self._watch = self._loop.call_later(STALL_SECONDS, self._look, self._received())

    def _look(self, earlier: int) -> None:
        if self._received() == earlier:
            self._finish(TimeoutError("the client takes nothing"))
        else:
            self._expect_progress()

    def _received(self) -> int:
        """Return the place up to which the client has acknowledged the file.

        The offset moves in steps of a third of the socket's buffer: a minute and more for a slow client.
        """
        queued = fcntl.ioctl(self._target, termios.TIOCOUTQ, b"\0" * 4)
        return self._offset - int.from_bytes(queued, sys.byteorder)

    def _stop(self) -> None:
        """Wait for the socket no more; its descriptor may be closed right after, and be another's then."""
        if self._watch is not None:
            self._loop.remove_writer(self._target)
            self._watch.cancel()
            self._watch = None

    def _finish(self, error: Exception | None) -> None:
        if self._done is None or self._done.done():
            return
        self._stop()
        if error is None:
            self._done.set_result(None)
        else:
            self._done.set_exception(error)


def is_plain(transport: asyncio.BaseTransport) -> bool:
    """Tell whether bytes written to the socket reach the client as they are, that is without TLS."""
    context: ssl.SSLContext | None = transport.get_extra_info("sslcontext")
    return context is None and transport.get_extra_info("socket") is not None


def _sender(connection: Connection, cycle: Any, flow: Flow) -> Send:
    plain: Send = cycle.send

    async def send(message: Message) -> None:
        if message["type"] != EXTENSION:
            if HELD in message:
                connection.begin(await _head(cycle, plain, message))
            else:
                await plain(message)
            return
        count = message["count"]
        _check(cycle, count)
        await connection.drain(flow)
        if cycle.disconnected:
            raise GoneError("the client has left")
        await connection.send(message["file"].fileno(), message["offset"], count)
        cycle.expected_content_length -= count
        if not message.get("more_body", False):
            await plain(_END)

    return send


class _Writer:
    """Keeps what is written to it, in the place of a transport."""

    def __init__(self) -> None:
        self.data = b""

    def write(self, data: bytes) -> None:
        self.data += data


async def _head(cycle: Any, plain: Send, message: Message) -> bytes:
    """Let uvicorn make an answer's head, and return it."""
    transport, cycle.transport = cycle.transport, _Writer()
    try:
        await plain(message)
        return bytes(cycle.transport.data)
    finally:
        cycle.transport = transport


def _check(cycle: Any, count: int) -> None:
    if not cycle.response_started or cycle.response_complete or cycle.chunked_encoding:
        raise RuntimeError("a file must be sent between the head and the end of an answer of known length")
    if not 0 < count <= cycle.expected_content_length:
        raise RuntimeError("the file's part must fit into what is left of `Content-Length`")
