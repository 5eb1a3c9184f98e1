"""The HTTP connection as uvicorn has it, with two bounds that it lacks: size and time of a request's head.

Without them one client can send header bytes for ever, slowly or quickly, before any middleware is asked.
Files leave from here, too (`zerocopy`), and client certificates will be read here: uvicorn shows both the
socket and the certificate to a protocol only.

References: uvicorn 0.54 protocols/http/httptools_impl.py; kopf-and-clients.md section 5.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from manifestry_api import zerocopy

HEAD_MAX_BYTES = 64 << 10  # a token has at most 16 KiB; nginx allows 32 KiB
HEAD_SECONDS = 10.0
PIECE_BYTES = 256 << 10  # asyncio's own
# An upload is read in larger pieces: each costs 100 us on its way to the store, beside its bytes.
UPLOAD_PIECE_BYTES = 1 << 20


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

    def on_headers_complete(self) -> None:
        """Take the head as complete, then let the request begin."""
        self._is_in_head = False
        self._disarm()
        super().on_headers_complete()
        if self._files is not None:
            self._files.offer(self.cycle, self.flow)
        self._read_in_pieces_of(UPLOAD_PIECE_BYTES if self._is_upload() else PIECE_BYTES)

    def on_body(self, body: bytes) -> None:
        """Keep a piece of the body, the first one as it is: uvicorn copies each byte twice on its way."""
        cycle = self.cycle
        if cycle.body or cycle.response_complete:
            if isinstance(cycle.body, bytes):
                cycle.body = bytearray(cycle.body)  # many small pieces are appended in place
            super().on_body(body)
            return
        cycle.body = body  # type: ignore[assignment]
        if len(body) > HIGH_WATER_LIMIT:
            self.flow.pause_reading()
        cycle.message_event.set()

    def data_received(self, data: bytes) -> None:
        """Parse the bytes, and count those of a head that has not ended with them."""
        super().data_received(data)
        if self.transport.is_closing() or not self._is_in_head:
            self._head_bytes = 0
            return
        self._arm()  # no sooner: most heads come in one piece, and never need a timer
        self._head_bytes += len(data)
        if self._head_bytes > HEAD_MAX_BYTES:
            self.send_400_response("The request's head is too large.")

    def _is_upload(self) -> bool:
        """Tell whether a body follows that takes several reads."""
        for name, value in self.headers:
            if name == b"content-length":
                return len(value) > len(str(PIECE_BYTES))
            if name == b"transfer-encoding":
                return True
        return False

    def _read_in_pieces_of(self, count_bytes: int) -> None:
        if isinstance(getattr(self.transport, "max_size", None), int):
            self.transport.max_size = count_bytes  # type: ignore[attr-defined]

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
