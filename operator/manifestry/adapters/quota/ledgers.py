"""Quota ledgers of job types: every change of one goes through here, in the operator and in the facade."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from manifestry.adapters.kube import apierrors, cluster
from manifestry.adapters.quota import books, lanes
from manifestry.adapters.quota.books import (
    DEADLINE_SECONDS,
    Cached,
    ContentionError,
    NotReadyError,
    Snapshot,
    nothing_cached,
)
from manifestry.adapters.telemetry import quota_metrics
from manifestry.core.kube import bodies, names
from manifestry.core.quota import holders, ledgers, quotas
from manifestry.core.quota.storage import charges

REPAIR_ATTEMPTS = 5
LEDGERS_PER_PAGE = 32  # a full one is about 1 MiB


@dataclass(frozen=True)
class World:
    """What repair compares the ledgers of a namespace with.

    Args:
        jobs: the Jobs that exist, by job type.
        unfinished: uids with an unfinished batch Job or pod.
    """

    jobs: Mapping[str, Iterable[holders.LiveJob]]
    unfinished: frozenset[str]


Observe = Callable[[Mapping[str, holders.Holder]], Awaitable[World]]


class Ledgers(books.LedgerBooks[holders.Ledger]):
    """The ledgers of job types.

    Args:
        client: the Kubernetes client of this process.
        cached: returns the ledger that a watch has seen last, if there is one; `snapshot` takes the newer of
            it and of our own last write.
        now: the clock for `initializedTime` and `repairTime`.
        deadline_seconds: how long a caller waits before ContentionError.
        metrics: counts lost races.
    """

    def __init__(
        self,
        client: cluster.KubeClient,
        cached: Cached = nothing_cached,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        deadline_seconds: float = DEADLINE_SECONDS,
        metrics: quota_metrics.QuotaMetrics = quota_metrics.METRICS,
    ) -> None:
        super().__init__(client, cached, deadline_seconds=deadline_seconds, metrics=metrics)
        self._now = now
        self.primed = False  # the limits were read since this process began; until then nobody is admitted
        self.repair_begun: dict[str, float] = {}  # by namespace: the monotonic time of the last attempt

    async def lookup(self, namespace: str, job_type: str) -> holders.Ledger:
        """Return the newest ledger this process knows of, read live when it knows none; empty without one."""
        known = self.snapshot(namespace, job_type)
        if known is not None:
            return known
        try:
            return await self.read(namespace, job_type)
        except NotReadyError:
            return holders.Ledger()

    def named(self, namespace: str, name: str) -> list[tuple[str, holders.Holder]]:
        """Return (job type, holder) for every known holder of a Job name in a namespace."""
        return [
            (key[1], holder)
            for key, known in self._known.of(namespace)
            for holder in ledgers.named(known.ledger, name)
        ]

    async def ensure(self, namespace: str, job_type: str) -> None:
        """Make sure that the ledger object exists; it stays uninitialised until `repair`."""
        await self._ensure((namespace, job_type), {"jobType": job_type})

    async def repair(
        self,
        namespace: str,
        observe: Observe,
        limits_for: Callable[[str], quotas.Limits],
        only: frozenset[str] | None = None,
    ) -> dict[str, holders.Repair]:
        """T5: read the ledgers of a namespace, THEN observe the Jobs, write only at what was read.

        Args:
            namespace: the tenant's namespace.
            observe: lists Jobs and unfinished work live; called after each read of the ledgers with all the
                holders in them, by uid. It may leave out Jobs that have ended and hold nothing.
            limits_for: the limits of a job type, for Jobs without an entry.
            only: these ledgers; None for all.

        Returns:
            What was done, by job type; a ledger that does not exist is missing.

        Raises:
            ContentionError: a ledger changed during every attempt.
        """
        done: dict[str, holders.Repair] = {}
        for attempt in range(REPAIR_ATTEMPTS):
            found = await self._read_all(namespace)
            wanted = {name: each for name, each in found.items() if _is_wanted(name, only, done)}
            if not wanted:
                return done
            now = self._now()  # before the listing: a slow one must not make a young Reserved look old
            world = await observe(
                {uid: h for each in found.values() for uid, h in each.ledger.holders.items()}
            )
            for job_type, before in wanted.items():
                report = await self._repair_one(
                    (namespace, job_type), before, world, limits_for(job_type), now
                )
                if report is not None:
                    done[job_type] = report
            if wanted.keys() <= done.keys():
                return done
            await asyncio.sleep(lanes.backoff_seconds(attempt))
        raise ContentionError(f"the ledgers of {namespace} changed during every repair")

    async def _read_all(self, namespace: str) -> dict[str, Snapshot[holders.Ledger]]:
        """Read the ledgers of a namespace live, and forget those that are not there any more."""
        listed, version = await self._client.list(names.QUOTA_LEDGERS, namespace, page_size=LEDGERS_PER_PAGE)
        bodies = {body["metadata"]["name"]: body for body in listed}
        for key, known in self._known.of(namespace):
            if key[1] not in bodies and known.version <= int(version):
                self.forget(*key)
        bodies.pop(charges.LEDGER, None)
        return {
            name: self._noted((namespace, name), Snapshot(body, holders.parse(body)))
            for name, body in bodies.items()
        }

    async def _repair_one(
        self,
        key: tuple[str, str],
        before: Snapshot[holders.Ledger],
        world: World,
        limits: quotas.Limits,
        now: datetime,
    ) -> holders.Repair | None:
        """Write one ledger's repair at the version that was read; None when it has changed since."""
        body, found = before.body, world.jobs.get(key[1], ())
        after, report = ledgers.repair(before.ledger, found, world.unfinished, limits, now)
        if _is_equal(before.ledger, after):
            return report
        try:
            repair_times = books.repair_times(body, self._now().strftime("%Y-%m-%dT%H:%M:%SZ"))
            await self._write(key, before, after, **repair_times)
        except apierrors.ConflictError:
            self._metrics.conflicts.inc()
            return None
        for cause in report.released.values():
            self._metrics.released.labels(cause).inc()
        return report

    def _parse(self, body: Mapping[str, Any]) -> holders.Ledger:
        return holders.parse(body)

    def _render(self, before: Mapping[str, Any], after: holders.Ledger) -> dict[str, Any]:
        return {**bodies.status_of(before), "holders": holders.render(after)}

    def _is_ready(self, ledger: holders.Ledger) -> bool:
        return ledger.initialized

    def _notes(self, ledger: holders.Ledger) -> tuple[str, ...]:
        return ledger.notes


def _is_wanted(name: str, only: frozenset[str] | None, done: Mapping[str, Any]) -> bool:
    return name not in done and (only is None or name in only)


def _is_equal(before: holders.Ledger, after: holders.Ledger) -> bool:
    return before.initialized and not before.notes and before.holders == after.holders
