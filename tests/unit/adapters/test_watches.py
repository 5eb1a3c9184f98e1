"""The mirror's own logic, against a server that says exactly what the test wants."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from manifestry.adapters import apierrors, retries, watches
from manifestry.adapters.watchevents import WatchEvent
from manifestry.core import names


def item(name: str, version: int, **data: Any) -> dict[str, Any]:
    metadata = {"name": name, "namespace": "ns", "resourceVersion": str(version), "managedFields": [{}]}
    return {"metadata": metadata, "data": data}


class FakeClient:
    def __init__(self) -> None:
        self.listed: list[dict[str, Any]] = []
        self.version = 10
        self.lists = 0
        self.events: asyncio.Queue[WatchEvent | Exception | None] = asyncio.Queue()
        self.watched_from: list[str] = []

    async def list(self, *_: Any, **__: Any) -> tuple[list[dict[str, Any]], str]:
        self.lists += 1
        return list(self.listed), str(self.version)

    async def watch(self, *_: Any, resource_version: str, **__: Any) -> AsyncIterator[WatchEvent]:
        self.watched_from.append(resource_version)
        while (event := await self.events.get()) is not None:
            if isinstance(event, Exception):
                raise event
            yield event


@asynccontextmanager
async def mirrored(client: FakeClient, **options: Any) -> AsyncIterator[watches.Reflector]:
    mirror = watches.Reflector(client, names.CONFIG_MAPS, **options)  # type: ignore[arg-type]
    task = asyncio.create_task(mirror.run())
    await asyncio.wait_for(mirror.synced.wait(), 5)
    yield mirror
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watches, "RECONNECT_SECONDS", 0)
    monkeypatch.setattr(retries.Backoff, "delay", lambda *_: 0.001)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.001)


async def test_after_410_the_difference_is_told() -> None:
    client = FakeClient()
    client.listed = [item("stays", 1), item("goes", 2), item("changes", 3)]
    async with mirrored(client) as mirror:
        told: list[tuple[str, str]] = []
        mirror.subscribe(lambda change, what: told.append((change, what["metadata"]["name"])))
        client.listed, client.version = [item("stays", 1), item("changes", 12), item("new", 13)], 15
        await client.events.put(apierrors.GoneError(410, "Expired", "too old"))
        await until(lambda: ("ns", "new") in mirror.items)
        assert sorted(told) == [("ADDED", "new"), ("DELETED", "goes"), ("MODIFIED", "changes")]
        await until(lambda: len(client.watched_from) == 2)
        assert client.watched_from == ["10", "15"]


async def test_a_broken_watch_goes_on_where_it_was() -> None:
    client = FakeClient()
    async with mirrored(client) as mirror:
        await client.events.put(WatchEvent("ADDED", item("a", 11)))
        await client.events.put(WatchEvent("BOOKMARK", {"metadata": {"resourceVersion": "17"}}))
        await client.events.put(apierrors.unavailable("reset"))
        await client.events.put(None)
        await until(lambda: len(client.watched_from) == 3)
        assert client.watched_from == ["10", "17", "17"]
        assert client.lists == 1
        assert ("ns", "a") in mirror.items


async def test_old_news_is_ignored() -> None:
    client = FakeClient()
    client.listed = [item("a", 9, x=9)]
    async with mirrored(client) as mirror:
        told: list[str] = []
        mirror.subscribe(lambda change, _: told.append(change))
        mirror.observe(item("a", 14, x=14))
        await client.events.put(WatchEvent("MODIFIED", item("a", 12, x=12)))
        await client.events.put(WatchEvent("DELETED", item("a", 13)))
        await client.events.put(WatchEvent("MODIFIED", item("a", 14, x=14)))
        await client.events.put(WatchEvent("DELETED", item("unknown", 15)))
        await client.events.put(WatchEvent("ADDED", item("marker", 16)))
        await until(lambda: ("ns", "marker") in mirror.items)
        assert mirror.items["ns", "a"]["data"] == {"x": 14}
        assert told == ["MODIFIED", "ADDED"]


async def test_a_list_does_not_lose_what_was_written_after_it() -> None:
    client = FakeClient()
    async with mirrored(client) as mirror:
        mirror.observe(item("written", 20))
        client.version = 18
        await client.events.put(apierrors.GoneError(410, "Expired", "too old"))
        await until(lambda: client.lists == 2)
        await asyncio.sleep(0.01)
        assert ("ns", "written") in mirror.items


async def test_a_subscribers_fault_stops_nobody(caplog: pytest.LogCaptureFixture) -> None:
    client = FakeClient()

    def broken(*_: Any) -> None:
        raise RuntimeError("subscriber")

    async with mirrored(client) as mirror:
        told: list[str] = []
        mirror.subscribe(broken)
        end = mirror.subscribe(lambda change, _: told.append(change))
        await client.events.put(WatchEvent("ADDED", item("a", 11)))
        await until(lambda: told == ["ADDED"])
        end()
        await client.events.put(WatchEvent("ADDED", item("b", 12)))
        await until(lambda: ("ns", "b") in mirror.items)
        assert told == ["ADDED"]
    assert "watch subscriber failed" in caplog.messages


async def test_a_waiters_fault_is_its_own() -> None:
    client = FakeClient()
    async with mirrored(client) as mirror:
        waiting = asyncio.create_task(mirror.wait_for(("ns", "a"), lambda found: found["no"]["such"], 5))
        fine = asyncio.create_task(mirror.wait_for(("ns", "a"), lambda _: True, 5))
        await asyncio.sleep(0)
        await client.events.put(WatchEvent("ADDED", item("a", 11)))
        assert await fine
        with pytest.raises(KeyError):
            await waiting
        assert mirror._waiters == {}


async def test_managed_fields_are_kept_when_asked_for() -> None:
    client = FakeClient()
    client.listed = [item("a", 1)]
    async with mirrored(client, keep_managed_fields=True) as mirror:
        assert "managedFields" in mirror.items["ns", "a"]["metadata"]
        assert mirror.resource is names.CONFIG_MAPS
