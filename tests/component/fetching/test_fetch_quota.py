"""Downloads under a storage quota: real https servers, a real store, the API server in memory.

Nothing may ever be in the store that is not charged, whatever a server sends and however a fetch ends.
"""

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from manifestry.adapters.fetching import fetches, queues
from manifestry.adapters.quota.books import LedgerError
from manifestry.adapters.store import inventory, pins
from manifestry.adapters.store.contract import ports
from manifestry.core.fetching import addresses
from manifestry.core.quota.storage.grants import Wanted
from manifestry.core.quota.storage.limits import Limits
from manifestry.handlers.artifacts import reconciler
from tests.component.fetching import originserver
from tests.component.fetching.originserver import Origin
from tests.component.fetching.test_fetches import chunked
from tests.component.quota.test_storage import NAMESPACE, UID, Api, World, opened
from tests.controlplane.certificates import Authority

KIB = 1 << 10
ADDRESS = "127.0.0.3"


@dataclass
class Site:
    """An operator with downloads, and what it is woken for."""

    world: World
    queue: queues.FetchQueue
    woken: "asyncio.Queue[str]"
    root: Path
    origin: Origin

    def artifact(self, name: str, target: str, **spec: Any) -> None:
        self.world.artifact(name, url={"url": self.origin.url(target)}, **spec)

    async def look(self, name: str) -> tuple[str, str]:
        seconds = await reconciler.reconcile(self.world.ctx, NAMESPACE, name)
        await eventually(self.is_covered)  # what is dropped is removed beside the reconcile
        if seconds is not None:
            asyncio.get_running_loop().call_later(seconds, self.woken.put_nowait, name)
        return self.world.condition(name, "Ready")

    async def until(self, name: str, reason: str) -> None:
        """Look at an artifact at its wakes, until it is as wished."""
        async with asyncio.timeout(10):
            while (await self.look(name))[1] != reason:
                woken = await self.woken.get()
                assert woken == name

    def stored(self) -> int:
        """Return how many bytes are in the store: staged, or published but for the manifests."""
        sizes = [path.stat().st_size for path in (self.root / "uploads").rglob("*") if path.is_file()]
        return sum(sizes) + self.world.totals[0]

    def reserved(self) -> int:
        holders = self.world.api.objects["QuotaLedger", "storage.manifestry"]["status"]["holders"]
        return sum(each.get("sizeBytes", 0) for each in holders.values())

    def is_covered(self) -> bool:
        return self.stored() <= self.reserved() + self.world.totals[0]


@dataclass
class Gate:
    """A server's answer of unknown length, whose pieces the test sends."""

    pieces: "asyncio.Queue[bytes | None]" = field(default_factory=asyncio.Queue)
    breaks: bool = False

    async def __call__(self, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while (piece := await self.pieces.get()) is not None:
            writer.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            await writer.drain()
        if not self.breaks:
            writer.write(b"0\r\n\r\n")
            await writer.drain()

    def send(self, *pieces: bytes | None) -> None:
        for piece in pieces:
            self.pieces.put_nowait(piece)


async def eventually(holds: Callable[[], bool]) -> None:
    for _ in range(500):
        if holds():
            return
        await asyncio.sleep(0.01)
    raise TimeoutError


Start = Callable[[], Awaitable[Site]]


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    """Give a function that starts an operator; the one before is as good as killed."""
    authority, api, root = Authority(), Api(), tmp_path / "store"
    (tmp_path / "ca.crt").write_bytes(authority.certificate_pem)
    async with AsyncExitStack() as stack:
        origin = await stack.enter_async_context(originserver.serving(authority, tmp_path, address=ADDRESS))

        async def started() -> Site:
            world = await stack.enter_async_context(opened(api, root))
            woken: asyncio.Queue[str] = asyncio.Queue()
            fetcher = fetches.Fetcher(
                addresses.Policy(addresses.parse_networks(f"{ADDRESS}/32")),
                tls=fetches.Trust(str(tmp_path / "ca.crt")),
                bounds=fetches.Bounds(1 << 30, 10.0, 5.0),
            )
            queue = queues.FetchQueue(
                fetcher, world.ctx.store, slots=4, wake=lambda _, name: woken.put_nowait(name)
            )
            stack.push_async_callback(queue.close)
            world.ctx = replace(world.ctx, fetches=queue)
            return Site(world, queue, woken, root, origin)

        yield started


@pytest.fixture
async def site(start: Start) -> Site:
    return await start()


async def test_a_stream_of_unknown_length_is_charged_as_it_comes(site: Site) -> None:
    site.world.limit(maxBytes=100 * KIB)
    gate = site.origin.answers["/a"] = Gate()
    site.artifact("a", "/a")
    assert await site.look("a") == ("Unknown", "Fetching")
    assert site.reserved() == 0, "nothing is known of it"
    steps = []
    for count in (10, 30, 40):
        gate.send(bytes(count * KIB))
        steps.append(site.reserved())
        await eventually(lambda: site.reserved() > steps[-1])
        assert site.is_covered()
        assert await site.look("a") == ("Unknown", "Fetching")
    assert 80 * KIB <= site.reserved() <= 100 * KIB
    gate.send(None)
    await site.until("a", "Stored")
    assert site.world.totals == (80 * KIB, 1, 0), "the step that was not used is given back"


@pytest.mark.parametrize("used", [0, 30])
async def test_one_byte_too_many_leaves_nothing_and_waits_for_room(site: Site, used: int) -> None:
    site.world.limit(maxBytes=100 * KIB)
    if used:
        site.world.artifact("old", inline={"text": "o" * used * KIB})
        assert await site.look("old") == ("True", "Stored")
    room = (100 - used) * KIB
    site.origin.answers["/a"] = chunked(*[bytes(KIB)] * (room // KIB), b"x", pause_seconds=0.001)
    site.artifact("a", "/a")
    await site.until("a", "WaitingForQuota" if used else "ExceedsMaxQuota")
    await eventually(lambda: site.stored() == used * KIB)
    assert (site.reserved(), site.world.totals[0]) == (0, used * KIB)
    assert (await site.look("a"))[1] == ("WaitingForQuota" if used else "ExceedsMaxQuota")
    assert len(site.origin.requests) == 1, "what it needs is known"
    wanted = site.world.storage.waiting[NAMESPACE]["a"]
    assert room < wanted.size_bytes <= room + 64 * KIB
    assert f"at least {wanted.size_bytes} bytes" in str(site.world.api.objects["Artifact", "a"]["status"])
    await site.world.ledger()
    assert ("Artifact", NAMESPACE, "a") not in site.world.woken, "what it has given back is no room for it"
    site.world.limit(maxBytes=101 * KIB)
    await site.world.ledger()
    assert ("Artifact", NAMESPACE, "a") in site.world.woken
    await site.until("a", "Stored")
    assert site.world.totals == (100 * KIB + 1, 2 if used else 1, 0)


async def test_an_announced_length_is_charged_before_the_first_byte(site: Site) -> None:
    site.world.limit(maxBytes=10)
    site.origin.answers["/a"] = originserver.status(200, b"x" * 11)
    site.artifact("a", "/a")
    await site.until("a", "ExceedsMaxQuota")
    assert (site.stored(), site.reserved()) == (0, 0)
    assert "of 11 bytes" in str(site.world.api.objects["Artifact", "a"]["status"])
    site.origin.answers["/b"] = originserver.status(200, b"x" * 10)
    site.artifact("b", "/b")
    await site.until("b", "Stored")


async def test_what_broke_off_is_given_back(site: Site) -> None:
    site.world.limit(maxBytes=100 * KIB)
    gate = site.origin.answers["/a"] = Gate(breaks=True)
    site.artifact("a", "/a")
    await site.look("a")
    gate.send(bytes(40 * KIB))
    await eventually(lambda: site.reserved() >= 40 * KIB)
    gate.send(None)
    await site.until("a", "SourceUnavailable")
    assert (site.stored(), site.reserved()) == (0, 0)


async def test_a_killed_operators_charge_is_its_successors(start: Start) -> None:
    first = await start()
    first.world.limit(maxBytes=100 * KIB)
    gate = first.origin.answers["/a"] = Gate()
    first.artifact("a", "/a")
    await first.look("a")
    gate.send(bytes(60 * KIB))
    await eventually(lambda: first.reserved() >= 60 * KIB)
    held = first.reserved()
    second = await start()  # the first one does nothing any more, and gives nothing back
    second.origin.answers["/a"] = chunked(bytes(50 * KIB))
    await second.until("a", "Stored")
    assert held >= 60 * KIB
    assert (second.reserved(), second.world.totals) == (0, (50 * KIB, 1, 0))


async def test_a_killed_operators_charge_goes_when_the_server_does_not_answer(start: Start) -> None:
    first = await start()
    first.world.limit(maxBytes=100 * KIB)
    gate = first.origin.answers["/a"] = Gate()
    first.artifact("a", "/a")
    await first.look("a")
    gate.send(bytes(60 * KIB))
    await eventually(lambda: first.reserved() >= 60 * KIB)
    second = await start()
    second.origin.answers["/a"] = originserver.status(503)
    await second.until("a", "SourceUnavailable")
    assert second.reserved() == 0


async def test_a_pin_that_a_killed_operator_has_left_goes_before_its_charge(start: Start) -> None:
    first = await start()
    first.world.limit(maxBytes=100 * KIB)
    gate = first.origin.answers["/a"] = Gate()
    uid = str(uuid.UUID(int=1))
    first.artifact("a", "/a", uid=uid, deletionPolicy="Retain")
    await first.look("a")
    gate.send(bytes(60 * KIB))
    await eventually(lambda: first.reserved() >= 60 * KIB)
    await inventory.Inventory(first.world.ctx.store).pin(UID, uid, b"{}")  # killed before the status
    second = await start()
    second.origin.answers["/a"] = originserver.status(503)
    await second.until("a", "SourceUnavailable")
    assert second.reserved() == 0
    assert await pins.Pins(second.world.ctx.store).find(UID, uid) is None


@pytest.mark.parametrize("trouble", ["another source has gone", "the store is down"])
async def test_a_download_keeps_its_charge_while_something_else_is_wrong(
    site: Site, trouble: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.world.limit(maxBytes=100 * KIB)
    api, uid = site.world.api, site.world.api.objects["Namespace", NAMESPACE]["metadata"]["uid"]
    api.put("ConfigMap", {"metadata": {"name": "c"}, "data": {"k": "hello"}})
    blob = await site.world.ctx.store.put(uid, b"there")
    gate = site.origin.answers["/a"] = Gate(breaks=True)
    sources: dict[str, Any] = {
        "a": {"url": {"url": site.origin.url("/a")}},
        "b": {"configMapRef": {"name": "c", "key": "k"}},
        "c": {"object": {"digest": blob.digest}},
    }
    files = [{"name": name, "mediaType": "a/b", **source} for name, source in sources.items()]
    site.world.artifact("set", files=files)
    await site.look("set")
    gate.send(bytes(40 * KIB))
    await eventually(lambda: site.reserved() >= 40 * KIB + 10)
    held = site.reserved()
    if trouble == "another source has gone":
        config = api.objects.pop(("ConfigMap", "c"))
        assert await site.look("set") == ("Unknown", "SourceNotFound")
        api.put("ConfigMap", config)
    else:
        with monkeypatch.context() as patch:
            patch.setattr(site.world.ctx.store, "confirm", unavailable)
            assert await site.look("set") == ("Unknown", "StoreUnavailable")
    assert site.reserved() == held
    api.objects.pop(("ConfigMap", "c"))
    gate.send(None)
    await eventually(lambda: not site.queue.holds(NAMESPACE, "set"))
    assert await site.look("set") == ("Unknown", "SourceNotFound")
    assert site.reserved() == 5, "what is in the store"


async def unavailable(*_: Any) -> Any:
    raise ports.StoreUnavailableError("down")


async def test_two_files_that_do_not_fit_together_end_the_fetch(site: Site) -> None:
    site.world.limit(maxBytes=100)
    site.origin.answers |= {"/a": chunked(b"a" * 60), "/b": chunked(b"b" * 60)}
    files = [{"name": name, "mediaType": "a/b", "url": {"url": site.origin.url(f"/{name}")}} for name in "ab"]
    site.world.artifact("set", files=files)
    await site.until("set", "ExceedsMaxQuota")
    await eventually(lambda: site.stored() == 0)
    assert site.reserved() == 0
    site.world.limit(maxBytes=120)
    await site.until("set", "Stored")
    assert site.world.totals == (120, 1, 0)


async def test_rivals_for_the_last_room_never_hold_more_than_there_is(site: Site) -> None:
    site.world.limit(maxBytes=100 * KIB)
    for name in ("a", "b"):
        site.origin.answers[f"/{name}"] = chunked(*[bytes(KIB)] * 70, pause_seconds=0.001)
        site.artifact(name, f"/{name}")
        await site.look(name)
    reasons: dict[str, str] = {}
    async with asyncio.timeout(10):
        while sorted(reasons.values()) != ["Stored", "WaitingForQuota"]:
            name = await site.woken.get()
            reasons[name] = (await site.look(name))[1]
            assert site.reserved() + site.world.totals[0] <= 100 * KIB
            site.world.woken.clear()
            await site.world.ledger()
            for _, _, waiting in site.world.woken:
                site.woken.put_nowait(waiting)
    await eventually(lambda: site.stored() == 70 * KIB)
    assert (site.reserved(), site.world.totals[0]) == (0, 70 * KIB)


async def test_a_ledger_that_cannot_be_changed_is_tried_again(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.world.limit(maxBytes=100 * KIB)
    site.origin.answers["/a"] = chunked(b"hello")
    site.artifact("a", "/a")
    reserve = site.world.storage.books.reserve

    async def failing(namespace: str, wanted: Wanted, limits: Limits) -> Any:
        if wanted.step:
            raise LedgerError("down")
        return await reserve(namespace, wanted, limits)

    monkeypatch.setattr(site.world.storage.books, "reserve", failing)
    await site.until("a", "StoreUnavailable")
    assert (site.stored(), site.reserved()) == (0, 0)
