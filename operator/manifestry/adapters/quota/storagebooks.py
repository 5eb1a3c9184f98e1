"""The tenants' storage ledgers in the cluster: facade and operator charge, the operator counts."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from manifestry.adapters.kube import apierrors, cluster
from manifestry.adapters.quota import books, lanes
from manifestry.adapters.quota.books import DEADLINE_SECONDS, Cached, ContentionError, nothing_cached
from manifestry.adapters.telemetry import quota_metrics
from manifestry.core.kube import bodies, names
from manifestry.core.quota.storage import charges, grants, recounts
from manifestry.core.quota.storage.charges import LEDGER, Account, Charge
from manifestry.core.quota.storage.grants import Grant, Wanted
from manifestry.core.quota.storage.limits import Limits
from manifestry.core.quota.storage.lives import Live
from manifestry.core.quota.storage.recounts import Recount

RECOUNT_ATTEMPTS = 5

Observe = Callable[[], Awaitable[Iterable[Live]]]


class StorageBooks(books.LedgerBooks[Account]):
    """One ledger for each tenant whose storage is limited; the others have none, and cost nothing.

    Args:
        client: the Kubernetes client of this process.
        cached: the newest body a watch has seen of (namespace, name), or None; only a hint.
        now: the clock of charges and of their leases.
        deadline_seconds: how long a caller waits before ContentionError.
        metrics: counts lost races, and what recounts give back.
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

    async def reserve(self, namespace: str, wanted: Wanted, limits: Limits) -> Grant:
        """Charge bytes before they are accepted.

        Raises:
            LedgerError, ApiError: as `transact`.
        """
        return await self.transact(
            namespace, LEDGER, lambda account: grants.reserve(account, wanted, limits, self._now())
        )

    async def restore(self, namespace: str, charge: Charge, before: Charge | None) -> bool:
        """Take a charge back unless somebody has changed it; tell whether it was."""
        return await self.transact(namespace, LEDGER, lambda account: grants.restore(account, charge, before))

    async def land(self, namespace: str, wanted: Wanted, key: str, limits: Limits) -> Grant:
        """Turn an upload's charge into that of its stored bytes, before they are recorded; safe to repeat.

        Raises:
            LedgerError, ApiError: as `transact`.
        """
        return await self.transact(
            namespace,
            LEDGER,
            lambda account: grants.land(account, wanted, key, limits, self._now()),
        )

    async def trim(self, namespace: str, wanted: Wanted) -> bool:
        """Give back what an artifact's own charge holds above what is wanted; tell whether it did."""
        return await self.transact(
            namespace, LEDGER, lambda account: grants.trim(account, wanted, self._now())
        )

    async def release(self, namespace: str, key: str) -> bool:
        """Give back what an upload was charged; tell whether it was."""
        return await self.transact(namespace, LEDGER, lambda account: grants.release(account, key))

    async def commit(
        self, namespace: str, charge: Charge, size_bytes: int, recorded: Iterable[str] = ()
    ) -> bool:
        """Turn an artifact's charges into a part of the totals; tell whether its own still stood."""
        return await self.transact(
            namespace, LEDGER, lambda account: grants.commit(account, charge, size_bytes, recorded)
        )

    def account(self, namespace: str) -> Account | None:
        """Return the newest account this process knows of, without asking; None for unknown."""
        return self.snapshot(namespace, LEDGER)

    async def recount(self, namespace: str, observe: Observe) -> Recount:
        """Read the ledger, made where there is none, THEN list the Artifacts, then correct the ledger.

        Args:
            namespace: the tenant's namespace.
            observe: lists the Artifacts live; called after each read of the ledger.

        Raises:
            ContentionError: artifacts were committed during every attempt.
            ApiError: the API server refuses or does not answer.
        """
        for _ in range(RECOUNT_ATTEMPTS):
            await self._ensure((namespace, LEDGER), {"storage": {}})
            try:
                before = await self._read((namespace, LEDGER))
            except books.NotReadyError:  # deleted under our hands
                continue
            now = self._now()  # before the listing: a slow one must not make a young charge look old
            live = tuple(await observe())
            found = await self._settled(namespace, before.ledger, live, now)
            if found is not None:
                for cause in found.released.values():
                    self._metrics.released.labels(cause).inc()
                return found
        raise ContentionError(f"the ledger {namespace}/{LEDGER} was committed to during every recount")

    async def _settled(
        self, namespace: str, seen: Account, live: tuple[Live, ...], now: datetime
    ) -> Recount | None:
        """Write the recount on whatever the ledger is now; None when the totals have moved."""
        key = (namespace, LEDGER)
        deadline = asyncio.get_running_loop().time() + self._deadline_seconds
        attempt = 0
        while True:
            snapshot = await self._read(key)
            after, found = recounts.recount(snapshot.ledger, seen, live, now)
            if found is None or not found.changed:
                return found
            try:
                at = charges.format_time(self._now())
                await self._write(key, snapshot, after, **books.repair_times(snapshot.body, at))
            except apierrors.ConflictError:
                self._metrics.conflicts.inc()
                if asyncio.get_running_loop().time() > deadline:
                    raise ContentionError(f"the ledger {namespace}/{LEDGER} is contended") from None
                attempt += 1
                await asyncio.sleep(lanes.backoff_seconds(attempt))
            else:
                return found

    async def remove(self, namespace: str) -> None:
        """Delete the ledger of a tenant without a limit: what is stored from now on is not counted in it."""
        key = (namespace, LEDGER)
        try:
            await self._client.delete(names.QUOTA_LEDGERS, LEDGER, namespace)
        except apierrors.NotFoundError:
            pass
        finally:
            self._known.pop(key, None)

    async def exists(self, namespace: str) -> bool:
        """Tell whether the API server has the ledger."""
        try:
            await self._read((namespace, LEDGER))
        except books.NotReadyError:
            return False
        return True

    def _parse(self, body: Mapping[str, Any]) -> Account:
        return charges.parse(body)

    def _render(self, before: Mapping[str, Any], after: Account) -> dict[str, Any]:
        return {**bodies.status_of(before), **charges.render(after)}

    def _is_ready(self, ledger: Account) -> bool:
        return ledger.initialized

    def _notes(self, ledger: Account) -> tuple[str, ...]:
        return ledger.notes
