"""A tenant's storage ledger, the API server in memory, and a facade that charges it."""

import asyncio
import copy
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast

import pytest

from manifestry.adapters.kube import apierrors
from manifestry.adapters.quota import reservations
from manifestry.adapters.quota.reservations import Owner, Reservations
from manifestry.adapters.quota.storagebooks import StorageBooks
from manifestry.core.kube import names
from manifestry.core.quota.storage.charges import LEDGER
from manifestry.core.quota.storage.limits import UNLIMITED, Limits
from manifestry.core.quota.storage.lives import Live

ACME = Owner("acme", "team")
NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
Object = dict[str, Any]


@dataclass
class Api:
    """One ledger with compare-and-swap; `conflicts` writes lose their race."""

    body: Object | None = None
    reads: int = 0
    writes: int = 0
    conflicts: int = 0
    failure: apierrors.ApiError | None = None

    async def get(self, resource: names.Resource, name: str, namespace: str) -> Object:
        assert (resource, name, namespace) == (names.QUOTA_LEDGERS, LEDGER, "team")
        self.reads += 1
        await asyncio.sleep(0)
        if self.body is None:
            raise apierrors.NotFoundError(404, "NotFound", "not found")
        return copy.deepcopy(self.body)

    async def create(self, _: names.Resource, body: Object, __: str) -> Object:
        if self.body is not None:
            raise apierrors.AlreadyExistsError(409, "AlreadyExists", "exists")
        self.body = {**body, "metadata": {**body["metadata"], "resourceVersion": "1", "generation": 1}}
        return copy.deepcopy(self.body)

    async def replace(self, _: names.Resource, body: Object, *, subresource: str) -> Object:
        assert self.body is not None
        assert subresource == "status"
        await asyncio.sleep(0)
        if self.failure is not None:
            raise self.failure
        stale = body["metadata"]["resourceVersion"] != self.body["metadata"]["resourceVersion"]
        if stale or self.conflicts:
            self.conflicts = max(0, self.conflicts - 1)
            raise apierrors.ConflictError(409, "Conflict", "the object has been modified")
        self.writes += 1
        version = str(int(self.body["metadata"]["resourceVersion"]) + 1)
        self.body = {**body, "metadata": {**self.body["metadata"], "resourceVersion": version}}
        return copy.deepcopy(self.body)

    async def delete(self, _: names.Resource, __: str, ___: str) -> None:
        if self.body is None:
            raise apierrors.NotFoundError(404, "NotFound", "not found")
        self.body = None

    @property
    def held(self) -> dict[str, int]:
        assert self.body is not None
        return {key: each.get("sizeBytes", 0) for key, each in self.body["status"]["holders"].items()}


@dataclass
class World:
    api: Api = field(default_factory=Api)
    limits: Limits = UNLIMITED
    seconds: float = 0.0

    def __post_init__(self) -> None:
        self.books = StorageBooks(cast("Any", self.api), now=lambda: NOW, deadline_seconds=0.5)
        self.held = Reservations(self.books, lambda _: self.limits)

    async def limit(self, limits: Limits) -> None:
        self.limits = limits
        await self.count()

    async def count(self, *live: Live) -> None:
        async def observe() -> tuple[Live, ...]:
            return live

        await self.books.recount("team", observe)
        self.api.reads = self.api.writes = 0


@asynccontextmanager
async def opened(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    """Give a world whose reservations are timed by its own seconds."""
    found = World()
    clock = SimpleNamespace(monotonic=lambda: found.seconds)
    monkeypatch.setattr(reservations, "time", clock)
    yield found
    await found.books.close()


class BrokeError(Exception):
    """The upload broke off."""


async def nothing(_: reservations.Hold) -> None:
    """Do nothing with a hold."""


async def break_off(
    world: World, size_bytes: int | None, then: Callable[[reservations.Hold], Awaitable[None]] = nothing
) -> None:
    """Hold, do something, and fail."""
    async with world.held.hold(ACME, "u", "a", size_bytes) as hold:
        await then(hold)
        raise BrokeError


async def begin(world: World, uid: str, size_bytes: int, total_bytes: int = 0) -> None:
    """Hold and grow."""
    async with world.held.hold(ACME, uid, uid, size_bytes) as hold:
        await hold.grow(total_bytes)
