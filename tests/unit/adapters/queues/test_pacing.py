"""A bounded rate, on a clock that the test moves."""

from datetime import UTC, datetime

import pytest

from manifestry.adapters.queues import pacing


class Clock:
    def __init__(self) -> None:
        self.at = 100.0

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.at, UTC)

    def monotonic(self) -> float:
        return self.at

    async def sleep(self, seconds: float) -> None:
        self.at += seconds


async def test_units_pass_at_the_rate() -> None:
    clock = Clock()
    pace = pacing.Pace(10, clock)
    for _ in range(51):
        await pace.spend(2)
    assert clock.at == pytest.approx(110)


async def test_an_idle_time_is_not_saved_up() -> None:
    clock = Clock()
    pace = pacing.Pace(10, clock)
    await pace.spend(5)
    clock.at += 1000
    for _ in range(3):
        await pace.spend(10)
    assert clock.at == pytest.approx(1102)


@pytest.mark.parametrize(("rate", "units"), [(0, 10), (10, 0)])
async def test_without_a_rate_or_units_nobody_waits(rate: float, units: float) -> None:
    clock = Clock()
    for _ in range(5):
        await pacing.Pace(rate, clock).spend(units)
    assert clock.at == 100
