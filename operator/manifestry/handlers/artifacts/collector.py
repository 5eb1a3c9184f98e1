"""Garbage: look at every blob of every tenant now and then, mark what nothing refers to, remove it later.

Everything is read page by page; of a tenant's references 8 bytes each are held, of its pins 16.
`core.blobs.garbage` decides, `adapters.store.inventory` removes.

What may go is looked up once more under the claims: all Artifacts of the tenant, live, as a copy that a
watch keeps may be late by any time; and those pins that were written since the run has read them all, as the
others name nothing that it removes. So what a look costs is shared by as many removals as the store lets be
claimed at once.
"""

import logging
from array import array
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from datetime import timedelta

from manifestry.adapters.kube import apierrors, calls
from manifestry.adapters.queues import pacing
from manifestry.adapters.store import inventory
from manifestry.adapters.store.contract import ports
from manifestry.adapters.telemetry.storage_metrics import METRICS
from manifestry.core.blobs import garbage
from manifestry.core.blobs.garbage import Named, Observed, References, Referrers
from manifestry.core.kube import names
from manifestry.handlers.artifacts import gonetenants
from manifestry.handlers.runtime.registry import Context

_logger = logging.getLogger(__name__)

FIRST_AFTER_SECONDS = 300.0  # a process that keeps restarting must not list the store each time
REAP_SECONDS = 60.0
LOOK_SECONDS = 60.0  # how late a run may begin
PAGE = 1000
BATCH = 2000  # blobs removed after one look at the Artifacts, unless the store allows fewer
BLOBS_PER_SECOND = 2000.0
REMOVALS_PER_SECOND = 50.0

_SOMEBODY = Referrers(("",))


@dataclass
class _Pass:
    """One way through a tenant's blobs.

    Args:
        namespace: the tenant's, None when it is gone: then only pins keep bytes.
        pins: versions of the pins that are among the references.
        full: the store had no room for a mark.
    """

    tenant_uid: str
    namespace: str | None
    references: References = field(default_factory=lambda: References(array("Q")))
    pins: set[bytes] = field(default_factory=set)
    full: ports.StoreFullError | None = None


class Collector:
    """Runs in the leader, beside the reconciles.

    Args:
        ctx: the operator's ports.
    """

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._inventory = inventory.Inventory(ctx.store)
        self._tenants = gonetenants.GoneTenants(ctx)
        self._grace = timedelta(seconds=ctx.settings.gc_grace_seconds)
        self._looks = pacing.Pace(BLOBS_PER_SECOND, ctx.clock)
        self._removals = pacing.Pace(REMOVALS_PER_SECOND, ctx.clock)
        self._batch = min(BATCH, self._inventory.at_once)

    async def run(self) -> None:
        """Collect every `gc_period_seconds`, for ever."""
        period = self._ctx.settings.gc_period_seconds
        next_run = self._ctx.clock.monotonic() + min(period, FIRST_AFTER_SECONDS)
        while True:
            await self._ctx.clock.sleep(min(LOOK_SECONDS, period) if period else LOOK_SECONDS)
            if period and self._ctx.clock.monotonic() >= next_run:
                next_run = self._ctx.clock.monotonic() + period
                await self.once()

    async def reap(self) -> None:
        """Take dead collectors' claims away every minute, for ever, also while a run takes hours."""
        while True:
            await self._ctx.clock.sleep(REAP_SECONDS)
            await self._attempt_reap()

    async def once(self) -> bool:
        """Collect every tenant's garbage; one's failure stops no other; tell whether all succeeded."""
        try:
            if not await self._is_ours():
                return False
            known = await self._namespaces()
            tenants = await self._inventory.tenants()
        except (apierrors.ApiError, ports.StoreError) as error:
            self._failed(error)
            return False
        namespaces = {uid: name for name, uid in known.items()}
        self._tenants.begin()
        succeeded = [await self._attempt(uid, namespaces.get(uid)) for uid in tenants]
        self._tenants.report()
        if all(succeeded):
            METRICS.success.set(self._ctx.clock.now().timestamp())
        return all(succeeded)

    async def _namespaces(self) -> dict[str, str]:
        found: dict[str, str] = {}
        async for page in self._ctx.client.pages(names.NAMESPACES):
            found |= {item["metadata"]["name"]: item["metadata"]["uid"] for item in page}
        return found

    async def _is_ours(self) -> bool:
        """Tell whether this store holds the bytes of this cluster; of another's we would see only garbage."""
        guard = self._ctx.guard
        if guard is not None:
            await guard.check()
            if guard.is_ours:
                return True
        METRICS.failures.inc()
        _logger.error("the store is not known to be this cluster's; nothing is collected")
        return False

    async def _attempt_reap(self) -> None:
        try:
            reaped = await self._inventory.reap()
        except ports.StoreError as error:
            self._failed(error)
        else:
            if reaped:
                _logger.warning("claims of a dead collector removed", extra={"count": reaped})

    async def _attempt(self, tenant_uid: str, namespace: str | None) -> bool:
        try:
            await self._collect(tenant_uid, namespace)
        except (apierrors.ApiError, ports.StoreError, garbage.PinError) as error:
            self._failed(error, tenant_uid)
            return False
        except Exception:  # an outermost boundary: the other tenants, and the next run
            METRICS.failures.inc()
            _logger.exception("garbage not collected", extra={"tenant_uid": tenant_uid})
            return False
        return True

    def _failed(self, error: Exception, tenant_uid: str = "") -> None:
        METRICS.failures.inc()
        _logger.warning(
            "garbage not collected",
            extra={"tenant_uid": tenant_uid, "error": f"{type(error).__name__}: {error}"},
        )

    async def _collect(self, tenant_uid: str, namespace: str | None) -> None:
        """Go once through a tenant's blobs.

        Args:
            tenant_uid: its namespace's uid.
            namespace: its name, None when it is gone: then only pins keep bytes.

        Raises:
            StoreFullError: not all could be marked or removed, but what could be was.
        """
        if not await self._tenants.may_collect(tenant_uid, namespace):
            return
        going = _Pass(tenant_uid, namespace)
        await self._empty_quarantine(tenant_uid, is_gone=namespace is None)  # makes room
        await self._prepare(going)
        await self._inventory.adopt(tenant_uid)
        going.references = await self._references(going)
        left = await self._go_through(going)
        if going.full is not None:
            raise going.full
        if namespace is None and left == 0 and await self._tenants.forget(tenant_uid):
            await self._inventory.prune(tenant_uid)

    async def _prepare(self, going: _Pass) -> None:
        try:
            await self._inventory.prepare(going.tenant_uid)
        except ports.StoreFullError:  # what an earlier run has prepared must do
            _logger.warning("the store is full", extra={"tenant_uid": going.tenant_uid})

    async def _go_through(self, going: _Pass) -> int:
        """Return how many blobs are left."""
        expired: list[str] = []
        left, after = 0, ""
        while True:
            page = await self._inventory.page(going.tenant_uid, after=after, limit=PAGE)
            await self._looks.spend(len(page.blobs))
            expired += await self._sort(going, page)
            left += len(page.blobs)
            while len(expired) >= self._batch or (expired and not page.last):
                batch, expired = expired[: self._batch], expired[self._batch :]
                done = await self._remove(going, batch)
                left -= len(done.removed)
                expired = done.unclaimed + expired
            if not page.last:
                return left
            after = page.last

    async def _references(self, going: _Pass) -> References:
        """Read what a tenant refers to: Artifacts first, as a pin is written while its Artifact is there."""
        found = array("Q")
        async for bodies in self._artifacts(going.namespace):
            garbage.pack(found, (digest for body in bodies for digest in garbage.digests_of(body)))
        async for pin in self._inventory.pins(going.tenant_uid, going.pins):
            garbage.pack(found, pin.digests)
        return References(found)

    async def _artifacts(self, namespace: str | None) -> AsyncIterator[list[calls.Object]]:
        if namespace is not None:
            async for page in self._ctx.client.pages(names.ARTIFACTS, namespace):
                yield page

    async def _sort(self, going: _Pass, page: inventory.Page) -> list[str]:
        """Mark and unmark the blobs of a page; return those that are to be removed."""
        now = self._ctx.clock.now()
        to_mark, unmark, expired = [], set(page.marks) - {blob.digest for blob in page.blobs}, []
        for blob in page.blobs:
            referrers = _SOMEBODY if blob.digest in going.references else None
            observed = Observed(blob, referrers, page.marks.get(blob.digest), now, self._grace)
            verdict = garbage.explain(observed)
            if verdict.action == "mark":
                to_mark.append(blob.digest)
            elif verdict.action == "remove":
                expired.append(blob.digest)
            elif verdict.reason in {"Referenced", "Pinned"} and blob.digest in page.marks:
                unmark.add(blob.digest)
        await self._note(going, to_mark, unmark)
        return expired

    async def _note(self, going: _Pass, to_mark: list[str], unmark: Iterable[str]) -> None:
        await self._inventory.unmark(going.tenant_uid, unmark)
        try:
            await self._inventory.mark(going.tenant_uid, to_mark)
        except ports.StoreFullError as error:  # what is marked already may go all the same
            going.full = error
        else:
            METRICS.marked.inc(len(to_mark))

    async def _remove(self, going: _Pass, expired: list[str]) -> inventory.Removal:
        await self._removals.spend(len(expired))

        async def live(claimed: frozenset[str]) -> frozenset[str]:
            return await self._live(going, claimed)

        done = await self._inventory.remove(going.tenant_uid, expired, live, self._grace)
        self._adapt(going, done)
        size_bytes = sum(blob.size_bytes for blob in done.removed)
        METRICS.removed.inc(len(done.removed))
        METRICS.removed_bytes.inc(size_bytes)
        _logger.info(
            "garbage removed",
            extra={"tenant_uid": going.tenant_uid, "count": len(done.removed), "size_bytes": size_bytes},
        )
        return done

    async def _live(self, going: _Pass, claimed: frozenset[str]) -> frozenset[str]:
        """Return what something refers to now of what is claimed.

        A pin that the pass has read names nothing that is claimed: else that were among its references.
        """
        named = Named(claimed)
        async for bodies in self._artifacts(going.namespace):
            for body in bodies:
                named.add(body)
        async for pin in self._inventory.pins(going.tenant_uid, set(going.pins)):
            named.add_pin(pin)
        return named.digests

    def _adapt(self, going: _Pass, done: inventory.Removal) -> None:
        """Remove fewer at once after a batch that took too long, and more again after one that did not."""
        if not done.late:
            self._batch = min(2 * self._batch, BATCH, self._inventory.at_once)
            return
        self._batch = max(self._batch // 2, 1)
        METRICS.failures.inc()
        _logger.warning(
            "the store has refused removals that came too late, or its clock is behind",
            extra={"tenant_uid": going.tenant_uid, "count": len(done.late)},
        )

    async def _empty_quarantine(self, tenant_uid: str, *, is_gone: bool) -> None:
        before = self._ctx.clock.now() - (self._grace if is_gone else garbage.QUARANTINE)
        async for item in self._inventory.quarantined(tenant_uid):
            if item.modified < before:
                await self._inventory.discard(item)
