"""From a download that failed to an Artifact that says why: facade and operator meet in the store."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import obstore
import pytest

from manifestry.adapters.kube import apierrors
from manifestry.adapters.store.contract import ports as contract_ports
from manifestry.core.artifacts import suspects
from manifestry.core.blobs import digests
from manifestry.handlers.artifacts import suspects as handler
from manifestry_api.artifacts import suspects as facade
from tests.component.artifacts.garbageworld import World, opened


@pytest.fixture(params=["local", "s3"])
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    async with opened(request, tmp_path) as made:
        yield made


async def tell(world: World, name: str = "a") -> None:
    ports = cast("Any", SimpleNamespace(store=world.store))
    await facade.tell(ports, facade.of(world.api.objects["Artifact", "team", name]))


@pytest.mark.parametrize("reason", ["Missing", "Damaged"])
async def test_what_could_not_be_downloaded_is_said_and_can_be_healed(world: World, reason: str) -> None:
    await world.uploaded(b"precious")
    await world.uploaded(b"sound", "b")
    await world.scrubbed()  # and so believed for half a period
    if reason == "Missing":
        await world.store.delete(world.uid, digests.of(b"precious"))
    else:
        world.damage(b"precious")
    for name in ("a", "a", "b"):
        await tell(world, name)
    assert len(world.keys(suspects.PREFIX)) == 2
    assert await handler.Suspects(world.ctx).once() == 2
    assert (world.ready("a"), world.ready("b")) == (("False", reason), ("True", "Stored"))
    assert world.keys(suspects.PREFIX) == []
    await world.upload(b"precious")
    await world.artifact(upload={"digest": digests.of(b"precious"), "sizeBytes": 8})
    assert world.ready("a") == ("True", "Stored")


async def test_notes_of_what_is_gone_and_what_is_no_note_are_removed(world: World) -> None:
    await world.uploaded(b"one")
    await tell(world)
    world.delete()
    await world.uploaded(b"two", "b")
    await tell(world, "b")
    world.api.objects["Artifact", "team", "b"]["metadata"]["uid"] = str(uuid.uuid4())  # made anew
    obstore.put(world.behind, suspects.key(str(uuid.uuid4())), b"{")
    obstore.put(world.behind, suspects.PREFIX + "stray", b"")
    assert await handler.Suspects(world.ctx).once() == 4
    assert world.keys(suspects.PREFIX) == []
    assert world.ready("b") == ("True", "Stored")


async def test_a_note_stays_until_it_could_be_looked_at(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.uploaded(b"precious")
    await world.store.delete(world.uid, digests.of(b"precious"))
    await tell(world)
    found = handler.Suspects(world.ctx)

    async def refuse(*_: Any, **__: Any) -> None:
        raise apierrors.UnavailableError(503, "ServiceUnavailable", "away")

    with monkeypatch.context() as away:
        away.setattr(world.api, "get", refuse)
        assert await found.once() == 0
    assert len(world.keys(suspects.PREFIX)) == 1
    running = asyncio.create_task(found.run())
    async with asyncio.timeout(10):
        while world.ready() != ("False", "Missing"):  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.02)
    running.cancel()


async def test_a_store_that_takes_no_note_hides_no_error(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    await world.uploaded(b"precious")

    def full() -> Any:
        raise contract_ports.StoreFullError("full")

    monkeypatch.setattr(world.store, "records", full)
    await tell(world)
    assert "note not written" in caplog.text
