"""Files that leave by the kernel: over real sockets, to clients that are slow, that leave, and that stall."""

import asyncio
import contextlib
import os
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from manifestry_api.wire import protocols, servers, zerocopy
from tests.controlplane.certificates import Authority

DATA = bytes(range(256)) * 40_000  # 10 MB: more than any socket buffer takes
Application = Callable[[Any, Any, Any], Any]


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Give the (offset, number) of every part that the kernel has sent."""
    found, real = [], os.sendfile

    def sendfile(target: int, source: int, offset: int, count: int) -> int:
        number = real(target, source, offset, count)
        found.append((offset, number))
        return number

    monkeypatch.setattr(os, "sendfile", sendfile)
    return found


@pytest.fixture
def payload(tmp_path: Path) -> Path:
    path = tmp_path / "payload"
    path.write_bytes(DATA)
    return path


class Sending:
    """An application that sends parts of a file, and keeps what happened to it."""

    def __init__(
        self, path: Path, *parts: tuple[int, int], frame: bytes = b"", length: int | None = None
    ) -> None:
        self.path, self.parts, self.frame = path, parts, frame
        self.is_head_held = False
        self.length = sum(count for _, count in parts) + len(frame) if length is None else length
        self.scopes: list[Any] = []
        self.errors: list[BaseException] = []
        self.ended = asyncio.Event()
        self.is_gone = False

    async def __call__(self, scope: Any, _receive: Any, send: Any) -> None:
        self.scopes.append(scope)
        try:
            with self.path.open("rb") as file:
                headers = [(b"content-length", str(self.length).encode())] if self.length >= 0 else []
                held = {zerocopy.HELD: True} if self.is_head_held else {}
                await send({"type": "http.response.start", "status": 200, "headers": headers, **held})
                if self.frame:
                    await send({"type": "http.response.body", "body": self.frame, "more_body": True})
                for offset, count in self.parts:
                    part = {"file": file, "offset": offset, "count": count, "more_body": True}
                    await send({"type": zerocopy.EXTENSION, **part})
            await send({"type": "http.response.body", "body": b""})
        except zerocopy.GoneError:
            self.is_gone = True
        except BaseException as error:
            self.errors.append(error)
            raise
        finally:
            self.ended.set()


@contextlib.asynccontextmanager
async def serving(
    application: Application, tls: ssl.SSLContext | None = None
) -> AsyncIterator[tuple[str, int]]:
    config = uvicorn.Config(
        application, host="127.0.0.1", port=0, http=protocols.BoundedProtocol, ws="none", lifespan="off",
        log_config=None, loop="asyncio", timeout_graceful_shutdown=1,
    )  # fmt: skip
    if tls is not None:
        config.ssl_context_factory = lambda _config, _default: tls
    running = servers.Server(config)
    task = asyncio.create_task(running.serve())
    while not running.started:  # noqa: ASYNC110 - uvicorn has no event for it
        await asyncio.sleep(0.01)
    try:
        yield running.servers[0].sockets[0].getsockname()
    finally:
        running.should_exit = True
        await task


@contextlib.asynccontextmanager
async def connected(
    address: tuple[str, int], **options: Any
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection(*address, **options)
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def get(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    return await answer(reader)


async def answer(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length"))
    return await reader.readexactly(int(length.partition(b":")[2]))


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not holds():  # noqa: ASYNC110 - there is no event for it
            await asyncio.sleep(0.01)


async def test_files_are_sent_by_the_kernel_on_one_connection_after_the_other(
    payload: Path, sent: list[tuple[int, int]]
) -> None:
    application = Sending(payload, (0, len(DATA)))
    async with serving(application) as address, connected(address) as (reader, writer):
        assert await get(reader, writer) == DATA
        before = open_files()
        for offset, count in ((0, len(DATA)), (7, 1), (100_000, 5_000_000), (len(DATA) - 3, 3)):
            application.parts, application.length = ((offset, count),), count
            sent.clear()
            assert await get(reader, writer) == DATA[offset : offset + count]
            assert sum(number for _, number in sent) == count
        assert open_files() == before
    assert application.scopes[0]["extensions"] == {zerocopy.EXTENSION: {}}


async def test_parts_and_frames_keep_their_order_even_when_the_transport_is_full(payload: Path) -> None:
    frame = b"f" * 5_000_000
    async with (
        serving(Sending(payload, (5, 10), (0, len(DATA)), frame=frame)) as address,
        connected(address) as (reader, writer),
    ):
        assert await get(reader, writer) == frame + DATA[5:15] + DATA


async def test_a_held_head_leaves_with_the_first_bytes(payload: Path) -> None:
    application = Sending(payload, (5, 1000))
    application.is_head_held = True
    async with serving(application) as address, connected(address) as (reader, writer):
        for _ in range(2):
            writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            first = await reader.read(1 << 16)
            assert first.endswith(b"\r\n\r\n" + DATA[5:1005])


async def test_a_held_head_waits_for_what_the_transport_still_has(payload: Path) -> None:
    application = Sending(payload, (0, len(DATA)), frame=b"f" * 5_000_000)
    application.is_head_held = True
    async with serving(application) as address, connected(address) as (reader, writer):
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 3)
        for _ in range(3):
            assert await answer(reader) == application.frame + DATA


async def test_the_last_part_may_end_the_answer(payload: Path) -> None:
    async def application(_scope: Any, _receive: Any, send: Any) -> None:
        with payload.open("rb") as file:
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"9")]})
            await send({"type": zerocopy.EXTENSION, "file": file, "offset": 1, "count": 9})

    async with serving(application) as address, connected(address) as (reader, writer):
        for _ in range(2):
            assert await get(reader, writer) == DATA[1:10]


async def test_pipelined_requests_are_answered_in_turn(payload: Path) -> None:
    async with serving(Sending(payload, (0, 3_000_000))) as address, connected(address) as (reader, writer):
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 3)
        for _ in range(3):
            assert await answer(reader) == DATA[:3_000_000]


async def test_a_slow_client_gets_every_byte_and_others_are_served_meanwhile(payload: Path) -> None:
    async with serving(Sending(payload, (0, len(DATA)))) as address:
        slow = socket.socket()
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(slow, address)
        await loop.sock_sendall(slow, b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        received = bytearray(await loop.sock_recv(slow, 100))
        async with connected(address) as (reader, writer):
            assert await get(reader, writer) == DATA
        while piece := await loop.sock_recv(slow, 1 << 16):
            received += piece
        slow.close()
        assert received.partition(b"\r\n\r\n")[2] == DATA


async def test_a_file_that_is_shorter_than_promised_breaks_the_connection(payload: Path) -> None:
    application = Sending(payload, (0, len(DATA) + 1))
    async with serving(application) as address, connected(address) as (reader, writer):
        with pytest.raises(asyncio.IncompleteReadError) as caught:
            await get(reader, writer)
        assert caught.value.partial == DATA
    assert isinstance(application.errors[0], zerocopy.TruncatedError)


async def test_a_file_that_is_cut_while_it_is_sent_breaks_the_connection(payload: Path) -> None:
    application = Sending(payload, (0, len(DATA)))
    async with serving(application) as address, connected(address, limit=1024) as (reader, writer):
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        os.truncate(payload, 9_000_000)
        assert len(await reader.read(-1)) < len(DATA)
    assert application.errors


@pytest.mark.parametrize("linger", [False, True])
async def test_a_client_that_leaves_ends_the_transfer_and_nothing_stays_open(
    payload: Path, linger: bool, caplog: pytest.LogCaptureFixture
) -> None:
    application = Sending(payload, (0, len(DATA)))
    async with serving(application) as address:
        before = open_files()
        client = socket.create_connection(address)
        if linger:  # a reset, not an end
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await until(lambda: bool(application.scopes))
        await asyncio.sleep(0.05)
        assert not application.ended.is_set()
        client.close()
        async with asyncio.timeout(5):
            await application.ended.wait()
        await until(lambda: open_files() == before)
    assert application.errors == []
    assert application.is_gone
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


async def test_who_comes_when_another_leaves_is_served(payload: Path) -> None:
    application = Sending(payload, (0, len(DATA)))
    async with serving(application) as address:
        for _ in range(20):
            leaving = [socket.create_connection(address) for _ in range(3)]
            for client in leaving:
                client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            await asyncio.sleep(0.01)
            for client in leaving:
                client.close()
            async with connected(address) as (reader, writer), asyncio.timeout(5):
                assert await get(reader, writer) == DATA


async def test_a_client_that_takes_nothing_is_cut_off_and_one_that_takes_little_is_not(
    payload: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zerocopy, "STALL_SECONDS", 0.5)  # a busy machine may pause us for as long as 0.2 s
    application = Sending(payload, (0, len(DATA)))
    async with serving(application) as address, connected(address, limit=1 << 16) as (reader, writer):
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        received = 0
        for _ in range(15):  # three times as long as it may pause
            received += len(await reader.readexactly(300_000))
            await asyncio.sleep(0.1)
        assert not application.ended.is_set()
        async with asyncio.timeout(5):
            await application.ended.wait()
        rest = b""
        with contextlib.suppress(ConnectionError):
            rest = await reader.read(-1)
        assert received + len(rest) < len(DATA)


async def test_under_tls_files_are_not_offered(payload: Path) -> None:
    authority = Authority("zero copy test")
    issued = authority.issue("localhost", ip_addresses=["127.0.0.1"], server=True)
    (payload.parent / "tls.crt").write_bytes(issued.certificate_pem)
    (payload.parent / "tls.key").write_bytes(issued.key_pem)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(payload.parent / "tls.crt", payload.parent / "tls.key")
    trusting = ssl.create_default_context(cadata=authority.certificate_pem.decode())
    application = Sending(payload, length=0)
    async with serving(application, context) as address, connected(address, ssl=trusting) as (reader, writer):
        assert await get(reader, writer) == b""
    assert "extensions" not in application.scopes[0]


async def test_another_uvicorn_is_not_trusted_to_do_it(
    payload: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zerocopy, "CYCLE_NAMES", zerocopy.CYCLE_NAMES | {"renamed"})
    application = Sending(payload, length=0)
    async with serving(application) as address, connected(address) as (reader, writer):
        assert await get(reader, writer) == b""
    assert "extensions" not in application.scopes[0]


@pytest.mark.parametrize(
    ("length", "parts"),
    [(-1, [(0, 5)]), (4, [(0, 5)]), (5, [(0, 0)]), (5, [(0, 3), (0, 3)])],
    ids=["chunked", "too long", "nothing", "too long together"],
)
async def test_a_file_that_does_not_fit_its_answer_is_refused(
    payload: Path, length: int, parts: list[tuple[int, int]]
) -> None:
    application = Sending(payload, *parts, length=length)
    async with serving(application) as address, connected(address) as (reader, writer):
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await reader.read(-1)
    assert isinstance(application.errors[0], RuntimeError)


async def test_a_shutdown_in_the_middle_leaves_nothing_open(payload: Path) -> None:
    application = Sending(payload, (0, len(DATA)))
    before = open_files()
    async with serving(application) as address:
        client = socket.create_connection(address)
        client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await until(lambda: bool(application.scopes))
    client.close()
    with contextlib.suppress(TimeoutError):
        await until(application.ended.is_set)
    await until(lambda: open_files() <= before)
