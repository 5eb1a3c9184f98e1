"""Tasks without which a process ends."""

import asyncio

import pytest

from manifestry.handlers.runtime import vitals


async def forever() -> None:
    await asyncio.Event().wait()


async def test_the_first_to_end_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    async def broken() -> None:
        raise RuntimeError("bug")

    tasks = vitals.Vitals()
    other = tasks.start("other", forever())
    tasks.start("broken", broken())
    await asyncio.wait_for(tasks.wait(), 5)
    (record,) = caplog.records
    assert (record.levelname, vars(record)["task"], vars(record)["error"]) == ("ERROR", "broken", "bug")
    await tasks.close()
    assert other.cancelled()


async def test_a_race_is_won_lost_or_fails() -> None:
    tasks = vitals.Vitals()
    stop = asyncio.Event()
    tasks.start("stop", stop.wait())
    assert await tasks.race(asyncio.sleep(0))

    async def broken() -> None:
        raise RuntimeError("bug")

    with pytest.raises(RuntimeError):
        await tasks.race(broken())
    stop.set()
    assert not await tasks.race(forever())
    await tasks.close()


async def test_a_task_that_does_not_end_in_time_is_cancelled() -> None:
    stop = asyncio.Event()
    willing = asyncio.create_task(stop.wait())
    unwilling = asyncio.create_task(forever())
    stop.set()
    await vitals.end(willing, unwilling, grace_seconds=0.05)
    assert unwilling.cancelled()
    assert willing.result() is True
    await vitals.end(willing, grace_seconds=1)
    await vitals.end()
