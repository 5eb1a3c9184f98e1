"""A TCP proxy that can be slow, hang, vanish, cut connections, or answer with an error in HTTP."""

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from tests.controlplane import ports

_PIECE_BYTES: Final = 64 << 10
_DRAIN_SECONDS: Final = 2.0
_RESET: Final = struct.pack("ii", 1, 0)  # SO_LINGER: close with RST


@dataclass(frozen=True)
class Fault:
    """What is wrong; the default is nothing.

    Args:
        delay_seconds: passes before every piece (at most 64 KiB), in both directions.
        hangs: connections are accepted and stay open, nothing passes.
        refuses: nobody listens, and what was open is reset.
        cut_after_bytes: a connection is reset when so many have come from one side of it.
        status: requests are answered with it by the proxy itself.
        body: of that answer.
        methods: limits `status` to these; the others pass.
    """

    delay_seconds: float = 0.0
    hangs: bool = False
    refuses: bool = False
    cut_after_bytes: int | None = None
    status: int = 0
    body: str = ""
    methods: frozenset[str] = frozenset()


NONE: Final = Fault()


class FaultProxy:
    """Listens on a port of its own and passes everything on to `target`; `fault` changes that at any time.

    A fault takes effect at once: it also holds for what is open, or that is reset.

    Args:
        target: URL or `host:port` of the server behind.
    """

    def __init__(self, target: str) -> None:
        parts = urlsplit(target if "//" in target else f"//{target}")
        assert parts.hostname is not None
        assert parts.port is not None
        self._target = (parts.hostname, parts.port)
        self.port = ports.free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._fault = NONE
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault-proxy", daemon=True)
        self._thread.start()
        self._do(self._start())

    @property
    def fault(self) -> Fault:
        """Return what is wrong now."""
        return self._fault

    @fault.setter
    def fault(self, fault: Fault) -> None:
        self._do(self._change(fault))

    def close(self) -> None:
        """Stop listening and end the thread."""
        self._do(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _change(self, fault: Fault) -> None:
        before, self._fault = self._fault, fault
        if fault.refuses:
            await self._stop()
        elif before.refuses:
            await self._start()
        elif fault.status or before.status or before.hangs or fault.cut_after_bytes is not None:
            await self._reset_all()

    async def _start(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)

    async def _stop(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        await self._reset_all()

    async def _reset_all(self) -> None:
        tasks = list(self._open)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        try:
            await self._serve(reader, writer)
        except asyncio.CancelledError:
            _reset(writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            _reset(writer)
        finally:
            self._open.discard(task)
            await _closed(writer)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = b""
        if self._fault.status:
            head = await reader.readuntil(b"\r\n\r\n")
            method = head.split(b" ", 1)[0].decode()
            if not self._fault.methods or method in self._fault.methods:
                await self._answer(reader, writer)
                return
            # The next request must come on a connection of its own, to be looked at, too.
            head = head[:-2] + b"Connection: close\r\n\r\n"
        upstream_reader, upstream = await asyncio.open_connection(*self._target)
        try:
            upstream.write(head)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(reader, upstream))
                group.create_task(self._pump(upstream_reader, writer))
        except* (OSError, EOFError):
            _reset(writer)
        finally:
            await _closed(upstream)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        passed = 0
        while data := await reader.read(_PIECE_BYTES):
            passed += len(data)
            await self._obey(passed)
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()

    async def _obey(self, passed: int) -> None:
        if self._fault.hangs:
            await asyncio.Event().wait()  # until the fault changes, which resets the connection
        limit = self._fault.cut_after_bytes
        if limit is not None and passed > limit:
            raise ConnectionResetError
        await asyncio.sleep(self._fault.delay_seconds)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        body = self._fault.body.encode()
        head = (
            f"HTTP/1.1 {self._fault.status} Fault\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        writer.write(head.encode() + body)
        await writer.drain()
        # A client that is still sending must not be reset before it has read the answer.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_DRAIN_SECONDS):
                while await reader.read(_PIECE_BYTES):
                    pass


def _reset(writer: asyncio.StreamWriter) -> None:
    peer = writer.get_extra_info("socket")
    if peer is not None and not writer.is_closing():
        with contextlib.suppress(OSError):
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()


async def _closed(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
