"""Long answers that either arrive whole or visibly break: never a silent truncation.

A chunked answer without its last chunk, or one shorter than its Content-Length, is incomplete to every HTTP
client (RFC 9112 section 8). So whoever cannot go on raises, and the server closes the connection.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Mapping

from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from manifestry.adapters.store.contract import ports
from manifestry.core.http import ranges
from manifestry_api.wire import zerocopy

Chunk = bytes | memoryview
Chunks = AsyncIterator[Chunk]
Pieces = tuple[bytes | ranges.Span, ...]
RawHeaders = tuple[tuple[bytes, bytes], ...]
# A part is brought into memory and sent in windows. The first is soon read where the disk is slow, each of
# the others is twice as long as the one before, up to this: a window takes 100 us of its own.
FIRST_WINDOW_BYTES = 1 << 20
WINDOW_BYTES = 16 << 20


class StreamAbortedError(Exception):
    """The stream cannot be completed; the connection closes without its end, so that the client resumes."""


async def nothing() -> None:
    """Close nothing."""


class StreamedResponse(Response):
    """Sends chunks at the client's pace, notices when the client leaves, and always closes its source.

    Args:
        chunks: the body.
        close: awaited exactly once, however it ends.
        abort: when it is set, the connection is closed without an end.
    """

    def __init__(
        self,
        chunks: Chunks,
        *,
        status_code: int = 200,
        headers: Mapping[str, str] | None = None,
        media_type: str | None = None,
        close: Callable[[], Awaitable[None]] = nothing,
        abort: asyncio.Event | None = None,
    ) -> None:
        super().__init__(None, status_code, headers, media_type)
        if "content-length" not in {name.lower() for name in headers or {}}:
            del self.headers["content-length"]  # Response counted an empty body
        self._chunks = chunks
        self._close = close
        self._abort = abort or asyncio.Event()
        self._is_finished = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI
        """Serve the answer.

        Raises:
            StreamAbortedError: `abort` was set.
            Exception: whatever the source raised; the answer is then incomplete on purpose.
        """
        sending = asyncio.create_task(self._send(send), name="stream")
        leaving = asyncio.create_task(_left(receive), name="stream-disconnect")
        stopping = asyncio.create_task(self._abort.wait(), name="stream-abort")
        tasks = (sending, leaving, stopping)
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
            elif stopping.done():
                raise StreamAbortedError("the server is shutting down")
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._finish()

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async for chunk in self._chunks:
            if chunk:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await self._finish()  # before the end: whoever has seen it finds our places free
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _finish(self) -> None:
        if not self._is_finished:
            self._is_finished = True
            await close(self._chunks)
            await self._close()


class PayloadResponse(Response):
    """Sends parts of an open file without touching their bytes, and always closes it.

    The client's leaving needs no task of its own here: it ends the transfer.

    Args:
        payload: the file.
        pieces: the body: frames, and parts of the file.
        count_sent: is told how many bytes of the file have gone out, as they do.
    """

    def __init__(
        self,
        payload: ports.Payload,
        pieces: Pieces,
        *,
        status_code: int,
        raw_headers: RawHeaders,
        count_sent: Callable[[int], None],
    ) -> None:
        self.status_code = status_code
        self.background = None
        self.raw_headers = list(raw_headers)
        self._payload = payload
        self._pieces = pieces
        self._count_sent = count_sent

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI
        """Serve the answer.

        Raises:
            Exception: whatever the file or its disk raised; the answer is then incomplete on purpose.
        """
        try:
            await send(self._start())
            for piece, more_body in _steps(self._pieces):
                if isinstance(piece, bytes):
                    await send({"type": "http.response.body", "body": piece, "more_body": more_body})
                else:
                    await self._send(piece, send, more_body=more_body)
        except zerocopy.GoneError:
            return
        finally:
            await self._payload.aclose()

    def _start(self) -> Message:
        start = {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
        if self._pieces and isinstance(self._pieces[0], ranges.Span):
            start[zerocopy.HELD] = True
        return start

    async def _send(self, window: ranges.Span, send: Send, *, more_body: bool) -> None:
        await self._payload.load(window.offset, window.count)
        await send(
            {
                "type": zerocopy.EXTENSION,
                "file": self._payload,
                "offset": window.offset,
                "count": window.count,
                "more_body": more_body,
            }
        )
        self._count_sent(window.count)


def raw(headers: Mapping[str, str]) -> RawHeaders:
    """Return headers as ASGI wants them."""
    return tuple((name.lower().encode("latin-1"), text.encode("latin-1")) for name, text in headers.items())


def _steps(pieces: Pieces) -> Iterator[tuple[bytes | ranges.Span, bool]]:
    """Yield what is sent at a time, and whether more follows; an answer without a body ends, too."""
    steps = [step for piece in pieces for step in ([piece] if isinstance(piece, bytes) else _windows(piece))]
    last = steps.pop() if steps else b""
    for step in steps:
        yield step, True
    yield last, False


def _windows(span: ranges.Span) -> Iterator[ranges.Span]:
    offset, count = span.offset, FIRST_WINDOW_BYTES
    while offset < span.end:
        yield ranges.Span(offset, min(count, span.end - offset))
        offset, count = offset + count, min(2 * count, WINDOW_BYTES)


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def primed(chunks: Chunks) -> Chunks:
    """Read the first chunk now, so that a source that fails at once can still be answered with an error."""
    iterator = aiter(chunks)
    try:
        first = await anext(iterator)
    except StopAsyncIteration:
        return _chain(b"", iterator)
    return _chain(first, iterator)


async def _chain(first: Chunk, rest: Chunks) -> AsyncIterator[Chunk]:
    try:
        yield first
        async for chunk in rest:
            yield chunk
    finally:
        await close(rest)


async def close(chunks: Chunks) -> None:
    """Close a source that is an async generator now, not when the garbage collector finds it."""
    if isinstance(chunks, AsyncGenerator):
        await chunks.aclose()


async def skipped(chunks: AsyncIterator[bytes], count_bytes: int) -> AsyncIterator[bytes]:
    """Yield the stream without its first `count_bytes`."""
    left = count_bytes
    async for chunk in chunks:
        if left < len(chunk):
            yield chunk[left:] if left else chunk
        left = max(0, left - len(chunk))
