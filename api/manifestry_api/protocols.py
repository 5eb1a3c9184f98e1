"""The HTTP connection as uvicorn has it, with two bounds that it lacks: size and time of a request's head.

Without them one client can send header bytes for ever, slowly or quickly, before any middleware is asked.
Files leave from here, too (`zerocopy`), and client certificates will be read here: uvicorn shows both the
socket and the certificate to a protocol only.

References: uvicorn 0.54 protocols/http/httptools_impl.py; kopf-and-clients.md section 5.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from manifestry_api import zerocopy

HEAD_MAX_BYTES = 64 << 10  # a token has at most 16 KiB; nginx allows 32 KiB
HEAD_SECONDS = 10.0


class BoundedProtocol(HttpToolsProtocol):
    """Closes a connection whose request head is too large or does not come to an end."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head_bytes = 0
        self._is_in_head = True
        self._head_timer: asyncio.TimerHandle | None = None
        self._files: zerocopy.Connection | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Expect the first request's head from now on."""
        super().connection_made(transport)
        self._files = zerocopy.Connection(transport, self.loop)
        self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the timer, and end a transfer that nobody receives."""
        self._disarm()
        super().connection_lost(exc)
        if self._files is not None:
            self._files.lose()

    def on_message_begin(self) -> None:
        """Expect a head."""
        super().on_message_begin()
        self._is_in_head = True
        self._arm()

    def on_headers_complete(self) -> None:
        """Take the head as complete, then let the request begin."""
        self._is_in_head = False
        self._disarm()
        super().on_headers_complete()
        if self._files is not None:
            self._files.offer(self.cycle, self.flow)

    def data_received(self, data: bytes) -> None:
        """Parse the bytes, and count those of a head that has not ended with them."""
        super().data_received(data)
        if self.transport.is_closing() or not self._is_in_head:
            self._head_bytes = 0
            return
        self._head_bytes += len(data)
        if self._head_bytes > HEAD_MAX_BYTES:
            self.send_400_response("The request's head is too large.")

    def _arm(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_SECONDS, self._give_up)

    def _disarm(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _give_up(self) -> None:
        self._head_timer = None
        if not self.transport.is_closing():
            self.transport.close()
