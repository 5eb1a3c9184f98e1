"""One https download in a publisher's name: each hop's addresses are resolved once, judged, and pinned.

Nothing of ours goes along: no credentials, cookies, proxy or referrer. The bytes are streamed into the
store's staging area, within bounds of size and time, each charged to the tenant's quota before it is stored.
"""

import asyncio
import contextlib
import logging
import socket
import ssl
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final, Protocol

import aiohttp
import yarl
from aiohttp.abc import AbstractResolver, ResolveResult

from manifestry.adapters.store.contract import ports
from manifestry.adapters.telemetry.storage_metrics import METRICS
from manifestry.core.fetching import fetches
from manifestry.core.fetching.addresses import Policy
from manifestry.core.fetching.fetches import FetchError, Head, Order
from manifestry.core.fetching.urls import Target

_logger = logging.getLogger(__name__)

RESOLVE_SECONDS: Final = 10.0
CONNECT_SECONDS: Final = 10.0
IDLE_SECONDS: Final = 30.0
RESOLVER_THREADS: Final = 4  # own ones: a name server that does not answer must hold up nobody else
USER_AGENT: Final = "manifestry/0.1.0"

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
_NO_SUCH_NAME: Final = frozenset({socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)})


class Admit(Protocol):
    """Charges bytes to the tenant's quota before they are accepted."""

    async def __call__(self, size_bytes: int, *, is_whole: bool) -> None:
        """Make sure that the first `size_bytes` of a payload are charged; `is_whole`: there are no more.

        Raises:
            NoRoomError: they must not be accepted.
            FetchError: it is not known at present.
        """


async def unlimited(size_bytes: int, *, is_whole: bool) -> None:
    """Admit everything: no quota is kept."""
    del size_bytes, is_whole


@dataclass(frozen=True)
class Bounds:
    """What one fetch may take.

    Args:
        max_bytes: the most that is stored.
        total_seconds: from the first name to the last byte, redirects included.
        idle_seconds: the longest wait for the next piece.
    """

    max_bytes: int
    total_seconds: float
    idle_seconds: float = IDLE_SECONDS


def tls_context(ca_file: str = "") -> ssl.SSLContext:
    """Return a context that verifies servers by the system's authorities, and by those in `ca_file` too.

    Raises:
        OSError: the file cannot be read, or holds no certificate.
    """
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if ca_file:
        context.load_verify_locations(ca_file)
    return context


class Trust:
    """The context for verifying servers, made anew when the file of authorities has another content.

    A mounted ConfigMap is replaced under a running process. Until a new file can be read, the old one counts.

    Args:
        ca_file: as `tls_context` takes it.

    Raises:
        OSError: the file cannot be read, or holds no certificate.
    """

    def __init__(self, ca_file: str = "") -> None:
        self._ca_file = ca_file
        self._lock = threading.Lock()
        self._seen = self._content()
        self._context = tls_context(ca_file)

    def __call__(self) -> ssl.SSLContext:
        """Return the context; may read a file."""
        with self._lock:
            try:
                content = self._content()
                if content != self._seen:
                    self._context = tls_context(self._ca_file)
                    self._seen = content
            except OSError as error:
                _logger.warning("authorities not read; the old ones count", extra={"error": str(error)})
            return self._context

    def _content(self) -> bytes:
        return Path(self._ca_file).read_bytes() if self._ca_file else b""


class SystemResolver:
    """The system's resolver, asked for absolute names only.

    Without the last dot a pod's search list would make `example.com` the Service `example` of a namespace
    `com` first.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(RESOLVER_THREADS, thread_name_prefix="resolver")

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        """Return the addresses of a host; none when there is no such name.

        Raises:
            OSError: the name servers do not answer.
        """
        loop = asyncio.get_running_loop()
        lookup = loop.run_in_executor(self._pool, _look_up, f"{host}.", port)
        try:
            found = await lookup
        except socket.gaierror as error:
            if error.errno in _NO_SUCH_NAME:
                return ()
            raise
        return [str(address[0]) for *_, address in found]


def _look_up(host: str, port: int) -> list[Any]:
    return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)


class Fetcher:
    """Downloads into a store's staging area.

    Args:
        policy: which addresses may be connected to.
        tls: how servers are verified, asked for each connection in a thread.
        bounds: of each fetch.
        resolve: `(host, port) -> addresses`; raises OSError when the name servers do not answer.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        tls: Callable[[], ssl.SSLContext],
        bounds: Bounds,
        resolve: Resolve | None = None,
    ) -> None:
        self._policy = policy
        self._tls = tls
        self._bounds = bounds
        self._resolve = resolve or SystemResolver()

    async def fetch(self, order: Order, into: ports.Store, admit: Admit = unlimited) -> fetches.Fetched:
        """Return where the bytes are staged.

        Args:
            order: what is to be fetched.
            into: where it is staged.
            admit: called before any bytes are accepted.

        Raises:
            FetchError: there are no bytes, and why.
            NoRoomError: `admit` has refused them; nothing is left behind.
        """
        trail = [fetches.parse(order.url)]
        try:
            async with asyncio.timeout(self._bounds.total_seconds):
                while True:
                    async with self._get(trail[-1]) as answer:
                        head = _head(answer)
                        if not head.is_redirect:
                            return await self._stage(order, head, answer, into, admit)
                    trail.append(fetches.follow(trail, head.location))
        except TimeoutError:
            raise fetches.unavailable("the fetch takes too long") from None

    async def _stage(
        self, order: Order, head: Head, answer: aiohttp.ClientResponse, into: ports.Store, admit: Admit
    ) -> fetches.Fetched:
        limit_bytes = fetches.accept(head, order, self._bounds.max_bytes)
        if head.length is not None:
            await admit(head.length, is_whole=True)
        try:
            async with (
                contextlib.aclosing(_chunks(answer)) as chunks,
                contextlib.aclosing(_admitted(chunks, admit, limit_bytes)) as admitted,
            ):
                staged = await into.stage(admitted, limit_bytes=limit_bytes)
        except ports.TooLargeError:
            raise FetchError(fetches.over(order, self._bounds.max_bytes)) from None
        except ports.StoreError as error:
            raise FetchError(fetches.Failure("StoreUnavailable", str(error), "soon")) from error
        return fetches.Fetched(*staged)

    @contextlib.asynccontextmanager
    async def _get(self, target: Target) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send the request to one of the target's own, judged addresses, over a connection of its own."""
        addresses = await self._addresses(target)
        connector = aiohttp.TCPConnector(
            resolver=_Pinned(addresses),
            ssl=await asyncio.to_thread(self._tls),
            force_close=True,
            use_dns_cache=False,
            socket_factory=_only(addresses),
        )
        timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=CONNECT_SECONDS, sock_read=self._bounds.idle_seconds
        )
        async with aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": USER_AGENT, "Accept": "*/*", "Accept-Encoding": "identity"},
            auto_decompress=False,
            trust_env=False,  # no proxy, no .netrc
            timeout=timeout,
        ) as session:
            with _typed():
                answer = await session.get(yarl.URL(target.url, encoded=True), allow_redirects=False)
            async with answer:
                yield answer

    async def _addresses(self, target: Target) -> tuple[str, ...]:
        if target.address is not None:
            return fetches.select(self._policy, [str(target.address)])
        try:
            async with asyncio.timeout(RESOLVE_SECONDS):
                found = await self._resolve(target.host, target.port)
        except OSError:  # also TimeoutError
            raise fetches.unavailable("the host's name cannot be resolved at present") from None
        return fetches.select(self._policy, found)


class _Pinned(AbstractResolver):
    """Answers with the addresses that were judged, whatever the name servers say now."""

    def __init__(self, addresses: Sequence[str]) -> None:
        self._addresses = addresses

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        del family
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ip_address(address).version == 6 else socket.AF_INET,
                proto=socket.IPPROTO_TCP,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for address in self._addresses
        ]

    async def close(self) -> None:
        """Hold nothing."""


def _only(addresses: Sequence[str]) -> Callable[[Any], socket.socket]:
    """Return the factory behind every connection: the last place where an address can be refused."""

    def make(info: Any) -> socket.socket:
        family, kind, protocol, _, (host, *_) = info
        if host not in addresses:
            raise OSError(f"the address must be one of the {len(addresses)} that were judged")
        return socket.socket(family, kind, protocol)

    return make


def _head(answer: aiohttp.ClientResponse) -> Head:
    length = answer.headers.get("Content-Length", "")
    return Head(
        status=answer.status,
        location=answer.headers.get("Location"),
        encoding=answer.headers.get("Content-Encoding", ""),
        length=int(length) if length.isascii() and length.isdigit() and len(length) < 20 else None,
        is_chunked="chunked" in answer.headers.get("Transfer-Encoding", "").lower(),
    )


async def _chunks(answer: aiohttp.ClientResponse) -> AsyncGenerator[bytes, None]:
    with _typed():
        async for chunk in answer.content.iter_any():
            METRICS.fetched_bytes.inc(len(chunk))
            yield chunk


async def _admitted(
    chunks: AsyncIterator[bytes], admit: Admit, limit_bytes: int
) -> AsyncGenerator[bytes, None]:
    total = 0
    async for chunk in chunks:
        total += len(chunk)
        if total <= limit_bytes:  # else the store refuses it, whatever there is room for
            await admit(total, is_whole=False)
        yield chunk


@contextlib.contextmanager
def _typed() -> Iterator[None]:
    try:
        yield
    except aiohttp.ClientConnectorCertificateError:
        raise fetches.refused("the server's certificate cannot be verified for its host") from None
    except aiohttp.ServerTimeoutError:
        raise fetches.unavailable("the server stops answering") from None
    except aiohttp.ClientPayloadError:
        raise fetches.unavailable("the server's answer broke off") from None
    except (aiohttp.ClientError, ssl.SSLError, ConnectionError, OSError) as error:
        if isinstance(error, TimeoutError):
            raise  # ours, for the whole
        raise fetches.unavailable("the server does not answer as an https server") from None
