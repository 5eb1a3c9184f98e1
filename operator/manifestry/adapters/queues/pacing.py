"""A bounded rate for work in the background."""

from manifestry.adapters.clock import Clock


class Pace:
    """Lets so many units pass in a second; what was not used is not saved up.

    Args:
        per_second: the rate; 0 = unbounded.
        clock: time.
    """

    def __init__(self, per_second: float, clock: Clock) -> None:
        self._per_second = per_second
        self._clock = clock
        self._free_at = float("-inf")

    async def spend(self, units: float) -> None:
        """Wait until the units before these have had their time."""
        if self._per_second <= 0 or units <= 0:
            return
        now = self._clock.monotonic()
        wait_seconds = self._free_at - now
        self._free_at = max(self._free_at, now) + units / self._per_second
        if wait_seconds > 0:
            await self._clock.sleep(wait_seconds)
