"""Downloads from real https servers on loopback, into a real store."""

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from manifestry.core.blobs import digests
from manifestry.core.fetching.fetches import FetchError, NoRoom, NoRoomError, Order
from tests.component.fetching import originserver
from tests.component.fetching.fetchworld import ALLOWED, DATA, MIB, NAME, World, opened
from tests.controlplane.certificates import Authority


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture
async def world(tmp_path: Path, authority: Authority) -> AsyncIterator[World]:
    async with opened(tmp_path, authority) as found:
        yield found


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


async def test_a_port_where_nobody_listens_and_a_store_that_fails(world: World) -> None:
    assert (await world.refused(f"https://{ALLOWED}:1/"))[:2] == ("SourceUnavailable", "soon")
    world.origin.answers["/a"] = originserver.status(200, DATA)
    world.root.parent.joinpath("store").write_text("no folder")
    with pytest.raises(FetchError) as error:
        await world.fetch(world.origin.url("/a"))
    assert error.value.failure.retry == "soon"


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
