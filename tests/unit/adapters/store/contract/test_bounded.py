"""Some calls at once, an error after those under way have ended."""

import asyncio

import pytest

from manifestry.adapters.store.contract import bounded


async def test_results_come_in_the_order_of_the_calls_and_not_all_run_at_once() -> None:
    running = most = 0

    async def call(number: int) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1
        return number

    assert await bounded.each(call(number) for number in range(40)) == list(range(40))
    assert most == bounded.IN_FLIGHT


async def test_an_error_lets_those_under_way_end_and_begins_no_more() -> None:
    begun: list[int] = []
    ended: list[int] = []

    async def call(number: int) -> None:
        begun.append(number)
        await asyncio.sleep(0)
        if number == 1:
            raise ValueError("one")
        await asyncio.sleep(0)
        ended.append(number)

    with pytest.raises(ValueError, match="one"):
        await bounded.each(call(number) for number in range(40))
    assert begun == list(range(bounded.IN_FLIGHT))
    assert set(ended) == set(begun) - {1}
