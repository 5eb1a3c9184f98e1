"""Quota ledgers in the cluster: compare-and-swap with batching, so that contention costs little."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

from manifestry.adapters import apierrors, cluster, ledgerlanes, quota_metrics
from manifestry.adapters.ledgerlanes import Decide
from manifestry.core import ledgers, names, quotas

_logger = logging.getLogger(__name__)
T = TypeVar("T")

DEADLINE_SECONDS = 3.0  # the webhook answers within 5
MAX_BATCH = 512  # decisions of one pass: a few milliseconds of computing
REPAIR_ATTEMPTS = 5
REMEMBERED_LEDGERS = 1024

Key = tuple[str, str]
Cached = Callable[[str, str], Mapping[str, Any] | None]


class LedgerError(Exception):
    """The ledger could not be changed now; nothing is known against the Job itself."""


class NotReadyError(LedgerError):
    """There is no ledger yet, or repair (T5) has not filled it: nothing may be decided by it."""


class ContentionError(LedgerError):
    """Others changed the ledger all the time until the deadline; trying again helps."""


@dataclass(frozen=True)
class World:
    """What repair compares the ledgers of a namespace with.

    Args:
        jobs: the Jobs that exist, by job type.
        unfinished: uids with an unfinished batch Job or pod.
    """

    jobs: Mapping[str, Iterable[ledgers.LiveJob]]
    unfinished: frozenset[str]


Observe = Callable[[], Awaitable[World]]


@dataclass(frozen=True)
class Snapshot:
    """A ledger at one resourceVersion."""

    body: Mapping[str, Any]
    ledger: ledgers.Ledger

    @property
    def version(self) -> int:
        """Return the resourceVersion as a number; larger is newer (KEP-5504)."""
        text = str(self.body["metadata"].get("resourceVersion", "0"))
        return int(text) if text.isdigit() else 0


def _nothing_cached(namespace: str, job_type: str) -> None:  # noqa: ARG001 - the shape of `Cached`
    return None


class Ledgers:
    """Every change of a QuotaLedger goes through here, in the operator and in the facade.

    Args:
        client: the Kubernetes client of this process.
        cached: returns the ledger that a watch has seen last, if there is one; `snapshot` takes the newer of
            it and of our own last write.
        now: the clock for `initializedTime` and `repairTime`.
        deadline_seconds: how long a caller waits before ContentionError.
        metrics: counts lost races.
    References: shared design quota-ledger.md "The ledger".
    """

    def __init__(
        self,
        client: cluster.KubeClient,
        cached: Cached = _nothing_cached,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        deadline_seconds: float = DEADLINE_SECONDS,
        metrics: quota_metrics.QuotaMetrics = quota_metrics.METRICS,
    ) -> None:
        self._client = client
        self._cached = cached
        self._now = now
        self._deadline_seconds = deadline_seconds
        self._metrics = metrics
        self._known: dict[Key, Snapshot] = {}
        self._lanes: dict[Key, ledgerlanes.Lane] = {}
        self.primed = False  # the limits were read since this process began; until then nobody is admitted
        self.repaired_at: float | None = None  # monotonic; readiness fails when it is long ago

    async def transact(self, namespace: str, job_type: str, decide: Decide[T]) -> T:
        """Read, decide, write with the resourceVersion as precondition, until it holds.

        Callers for the same ledger share one read and one write. A decision that changes nothing is made
        on a ledger read after the call began, never on a cached one.

        Args:
            namespace: the tenant's namespace.
            job_type: the ledger's name.
            decide: pure; may be called several times, only its last answer counts.

        Raises:
            NotReadyError: no ledger, or not initialised.
            ContentionError: not done by the deadline; the change may still be on its way.
            ApiError: the API server refuses or does not answer.
        """
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        key = (namespace, job_type)
        lane = self._lanes.setdefault(key, ledgerlanes.Lane())
        lane.waiting.append(ledgerlanes.Waiter(decide, future))
        if lane.task is None:
            lane.task = asyncio.create_task(self._serve(key, lane), name=f"ledger/{namespace}/{job_type}")
        try:
            async with asyncio.timeout(self._deadline_seconds):
                return await future
        except TimeoutError as error:
            raise ContentionError(f"the ledger {namespace}/{job_type} is contended") from error

    async def read(self, namespace: str, job_type: str) -> ledgers.Ledger:
        """Read a ledger live, past every cache: what T3 must see before it unsuspends.

        Raises:
            NotReadyError: there is none.
        """
        return (await self._read((namespace, job_type))).ledger

    def snapshot(self, namespace: str, job_type: str) -> ledgers.Ledger | None:
        """Return the newest ledger this process knows of, without asking; None for unknown."""
        newest = self._newest((namespace, job_type))
        return None if newest is None else newest.ledger

    async def lookup(self, namespace: str, job_type: str) -> ledgers.Ledger:
        """Return the newest ledger this process knows of, read live when it knows none; empty without one."""
        known = self.snapshot(namespace, job_type)
        if known is not None:
            return known
        try:
            return await self.read(namespace, job_type)
        except NotReadyError:
            return ledgers.Ledger()

    def named(self, namespace: str, name: str) -> list[tuple[str, ledgers.Holder]]:
        """Return (job type, holder) for every known holder of a Job name in a namespace."""
        return [
            (key[1], holder)
            for key, known in self._known.items()
            if key[0] == namespace
            for holder in ledgers.named(known.ledger, name)
        ]

    async def ensure(self, namespace: str, job_type: str) -> None:
        """Make sure that the ledger object exists; it stays uninitialised until `repair`."""
        if self._newest((namespace, job_type)) is not None:
            return
        body = {
            "apiVersion": names.API_VERSION,
            "kind": names.QUOTA_LEDGERS.kind,
            "metadata": {"name": job_type, "namespace": namespace},
            "spec": {"jobType": job_type},
        }
        try:
            created = await self._client.create(names.QUOTA_LEDGERS, body, namespace)
        except apierrors.AlreadyExistsError:
            return
        self._remember((namespace, job_type), Snapshot(created, ledgers.parse(created)))

    async def repair(
        self,
        namespace: str,
        observe: Observe,
        limits_for: Callable[[str], quotas.Limits],
        only: frozenset[str] | None = None,
    ) -> dict[str, ledgers.Repair]:
        """T5: read the ledgers of a namespace, THEN observe the Jobs, write only at what was read.

        Args:
            namespace: the tenant's namespace.
            observe: lists Jobs and unfinished work live; called after each read of the ledgers.
            limits_for: the limits of a job type, for Jobs without an entry.
            only: these ledgers; None for all.

        Returns:
            What was done, by job type; a ledger that does not exist is missing.

        Raises:
            ContentionError: a ledger changed during every attempt.
        """
        done: dict[str, ledgers.Repair] = {}
        for attempt in range(REPAIR_ATTEMPTS):
            bodies, _ = await self._client.list(names.QUOTA_LEDGERS, namespace)
            wanted = [body for body in bodies if _is_wanted(body["metadata"]["name"], only, done)]
            if not wanted:
                return done
            now = self._now()  # before the listing: a slow one must not make a young Reserved look old
            world = await observe()
            for body in wanted:
                job_type = body["metadata"]["name"]
                report = await self._repair_one(namespace, body, world, limits_for(job_type), now)
                if report is not None:
                    done[job_type] = report
            if all(body["metadata"]["name"] in done for body in wanted):
                return done
            await asyncio.sleep(ledgerlanes.backoff_seconds(attempt))
        raise ContentionError(f"the ledgers of {namespace} changed during every repair")

    async def _repair_one(
        self, namespace: str, body: Mapping[str, Any], world: World, limits: quotas.Limits, now: datetime
    ) -> ledgers.Repair | None:
        """Write one ledger's repair at the version that was read; None when it has changed since."""
        key = (namespace, body["metadata"]["name"])
        before = self._noted(key, Snapshot(body, ledgers.parse(body)))
        found = world.jobs.get(key[1], ())
        after, report = ledgers.repair(before.ledger, found, world.unfinished, limits, now)
        if _is_equal(before.ledger, after):
            return report
        try:
            await self._write(key, before, after, repaired=True)
        except apierrors.ConflictError:
            self._metrics.conflicts.inc()
            return None
        for cause in report.released.values():
            self._metrics.released.labels(cause).inc()
        return report

    def repaired(self) -> None:
        """Note that every ledger has just been repaired."""
        self.primed = False  # the limits were read since this process began; until then nobody is admitted
        self.repaired_at = time.monotonic()

    async def close(self) -> None:
        """End the tasks that serve waiting callers."""
        tasks = [lane.task for lane in self._lanes.values() if lane.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, key: Key, lane: ledgerlanes.Lane) -> None:
        before: Snapshot | None = None  # others write too: a first pass reads, later ones build on our write
        try:
            while lane.waiting:
                batch, lane.waiting = lane.waiting[:MAX_BATCH], lane.waiting[MAX_BATCH:]
                before = await self._settle(key, batch, before)
        finally:
            self._lanes.pop(key, None)
            for waiter in lane.waiting:
                waiter.future.cancel()

    async def _settle(
        self, key: Key, batch: list[ledgerlanes.Waiter[Any]], before: Snapshot | None
    ) -> Snapshot | None:
        attempt = 0
        while batch := [waiter for waiter in batch if not waiter.future.done()]:
            try:
                before = await self._pass(key, batch, before)
            except apierrors.ConflictError:
                before, attempt = None, attempt + 1
                self._metrics.conflicts.inc()
                await asyncio.sleep(ledgerlanes.backoff_seconds(attempt))
            except (apierrors.ApiError, LedgerError) as error:
                before = None
                self._known.pop(key, None)
                ledgerlanes.fail_all(batch, error)
        return before

    async def _pass(
        self, key: Key, batch: list[ledgerlanes.Waiter[Any]], before: Snapshot | None
    ) -> Snapshot | None:
        """Decide once for all of `batch` and answer it, or return None to ask for a fresh read."""
        snapshot = before or await self._read(key)
        _require_ready(key, snapshot)
        after, answers = ledgerlanes.decide_all(snapshot.ledger, batch)
        if after is not snapshot.ledger:
            snapshot = await self._write(key, snapshot, after)
        elif before is not None:
            return None  # a refusal must not rest on a copy that is older than the question
        ledgerlanes.answer_all(answers)
        return snapshot

    async def _read(self, key: Key) -> Snapshot:
        try:
            body = await self._client.get(names.QUOTA_LEDGERS, key[1], key[0])
        except apierrors.NotFoundError as error:
            self._known.pop(key, None)
            raise NotReadyError(f"there is no ledger {key[0]}/{key[1]} yet") from error
        return self._noted(key, Snapshot(body, ledgers.parse(body)))

    def _noted(self, key: Key, found: Snapshot) -> Snapshot:
        for note in found.ledger.notes:
            _logger.warning("ledger entry ignored", extra={"ledger": "/".join(key), "note": note})
        self._remember(key, found)
        return found

    async def _write(
        self, key: Key, before: Snapshot, after: ledgers.Ledger, *, repaired: bool = False
    ) -> Snapshot:
        wanted = _render_body(before.body, after, self._now() if repaired else None)
        body = await self._client.replace(names.QUOTA_LEDGERS, wanted, subresource="status")
        written = Snapshot(body, ledgers.parse(body))
        self._remember(key, written)
        return written

    def _newest(self, key: Key) -> Snapshot | None:
        known, seen = self._known.get(key), self._cached(*key)
        if seen is None:
            return known
        version = Snapshot(seen, ledgers.Ledger()).version
        if known is not None and known.version >= version:
            return known
        found = Snapshot(seen, ledgers.parse(seen))
        self._remember(key, found)
        return found

    def _remember(self, key: Key, snapshot: Snapshot) -> None:
        known = self._known.pop(key, None)
        newer = known if known is not None and known.version > snapshot.version else snapshot
        self._known[key] = newer
        if len(self._known) > REMEMBERED_LEDGERS:
            del self._known[next(iter(self._known))]


def _is_wanted(name: str, only: frozenset[str] | None, done: Mapping[str, Any]) -> bool:
    return name not in done and (only is None or name in only)


def _is_equal(before: ledgers.Ledger, after: ledgers.Ledger) -> bool:
    return before.initialized and not before.notes and before.holders == after.holders


def _require_ready(key: Key, snapshot: Snapshot) -> None:
    if not snapshot.ledger.initialized:
        raise NotReadyError(f"the ledger {key[0]}/{key[1]} is not initialised yet")


def _render_body(
    before: Mapping[str, Any], after: ledgers.Ledger, repaired_at: datetime | None
) -> dict[str, Any]:
    metadata = before["metadata"]
    status: dict[str, Any] = {**(before.get("status") or {}), "holders": ledgers.render(after)}
    status["observedGeneration"] = metadata.get("generation", 1)
    if repaired_at is not None:
        text = repaired_at.strftime("%Y-%m-%dT%H:%M:%SZ")
        status["repairTime"] = text
        status.setdefault("initializedTime", text)
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.QUOTA_LEDGERS.kind,
        "metadata": {key: metadata[key] for key in ("name", "namespace", "resourceVersion")},
        "spec": dict(before.get("spec") or {}),
        "status": status,
    }
