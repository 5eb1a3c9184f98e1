"""Downloads beside the reconciles: a worker asks how far a fetch is and never waits for a server.

Slots are few and shared fairly: who holds fewest is next, and one tenant's slow servers hold half at most.
What was fetched or why not is remembered here until the Artifact is settled; a restart fetches once more.
"""

import asyncio
import contextlib
import functools
import logging
import sys
from collections import OrderedDict, deque
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, assert_never

from manifestry.adapters import clock as clocks
from manifestry.adapters.fetching.fetches import Admit
from manifestry.adapters.store.contract import ports
from manifestry.adapters.telemetry.storage_metrics import METRICS
from manifestry.core.fetching import fetches
from manifestry.core.fetching.fetches import (
    Failure,
    Fetched,
    FetchError,
    NoRoom,
    NoRoomError,
    Order,
    Outcome,
    Pending,
)

_logger = logging.getLogger(__name__)

CLOSE_SECONDS: Final = 5.0

Wake = Callable[[str, str], None]


class Fetch(Protocol):
    """What makes one download; see `fetches.Fetcher`."""

    async def fetch(self, order: Order, into: ports.Store, admit: Admit) -> Fetched:
        """Return where the bytes are staged, each admitted before it was accepted.

        Raises:
            FetchError: there are none.
            NoRoomError: they were not admitted.
        """


class Charge(Protocol):
    """Charges an artifact's bytes to its tenant's quota."""

    async def __call__(self, total_bytes: int, *, is_whole: bool) -> int:
        """Return how many bytes are charged now: `total_bytes`, or more unless `is_whole`.

        Raises:
            NoRoomError: there is no room for `total_bytes`.
            FetchError: it is not known at present.
        """


async def uncharged(total_bytes: int, *, is_whole: bool) -> int:
    """Charge nobody."""
    del total_bytes, is_whole
    return sys.maxsize


@dataclass(frozen=True)
class Wanted:
    """What an Artifact asks for.

    Args:
        orders: by the payload's name.
        retry_seconds: after which a server that did not answer is asked again.
        other_bytes: what the quota counts of the artifact besides `orders`.
        charged_bytes: how much is charged for the artifact as a whole.
        charge: for more than that.
    """

    namespace: str
    name: str
    uid: str
    generation: int
    orders: Mapping[str, Order]
    retry_seconds: float
    other_bytes: int = 0
    charged_bytes: int = 0
    charge: Charge = uncharged


@dataclass(eq=False)
class _Entry:
    order: Order
    retry_seconds: float
    previous: Failure | None = None
    outcome: Fetched | Failure | NoRoom | None = None  # None while it waits or runs
    accepted_bytes: int = 0  # which the quota must have room for
    ended: float = 0.0
    task: "asyncio.Task[None] | None" = None
    is_dropped: bool = False

    @property
    def shown(self) -> Outcome:
        return Pending(self.previous) if self.outcome is None else self.outcome

    @property
    def counted_bytes(self) -> int:
        return max(self.order.size_bytes or 0, self.accepted_bytes)


@dataclass(eq=False)
class _Artifact:
    uid: str
    generation: int
    wanted: Wanted
    charged_bytes: int = 0
    entries: dict[str, _Entry] = field(default_factory=dict)

    async def admit(self, entry: _Entry, size_bytes: int, *, is_whole: bool) -> None:
        """Charge what is not charged yet: all files of an artifact share one charge."""
        entry.accepted_bytes = max(entry.accepted_bytes, size_bytes)
        total = self.wanted.other_bytes + sum(each.counted_bytes for each in self.entries.values())
        if total > self.charged_bytes:
            charged = await self.wanted.charge(total, is_whole=is_whole)
            self.charged_bytes = max(self.charged_bytes, charged)


class FetchQueue:
    """Fetches in the background, at most `slots` at a time.

    Args:
        fetch: makes one download.
        into: where the bytes are staged.
        slots: how many downloads run at a time; at least one.
        wake: called with namespace and name when an Artifact's download has ended.
        clock: time.
    """

    def __init__(
        self, fetch: Fetch, into: ports.Store, *, slots: int, wake: Wake, clock: clocks.Clock | None = None
    ) -> None:
        self._fetch = fetch
        self._store = into
        self._slots = slots
        self._share = max(1, (slots + 1) // 2)
        self._wake = wake
        self._clock = clock or clocks.SystemClock()
        self._known: dict[tuple[str, str], _Artifact] = {}
        self._waiting: OrderedDict[str, deque[tuple[_Artifact, _Entry]]] = OrderedDict()
        self._running: dict[str, int] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def running(self) -> int:
        """Return how many downloads are under way."""
        return sum(self._running.values())

    def look(self, wanted: Wanted) -> dict[str, Outcome]:
        """Return how far each download is; begin what has not been tried, or is to be tried again.

        While one of an Artifact's downloads is refused, the others are neither begun nor kept: without it
        they are of no use.
        """
        known = self._current(wanted)
        for entry in known.entries.values():
            if isinstance(entry.outcome, Failure) and self._is_due(entry, entry.outcome):
                entry.previous, entry.outcome = entry.outcome, None
                entry.retry_seconds = wanted.retry_seconds
                self._enqueue(known, entry)
        if any(
            isinstance(entry.outcome, Failure) and entry.outcome.is_refusal
            for entry in known.entries.values()
        ):
            self._keep_failures(known)
        else:
            for file, order in wanted.orders.items():
                if file not in known.entries:
                    known.entries[file] = _Entry(order, wanted.retry_seconds)
                    self._enqueue(known, known.entries[file])
        return {file: entry.shown for file, entry in known.entries.items()}

    def holds(self, namespace: str, name: str) -> bool:
        """Tell whether any of an Artifact's bytes are staged, or on their way."""
        known = self._known.get((namespace, name))
        outcomes = [entry.outcome for entry in known.entries.values()] if known else []
        return any(outcome is None or isinstance(outcome, Fetched) for outcome in outcomes)

    def staged(self) -> frozenset[str]:
        """Return the upload ids of all bytes that wait here for their Artifact: nobody may collect them."""
        return frozenset(
            entry.outcome.upload_id
            for known in self._known.values()
            for entry in known.entries.values()
            if isinstance(entry.outcome, Fetched)
        )

    def under_way(self) -> "frozenset[asyncio.Task[None]]":
        """Return what is at work: bytes that lie in the store while it is may be its own."""
        return frozenset(self._tasks)

    def forget(self, namespace: str, name: str) -> None:
        """Stop an Artifact's downloads and drop what is staged; without effect when there is nothing."""
        known = self._known.pop((namespace, name), None)
        for entry in known.entries.values() if known else ():
            self._drop(entry)

    async def close(self) -> None:
        """Stop everything; what is staged and was not published is dropped."""
        for namespace, name in list(self._known):
            self.forget(namespace, name)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                while self._tasks:
                    await asyncio.gather(*self._tasks, return_exceptions=True)

    def _current(self, wanted: Wanted) -> _Artifact:
        key = (wanted.namespace, wanted.name)
        known = self._known.get(key)
        if known is not None and known.uid != wanted.uid:
            self.forget(*key)
            known = None
        if known is None:
            known = self._known[key] = _Artifact(wanted.uid, wanted.generation, wanted)
        known.wanted, known.charged_bytes = wanted, wanted.charged_bytes
        if known.generation != wanted.generation:  # the publisher has acted
            known.generation = wanted.generation
            known.entries = {
                file: entry for file, entry in known.entries.items() if not isinstance(entry.outcome, Failure)
            }
        return known

    def _is_due(self, entry: _Entry, failure: Failure) -> bool:
        delay = {"soon": entry.retry_seconds, "seldom": fetches.REFUSED_RETRY_SECONDS}.get(failure.retry)
        return delay is not None and self._clock.monotonic() - entry.ended >= delay

    def _keep_failures(self, known: _Artifact) -> None:
        for file, entry in list(known.entries.items()):
            if not isinstance(entry.outcome, Failure):
                self._drop(known.entries.pop(file))

    def _drop(self, entry: _Entry) -> None:
        entry.is_dropped = True
        if entry.task is not None:
            entry.task.cancel()
        if isinstance(entry.outcome, Fetched):
            self._spawn(self._discard(entry.outcome))

    def _enqueue(self, known: _Artifact, entry: _Entry) -> None:
        self._waiting.setdefault(known.wanted.namespace, deque()).append((known, entry))
        self._begin()

    def _begin(self) -> None:
        """Give free slots away."""
        while self.running < self._slots and (turn := self._next_turn()) is not None:
            known, entry = turn
            namespace = known.wanted.namespace
            self._running[namespace] = self._running.get(namespace, 0) + 1
            entry.task = self._spawn(self._run(known, entry))
            # not in the task itself: one that is cancelled before its first step never runs
            entry.task.add_done_callback(functools.partial(self._end, namespace))

    def _next_turn(self) -> tuple[_Artifact, _Entry] | None:
        for namespace, waiting in list(self._waiting.items()):
            while waiting and waiting[0][1].is_dropped:
                waiting.popleft()
            if not waiting:
                del self._waiting[namespace]
        free = [namespace for namespace in self._waiting if self._running.get(namespace, 0) < self._share]
        if not free:
            return None
        namespace = min(free, key=lambda each: self._running.get(each, 0))
        self._waiting.move_to_end(namespace)
        return self._waiting[namespace].popleft()

    def _end(self, namespace: str, _: "asyncio.Task[None]") -> None:
        self._running[namespace] -= 1
        if not self._running[namespace]:
            del self._running[namespace]
        self._begin()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        task = asyncio.create_task(work, name="fetch")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _run(self, known: _Artifact, entry: _Entry) -> None:
        started, namespace, name = self._clock.monotonic(), known.wanted.namespace, known.wanted.name
        entry.outcome = await self._attempt(known, entry)
        entry.task, entry.ended = None, self._clock.monotonic()
        if not isinstance(entry.outcome, Fetched):
            entry.accepted_bytes = 0
        reason = _reason(entry.outcome)
        METRICS.fetches.labels(reason).observe(entry.ended - started)
        _logger.info(
            "fetch ended",
            extra={
                "namespace": namespace,
                "object": name,
                "reason": reason,
                "size_bytes": getattr(entry.outcome, "size_bytes", 0),
                "seconds": round(entry.ended - started, 3),
            },
        )
        self._wake(namespace, name)

    async def _attempt(self, known: _Artifact, entry: _Entry) -> Fetched | Failure | NoRoom:
        try:
            return await self._fetch.fetch(entry.order, self._store, functools.partial(known.admit, entry))
        except FetchError as error:
            return error.failure
        except NoRoomError as error:
            return error.found
        except Exception:  # an outermost boundary: the Artifact must hear of it
            _logger.exception("fetch failed")
            return Failure("SourceUnavailable", "the fetch failed unexpectedly", "soon")

    async def _discard(self, fetched: Fetched) -> None:
        with contextlib.suppress(ports.StoreError):
            await self._store.discard(ports.Staged(fetched.upload_id, fetched.digest, fetched.size_bytes))


def _reason(outcome: Fetched | Failure | NoRoom) -> str:
    match outcome:
        case Fetched():
            return "Fetched"
        case Failure():
            return outcome.reason
        case NoRoom():
            return "NoRoom"
        case other:
            assert_never(other)
