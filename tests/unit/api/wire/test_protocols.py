"""Request heads that are too large or do not come to an end, over real sockets."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
import uvicorn

from manifestry_api.wire import protocols, servers


async def application(_scope: Any, receive: Any, send: Any) -> None:
    size, more = 0, True
    while more:
        message = await receive()
        size, more = size + len(message.get("body", b"")), message.get("more_body", False)
    body = str(size).encode()
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@contextlib.asynccontextmanager
async def connected(
    app: Any = application, **options: Any
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    config = uvicorn.Config(
        app, host="127.0.0.1", port=0, http=protocols.BoundedProtocol, ws="none", lifespan="off",
        log_config=None, loop="asyncio", **options,
    )  # fmt: skip
    running = servers.Server(config)
    task = asyncio.create_task(running.serve())
    while not running.started:  # noqa: ASYNC110 - uvicorn has no event for it
        await asyncio.sleep(0.01)
    reader, writer = await asyncio.open_connection(*running.servers[0].sockets[0].getsockname())
    try:
        yield reader, writer
    finally:
        writer.close()
        running.should_exit = True
        await task


async def test_requests_of_an_ordinary_size_are_served_one_after_the_other() -> None:
    async with connected() as (reader, writer):
        body = b"x" * 300_000
        for _ in range(3):
            head = f"POST / HTTP/1.1\r\nHost: a\r\nX-A: {'y' * 20_000}\r\nContent-Length: {len(body)}\r\n\r\n"
            writer.write(head.encode() + body)
            await writer.drain()
            assert b" 200 " in await reader.readline()
            assert (await reader.readuntil(b"\r\n\r\n300000")).endswith(b"300000")


@pytest.mark.parametrize("piece", [b"y" * 8192, b"X-H: v\r\n" * 1024])
async def test_a_head_without_end_is_400(piece: bytes) -> None:
    async with connected() as (reader, writer):
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\nX-A: ")
        with contextlib.suppress(ConnectionError):
            for _ in range(20):
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0.001)
        with contextlib.suppress(ConnectionError):
            assert b" 400 " in await reader.readline()


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nHost: a\r\n"])
async def test_a_head_that_does_not_come_to_an_end_is_cut_off(
    sent: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocols, "HEAD_SECONDS", 0.1)
    async with connected() as (reader, writer):
        writer.write(sent)
        async with asyncio.timeout(2):
            assert await reader.read() == b""


async def hasty(_scope: Any, _receive: Any, send: Any) -> None:
    """Answer without a look at the body."""
    await send({"type": "http.response.start", "status": 401, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})


@pytest.mark.parametrize("rest", [b"xyz", b"xyz\r\n"])
async def test_an_idle_connection_ends_whatever_came_last(rest: bytes) -> None:
    """uvicorn forgets its own timer when bytes come that begin no request."""
    async with connected(hasty, timeout_keep_alive=1) as (reader, writer), asyncio.timeout(8):
        writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n")
        assert b" 401 " in await reader.readline()
        await reader.readuntil(b"\r\n\r\n")
        writer.write(rest)
        assert await reader.read() == b""
