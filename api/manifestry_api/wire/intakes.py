"""A long body straight from the socket into page-aligned buffers, as an extension of ASGI.

On uvicorn's way each byte is copied by asyncio, by the parser and by whoever joins the pieces, in pieces of
64 KiB. Behind the head, a body of known length needs no parser: it is so many bytes. So the connection gives
its transport to an `Intake` for that time, which asyncio lets receive into memory of its own choice, over TLS
as well. Two buffers take turns: one is filled while the application has the other.

An application that finds `EXTENSION` in `scope["extensions"]` may call `want(scope)` before its first
`receive`. It then gets memoryviews, each of which is good until it asks for the next one; then it is
released, so that who keeps it meets a ValueError, not another piece's bytes.

References: asyncio.BufferedProtocol; RFC 9112 section 6.3.
"""

import asyncio
import mmap
from collections.abc import Callable
from typing import Any, Final, NamedTuple, Protocol

EXTENSION: Final = "manifestry.request.buffers"
PIECE_BYTES: Final = 1 << 20
PARTIAL_SECONDS: Final = 1.0  # an application that waits longer gets what has come, a slow client's few bytes
# What is used of uvicorn's RequestResponseCycle, which is not a public interface: without all of it nothing
# is offered.
CYCLE_NAMES: Final = frozenset(
    {"body", "disconnected", "message_event", "more_body", "response_complete", "waiting_for_100_continue"}
)
_WASTE_BYTES: Final = 64 << 10
_WANTED: Final = "is_wanted"

Message = dict[str, Any]


def offer(cycle: Any) -> None:
    """Let one request's application ask."""
    if vars(cycle).keys() >= CYCLE_NAMES:
        cycle.scope.setdefault("extensions", {})[EXTENSION] = {}


def want(scope: Any) -> None:
    """Ask for the body in buffers that are used again, where the server has them."""
    if (offered := (scope.get("extensions") or {}).get(EXTENSION)) is not None:
        offered[_WANTED] = True


def is_wanted(scope: Any) -> bool:
    """Tell whether the application has asked."""
    return bool((scope.get("extensions") or {}).get(EXTENSION))


class Piece(NamedTuple):
    """A buffer and what has come into it."""

    buffer: mmap.mmap
    view: memoryview


class Flow(Protocol):
    """uvicorn's FlowControl."""

    def pause_reading(self) -> None:
        """Let the client wait."""

    def resume_reading(self) -> None:
        """Let it go on."""


class Intake(asyncio.BufferedProtocol):
    """The rest of one body, and the transport's protocol until it has come.

    Args:
        connection: what the transport had before, and is told what is not about bytes.
        flow: pauses and resumes the transport.
        first: what has come of the body already, `PIECE_BYTES` at most.
        left_bytes: how many bytes are still to come, at least one.
        on_complete: called with the last byte; gives the transport back.
    """

    def __init__(
        self,
        connection: asyncio.Protocol,
        flow: Flow,
        first: bytes | bytearray,
        left_bytes: int,
        on_complete: Callable[[], None],
    ) -> None:
        self._connection = connection
        self._flow = flow
        self._left_bytes = left_bytes
        self._on_complete = on_complete
        self._filling: mmap.mmap | None = mmap.mmap(-1, PIECE_BYTES)
        self._filling[: len(first)] = first
        self._filled_bytes = len(first)
        self._spare: mmap.mmap | None = None
        self._is_alone = True  # most bodies need no second buffer
        self._ready: Piece | None = None
        self._lent: Piece | None = None
        self._waste: bytearray | None = None
        self._waiter: asyncio.Future[None] | None = None

    def start(self) -> None:
        """Begin: the transport receives for us now."""
        self._advance()

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - asyncio's guess
        """Return the room for what comes next, never beyond the body's end."""
        if self._waste is not None:
            return memoryview(self._waste)[: self._left_bytes]
        if self._filling is None:
            raise RuntimeError("the transport must be paused while no buffer is free")
        return memoryview(self._filling)[self._filled_bytes : self._filled_bytes + self._left_bytes]

    def buffer_updated(self, nbytes: int) -> None:
        """Take note of what has come."""
        self._left_bytes -= nbytes
        if self._waste is None:
            self._filled_bytes += nbytes
            self._advance()
        if not self._left_bytes:
            self._on_complete()

    async def receive(self) -> Message | None:
        """Return the next piece as an ASGI message; None after the last one, and when nobody wants it."""
        self._take_back()
        await self._something()
        if self._ready is None:
            return None
        self._lent, self._ready = self._ready, None
        self._advance()
        is_last = not self._left_bytes and self._ready is None
        return {"type": "http.request", "body": self._lent.view, "more_body": not is_last}

    def discard(self) -> None:
        """Let the buffers go, waste what is still to come: the application has answered, or the client left.

        At once: the request, which is garbage from now on, is full of cycles, and its buffers are large.
        """
        if self._waste is None:
            self._waste = bytearray(min(self._left_bytes, _WASTE_BYTES))  # a thread may still read the others
            self._filling = self._spare = self._ready = self._lent = None
            if self._left_bytes:
                self._flow.resume_reading()
            self._wake()

    def eof_received(self) -> bool | None:
        """Tell the connection."""
        return self._connection.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the connection."""
        self._connection.connection_lost(exc)
        self.discard()

    def pause_writing(self) -> None:
        """Tell the connection."""
        self._connection.pause_writing()

    def resume_writing(self) -> None:
        """Tell the connection."""
        self._connection.resume_writing()

    def _advance(self) -> None:
        """Pass on what is full or the last, then receive into the other buffer, or pause without one."""
        if self._ready is None and (self._filled_bytes == PIECE_BYTES or not self._left_bytes):
            self._pass_on()
        if self._filling is None and self._left_bytes:
            self._filling = self._free()
        if self._filling is None or self._filled_bytes == PIECE_BYTES:
            self._flow.pause_reading()
        else:
            self._flow.resume_reading()

    def _pass_on(self) -> None:
        if self._filling is not None and self._filled_bytes:
            self._ready = Piece(self._filling, memoryview(self._filling)[: self._filled_bytes])
            self._filling, self._filled_bytes = None, 0
            self._wake()

    def _free(self) -> mmap.mmap | None:
        if self._is_alone:
            self._is_alone, self._spare = False, mmap.mmap(-1, PIECE_BYTES)
        found, self._spare = self._spare, None
        return found

    def _take_back(self) -> None:
        if self._lent is not None:
            self._lent.view.release()
            self._spare, self._lent = self._lent.buffer, None
            self._advance()

    async def _something(self) -> None:
        """Wait until a buffer is full, or for a while and then for any byte."""
        loop = asyncio.get_running_loop()
        while self._ready is None and self._left_bytes and self._waste is None:
            self._waiter = loop.create_future()
            timer = loop.call_later(PARTIAL_SECONDS, self._hurry)
            try:
                await self._waiter
            finally:
                timer.cancel()
                self._waiter = None

    def _hurry(self) -> None:
        self._pass_on()
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
