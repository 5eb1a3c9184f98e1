"""The mirror's own logic, against a server that says exactly what the test wants."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifestry.adapters.kube import apierrors, retries, watches
from manifestry.adapters.kube.watchevents import WatchEvent
from manifestry.core.kube import names


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


def colours(found: dict[str, Any]) -> list[tuple[str, str]]:
    return [(found["metadata"]["namespace"], colour) for colour in found["data"]["colours"]]


async def test_an_index_finds_what_the_mirror_has_and_nothing_else() -> None:
    client = FakeClient()
    client.listed = [item("a", 1, colours=["red", "blue"]), item("b", 2, colours=["red"]), item("odd", 3)]
    async with mirrored(client) as mirror:

        def find(colour: str) -> list[str]:
            return [found["metadata"]["name"] for found in mirror.select(colours, ("ns", colour))]

        assert (find("red"), find("blue"), find("none")) == (["a", "b"], ["a"], [])
        assert list(mirror.in_namespace("ns")) == ["a", "b", "odd"]
        assert mirror.in_namespace("other") == {}
        await client.events.put(WatchEvent("MODIFIED", item("a", 11, colours=["green", "green"])))
        await client.events.put(WatchEvent("DELETED", item("b", 12)))
        await client.events.put(WatchEvent("ADDED", item("c", 13, colours=["red"])))
        await until(lambda: ("ns", "c") in mirror.items)
        assert (find("red"), find("blue"), find("green")) == (["c"], [], ["a"])
        client.listed, client.version = [item("c", 13, colours=["red"])], 15
        await client.events.put(apierrors.GoneError(410, "Expired", "too old"))
        await until(lambda: ("ns", "a") not in mirror.items)
        assert (find("green"), list(mirror.in_namespace("ns"))) == ([], ["c"])
        await client.events.put(WatchEvent("DELETED", item("c", 16)))
        await until(lambda: not mirror.items)
        assert (find("red"), mirror.in_namespace("ns")) == ([], {})


@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("xyz"), st.none() | st.integers(0, 3))))
def test_what_is_found_by_namespace_and_by_index_is_what_is_there(
    changes: list[tuple[str, str, int | None]],
) -> None:
    mirror = watches.Reflector(FakeClient(), names.CONFIG_MAPS)  # type: ignore[arg-type]
    list(mirror.select(numbers, 0))
    for version, (namespace, name, number) in enumerate(changes, start=1):
        made = item(name, version, number=number)
        made["metadata"]["namespace"] = namespace
        mirror._apply(WatchEvent("DELETED" if number is None else "MODIFIED", made))
        assert {
            (space, name): found for space in "ab" for name, found in mirror.in_namespace(space).items()
        } == dict(mirror.items)
        for wanted in range(4):
            found = {
                (each["metadata"]["namespace"], each["metadata"]["name"])
                for each in mirror.select(numbers, wanted)
            }
            assert found == {key for key, each in mirror.items.items() if each["data"]["number"] == wanted}
    assert all(mirror.in_namespace(space) for space in mirror._by_namespace)


def numbers(found: dict[str, Any]) -> list[int]:
    return [found["data"]["number"]]
