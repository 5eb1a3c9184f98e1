"""Clients that take nothing: an answer waits for them for a bounded time only, whatever it is.

A chunk is written to the connection, and its sender waits until the client has taken enough of it. A client
that never does would hold the sender for ever, with all that it has open: a place among the log's followers,
a connection to the object store.
"""

import asyncio
import fcntl
import sys
import termios

STALL_SECONDS = 60.0  # without one byte acknowledged; nginx's `send_timeout` is the same


class Watch:
    """Cuts a connection off whose client takes nothing of what waits for it.

    Args:
        transport: of the connection.
        loop: its timers.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Expect progress from now on."""
        if self._timer is None:
            self._expect()

    def stop(self) -> None:
        """Expect nothing any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _expect(self) -> None:
        self._timer = self._loop.call_later(STALL_SECONDS, self._look, self._waiting())

    def _look(self, earlier: int) -> None:
        waiting = self._waiting()
        self._timer = None
        if waiting and waiting == earlier:  # more of it was written since: a sender that waits writes no more
            self._transport.abort()
        elif waiting:
            self._expect()

    def _waiting(self) -> int:
        """Return the bytes that the client has not acknowledged; 0 for a connection that is gone."""
        socket = self._transport.get_extra_info("socket")
        try:
            queued = fcntl.ioctl(socket.fileno(), termios.TIOCOUTQ, b"\0" * 4)
        except (OSError, ValueError):
            return 0
        return self._transport.get_write_buffer_size() + int.from_bytes(queued, sys.byteorder)
