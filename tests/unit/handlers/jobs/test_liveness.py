"""Whatever is lost, late or out of order: every Job comes to its end, and no slot stays taken.

The quota's safety is proved on the protocol (test_ledger_protocol); here it is what one process remembers
and whom it wakes. Each kind has a watch of its own, so events of different kinds come in any order; a re-list
tells nothing of what was deleted; a write may be done and its answer lost; the leader may change.
"""

import asyncio
import copy
import random
from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest

from manifestry.adapters.kube import apierrors
from manifestry.adapters.queues import queues
from manifestry.adapters.quota.books import LedgerError
from manifestry.adapters.quota.ledgers import Ledgers
from manifestry.core.jobs import batchjobs
from manifestry.core.jobs import statuses as job_steps
from manifestry.core.kube import names
from manifestry.core.quota import holders, ledgers, quotas
from manifestry.handlers import feeds
from manifestry.handlers.jobs import reconciler as job_handler
from manifestry.handlers.quota import jobtypes
from manifestry.handlers.quota import ledgers as ledger_handler
from manifestry.handlers.runtime import caches, namespaces, registry
from tests.unit.handlers.fakeapi import NAMESPACE, TYPE, World, stamp

HANDLERS = cast("tuple[registry.Handler, ...]", (job_handler, ledger_handler, jobtypes, namespaces))
WATCHED = (names.JOBS, names.BATCH_JOBS, names.QUOTA_LEDGERS)
WRITES = (
    ("update", "quotaledgers.manifestry.dev"),
    ("update", "jobs.manifestry.dev"),
    ("create", "jobs.batch"),
    ("patch", "jobs.batch"),
)
LIMITS = quotas.Limits(2, 4)


class Life:
    """One operator after the other in a world where much goes wrong."""

    def __init__(self, seed: int) -> None:
        self.choose = random.Random(seed)
        self.world = World(running=2, queued=4)
        self.facade = Ledgers(cast("Any", self.world.api), now=self.world.clock.now)
        self.delayed: list[tuple[float, queues.Key]] = []
        self.count = 0
        self.begin()

    def begin(self) -> None:
        """Let a new process take over: it knows what a LIST tells, and nothing else."""
        world = self.world
        kept = copy.copy(world.caches)
        world.woken.clear()
        self.delayed.clear()
        books, fresh = Ledgers(cast("Any", world.api), now=world.clock.now), caches.Caches()
        books.primed = True
        for kind in caches.CACHED:
            fresh.replace(
                kind.kind, [body for (path, _), body in world.api.objects.items() if path == kind.path()]
            )
        assert fresh.namespaces.keys() == kept.namespaces.keys()
        world.books = world.ctx.ledgers = books  # type: ignore[misc]
        world.caches = world.ctx.caches = fresh  # type: ignore[misc]
        self.feed = feeds.Feed(fresh, world.ctx.queue, books)
        self.dispatch = registry.dispatcher(world.ctx, HANDLERS)
        for resource in WATCHED:
            self.relist(resource)
        self.world.woken += [(names.JOB_TYPES.kind, "", TYPE), (names.NAMESPACES.kind, "", NAMESPACE)]

    def relist(self, resource: names.Resource) -> None:
        """Lose what a watch had still to tell; the listing knows only what exists."""
        self.world.api.events[resource] = []
        for (path, _), body in tuple(self.world.api.objects.items()):
            if path == resource.path():
                self.feed.take(resource, None, copy.deepcopy(body))

    def hear(self, resource: names.Resource) -> None:
        events = self.world.api.events.get(resource)
        if events:
            self.feed.take(resource, *events.pop(0))

    async def work(self, key: queues.Key) -> None:
        """Do what the queue does with one key."""
        try:
            again = await self.dispatch(key)
        except (apierrors.ApiError, LedgerError):
            again = 1.0
        if again is not None:
            self.delayed.append((self.world.clock.seconds + again, key))

    async def submit(self) -> None:
        self.count += 1
        name = f"j{self.choose.randrange(6)}" if self.choose.random() < 0.3 else f"n{self.count}"
        uid = f"{self.count:08d}"
        if (names.JOBS.path(), name) in self.world.api.objects:
            return
        if self.choose.random() < 0.8:
            outcome = await self.reserve(uid, name)
            if outcome is not holders.Outcome.CHANGED or self.choose.random() < 0.1:
                return
        metadata = {"name": name, "namespace": NAMESPACE, "uid": uid}
        self.world.api.put(names.JOBS, {"metadata": metadata, "spec": {"jobType": TYPE}})

    async def reserve(self, uid: str, name: str) -> holders.Outcome | None:
        now = self.world.clock.now()
        lost, self.world.api.lose = self.world.api.lose, set()
        try:
            return await self.facade.transact(
                NAMESPACE, TYPE, lambda ledger: ledgers.reserve(ledger, uid, name, LIMITS, now)
            )
        except LedgerError:
            return None
        finally:
            self.world.api.lose = lost

    def delete_job(self) -> None:
        found = self.stored(names.JOBS)
        if found:
            body = self.choose.choice(found)
            self.world.api.remove(names.JOBS, body["metadata"]["name"])

    def collect_garbage(self) -> None:
        uids = {body["metadata"]["uid"] for body in self.stored(names.JOBS)}
        for batch in self.stored(names.BATCH_JOBS):
            if batchjobs.job_uid(batch) not in uids:
                self.world.api.remove(names.BATCH_JOBS, batch["metadata"]["name"])

    def finish_batch(self) -> None:
        running = [batch for batch in self.stored(names.BATCH_JOBS) if batchjobs.is_running(batch)]
        if running:
            ended = {
                "type": "Complete",
                "status": "True",
                "lastTransitionTime": stamp(self.world.clock.now()),
            }
            self.world.api.put(
                names.BATCH_JOBS, {**self.choose.choice(running), "status": {"conditions": [ended]}}
            )

    def stored(self, resource: names.Resource) -> list[dict[str, Any]]:
        return [body for (path, _), body in self.world.api.objects.items() if path == resource.path()]

    def pass_time(self, seconds: float) -> None:
        self.world.clock.seconds += seconds
        now = self.world.clock.seconds
        self.world.woken += [key for due, key in self.delayed if due <= now]
        self.delayed = [(due, key) for due, key in self.delayed if due > now]

    async def resync(self) -> None:
        try:
            await ledger_handler.resync(self.world.ctx)
        except (apierrors.ApiError, LedgerError):
            return

    async def work_on_one(self) -> None:
        if self.world.woken:
            key = self.world.woken.pop(self.choose.randrange(len(self.world.woken)))
            self.world.woken[:] = [other for other in self.world.woken if other != key]
            await self.work(key)

    def moves(self) -> list[tuple[int, Callable[[], Awaitable[None] | None]]]:
        return [
            (8, self.submit),
            (3, self.delete_job),
            (4, self.collect_garbage),
            (8, self.finish_batch),
            (30, lambda: self.hear(self.choose.choice(WATCHED))),
            (2, lambda: self.relist(self.choose.choice(WATCHED))),
            (2, lambda: self.world.api.lose.add(self.choose.choice(WRITES))),
            (40, self.work_on_one),
            (6, lambda: self.pass_time(self.choose.choice([0.2, 1.0, 5.0, 61.0]))),
            (1, self.resync),
            (1, self.begin),
        ]

    async def live(self, steps: int) -> None:
        moves = self.moves()
        for _, move in self.choose.choices(moves, [weight for weight, _ in moves], k=steps):
            result = move()
            if result is not None:
                await result
            self.check()

    def check(self) -> None:
        running = [batch for batch in self.stored(names.BATCH_JOBS) if batchjobs.is_running(batch)]
        assert len(running) <= 2
        held = self.world.holders()
        assert list(held.values()).count("Admitted") <= 2
        assert len(held) <= 6

    async def settle(self, rounds: int = 20) -> None:
        """Nothing goes wrong any more; batch Jobs that run come to their end."""
        self.world.api.lose.clear()
        for _ in range(rounds):
            for resource in WATCHED:
                while self.world.api.events.get(resource):
                    self.hear(resource)
            while self.world.woken:
                await self.work_on_one()
            self.collect_garbage()
            self.finish_batch()
            self.finish_batch()
            self.pass_time(61)
            await self.resync()
            self.check()


@pytest.mark.parametrize("seed", range(12))
async def test_every_job_ends_and_every_slot_is_given_back(seed: int) -> None:
    life = Life(seed)
    life.world.ledger()
    async with asyncio.timeout(60):
        await life.live(600)
        await life.settle()
    left = [body["metadata"]["name"] for body in life.stored(names.JOBS) if not job_steps.is_terminal(body)]
    assert left == []
    assert life.world.holders() == {}
    assert [batch for batch in life.stored(names.BATCH_JOBS) if not batchjobs.is_finished(batch)] == []
