"""Downloads beside the reconciles: bounded, fair, remembered, tried again, dropped."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from manifestry.adapters.fetching import queues
from manifestry.adapters.fetching.fetches import Admit
from manifestry.adapters.store.contract import ports
from manifestry.adapters.telemetry.storage_metrics import METRICS
from manifestry.core.fetching import fetches
from manifestry.core.fetching.fetches import (
    Failure,
    Fetched,
    FetchError,
    NoRoom,
    NoRoomError,
    Order,
    Outcome,
    Pending,
)
from tests.unit.adapters.fakeclock import FakeClock

SOON = Failure("SourceUnavailable", "m", "soon")
SELDOM = Failure("InvalidSource", "m", "seldom")
NEVER = Failure("TooLarge", "m", "never")


@dataclass
class Servers:
    """Ends each fetch when the test says so."""

    under_way: dict[str, list[asyncio.Future[Fetched]]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    discarded: list[str] = field(default_factory=list)
    woken: list[tuple[str, str]] = field(default_factory=list)
    admits: dict[str, Admit] = field(default_factory=dict)

    async def fetch(self, order: Order, _: object, admit: Admit) -> Fetched:
        self.asked.append(order.url)
        self.admits[order.url] = admit
        waiting: asyncio.Future[Fetched] = asyncio.get_running_loop().create_future()
        self.under_way.setdefault(order.url, []).append(waiting)
        try:
            return await waiting
        finally:
            self.under_way[order.url].remove(waiting)

    async def discard(self, staged: ports.Staged) -> None:
        self.discarded.append(staged.upload_id)

    async def end(self, url: str, outcome: Fetched | Failure | NoRoom | Exception) -> None:
        waiting = self.under_way[url][0]
        match outcome:
            case Fetched():
                waiting.set_result(outcome)
            case Failure():
                waiting.set_exception(FetchError(outcome))
            case NoRoom():
                waiting.set_exception(NoRoomError(outcome))
            case _:
                waiting.set_exception(outcome)
        await settle()


async def settle() -> None:
    for _ in range(6):
        await asyncio.sleep(0)


def fetched(name: str) -> Fetched:
    return Fetched(f"upload-{name}", "sha256:" + "a" * 64, 5)


@dataclass
class World:
    servers: Servers
    clock: FakeClock
    queue: queues.FetchQueue

    async def look(
        self, *urls: str, name: str = "a", namespace: str = "team", **changes: Any
    ) -> Mapping[str, Outcome]:
        orders = changes.pop("orders", {url: Order(url) for url in urls})
        wanted = {"uid": "u1", "generation": 1, "retry_seconds": 1.0, **changes}
        found = self.queue.look(queues.Wanted(namespace, name, orders=orders, **wanted))
        await settle()
        return found


@pytest.fixture
async def world() -> AsyncIterator[World]:
    servers, clock = Servers(), FakeClock()
    queue = queues.FetchQueue(
        servers,
        cast("ports.Store", servers),
        slots=4,
        wake=lambda *key: servers.woken.append(key),
        clock=clock,
    )
    yield World(servers, clock, queue)
    await queue.close()
    assert queue.running == 0


async def test_a_fetch_runs_once_and_wakes_its_artifact(world: World) -> None:
    assert not world.queue.holds("team", "a")
    assert await world.look("x") == {"x": Pending()}
    assert await world.look("x") == {"x": Pending()}
    assert world.queue.holds("team", "a")
    assert world.servers.asked == ["x"]
    await world.servers.end("x", fetched("x"))
    assert world.queue.holds("team", "a")
    assert world.servers.woken == [("team", "a")]
    assert await world.look("x") == await world.look("x") == {"x": fetched("x")}
    assert world.servers.asked == ["x"]
    world.queue.forget("team", "a")
    await settle()
    assert world.servers.discarded == ["upload-x"]
    world.queue.forget("team", "a")


async def test_each_end_is_counted_with_its_time(world: World) -> None:
    def counted(outcome: str) -> float:
        return float(METRICS.fetches.labels(outcome)._sum.get())

    before = counted("Fetched"), counted(SOON.reason)
    await world.look("x", "y")
    await world.clock.advance(2.5)
    await world.servers.end("x", fetched("x"))
    await world.servers.end("y", SOON)
    assert (counted("Fetched") - before[0], counted(SOON.reason) - before[1]) == (2.5, 2.5)


@pytest.mark.parametrize(("failure", "seconds"), [(SOON, 1.0), (SELDOM, fetches.REFUSED_RETRY_SECONDS)])
async def test_a_failure_is_remembered_and_tried_again_in_time(
    world: World, failure: Failure, seconds: float
) -> None:
    await world.look("x")
    await world.servers.end("x", failure)
    assert not world.queue.holds("team", "a")
    assert await world.look("x", retry_seconds=5.0) == {"x": failure}
    await world.clock.advance(seconds - 0.1)
    assert await world.look("x") == {"x": failure}
    await world.clock.advance(0.1)
    assert await world.look("x") == {"x": Pending(failure)}
    assert world.servers.asked == ["x", "x"]
    await world.servers.end("x", fetched("x"))
    assert await world.look("x") == {"x": fetched("x")}


async def test_what_cannot_change_is_asked_for_again_only_when_the_publisher_acts(world: World) -> None:
    await world.look("x")
    await world.servers.end("x", NEVER)
    await world.clock.advance(1e6)
    assert await world.look("x") == {"x": NEVER}
    assert await world.look("x", generation=2) == {"x": Pending()}
    assert await world.look("x", generation=3) == {"x": Pending()}
    assert world.servers.asked == ["x", "x"]
    assert await world.look("x", uid="u2") == {"x": Pending()}
    assert len(world.servers.under_way["x"]) == 1


async def test_one_refused_file_ends_the_others(world: World) -> None:
    await world.look("x", "y", "z")
    await world.servers.end("y", fetched("y"))
    await world.servers.end("x", SELDOM)
    assert await world.look("x", "y", "z") == {"x": SELDOM}
    assert world.servers.discarded == ["upload-y"]
    assert world.queue.running == 0
    await world.clock.advance(fetches.REFUSED_RETRY_SECONDS)
    assert await world.look("x", "y", "z") == {"x": Pending(SELDOM), "y": Pending(), "z": Pending()}


async def test_a_server_that_does_not_answer_keeps_the_other_files(world: World) -> None:
    await world.look("x", "y")
    await world.servers.end("y", fetched("y"))
    await world.servers.end("x", SOON)
    assert await world.look("x", "y") == {"x": SOON, "y": fetched("y")}


async def test_slots_are_shared_fairly(world: World) -> None:
    for number in range(10):
        await world.look(f"slow{number}", name=f"a{number}", namespace="many")
    assert world.queue.running == 2  # half of the slots for one tenant
    for number in range(3):
        await world.look(f"one{number}", name=f"a{number}", namespace="other")
    assert world.servers.asked == ["slow0", "slow1", "one0", "one1"]
    await world.look("third", namespace="third")
    await world.servers.end("slow0", fetched("slow0"))
    assert world.servers.asked[4:] == ["third"]  # the others have their share
    await world.servers.end("third", fetched("third"))
    assert world.servers.asked[5:] == ["slow2"]
    world.queue.forget("many", "a3")
    await world.servers.end("slow1", fetched("slow1"))
    assert world.servers.asked[6:] == ["slow4"]


async def test_a_fetch_that_is_dropped_before_it_begins_frees_its_slot(world: World) -> None:
    orders = {"x": Order("x")}
    world.queue.look(queues.Wanted("team", "a", "u1", 1, orders, 1.0))
    world.queue.forget("team", "a")
    await settle()
    assert (world.queue.running, world.servers.asked) == (0, [])


async def test_an_unexpected_error_is_a_failure_that_is_tried_again(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    await world.look("x")
    await world.servers.end("x", RuntimeError("bug"))
    (found,) = (await world.look("x")).values()
    assert isinstance(found, Failure)
    assert (found.retry, "bug" in found.message) == ("soon", False)
    assert "fetch failed" in caplog.text


async def test_closing_stops_and_drops_everything(world: World) -> None:
    await world.look("x", "y")
    await world.look("z", name="b")
    await world.servers.end("x", fetched("x"))
    await world.queue.close()
    assert world.servers.discarded == ["upload-x"]
    assert world.queue.running == 0
    assert not any(world.servers.under_way.values())


@dataclass
class Ledger:
    """What one artifact is charged; each answer is `step` more than was asked for."""

    limit: int
    step: int = 10
    asked: list[tuple[int, bool]] = field(default_factory=list)

    async def __call__(self, total_bytes: int, *, is_whole: bool) -> int:
        self.asked.append((total_bytes, is_whole))
        if total_bytes > self.limit:
            raise NoRoomError(NoRoom(total_bytes, at_least=not is_whole))
        return total_bytes + (0 if is_whole else self.step)


async def test_an_artifacts_files_are_charged_together_in_steps(world: World) -> None:
    ledger = Ledger(100)
    orders = {"x": Order("x"), "y": Order("y", size_bytes=20)}
    await world.look(orders=orders, other_bytes=5, charged_bytes=25, charge=ledger)
    admit = world.servers.admits
    await admit["y"](20, is_whole=True)
    assert ledger.asked == [], "what is stated is charged before"
    await admit["x"](1, is_whole=False)
    await admit["x"](11, is_whole=False)
    assert ledger.asked == [(26, False)]
    await admit["y"](21, is_whole=False)
    assert ledger.asked == [(26, False), (37, False)]
    with pytest.raises(NoRoomError):
        await admit["x"](75, is_whole=True)


async def test_what_did_not_come_is_not_charged_to_the_next_try(world: World) -> None:
    ledger = Ledger(100)
    await world.look("x", "y", charge=ledger)
    await world.servers.admits["x"](50, is_whole=True)
    await world.servers.end("x", SOON)
    await world.servers.admits["y"](30, is_whole=True)
    await world.servers.end("y", fetched("y"))
    await world.clock.advance(1)
    await world.look("x", "y", charged_bytes=30, charge=ledger)
    await world.servers.admits["x"](7, is_whole=True)
    assert ledger.asked == [(50, True), (37, True)], "50 were charged, and 30 are there"


async def test_without_room_a_fetch_ends_until_it_is_forgotten(world: World) -> None:
    short = NoRoom(9, at_least=True)
    await world.look("x", "y")
    await world.servers.end("x", short)
    assert world.queue.holds("team", "a"), "the other one is under way"
    assert world.servers.woken == [("team", "a")]
    await world.clock.advance(1e6)
    assert await world.look("x", "y") == {"x": short, "y": Pending()}
    world.queue.forget("team", "a")
    await settle()
    assert await world.look("x", "y") == {"x": Pending(), "y": Pending()}


async def test_without_a_quota_everything_is_admitted(world: World) -> None:
    await world.look("x")
    await world.servers.admits["x"](1 << 50, is_whole=False)


async def test_what_is_staged_and_what_is_at_work_is_told(world: World) -> None:
    assert (world.queue.staged(), world.queue.under_way()) == (frozenset(), frozenset())
    await world.look("x", "y")
    before = world.queue.under_way()
    assert len(before) == 2
    await world.servers.end("x", fetched("x"))
    assert world.queue.staged() == {"upload-x"}
    assert len(before & world.queue.under_way()) == 1
    await world.servers.end("y", SOON)
    assert world.queue.staged() == {"upload-x"}
    assert world.queue.under_way() == frozenset()
    world.queue.forget("team", "a")
    assert world.queue.staged() == frozenset()
