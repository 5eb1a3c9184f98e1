"""The work queue: once per change, one at a time per key, fair, and nobody's failure is another's."""

import asyncio
import logging
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from manifestry.adapters.kube import apierrors, retries
from manifestry.adapters.queues import queues
from tests.unit.adapters.fakeclock import FakeClock, settle

A, B, C = ("Job", "acme", "a"), ("Job", "acme", "b"), ("Job", "zeta", "c")
EXACT = retries.Backoff(base_seconds=1.0, cap_seconds=60.0, uniform=lambda _, whole: whole)


class Worker:
    """Records what it is given; fails, waits or asks for another look as told."""

    def __init__(self) -> None:
        self.seen: list[queues.Key] = []
        self.fail: dict[queues.Key, Exception] = {}
        self.again: dict[queues.Key, float] = {}
        self.gate: asyncio.Event | None = None
        self.during: Callable[[queues.Key], None] = lambda _: None
        self.active: dict[queues.Key, int] = defaultdict(int)
        self.peak = 0

    async def __call__(self, key: queues.Key) -> float | None:
        self.seen.append(key)
        self.active[key] += 1
        assert self.active[key] == 1, "one key on two workers"
        self.peak = max(self.peak, sum(self.active.values()))
        try:
            self.during(key)
            if self.gate:
                await self.gate.wait()
            if key in self.fail:
                raise self.fail[key]
            return self.again.get(key)
        finally:
            self.active[key] -= 1


@asynccontextmanager
async def running(
    clock: FakeClock, worker: Worker, count: int = 2, **options: object
) -> AsyncIterator[queues.KeyedQueue]:
    queue = queues.KeyedQueue(clock=clock, backoff=EXACT, **options)  # type: ignore[arg-type]
    task = asyncio.create_task(queue.run(count, worker))
    await settle()
    yield queue
    if worker.gate:
        worker.gate.set()
    queue.stop()
    await asyncio.wait_for(task, 5)


async def test_many_events_of_one_key_are_one_look() -> None:
    clock, worker = FakeClock(), Worker()
    async with running(clock, worker) as queue:
        for _ in range(100):
            queue.add(A)
        await settle()
    assert worker.seen == [A]


async def test_a_key_added_while_worked_on_is_worked_on_once_more_and_never_twice_at_once() -> None:
    clock, worker = FakeClock(), Worker()
    worker.gate = asyncio.Event()
    async with running(clock, worker) as queue:
        queue.add(A)
        await settle()
        queue.add(A)
        queue.add(A)
        await settle()
        assert worker.seen == [A]
        worker.gate.set()
        await settle()
    assert worker.seen == [A, A]


async def test_at_most_so_many_workers_run() -> None:
    clock, worker = FakeClock(), Worker()
    worker.gate = asyncio.Event()
    async with running(clock, worker, count=3) as queue:
        for number in range(10):
            queue.add(("Job", "acme", str(number)))
        await settle()
        assert (queue.running, len(queue)) == (3, 7)
        worker.gate.set()
        await settle()
    assert (worker.peak, len(worker.seen)) == (3, 10)


async def test_a_tenant_with_a_thousand_keys_does_not_make_another_wait() -> None:
    clock, worker = FakeClock(), Worker()
    worker.gate = asyncio.Event()
    async with running(clock, worker, count=1) as queue:
        for number in range(1000):
            queue.add(("Job", "acme", str(number)))
        queue.add(C)
        await settle()
        worker.gate.set()
        await settle()
        assert C in worker.seen[:3]


async def test_an_urgent_key_goes_first() -> None:
    clock, worker = FakeClock(), Worker()
    worker.gate = asyncio.Event()
    async with running(clock, worker, count=1) as queue:
        for key in (A, B, C):
            queue.add(key)
        queue.add(("Job", "acme", "z"))
        queue.add(B, urgent=True)
        await settle()
        worker.gate.set()
        await settle()
    assert worker.seen.index(B) <= 1
    assert len(worker.seen) == 4


async def test_of_several_delays_the_earliest_holds_and_an_earlier_look_replaces_them() -> None:
    clock, worker = FakeClock(), Worker()
    async with running(clock, worker) as queue:
        queue.add_after(A, 30)
        queue.add_after(A, 10)
        queue.add_after(A, 20)
        assert queue.delayed == 1
        await clock.advance(9.9)
        assert worker.seen == []
        await clock.advance(0.2)
        assert worker.seen == [A]
        await clock.advance(60)
        assert worker.seen == [A]
        queue.add_after(B, 10)
        queue.add(B)
        await clock.advance(60)
    assert worker.seen == [A, B]


async def test_a_delay_of_nothing_is_now() -> None:
    clock, worker = FakeClock(), Worker()
    async with running(clock, worker) as queue:
        queue.add_after(A, 0)
        await settle()
        assert worker.seen == [A]


async def test_a_reconcile_may_ask_for_another_look() -> None:
    clock, worker = FakeClock(), Worker()
    worker.again[A] = 5.0
    async with running(clock, worker) as queue:
        queue.add(A)
        await clock.advance(4.9)
        assert worker.seen == [A]
        await clock.advance(5.2)
        assert worker.seen == [A, A, A]
        assert queue.failures(A) == 0


async def test_a_failing_key_backs_off_alone_and_is_forgiven_by_a_success(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock, worker = FakeClock(), Worker()
    worker.fail[A] = KeyError("malformed")
    async with running(clock, worker) as queue:
        queue.add(A)
        queue.add(B)
        await settle()
        assert worker.seen == [A, B]
        for failures, pause in ((1, 1), (2, 2), (3, 4), (4, 8)):
            assert queue.failures(A) == failures
            await clock.advance(pause - 0.5)
            assert queue.failures(A) == failures
            await clock.advance(0.5)
        del worker.fail[A]
        await clock.advance(60)
        assert queue.failures(A) == 0
    reports = [record for record in caplog.records if record.message == "reconcile failed"]
    assert len(reports) == 5
    assert [bool(record.exc_info) for record in reports] == [True, False, False, False, False]
    assert vars(reports[0])["object"] == "a"


async def test_a_failing_key_that_wakes_itself_does_not_spin() -> None:
    clock, worker = FakeClock(), Worker()
    worker.fail[A] = ValueError("broken")
    async with running(clock, worker) as queue:
        worker.during = queue.add  # its own write comes back as an event
        queue.add(A)
        await clock.advance(100)
        assert 50 < len(worker.seen) <= 102


async def test_an_api_refusal_is_a_warning_without_a_traceback(caplog: pytest.LogCaptureFixture) -> None:
    clock, worker = FakeClock(), Worker()
    worker.fail[A] = apierrors.ConflictError(409, "Conflict", "changed")
    async with running(clock, worker) as queue:
        queue.add(A)
        await settle()
    (report,) = (record for record in caplog.records if record.message == "reconcile failed")
    assert (report.levelno, report.exc_info) == (logging.WARNING, None)


async def test_a_reconcile_that_hangs_is_ended_and_counts_as_failed() -> None:
    worker = Worker()
    worker.gate = asyncio.Event()
    queue = queues.KeyedQueue()
    task = asyncio.create_task(queue.run(1, worker, timeout_seconds=0.05))
    queue.add(A)
    await asyncio.sleep(0.2)
    assert queue.failures(A) == 1
    assert queue.running == 0
    worker.gate.set()
    queue.stop()
    await asyncio.wait_for(task, 5)


async def test_stopping_waits_for_what_is_under_way_and_drops_the_rest() -> None:
    clock, worker = FakeClock(), Worker()
    worker.gate = asyncio.Event()
    queue = queues.KeyedQueue(clock=clock)
    task = asyncio.create_task(queue.run(1, worker))
    queue.add(A)
    queue.add(B)
    await settle()
    queue.stop()
    await settle()
    assert not task.done()
    worker.gate.set()
    await asyncio.wait_for(task, 5)
    assert worker.seen == [A]


async def test_an_idle_queue_sleeps() -> None:
    clock, worker = FakeClock(), Worker()
    async with running(clock, worker) as queue:
        queue.add_after(A, 1000)
        await settle()
        rounds = 0
        original = queue._release_due

        def counted() -> None:
            nonlocal rounds
            rounds += 1
            original()

        queue._release_due = counted  # type: ignore[method-assign]
        await settle()
        assert rounds == 0


async def test_the_ages_are_those_of_waiting_keys() -> None:
    clock, worker = FakeClock(), Worker()
    worker.gate = asyncio.Event()
    async with running(clock, worker, count=1) as queue:
        assert (queue.oldest_seconds(), queue.stuck_seconds()) == (0.0, 0.0)
        queue.add(A)
        await settle()
        queue.add(B)
        await clock.advance(7)
        assert (queue.oldest_seconds(), queue.stuck_seconds()) == (7.0, 7.0)


async def test_the_observer_is_told() -> None:
    class Observer:
        def __init__(self) -> None:
            self.told: list[tuple[object, ...]] = []

        def started(self, kind: str, waited_seconds: float) -> None:
            self.told.append(("started", kind, waited_seconds))

        def finished(self, kind: str, seconds: float, outcome: str) -> None:
            self.told.append(("finished", kind, seconds, outcome))

    clock, worker, observer = FakeClock(), Worker(), Observer()
    worker.fail[B] = ValueError()
    worker.again[C] = 9.0
    async with running(clock, worker, observer=observer) as queue:
        for key in (A, B, C):
            queue.add(key)
        await settle()
    assert ("started", "Job", 0.0) in observer.told
    outcomes = sorted(str(entry[3]) for entry in observer.told if entry[0] == "finished")
    assert outcomes == ["again", "done", "failed"]


async def test_one_namespace_leaves_workers_to_the_others() -> None:
    clock, worker = FakeClock(), Worker()
    worker.gate = asyncio.Event()
    async with running(clock, worker, count=8) as queue:
        for number in range(20):
            queue.add(("Artifact", "greedy", str(number)))
        await settle()
        assert queue.running == 6
        queue.add(C)
        await settle()
        assert worker.seen[-1] == C
        worker.gate.set()
        await settle()
        assert len(worker.seen) == 21


async def test_a_key_that_is_looked_at_often_leaves_no_heap_of_timers() -> None:
    clock, worker = FakeClock(), Worker()
    worker.again = {A: 86_400.0}
    async with running(clock, worker) as queue:
        for _ in range(1000):
            queue.add(A)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        await settle()
        assert len(worker.seen) > 200
        assert len(queue._timers) <= 2 + queues.SPARE_TIMERS
        assert queue.delayed == 1


async def test_asking_urgently_does_not_make_a_failing_key_spin() -> None:
    clock, worker = FakeClock(), Worker()
    worker.fail = {A: apierrors.unavailable("away")}
    async with running(clock, worker) as queue:
        queue.add(A)
        await settle()
        for _ in range(100):
            queue.add(A, urgent=True)
            await settle()
        assert worker.seen == [A]
        await clock.advance(1.0)
        assert worker.seen == [A, A]
