"""QuotaLedger objects of any kind: compare-and-swap with batching, so that contention costs little."""

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from manifestry.adapters.kube import apierrors, cluster
from manifestry.adapters.quota import lanes, shelves
from manifestry.adapters.quota.lanes import Decide
from manifestry.adapters.quota.shelves import Key
from manifestry.adapters.telemetry import quota_metrics
from manifestry.core.kube import bodies, names

_logger = logging.getLogger(__name__)
T = TypeVar("T")
L = TypeVar("L")

DEADLINE_SECONDS = 3.0  # the webhook answers within 5
MAX_BATCH = 512  # decisions of one pass: a few milliseconds of computing
REMEMBERED_LEDGERS = 8192  # tenants times job types; one that falls out is read again when it is asked for

Cached = Callable[[str, str], Mapping[str, Any] | None]


class LedgerError(Exception):
    """The ledger could not be changed now; nothing is known against the object itself."""


class NotReadyError(LedgerError):
    """There is no ledger yet, or repair (T5) has not filled it: nothing may be decided by it."""


class ContentionError(LedgerError):
    """Others changed the ledger all the time until the deadline; trying again helps."""


@dataclass(frozen=True)
class Snapshot(Generic[L]):
    """A ledger at one resourceVersion."""

    body: Mapping[str, Any]
    ledger: L

    @property
    def version(self) -> int:
        """Return the resourceVersion as a number; larger is newer (KEP-5504)."""
        return version_of(self.body)


def version_of(body: Mapping[str, Any]) -> int:
    """Return an object's resourceVersion as a number, 0 for unknown."""
    text = str(body["metadata"].get("resourceVersion", "0"))
    return int(text) if text.isdecimal() else 0


def nothing_cached(namespace: str, name: str) -> None:
    """Know nothing: every ledger is read live."""


class LedgerBooks(ABC, Generic[L]):
    """The ledgers of one kind that this process reads and changes.

    Args:
        client: the Kubernetes API.
        cached: the newest body a watch has seen of (namespace, name), or None; only a hint.
        deadline_seconds: how long a caller waits before ContentionError.
        metrics: counts lost races.
    References: shared design quota-ledger.md "The ledger".
    """

    def __init__(
        self,
        client: cluster.KubeClient,
        cached: Cached = nothing_cached,
        *,
        deadline_seconds: float = DEADLINE_SECONDS,
        metrics: quota_metrics.QuotaMetrics = quota_metrics.METRICS,
    ) -> None:
        self._client = client
        self._cached = cached
        self._deadline_seconds = deadline_seconds
        self._metrics = metrics
        self._known: shelves.Shelf[Snapshot[L]] = shelves.Shelf()
        self._lanes: dict[Key, lanes.Lane[L]] = {}

    @abstractmethod
    def _parse(self, body: Mapping[str, Any]) -> L:
        """Return the value that a body holds."""

    @abstractmethod
    def _render(self, before: Mapping[str, Any], after: L) -> dict[str, Any]:
        """Return the status of `before` with the value `after`."""

    @abstractmethod
    def _is_ready(self, ledger: L) -> bool:
        """Tell whether decisions may rest on the ledger."""

    @abstractmethod
    def _notes(self, ledger: L) -> tuple[str, ...]:
        """Return what could not be read."""

    async def transact(
        self,
        namespace: str,
        name: str,
        decide: Decide[L, T],
        then: Callable[[T], None] | None = None,
    ) -> T:
        """Read, decide, write with the resourceVersion as precondition, until it holds.

        Callers for the same ledger share one read and one write. A decision that changes nothing is made
        on a ledger read after the call began, never on a cached one.

        Args:
            namespace: the tenant's namespace.
            name: the ledger's name.
            decide: pure; may be called several times, only its last answer counts.
            then: called with the answer when it holds, even if the caller has given up by then.

        Raises:
            NotReadyError: no ledger, or not initialised.
            ContentionError: not done by the deadline; the change may still be on its way.
            ApiError: the API server refuses or does not answer.
        """
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        key = (namespace, name)
        lane = self._lanes.setdefault(key, lanes.Lane())
        lane.waiting.append(lanes.Waiter(decide, future, then))
        if lane.task is None:
            lane.task = asyncio.create_task(self._serve(key, lane), name=f"ledger/{namespace}/{name}")
        try:
            async with asyncio.timeout(self._deadline_seconds):
                return await future
        except TimeoutError as error:
            raise ContentionError(f"the ledger {namespace}/{name} is contended") from error

    async def read(self, namespace: str, name: str) -> L:
        """Read a ledger live, past every cache.

        Raises:
            NotReadyError: there is none.
        """
        return (await self._read((namespace, name))).ledger

    def snapshot(self, namespace: str, name: str) -> L | None:
        """Return the newest ledger this process knows of, without asking; None for unknown."""
        newest = self._newest((namespace, name))
        return None if newest is None else newest.ledger

    def observe(self, namespace: str, name: str, body: Mapping[str, Any]) -> None:
        """Take what a watch has told of a ledger; without effect when this process knows as much."""
        key = (namespace, name)
        known = self._known.get(key)
        if known is None or known.version < version_of(body):
            self._noted(key, Snapshot(body, self._parse(body)))

    def forget(self, namespace: str, name: str) -> None:
        """Forget a ledger that was deleted."""
        self._known.pop((namespace, name), None)

    async def close(self) -> None:
        """End the tasks that serve waiting callers."""
        tasks = [lane.task for lane in self._lanes.values() if lane.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _ensure(self, key: Key, spec: Mapping[str, Any]) -> None:
        if self._newest(key) is not None:
            return
        body = {
            "apiVersion": names.API_VERSION,
            "kind": names.QUOTA_LEDGERS.kind,
            "metadata": {"name": key[1], "namespace": key[0]},
            "spec": dict(spec),
        }
        try:
            created = await self._client.create(names.QUOTA_LEDGERS, body, key[0])
        except apierrors.AlreadyExistsError:
            return
        self._remember(key, Snapshot(created, self._parse(created)))

    async def _serve(self, key: Key, lane: "lanes.Lane[L]") -> None:
        before: Snapshot[L] | None = None  # others write too: a first pass reads, later ones build on ours
        batch: list[lanes.Waiter[L, Any]] = []
        try:
            while lane.waiting:
                batch, lane.waiting = lane.waiting[:MAX_BATCH], lane.waiting[MAX_BATCH:]
                before = await self._settle(key, batch, before)
        except Exception:  # a defect of ours: logged here, as nobody awaits this task
            _logger.exception("ledger task failed", extra={"ledger": "/".join(key)})
        finally:  # nobody may wait for an answer that never comes
            self._lanes.pop(key, None)
            lanes.fail_all([*batch, *lane.waiting], LedgerError(f"the ledger {'/'.join(key)} is closed"))

    async def _settle(
        self, key: Key, batch: list[lanes.Waiter[L, Any]], before: Snapshot[L] | None
    ) -> Snapshot[L] | None:
        attempt = 0
        while batch := [waiter for waiter in batch if not waiter.future.done()]:
            try:
                before = await self._pass(key, batch, before)
            except apierrors.ConflictError:
                before, attempt = None, attempt + 1
                self._metrics.conflicts.inc()
                await asyncio.sleep(lanes.backoff_seconds(attempt))
            except (apierrors.ApiError, LedgerError) as error:
                before = None
                self._known.pop(key, None)
                lanes.fail_all(batch, error)
        return before

    async def _pass(
        self, key: Key, batch: list[lanes.Waiter[L, Any]], before: Snapshot[L] | None
    ) -> Snapshot[L] | None:
        """Decide once for all of `batch` and answer it, or return None to ask for a fresh read."""
        snapshot = before or await self._read(key)
        self._require_ready(key, snapshot)
        after, answers = lanes.decide_all(snapshot.ledger, batch)
        if after is not snapshot.ledger:
            snapshot = await self._write(key, snapshot, after)
        elif before is not None:
            return None  # a refusal must not rest on a copy that is older than the question
        lanes.answer_all(answers)
        return snapshot

    async def _read(self, key: Key) -> Snapshot[L]:
        try:
            body = await self._client.get(names.QUOTA_LEDGERS, key[1], key[0])
        except apierrors.NotFoundError as error:
            self._known.pop(key, None)
            raise NotReadyError(f"there is no ledger {key[0]}/{key[1]} yet") from error
        return self._noted(key, Snapshot(body, self._parse(body)))

    def _noted(self, key: Key, found: Snapshot[L]) -> Snapshot[L]:
        notes = self._notes(found.ledger)
        if notes:  # at each read until the next write drops them: one line, however many there are
            extra = {"ledger": "/".join(key), "count": len(notes), "first": notes[0]}
            _logger.warning("ledger entries ignored", extra=extra)
        self._remember(key, found)
        return found

    async def _write(self, key: Key, before: Snapshot[L], after: L, **changes: Any) -> Snapshot[L]:
        """Write `after` and further status fields at the version of `before`."""
        metadata = before.body["metadata"]
        status = {**self._render(before.body, after), **changes}
        status["observedGeneration"] = metadata.get("generation", 1)
        wanted = {
            "apiVersion": names.API_VERSION,
            "kind": names.QUOTA_LEDGERS.kind,
            "metadata": {key: metadata[key] for key in ("name", "namespace", "resourceVersion")},
            "spec": dict(bodies.spec_of(before.body)),
            "status": status,
        }
        body = await self._client.replace(names.QUOTA_LEDGERS, wanted, subresource="status")
        written = Snapshot(body, self._parse(body))
        self._remember(key, written)
        return written

    def _newest(self, key: Key) -> Snapshot[L] | None:
        known, seen = self._known.get(key), self._cached(*key)
        if seen is None:
            return known
        if known is not None and known.version >= version_of(seen):
            return known
        found = Snapshot(seen, self._parse(seen))
        self._remember(key, found)
        return found

    def _remember(self, key: Key, snapshot: Snapshot[L]) -> None:
        known = self._known.pop(key, None)
        newer = known if known is not None and known.version > snapshot.version else snapshot
        self._known[key] = newer
        if len(self._known) > REMEMBERED_LEDGERS:
            del self._known[next(iter(self._known))]

    def _require_ready(self, key: Key, snapshot: Snapshot[L]) -> None:
        if not self._is_ready(snapshot.ledger):
            raise NotReadyError(f"the ledger {key[0]}/{key[1]} is not initialised yet")


def repair_times(before: Mapping[str, Any], at: str) -> dict[str, str]:
    """Return the status fields that say when a ledger was first filled and last repaired."""
    return {"repairTime": at, "initializedTime": bodies.status_of(before).get("initializedTime") or at}
