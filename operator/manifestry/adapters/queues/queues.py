"""A work queue of keys: each key is worked on by one worker at a time, as often as the world changes."""

import asyncio
import heapq
import itertools
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Protocol

from manifestry.adapters import clock as clocks
from manifestry.adapters.kube import apierrors, retries
from manifestry.adapters.queues import fairqueues

_logger = logging.getLogger(__name__)

Key = fairqueues.Key
Reconcile = Callable[[Key], Awaitable[float | None]]

SPARE_TIMERS = 64
FAILING_INTERVAL_SECONDS = 1.0  # a failing key that wakes itself by its own writes must not spin
TIMEOUT_SECONDS = 900.0  # longer than any honest reconcile: a payload of some GiB is copied in it


class Observer(Protocol):
    """What a queue tells of itself, for metrics."""

    def started(self, kind: str, waited_seconds: float) -> None:
        """Say how long a key waited."""

    def finished(self, kind: str, seconds: float, outcome: str) -> None:
        """Say how long a reconcile took and whether it was `done`, `again` or `failed`."""


class KeyedQueue:
    """Level-based: a key says "look at this", never what happened, so a thousand events make one look.

    A key added while it is worked on is worked on once more afterwards. A key that fails is tried again with
    backoff and stops no other key.

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
        self._ready = fairqueues.FairQueue()
        self._running: dict[Key, float] = {}
        self._busy: Counter[str] = Counter()  # keys that are worked on, by namespace
        self._dirty: dict[Key, bool] = {}  # added while running -> urgent
        self._due: dict[Key, float] = {}
        self._timers: list[tuple[float, int, Key]] = []
        self._sequence = itertools.count()
        self._failures: dict[Key, int] = {}
        self._wake = asyncio.Event()
        self._stopping = False
        self.last_progress = self._clock.monotonic()

    def __len__(self) -> int:
        """Return how many keys wait for a worker; those with a delay are not counted."""
        return len(self._ready)

    @property
    def running(self) -> int:
        """Return how many keys are worked on at the moment."""
        return len(self._running)

    @property
    def delayed(self) -> int:
        """Return how many keys wait for their time."""
        return len(self._due)

    def oldest_seconds(self) -> float:
        """Return how long the oldest key has waited for a worker, or 0."""
        since = self._ready.oldest()
        return 0.0 if since is None else self._clock.monotonic() - since

    def stuck_seconds(self) -> float:
        """Return for how long keys have waited without any reconcile starting or ending, or 0."""
        return self._clock.monotonic() - self.last_progress if self._ready else 0.0

    def failures(self, key: Key) -> int:
        """Return how often in a row `key` has failed."""
        return self._failures.get(key, 0)

    def add(self, key: Key, *, urgent: bool = False) -> None:
        """Ask for a look at `key` as soon as a worker is free.

        Urgent keys go first. One that fails waits a little all the same: many Jobs may ask for one ledger.
        """
        if key in self._running:
            self._dirty[key] = self._dirty.get(key, False) or urgent
        elif key in self._failures:
            self.add_after(key, FAILING_INTERVAL_SECONDS)
        else:
            self._push(key, urgent)

    def add_after(self, key: Key, seconds: float) -> None:
        """Ask for a look at `key` later; of several times asked for, the earliest holds."""
        if seconds <= 0:
            self._push(key, urgent=False)
            return
        due = self._clock.monotonic() + seconds
        if key in self._ready or self._due.get(key, due + 1) <= due:
            return
        self._due[key] = due
        heapq.heappush(self._timers, (due, next(self._sequence), key))
        if len(self._timers) > 2 * len(self._due) + SPARE_TIMERS:
            self._forget_timers()
        self._wake.set()

    def add_backoff(self, key: Key) -> float:
        """Count a failure of `key`, ask for another look after its backoff, return that in seconds."""
        self._failures[key] = self._failures.get(key, 0) + 1
        seconds = self._backoff.delay(self._failures[key])
        self.add_after(key, seconds)
        return seconds

    def forget(self, key: Key) -> None:
        """Forget the failures of `key`: its next backoff is the shortest."""
        self._failures.pop(key, None)

    def stop(self) -> None:
        """Let `run` end when the reconciles that are under way have ended; waiting keys stay."""
        self._stopping = True
        self._wake.set()

    async def run(
        self, worker_count: int, reconcile: Reconcile, *, timeout_seconds: float = TIMEOUT_SECONDS
    ) -> None:
        """Work until `stop`, on at most `worker_count` keys at a time.

        Args:
            worker_count: the number of workers.
            reconcile: looks at one key; returns the seconds after which to look again, or None.
            timeout_seconds: a reconcile that takes longer is ended and counts as failed.
        """
        async with asyncio.TaskGroup() as group:
            while not self._stopping:
                self._wake.clear()
                self._release_due()
                while len(self._running) < worker_count:
                    waiting = self._ready.pop(self._full(worker_count))
                    if waiting is None:
                        break
                    self._begin(waiting)
                    work = self._work(waiting.key, reconcile, timeout_seconds)
                    group.create_task(work, name="/".join(("reconcile", *waiting.key)))
                await self._wait()

    def _full(self, worker_count: int) -> frozenset[str]:
        """Return the namespaces that use their share: a quarter of the workers is left to the others."""
        share = worker_count - worker_count // 4
        return frozenset(namespace for namespace, count in self._busy.items() if count >= share)

    def _push(self, key: Key, urgent: bool) -> None:
        self._due.pop(key, None)
        if key in self._running:
            self._dirty[key] = self._dirty.get(key, False) or urgent
        else:
            self._ready.push(key, self._clock.monotonic(), urgent=urgent)
            self._wake.set()

    def _forget_timers(self) -> None:
        """Drop what an earlier look has made needless: a key that is looked at often leaves one each time."""
        self._timers = [(due, next(self._sequence), key) for key, due in self._due.items()]
        heapq.heapify(self._timers)

    def _release_due(self) -> None:
        now = self._clock.monotonic()
        while self._timers and self._timers[0][0] <= now:
            due, _, key = heapq.heappop(self._timers)
            if self._due.get(key) == due:  # else an earlier look has made this one needless
                self._push(key, urgent=False)

    async def _wait(self) -> None:
        """Sleep until a key was added, a reconcile has ended, or the next delay is over."""
        alarm = None
        if self._timers:
            seconds = max(0.0, self._timers[0][0] - self._clock.monotonic())
            alarm = asyncio.ensure_future(self._clock.sleep(seconds))
            alarm.add_done_callback(self._ring)
        try:
            await self._wake.wait()
        finally:
            if alarm:
                alarm.cancel()

    def _ring(self, alarm: asyncio.Future[None]) -> None:
        if not alarm.cancelled():
            self._wake.set()

    def _begin(self, waiting: fairqueues.Waiting) -> None:
        now = self._clock.monotonic()
        self._running[waiting.key] = self.last_progress = now
        self._busy[waiting.key[1]] += 1
        if self._observer:
            self._observer.started(waiting.key[0], now - waiting.since)

    async def _work(self, key: Key, reconcile: Reconcile, timeout_seconds: float) -> None:
        outcome = "failed"
        try:
            async with asyncio.timeout(timeout_seconds):
                again = await reconcile(key)
        except Exception as error:  # noqa: BLE001 - the outermost boundary: one key's failure stops no other
            self._fail(key, error)
        else:
            outcome = self._succeed(key, again)
        finally:
            self._end(key, outcome)

    def _succeed(self, key: Key, again: float | None) -> str:
        self.forget(key)
        if again is None:
            return "done"
        self.add_after(key, again)
        return "again"

    def _fail(self, key: Key, error: Exception) -> None:
        seconds = self.add_backoff(key)
        expected = isinstance(error, apierrors.ApiError) or self.failures(key) > 1
        _logger.log(
            logging.WARNING if expected else logging.ERROR,
            "reconcile failed",
            extra={
                "kind": key[0],
                "namespace": key[1],
                "object": key[2],
                "failures": self.failures(key),
                "retry_seconds": round(seconds, 1),
                "error": f"{type(error).__name__}: {error}",
            },
            exc_info=None if expected else error,
        )

    def _end(self, key: Key, outcome: str) -> None:
        now = self._clock.monotonic()
        started = self._running.pop(key)
        self._busy -= Counter((key[1],))  # drops what has come to 0
        self.last_progress = now
        if self._observer:
            self._observer.finished(key[0], now - started, outcome)
        if key in self._dirty:
            self.add(key, urgent=self._dirty.pop(key))
        self._wake.set()
