"""Long bodies past the parser into buffers, over real sockets, with TLS and without."""

import asyncio
import contextlib
import gc
import hashlib
import mmap
import random
import ssl
import weakref
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from manifestry_api.wire import intakes, protocols, servers
from tests.controlplane.certificates import Authority

MIB = 1 << 20
Tls = tuple[ssl.SSLContext, ssl.SSLContext]
SIZES = [200_000, MIB - 1, MIB, MIB + 1, 2 * MIB, 5 * MIB + 12_345]


class Application:
    """Hashes each body as a careful consumer does, and answers with `<size> <digest>`.

    Args:
        pause_seconds: between a piece and the next `receive`.
        refuse_after: answer 413 after so many pieces, and read no more.
    """

    def __init__(self, pause_seconds: float = 0.0, refuse_after: int | None = None) -> None:
        self.pause_seconds = pause_seconds
        self.refuse_after = refuse_after
        self.pieces: list[int] = []
        self.kinds: set[type] = set()
        self.is_disconnected = False
        self.kept: list[Any] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        intakes.want(scope)
        sha256, size, more = hashlib.sha256(), 0, True
        while more:
            if len(self.pieces) == self.refuse_after:
                await answer(send, 413, b"too large")
                return
            message = await receive()
            if message["type"] == "http.disconnect":
                self.is_disconnected = True
                return
            body = message["body"]
            self.kept.append(body)
            self.pieces.append(len(body))
            self.kinds.add(type(body))
            await asyncio.sleep(self.pause_seconds)
            sha256.update(body)  # after the pause: whatever has come meanwhile is not in it
            size, more = size + len(body), message["more_body"]
        await answer(send, 200, f"{size} {sha256.hexdigest()}".encode())


async def answer(send: Any, status: int, body: bytes) -> None:
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class Client:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def send(self, *parts: bytes) -> None:
        for part in parts:
            self.writer.write(part)
            await self.writer.drain()

    async def answer(self) -> tuple[int, str]:
        async with asyncio.timeout(10):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode().lower()
            length = int(head.partition("content-length: ")[2].partition("\r\n")[0] or 0)
            return int(head.split()[1]), (await self.reader.readexactly(length)).decode()


@pytest.fixture(params=["plain", "tls"])
def tls(request: pytest.FixtureRequest, tmp_path: Path) -> Tls | None:
    if request.param == "plain":
        return None
    authority = Authority("intake test")
    issued = authority.issue("localhost", ip_addresses=["127.0.0.1"], server=True)
    (tmp_path / "tls.crt").write_bytes(issued.certificate_pem)
    (tmp_path / "tls.key").write_bytes(issued.key_pem)
    serving = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    serving.load_cert_chain(tmp_path / "tls.crt", tmp_path / "tls.key")
    return serving, ssl.create_default_context(cadata=authority.certificate_pem.decode())


@contextlib.asynccontextmanager
async def connected(app: Any, tls: Tls | None = None) -> AsyncIterator[Client]:
    config = uvicorn.Config(
        app, host="127.0.0.1", port=0, http=protocols.BoundedProtocol, ws="none", lifespan="off",
        log_config=None, loop="asyncio", timeout_graceful_shutdown=2,
    )  # fmt: skip
    if tls is not None:
        config.ssl_context_factory = lambda _config, _default: tls[0]
    running = servers.Server(config)
    task = asyncio.create_task(running.serve())
    while not running.started:  # noqa: ASYNC110 - uvicorn has no event for it
        await asyncio.sleep(0.01)
    address = running.servers[0].sockets[0].getsockname()
    reader, writer = await asyncio.open_connection(*address, ssl=tls[1] if tls else None)
    try:
        yield Client(reader, writer)
    finally:
        writer.close()
        running.should_exit = True
        await task


def head(length: int, *more: str) -> bytes:
    lines = ("PUT / HTTP/1.1", "Host: a", f"Content-Length: {length}", *more)
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def expected(data: bytes) -> tuple[int, str]:
    return 200, f"{len(data)} {hashlib.sha256(data).hexdigest()}"


@pytest.mark.parametrize("size", SIZES)
async def test_every_byte_arrives_and_the_next_request_is_read(size: int, tls: Tls | None) -> None:
    app, data = Application(), random.Random(size).randbytes(size)
    async with connected(app, tls) as client:
        for _ in range(2):
            await client.send(head(size) + data)
            assert await client.answer() == expected(data)
        await client.send(head(5) + b"short")
        assert await client.answer() == expected(b"short")
    assert memoryview in app.kinds or size < MIB // 2, "a short one has mostly come with its head"


@pytest.mark.parametrize("seed", range(6))
async def test_every_byte_arrives_whatever_the_pace_of_both(seed: int, tls: Tls | None) -> None:
    chance = random.Random(seed)
    data = chance.randbytes(3 * MIB + chance.randrange(MIB))
    cuts = sorted(chance.sample(range(len(data)), 12))
    pauses = [chance.choice((0, 0, 0.005, 0.02)) for _ in cuts]
    async with connected(Application(chance.choice((0, 0.01, 0.05))), tls) as client:
        await client.send(head(len(data)))
        for start, end, pause in zip([0, *cuts], [*cuts, len(data)], [*pauses, 0], strict=True):
            await client.send(data[start:end])
            await asyncio.sleep(pause)
        assert await client.answer() == expected(data)


async def test_a_request_may_follow_in_the_same_packet(tls: Tls | None) -> None:
    data = random.Random(1).randbytes(2 * MIB)
    async with connected(Application(), tls) as client:
        await client.send(head(len(data)) + data + head(len(data)) + data + head(3) + b"abc")
        for body in (data, data, b"abc"):
            assert await client.answer() == expected(body)


async def test_a_client_that_expects_100_gets_it(tls: Tls | None) -> None:
    data = random.Random(2).randbytes(MIB)
    async with connected(Application(), tls) as client:
        await client.send(head(len(data), "Expect: 100-continue"))
        assert await client.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        await client.send(data)
        assert await client.answer() == expected(data)


async def test_a_refused_body_is_wasted_and_the_connection_goes_on(tls: Tls | None) -> None:
    data = random.Random(3).randbytes(6 * MIB)
    app = Application(refuse_after=2)
    async with connected(app, tls) as client:
        sending = asyncio.create_task(client.send(head(len(data)) + data))
        assert await client.answer() == (413, "too large")
        await sending
        app.refuse_after = None
        await client.send(head(3) + b"abc")
        assert await client.answer() == expected(b"abc")


async def test_a_client_that_leaves_is_noticed(tls: Tls | None) -> None:
    app = Application()
    async with connected(app, tls) as client:
        await client.send(head(5 * MIB) + bytes(2 * MIB))
        client.writer.close()
        async with asyncio.timeout(5):
            while not app.is_disconnected:  # noqa: ASYNC110 - the application has no event for it
                await asyncio.sleep(0.01)
    assert sum(app.pieces) <= 2 * MIB


async def test_few_bytes_do_not_wait_for_a_full_buffer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intakes, "PARTIAL_SECONDS", 0.05)
    app, data = Application(), random.Random(4).randbytes(400_000)
    async with connected(app) as client:
        await client.send(head(len(data)) + data[:100_000])
        async with asyncio.timeout(5):
            while sum(app.pieces) < 100_000:  # noqa: ASYNC110 - the application has no event for it
                await asyncio.sleep(0.01)
        await client.send(data[100_000:])
        assert await client.answer() == expected(data)


async def test_a_slow_application_holds_two_buffers_and_lets_the_client_wait() -> None:
    app, data = Application(pause_seconds=0.3), bytes(64 * MIB)
    async with connected(app) as client:
        sending = asyncio.create_task(client.send(head(len(data)) + data))
        await asyncio.sleep(0.5)
        waiting = client.writer.transport.get_write_buffer_size()
        assert waiting > 40 * MIB, "the rest is in the sockets' buffers and two of ours"
        assert len(app.pieces) <= 4
        app.pause_seconds = 0.0
        await sending
        assert await client.answer() == expected(data)


async def test_who_keeps_a_piece_meets_an_error_instead_of_other_bytes() -> None:
    app, data = Application(), random.Random(5).randbytes(3 * MIB)
    async with connected(app) as client:
        await client.send(head(len(data)) + data)
        assert await client.answer() == expected(data)
    with pytest.raises(ValueError, match="released"):
        bytes(app.kept[0])


async def test_who_does_not_ask_gets_bytes_that_stay() -> None:
    kept: list[Any] = []

    async def app(_scope: Any, receive: Any, send: Any) -> None:
        more = True
        while more:
            message = await receive()
            kept.append(message["body"])
            more = message["more_body"]
        await answer(send, 200, b"")

    data = random.Random(6).randbytes(3 * MIB)
    async with connected(app) as client:
        await client.send(head(len(data)) + data)
        assert await client.answer() == (200, "")
    assert {type(each) for each in kept} == {bytes}
    assert b"".join(kept) == data


async def test_another_uvicorn_is_not_trusted_to_do_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intakes, "CYCLE_NAMES", intakes.CYCLE_NAMES | {"renamed"})
    app, data = Application(), random.Random(7).randbytes(MIB)
    async with connected(app) as client:
        await client.send(head(len(data)) + data)
        assert await client.answer() == expected(data)
    assert app.kinds == {bytes}


async def test_buffers_go_with_the_answer_not_with_the_next_garbage_collection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[weakref.ref[mmap.mmap]] = []

    class Buffer(mmap.mmap):
        def __init__(self, *_: Any) -> None:
            made.append(weakref.ref(self))

    monkeypatch.setattr(mmap, "mmap", Buffer)
    app, data = Application(), bytes(3 * MIB)
    gc.disable()
    try:
        async with connected(app) as client:
            for _ in range(3):
                await client.send(head(len(data)) + data)
                assert (await client.answer())[0] == 200
                app.kept.clear()
            await asyncio.sleep(0.05)
            assert len(made) == 6
            assert not any(buffer() for buffer in made)
    finally:
        gc.enable()


@pytest.mark.parametrize("size", [5, 2 * MIB])
async def test_what_follows_the_last_request_is_ignored_after_long_and_short_bodies(
    size: int, caplog: pytest.LogCaptureFixture
) -> None:
    data = bytes(size)
    async with connected(Application()) as client:
        await client.send(head(size) + data)
        assert await client.answer() == expected(data)
        await client.send(head(3, "Connection: close") + b"abc" + b"left over\r\n")
        assert await client.answer() == expected(b"abc")
        assert await client.reader.read() == b""
    assert not caplog.messages, "it is no malformed request either"
