"""Clients that take nothing of an answer are cut off; slow ones are not. Over real sockets."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
import uvicorn

from manifestry_api.wire import protocols, servers, stalls, streams

CHUNK = b"x" * 65536
HEAD = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


class Endless:
    """Answers with chunks until the client has left, or with a given number of them."""

    def __init__(self, count: int | None = None) -> None:
        self.count = count
        self.sent = 0
        self.ended = asyncio.Event()

    async def __call__(self, _scope: Any, receive: Any, send: Any) -> None:
        leaving = asyncio.create_task(self._left(receive))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while not leaving.done() and self.sent != self.count:
            await send({"type": "http.response.body", "body": CHUNK, "more_body": True})
            self.sent += 1
        leaving.cancel()
        if self.sent == self.count:
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        self.ended.set()

    async def _left(self, receive: Any) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass


@contextlib.asynccontextmanager
async def served(application: Any) -> AsyncIterator[tuple[socket.socket, servers.Server]]:
    """Give a client's socket with a small buffer, its request sent."""
    config = uvicorn.Config(
        application, host="127.0.0.1", port=0, http=protocols.BoundedProtocol, ws="none", lifespan="off",
        log_config=None, loop="asyncio",
    )  # fmt: skip
    running = servers.Server(config)
    task = asyncio.create_task(running.serve())
    while not running.started:  # noqa: ASYNC110 - uvicorn has no event for it
        await asyncio.sleep(0.01)
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.setblocking(False)
    try:
        await asyncio.get_running_loop().sock_connect(client, running.servers[0].sockets[0].getsockname())
        client.send(HEAD)
        yield client, running
    finally:
        client.close()
        running.should_exit = True
        await task


async def connections(running: servers.Server, count: int) -> None:
    while len(running.server_state.connections) != count:  # noqa: ASYNC110 - uvicorn has no event for it
        await asyncio.sleep(0.01)


async def test_a_client_that_takes_nothing_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stalls, "STALL_SECONDS", 0.2)
    application = Endless()
    async with served(application) as (_client, running), asyncio.timeout(5):
        await application.ended.wait()
        await connections(running, 0)


async def test_a_stream_lets_go_of_its_source_when_its_client_takes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As a download from a bucket does, and a log that is followed."""
    monkeypatch.setattr(stalls, "STALL_SECONDS", 0.2)
    closed = asyncio.Event()

    async def source() -> AsyncIterator[bytes]:
        try:
            while True:
                await asyncio.sleep(0)  # as reading does
                yield CHUNK
        finally:
            closed.set()

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await streams.StreamedResponse(source())(scope, receive, send)

    async with served(application), asyncio.timeout(5):
        await closed.wait()


async def test_a_slow_client_gets_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stalls, "STALL_SECONDS", 0.5)
    application, got = Endless(100), 0
    async with served(application) as (client, _running), asyncio.timeout(30):
        loop = asyncio.get_running_loop()
        for _ in range(30):  # 1.5 s, and the sender is waiting all the time
            got += len(await loop.sock_recv(client, 16384))
            await asyncio.sleep(0.05)
        assert not application.ended.is_set()
        while got < 100 * len(CHUNK):
            data = await loop.sock_recv(client, 1 << 20)
            assert data
            got += len(data)
        await application.ended.wait()


async def test_the_end_of_an_answer_is_not_kept_for_a_client_that_takes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stalls, "STALL_SECONDS", 0.2)

    async def whole(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x" * (8 << 20), "more_body": False})

    async with served(whole) as (_client, running), asyncio.timeout(5):
        await connections(running, 1)
        await connections(running, 0)
