"""A work queue of keys: each key is worked on by one worker at a time, as often as the world changes."""

import asyncio
import contextlib
import heapq
import itertools
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Protocol

from manifestry.adapters import clock as clocks
from manifestry.adapters import retries

_logger = logging.getLogger(__name__)

Key = tuple[str, str, str]
Reconcile = Callable[[Key], Awaitable[float | None]]


class Observer(Protocol):
    """What a queue tells of itself, for metrics."""

    def depth(self, count: int) -> None:
        """Say how many keys wait for a worker."""

    def started(self, kind: str, waited_seconds: float) -> None:
        """Say how long a key waited."""

    def finished(self, kind: str, seconds: float, outcome: str) -> None:
        """Say how long a reconcile took and whether it was `done`, `again` or `failed`."""

    def retried(self, kind: str) -> None:
        """Say that a key will be tried again after a failure."""


class KeyedQueue:
    """Level-based: a key says "look at this", never what happened, so a thousand events make one look.

    A key added while it is worked on is worked on once more afterwards. Waiting keys are served round-robin
    over their namespaces, so one tenant's thousand jobs do not stand before another tenant's one.

    Args:
        clock: time; tests pass their own.
        backoff: the delays after failures.
        observer: metrics, or None.
    References: client-go util/workqueue, from which the rules are taken.
    """

    def __init__(
        self,
        *,
        clock: clocks.Clock | None = None,
        backoff: retries.Backoff | None = None,
        observer: Observer | None = None,
    ) -> None:
        self._clock = clock or clocks.SystemClock()
        self._backoff = backoff or retries.Backoff(base_seconds=0.5, cap_seconds=60.0)
        self._observer = observer
        self._ready: OrderedDict[str, OrderedDict[Key, float]] = OrderedDict()
        self._urgent: OrderedDict[Key, float] = OrderedDict()
        self._running: dict[Key, float] = {}
        self._dirty: dict[Key, bool] = {}
        self._due: dict[Key, float] = {}
        self._timers: list[tuple[float, int, Key]] = []
        self._order = itertools.count()
        self._failures: dict[Key, int] = {}
        self._wake = asyncio.Event()
        self._stopping = False
        self.last_progress = self._clock.monotonic()

    def __len__(self) -> int:
        """Return how many keys wait for a worker, those with a delay not counted."""
        return len(self._urgent) + sum(len(keys) for keys in self._ready.values())

    @property
    def running(self) -> int:
        """Return how many keys are worked on at the moment."""
        return len(self._running)

    @property
    def delayed(self) -> int:
        """Return how many keys wait for their time."""
        return len(self._due)

    def oldest_age(self) -> float:
        """Return the seconds that the longest-waiting or longest-running key has waited or run, or 0."""
        since = [*self._running.values(), *self._urgent.values()]
        since += [next(iter(keys.values())) for keys in self._ready.values()]
        return self._clock.monotonic() - min(since) if since else 0.0

    def add(self, key: Key, *, urgent: bool = False) -> None:
        """Ask for a look at `key` as soon as a worker is free; urgent keys go first."""
        self._due.pop(key, None)
        if key in self._running:
            self._dirty[key] = self._dirty.get(key, False) or urgent
            return
        self._enqueue(key, urgent)

    def add_after(self, key: Key, seconds: float) -> None:
        """Ask for a look at `key` later; of several times asked for the earliest holds."""
        if seconds <= 0:
            self.add(key)
            return
        due = self._clock.monotonic() + seconds
        if self._is_waiting(key) or self._due.get(key, due + 1) <= due:
            return
        self._due[key] = due
        heapq.heappush(self._timers, (due, next(self._order), key))
        self._wake.set()

    def add_backoff(self, key: Key) -> None:
        """Count a failure of `key` and ask for another look after its backoff."""
        self._failures[key] = self._failures.get(key, 0) + 1
        self.add_after(key, self._backoff.delay(self._failures[key]))
        if self._observer:
            self._observer.retried(key[0])

    def forget(self, key: Key) -> None:
        """Forget the failures of `key`: its next backoff is the shortest."""
        self._failures.pop(key, None)

    def failures(self, key: Key) -> int:
        """Return how often in a row `key` has failed."""
        return self._failures.get(key, 0)

    def stop(self) -> None:
        """Let `run` end after the reconciles that are under way; waiting keys are dropped."""
        self._stopping = True
        self._wake.set()

    async def run(self, worker_count: int, reconcile: Reconcile) -> None:
        """Work until `stop`, at most `worker_count` keys at a time.

        Args:
            worker_count: the number of workers.
            reconcile: looks at one key; returns the seconds after which to look again, or None.
        """
        async with asyncio.TaskGroup() as group:
            while not self._stopping:
                self._release_due()
                while len(self._running) < worker_count and (key := self._pop()) is not None:
                    group.create_task(self._work(key, reconcile), name=f"reconcile {'/'.join(key)}")
                self.last_progress = self._clock.monotonic()
                await self._wait()

    async def _wait(self) -> None:
        """Sleep until something was added or finished, or the next delay is over."""
        seconds = self._timers[0][0] - self._clock.monotonic() if self._timers else None
        if seconds is not None and seconds <= 0:
            return
        timer = None if seconds is None else asyncio.ensure_future(self._clock.sleep(seconds))
        if timer:
            timer.add_done_callback(lambda _: self._wake.set())
        try:
            await self._wake.wait()
        finally:
            self._wake.clear()
            if timer:
                timer.cancel()
