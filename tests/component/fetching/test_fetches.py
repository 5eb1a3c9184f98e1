"""Downloads from real https servers on loopback, into a real store."""

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from manifestry.adapters.fetching import fetches
from manifestry.adapters.store.local import blobs
from manifestry.adapters.telemetry.storage_metrics import METRICS
from manifestry.core.artifacts import addresses
from manifestry.core.artifacts.fetches import FetchError, NoRoom, NoRoomError, Order
from manifestry.core.blobs import digests
from tests.component.fetching import originserver
from tests.component.fetching.originserver import Origin
from tests.controlplane.certificates import Authority

DATA = bytes(range(256)) * 8192  # 2 MiB
MIB = 1 << 20
ALLOWED, PRIVATE = "127.0.0.2", "127.0.0.1"
NAME = "origin.example"


@dataclass
class Names:
    """A resolver that answers differently each time."""

    answers: list[Sequence[str]] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    async def __call__(self, host: str, _: int) -> Sequence[str]:
        self.asked.append(host)
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


@dataclass
class World:
    """A server that may be fetched from, one on the same port that may not, a resolver, a store."""

    root: Path
    store: blobs.LocalStore
    origin: Origin
    private: Origin
    names: Names
    ca_file: Path

    def fetcher(self, allowed: str = f"{ALLOWED}/32", **bounds: float) -> fetches.Fetcher:
        found = fetches.Bounds(
            int(bounds.get("max_bytes", 8 * MIB)),
            bounds.get("total_seconds", 10),
            bounds.get("idle_seconds", 5),
        )
        policy = addresses.Policy(addresses.parse_networks(allowed))
        return fetches.Fetcher(policy, tls=fetches.Trust(str(self.ca_file)), bounds=found, resolve=self.names)

    async def fetch(self, order: Order | str, fetcher: fetches.Fetcher | None = None) -> str:
        wanted = order if isinstance(order, Order) else Order(order)
        return (await (fetcher or self.fetcher()).fetch(wanted, self.store)).digest

    async def refused(
        self, order: Order | str, fetcher: fetches.Fetcher | None = None
    ) -> tuple[str, str, str]:
        with pytest.raises(FetchError) as error:
            await self.fetch(order, fetcher)
        assert self.staged() == []
        failure = error.value.failure
        return failure.reason, failure.retry, failure.message

    def staged(self) -> list[Path]:
        return [path for path in self.root.rglob("*") if path.is_file()]


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture
async def world(tmp_path: Path, authority: Authority) -> AsyncIterator[World]:
    ca_file = tmp_path / "ca.crt"
    ca_file.write_bytes(authority.certificate_pem)
    root = tmp_path / "store"
    opened = blobs.LocalStore(root, timeout_seconds=5)
    async with AsyncExitStack() as stack:
        origin = await stack.enter_async_context(
            originserver.serving(authority, tmp_path, address=ALLOWED, names=(NAME, "other.example"))
        )
        private = await stack.enter_async_context(
            originserver.serving(authority, tmp_path, address=PRIVATE, names=(NAME,), port=origin.port)
        )
        yield World(root, opened, origin, private, Names([[ALLOWED]]), ca_file)
    await opened.close()


async def test_bytes_are_staged_and_hashed(world: World) -> None:
    world.origin.answers["/data?sig=a%2Fb"] = originserver.status(200, DATA)
    fetched = await world.fetcher().fetch(Order(world.origin.url("/data?sig=a%2Fb", NAME)), world.store)
    assert (fetched.digest, fetched.size_bytes) == (digests.of(DATA), len(DATA))
    assert [path.name for path in world.staged()] == [fetched.upload_id]
    assert world.names.asked == [NAME]


async def test_nothing_of_ours_is_sent(world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text(f"machine {NAME} login us password canary\n")
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    setting = originserver.status(
        302, Location=world.origin.url("/b", "other.example"), Set_Cookie="a=canary"
    )
    world.origin.answers |= {"/a": setting, "/b": originserver.status(200, b"ok")}
    await world.fetch(world.origin.url("/a", NAME))
    first, second = world.origin.requests
    assert (first.headers["host"], second.headers["host"]) == (
        f"{NAME}:{world.origin.port}",
        f"other.example:{world.origin.port}",
    )
    for request in (first, second):
        assert request.headers.keys() == {"host", "user-agent", "accept", "accept-encoding", "connection"}
        assert request.headers["accept-encoding"] == "identity"
        assert "canary" not in str(request)


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
async def test_a_redirect_is_followed_and_resolved_anew(world: World, code: int) -> None:
    world.origin.answers |= {"/a": originserver.redirect("/b", code), "/b": originserver.status(200, DATA)}
    assert await world.fetch(world.origin.url("/a", NAME)) == digests.of(DATA)
    assert world.names.asked == [NAME, NAME]


@pytest.mark.parametrize("host", ["", NAME])
async def test_a_private_address_is_never_connected_to(world: World, host: str) -> None:
    world.names.answers = [[PRIVATE]]
    world.private.answers["/secret"] = originserver.status(200, b"secret")
    reason, retry, message = await world.refused(world.private.url("/secret", host))
    assert (reason, retry) == ("InvalidSource", "seldom")
    assert PRIVATE not in message
    assert world.private.connections == 0
    assert await world.fetch(world.private.url("/secret", host), world.fetcher("127.0.0.0/8")) == digests.of(
        b"secret"
    )


@pytest.mark.parametrize("by_name", [False, True])
async def test_a_redirect_to_a_private_address_is_refused(world: World, by_name: bool) -> None:
    world.names.answers = [[ALLOWED], [PRIVATE]]
    target = world.private.url("/secret", "internal.example" if by_name else "")
    world.origin.answers["/a"] = originserver.redirect(target)
    reason, _, message = await world.refused(world.origin.url("/a", NAME))
    assert reason == "InvalidSource"
    assert "no public address" in message
    assert world.private.connections == 0


async def test_a_name_that_changes_its_address_does_not_lead_inside(world: World) -> None:
    """The server's own name: public when it is judged, private a moment later."""
    world.names.answers = [[ALLOWED], [PRIVATE]]
    world.origin.answers |= {"/a": originserver.status(200, DATA), "/again": originserver.redirect("/a")}
    assert await world.fetch(world.origin.url("/a", NAME)) == digests.of(DATA)  # resolved once, not twice
    assert world.names.asked == [NAME]
    world.names.answers = [[ALLOWED], [PRIVATE]]
    for path in world.staged():
        path.unlink()
    assert (await world.refused(world.origin.url("/again", NAME)))[0] == "InvalidSource"
    assert world.private.connections == 0


async def test_of_several_addresses_only_the_permitted_ones_are_tried(world: World) -> None:
    world.names.answers = [[PRIVATE, "::1", ALLOWED]]
    world.origin.answers["/a"] = originserver.status(200, DATA)
    assert await world.fetch(world.origin.url("/a", NAME)) == digests.of(DATA)
    assert world.private.connections == 0


async def test_redirects_end(world: World) -> None:
    for number in range(7):
        world.origin.answers[f"/{number}"] = originserver.redirect(f"/{number + 1}")
    world.origin.answers["/loop"] = originserver.redirect("/loop2")
    world.origin.answers["/loop2"] = originserver.redirect(world.origin.url("/loop"))
    world.origin.answers["/plain"] = originserver.redirect(f"http://{ALLOWED}/")
    world.origin.answers["/nowhere"] = originserver.status(302)
    for path, message in {
        "/0": "more than 5",
        "/loop": "circle",
        "/plain": "https",
        "/nowhere": "usable",
    }.items():
        reason, _, shown = await world.refused(world.origin.url(path))
        assert reason == "InvalidSource"
        assert message in shown
    assert len([request for request in world.origin.requests if request.target[1:].isdigit()]) == 6


async def test_a_body_over_the_limit_is_not_taken(world: World) -> None:
    chunk = b"10000\r\n" + b"x" * 65536 + b"\r\n"
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    world.origin.answers["/stated"] = originserver.status(200, DATA)
    world.origin.answers["/endless"] = originserver.raw(head, *[chunk] * 1000, b"0\r\n\r\n")
    small = world.fetcher(max_bytes=MIB)
    for path in ("/stated", "/endless"):
        url = world.origin.url(path)
        assert (await world.refused(url, small))[:2] == ("TooLarge", "never")
        assert (await world.refused(Order(url, size_bytes=10)))[:2] == ("SizeMismatch", "never")


async def test_a_server_that_sends_slowly_is_given_up(world: World) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"
    world.origin.answers["/slow"] = originserver.raw(head, *[b"x"] * 1000, pause_seconds=0.05)
    world.origin.answers["/silent"] = originserver.raw(head, pause_seconds=60)
    world.origin.answers["/slow-head"] = originserver.raw(
        *[bytes([byte]) for byte in head], pause_seconds=0.05
    )
    began = time.monotonic()
    slow = world.fetcher(total_seconds=0.5)
    for path in ("/slow", "/silent", "/slow-head"):
        assert (await world.refused(world.origin.url(path), slow))[:2] == ("SourceUnavailable", "soon")
    idle = world.fetcher(idle_seconds=0.3)
    assert (await world.refused(world.origin.url("/silent"), idle))[2] == "the server stops answering"
    assert time.monotonic() - began < 5


async def test_an_answer_that_breaks_off_is_not_taken(world: World) -> None:
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"
    world.origin.answers |= {
        "/stated": originserver.raw(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello"),
        "/chunked": originserver.raw(chunked),
        "/nonsense": originserver.raw(b"SSH-2.0-OpenSSH\r\n"),
        "/nothing": originserver.raw(),
    }
    for path in world.origin.answers:
        assert (await world.refused(world.origin.url(path)))[:2] == ("SourceUnavailable", "soon"), path


async def test_an_unmarked_end_needs_a_digest(world: World) -> None:
    world.origin.answers["/a"] = originserver.raw(b"HTTP/1.1 200 OK\r\n\r\nhello")
    assert "mark the end" in (await world.refused(world.origin.url("/a")))[2]
    assert await world.fetch(Order(world.origin.url("/a"), digest=digests.of(b"hello"))) == digests.of(
        b"hello"
    )


async def test_compressed_bytes_are_not_taken(world: World) -> None:
    world.origin.answers["/a"] = originserver.status(200, b"\x1f\x8b", Content_Encoding="gzip")
    assert "Content-Encoding" in (await world.refused(world.origin.url("/a")))[2]


@pytest.mark.parametrize(
    ("code", "reason"),
    [(404, "SourceNotFound"), (500, "SourceUnavailable"), (403, "InvalidSource"), (304, "InvalidSource")],
)
async def test_other_answers(world: World, code: int, reason: str) -> None:
    world.origin.answers["/a"] = originserver.status(code, b"" if code == 304 else b"canary")
    found = await world.refused(world.origin.url("/a"))
    assert found[0] == reason
    assert "canary" not in found[2]


async def test_a_certificate_must_be_the_hosts_and_of_a_known_authority(world: World) -> None:
    world.origin.answers["/a"] = originserver.status(200, DATA)
    message = "the server's certificate cannot be verified for its host"
    wrong_host = await world.refused(world.origin.url("/a", "wrong.example"))
    assert wrong_host == ("InvalidSource", "seldom", message)
    world.ca_file.write_bytes(Authority("another").certificate_pem)
    assert await world.refused(world.origin.url("/a", NAME)) == ("InvalidSource", "seldom", message)
    assert world.origin.requests == []


async def test_a_new_file_of_authorities_counts_without_a_restart(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.origin.answers["/a"] = originserver.status(200, DATA)
    right = world.ca_file.read_bytes()
    world.ca_file.write_bytes(Authority("another").certificate_pem)
    fetcher, url = world.fetcher(), world.origin.url("/a", NAME)
    before = METRICS.fetched_bytes._value.get()
    assert (await world.refused(url, fetcher))[0] == "InvalidSource"
    world.ca_file.write_bytes(right)
    assert await world.fetch(url, fetcher) == digests.of(DATA)
    assert METRICS.fetched_bytes._value.get() - before == len(DATA)
    for broken in (b"half a certificate", None):
        world.ca_file.unlink() if broken is None else world.ca_file.write_bytes(broken)
        assert await world.fetch(url, fetcher) == digests.of(DATA)
    assert caplog.text.count("the old ones count") == 2


async def test_old_tls_and_no_tls_are_refused(world: World) -> None:
    assert fetches.tls_context().minimum_version == ssl.TLSVersion.TLSv1_2

    def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        writer.close()

    plain = await asyncio.start_server(answer, ALLOWED, 0)
    async with plain:
        port = plain.sockets[0].getsockname()[1]
        found = await world.refused(f"https://{ALLOWED}:{port}/")
        assert found[:2] == ("SourceUnavailable", "soon")


async def test_names_that_cannot_be_resolved_are_tried_again(world: World) -> None:
    async def broken(*_: object) -> Sequence[str]:
        raise OSError("the name servers do not answer")

    fetcher = world.fetcher()
    fetcher._resolve = broken
    assert (await world.refused(world.origin.url("/a", NAME), fetcher))[:2] == ("SourceUnavailable", "soon")
    world.names.answers = [[]]
    assert (await world.refused(world.origin.url("/a", NAME)))[:2] == ("InvalidSource", "seldom")


async def test_the_systems_resolver_is_asked_for_absolute_names(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def look_up(host: str, port: int) -> list[tuple[object, ...]]:
        asked.append(host)
        return [(2, 1, 6, "", ("192.0.2.1", port)), (10, 1, 6, "", ("2001:db8::1", port, 0, 0))]

    monkeypatch.setattr(fetches, "_look_up", look_up)
    assert await fetches.SystemResolver()("example.org", 443) == ["192.0.2.1", "2001:db8::1"]
    assert asked == ["example.org."]
    monkeypatch.undo()
    assert await fetches.SystemResolver()("does-not-exist.invalid", 443) == ()


async def test_a_port_where_nobody_listens_and_a_store_that_fails(world: World) -> None:
    assert (await world.refused(f"https://{ALLOWED}:1/"))[:2] == ("SourceUnavailable", "soon")
    world.origin.answers["/a"] = originserver.status(200, DATA)
    world.root.parent.joinpath("store").write_text("no folder")
    with pytest.raises(FetchError) as error:
        await world.fetch(world.origin.url("/a"))
    assert error.value.failure.retry == "soon"


def test_a_file_without_certificates_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "ca").write_text("nothing")
    for name in ("ca", "absent"):
        with pytest.raises(OSError, match=r"\S"):
            fetches.Trust(str(tmp_path / name))


@dataclass
class Budget:
    """Admits bytes up to a limit, and notes what was staged when it was asked."""

    world: World
    limit: int
    asked: list[tuple[int, bool]] = field(default_factory=list)
    staged: list[int] = field(default_factory=list)

    async def __call__(self, size_bytes: int, *, is_whole: bool) -> None:
        self.asked.append((size_bytes, is_whole))
        self.staged.append(sum(path.stat().st_size for path in self.world.staged()))
        if size_bytes > self.limit:
            raise NoRoomError(NoRoom(size_bytes, at_least=not is_whole))


def chunked(*pieces: bytes, pause_seconds: float = 0.0) -> originserver.Answer:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    framed = [b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces]
    return originserver.raw(head, *framed, b"0\r\n\r\n", pause_seconds=pause_seconds)


async def test_each_byte_is_admitted_before_it_is_stored(world: World) -> None:
    world.origin.answers["/a"] = chunked(*(DATA for _ in range(3)), pause_seconds=0.02)
    budget = Budget(world, 3 * len(DATA))
    fetched = await world.fetcher().fetch(Order(world.origin.url("/a", NAME)), world.store, budget)
    assert fetched.size_bytes == 3 * len(DATA)
    sizes = [size for size, _ in budget.asked]
    assert (sizes, sizes[-1]) == (sorted(sizes), 3 * len(DATA))
    earlier = [0, *sizes[:-1]]
    assert all(staged <= before for staged, before in zip(budget.staged, earlier, strict=True))
    assert max(budget.staged) > 0


async def test_one_byte_too_many_is_not_stored_and_nothing_is_left(world: World) -> None:
    world.origin.answers["/a"] = chunked(DATA, DATA, b"x", pause_seconds=0.02)
    budget = Budget(world, 2 * len(DATA))
    with pytest.raises(NoRoomError) as error:
        await world.fetcher().fetch(Order(world.origin.url("/a", NAME)), world.store, budget)
    assert error.value.found == NoRoom(2 * len(DATA) + 1, at_least=True)
    assert max(budget.staged) <= 2 * len(DATA)
    assert world.staged() == []


async def test_what_the_server_announces_is_admitted_before_the_first_byte(world: World) -> None:
    world.origin.answers["/a"] = originserver.status(200, DATA)
    budget = Budget(world, len(DATA) - 1)
    with pytest.raises(NoRoomError) as error:
        await world.fetcher().fetch(Order(world.origin.url("/a", NAME)), world.store, budget)
    assert error.value.found == NoRoom(len(DATA))
    assert budget.asked == [(len(DATA), True)]


async def test_what_is_too_large_anyway_is_not_charged(world: World) -> None:
    world.origin.answers["/a"] = chunked(DATA, DATA, DATA, pause_seconds=0.02)
    budget = Budget(world, 1 << 40)
    with pytest.raises(FetchError, match="must not be more than"):
        await world.fetcher(max_bytes=len(DATA)).fetch(
            Order(world.origin.url("/a", NAME)), world.store, budget
        )
    assert max(size for size, _ in budget.asked) <= len(DATA)
    assert world.staged() == []
