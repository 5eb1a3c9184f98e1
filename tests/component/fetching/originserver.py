"""A real https server with an authority of its own, whose every answer a test decides."""

import asyncio
import ssl
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.controlplane.certificates import Authority

Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Request:
    """What a client has sent."""

    target: str
    headers: Mapping[str, str]
    address: str


@dataclass
class Origin:
    """A server on one loopback address.

    Args:
        answers: by request target; anything else is 404.
    """

    address: str
    port: int = 0
    answers: dict[str, Answer] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    connections: int = 0
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def url(self, target: str, host: str = "") -> str:
        """Return the URL of a target here."""
        return f"https://{host or self.address}:{self.port}{target}"

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Take a connection; a task of our own, because asyncio's stumbles over its cancellation."""
        task = asyncio.create_task(self._serve(reader, writer))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            line, *fields = head.rstrip().split("\r\n")
            headers = {
                name.lower(): value.strip() for name, _, value in (each.partition(":") for each in fields)
            }
            target = line.split(" ")[1]
            self.requests.append(Request(target, headers, self.address))
            await self.answers.get(target, status(404))(writer)
        except (ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
            pass
        finally:
            writer.transport.abort()


def raw(*pieces: bytes, pause_seconds: float = 0.0) -> Answer:
    """Return the answer that is sent piece by piece."""

    async def answer(writer: asyncio.StreamWriter) -> None:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(pause_seconds)
        await _end(writer)

    return answer


def status(code: int, body: bytes = b"", **headers: str) -> Answer:
    """Return a complete answer; underscores in header names stand for dashes."""
    fields = {"Content-Length": str(len(body)), **{k.replace("_", "-"): v for k, v in headers.items()}}
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return raw(f"HTTP/1.1 {code} Test\r\n{lines}\r\n".encode() + body)


def redirect(location: str, code: int = 302) -> Answer:
    """Return a redirect."""
    return status(code, Location=location)


async def _end(writer: asyncio.StreamWriter) -> None:
    writer.write_eof() if writer.can_write_eof() else None
    writer.close()
    await writer.wait_closed()


@asynccontextmanager
async def serving(
    authority: Authority,
    folder: Path,
    *,
    address: str = "127.0.0.1",
    names: tuple[str, ...] = (),
    port: int = 0,
) -> AsyncIterator[Origin]:
    """Serve on a loopback address until the block ends, with a certificate for it and for `names`."""
    certificate = authority.issue("origin", ip_addresses=[address], dns_names=names, server=True)
    chain, key = certificate.write(folder, f"origin-{address}-{port}")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain, key)
    origin = Origin(address)
    server = await asyncio.start_server(origin.accept, address, port, ssl=context)
    origin.port = server.sockets[0].getsockname()[1]
    try:
        yield origin
    finally:
        server.close()
        for task in list(origin.tasks):
            task.cancel()
        await asyncio.gather(*origin.tasks, return_exceptions=True)
        await server.wait_closed()


@contextmanager
def in_thread(authority: Authority, folder: Path, *, address: str) -> Iterator[Origin]:
    """Serve in a thread, for tests that block."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="origin")
    thread.start()
    server = serving(authority, folder, address=address)
    try:
        yield asyncio.run_coroutine_threadsafe(server.__aenter__(), loop).result(10)
    finally:
        asyncio.run_coroutine_threadsafe(server.__aexit__(None, None, None), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
