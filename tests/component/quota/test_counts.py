"""A storage ledger is made, counted and removed while others charge it, the API server in memory."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest

from manifestry.adapters.quota.books import ContentionError, NotReadyError
from manifestry.core import errors
from manifestry.core.quota.storage.grants import Wanted
from manifestry.core.quota.storage.limits import UNLIMITED, Limits
from manifestry.core.quota.storage.lives import Live, State
from tests.component.quota.ledgerworld import ACME, World, opened


@pytest.fixture
async def world(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    async with opened(monkeypatch) as found:
        yield found


async def test_a_ledger_that_is_being_made_is_waited_for_a_little(world: World) -> None:
    world.limits = Limits(100)

    async def make() -> None:
        await asyncio.sleep(0.05)
        await world.count()

    making = asyncio.create_task(make())
    async with world.held.hold(ACME, "u", "a", 60):
        pass
    await making
    assert world.api.held == {"u": 60}
    await world.books.remove("team")
    await world.books.remove("team")
    waiting = asyncio.create_task(world.held.reserve(ACME, Wanted("u", "a", 1)))
    await asyncio.sleep(0.15)
    world.seconds += 4
    with pytest.raises(errors.Problem) as caught:
        await waiting
    assert (caught.value.kind, caught.value.headers) == (errors.BUSY, {"Retry-After": "1"})


async def test_a_limit_that_is_lifted_meanwhile_lets_go(world: World) -> None:
    await world.limit(Limits(100))
    async with world.held.hold(ACME, "u", "a", None) as hold:
        world.limits = UNLIMITED
        await world.books.remove("team")
        await hold.grow(200)
        await hold.give_back()
    assert world.api.body is None


async def test_a_count_goes_on_while_others_charge(world: World) -> None:
    await world.limit(Limits(100))

    async def observe() -> tuple[Live, ...]:
        async with world.held.hold(ACME, "v", "b", 5) as hold:
            hold.keep()
        return (Live("u", "a", State.STORED, 10),)

    world.api.conflicts = 0
    assert (await world.books.recount("team", observe)).changed
    account = world.books.account("team")
    assert account is not None
    assert (account.totals.committed_bytes, account.reserved_bytes) == (10, 5)
    world.api.conflicts = 2

    async def more() -> tuple[Live, ...]:
        return (Live("u", "a", State.STORED, 20),)

    assert (await world.books.recount("team", more)).changed
    world.api.conflicts = 10_000
    with pytest.raises(ContentionError):
        await world.books.recount("team", observe_nothing)


async def observe_nothing() -> tuple[Live, ...]:
    return ()


async def test_a_count_is_done_again_when_it_was_overtaken(world: World) -> None:
    await world.limit(Limits(100))
    rounds = []

    async def observe() -> tuple[Live, ...]:
        rounds.append(1)
        if len(rounds) < 3:
            await world.books.recount("team", lambda: observe_one(len(rounds)))
        return (Live("u", "a", State.STORED, 50),)

    await world.books.recount("team", observe)
    assert len(rounds) == 3
    with pytest.raises(ContentionError):
        await world.books.recount("team", lambda: overtaken(world))


async def observe_one(size_bytes: int) -> tuple[Live, ...]:
    return (Live("u", "a", State.STORED, size_bytes),)


async def overtaken(world: World) -> tuple[Live, ...]:
    known = world.books.account("team")
    size_bytes = known.totals.committed_bytes + 1 if known else 0
    await world.books.recount("team", lambda: observe_one(size_bytes))
    return ()


async def test_without_a_ledger_nothing_is_decided(world: World) -> None:
    with pytest.raises(NotReadyError):
        await world.books.commit("team", cast("Any", None), 1)
    assert not await world.books.exists("team")
    await world.count()
    assert await world.books.exists("team")
