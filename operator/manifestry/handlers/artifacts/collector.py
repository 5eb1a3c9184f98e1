"""Garbage: look at every blob of every tenant now and then, mark what nothing refers to, remove it later.

Everything is read page by page; of a tenant's references 8 bytes each are held. `core.blobs.garbage` decides,
`adapters.store.inventory` removes.
"""

import logging
from array import array
from collections.abc import AsyncIterator, Iterable, Mapping
from datetime import timedelta

from manifestry.adapters.kube import apierrors, calls
from manifestry.adapters.queues import pacing
from manifestry.adapters.store import inventory
from manifestry.adapters.store.contract import ports
from manifestry.adapters.telemetry.storage_metrics import METRICS
from manifestry.core.blobs import garbage
from manifestry.core.blobs.garbage import Blob, Named, Observed, References, Referrers
from manifestry.core.kube import names
from manifestry.handlers.runtime.registry import Context

_logger = logging.getLogger(__name__)

FIRST_AFTER_SECONDS = 300.0  # a process that keeps restarting must not list the store each time
REAP_SECONDS = 60.0
PAGE = 1000
BATCH = 200  # blobs removed after one look at the Artifacts; their publishers wait as long as that takes
BLOBS_PER_SECOND = 2000.0
REMOVALS_PER_SECOND = 50.0
QUARANTINE = timedelta(days=7)  # so long somebody may look at damaged bytes
SYSTEM_NAMESPACE = "kube-system"  # its uid is what the field takes for a cluster's identity

_SOMEBODY = Referrers(("",))


class Collector:
    """Runs in the leader, beside the reconciles.

    Args:
        ctx: the operator's ports.
    """

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._inventory = inventory.Inventory(ctx.store)
        self._grace = timedelta(seconds=ctx.settings.gc_grace_seconds)
        self._looks = pacing.Pace(BLOBS_PER_SECOND, ctx.clock)
        self._removals = pacing.Pace(REMOVALS_PER_SECOND, ctx.clock)

    async def run(self) -> None:
        """Collect every `gc_period_seconds`, for ever; take dead collectors' claims away in between."""
        period = self._ctx.settings.gc_period_seconds
        next_run = self._ctx.clock.monotonic() + min(period, FIRST_AFTER_SECONDS)
        while True:
            wait = min(REAP_SECONDS, period) if period else REAP_SECONDS
            await self._ctx.clock.sleep(wait)
            await self._attempt_reap()
            if period and self._ctx.clock.monotonic() >= next_run:
                next_run = self._ctx.clock.monotonic() + period
                await self.once()

    async def once(self) -> bool:
        """Collect every tenant's garbage; one's failure stops no other; tell whether all succeeded."""
        try:
            known = await self._namespaces()
            if not await self._is_ours(known):
                return False
            tenants = await self._inventory.tenants()
        except (apierrors.ApiError, ports.StoreError) as error:
            self._failed(error)
            return False
        namespaces = {uid: name for name, uid in known.items()}
        succeeded = [await self._attempt(uid, namespaces.get(uid)) for uid in tenants]
        if all(succeeded):
            METRICS.success.set(self._ctx.clock.now().timestamp())
        return all(succeeded)

    async def _namespaces(self) -> dict[str, str]:
        found: dict[str, str] = {}
        async for page in self._ctx.client.pages(names.NAMESPACES):
            found |= {item["metadata"]["name"]: item["metadata"]["uid"] for item in page}
        return found

    async def _is_ours(self, namespaces: Mapping[str, str]) -> bool:
        """Tell whether this store holds the bytes of this cluster; of another's we would see only garbage."""
        mine = namespaces.get(SYSTEM_NAMESPACE, "")
        owner = await self._inventory.own(mine, self._ctx.clock.now()) if mine else ""
        if mine and owner == mine:
            return True
        METRICS.failures.inc()
        _logger.error(
            "the store belongs to another cluster; nothing is collected", extra={"owner": owner, "self": mine}
        )
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
        """
        kept = await self._references(tenant_uid, namespace)
        expired: list[str] = []
        left, after = 0, ""
        while True:
            page = await self._inventory.blobs(tenant_uid, after=after, limit=PAGE)
            await self._looks.spend(len(page))
            last = page[-1].digest if len(page) == PAGE else ""
            expired += await self._sort(tenant_uid, page, kept, (after, last))
            left += len(page)
            while len(expired) >= BATCH or (expired and not last):
                left -= await self._remove(tenant_uid, namespace, expired[:BATCH])
                expired = expired[BATCH:]
            if not last:
                break
            after = last
        await self._empty_quarantine(tenant_uid, is_gone=namespace is None)
        if namespace is None and left == 0:
            await self._inventory.prune(tenant_uid)

    async def _references(self, tenant_uid: str, namespace: str | None) -> References:
        """Read what a tenant refers to: Artifacts first, as a pin is written while its Artifact is there."""
        found = array("Q")
        async for bodies in self._artifacts(namespace):
            garbage.pack(found, (digest for body in bodies for digest in garbage.digests_of(body)))
        async for pin in self._inventory.pins(tenant_uid):
            garbage.pack(found, pin.digests)
        return References(found)

    async def _artifacts(self, namespace: str | None) -> AsyncIterator[list[calls.Object]]:
        if namespace is not None:
            async for page in self._ctx.client.pages(names.ARTIFACTS, namespace):
                yield page

    async def _sort(
        self, tenant_uid: str, page: list[Blob], kept: References, span: tuple[str, str]
    ) -> list[str]:
        """Mark and unmark the blobs of a page; return those that are to be removed."""
        now = self._ctx.clock.now()
        marks = {mark.digest: mark.since async for mark in self._marks(tenant_uid, span)}
        to_mark, unmark, expired = [], set(marks) - {blob.digest for blob in page}, []
        for blob in page:
            referrers = _SOMEBODY if blob.digest in kept else None
            observed = Observed(blob, referrers, marks.get(blob.digest), now, self._grace)
            verdict = garbage.explain(observed)
            if verdict.action == "mark":
                to_mark.append(blob.digest)
            elif verdict.action == "remove":
                expired.append(blob.digest)
            elif verdict.reason in {"Referenced", "Pinned"} and blob.digest in marks:
                unmark.add(blob.digest)
        await self._note(tenant_uid, to_mark, unmark)
        return expired

    def _marks(self, tenant_uid: str, span: tuple[str, str]) -> AsyncIterator[inventory.Mark]:
        return self._inventory.marks(tenant_uid, after=span[0], upto=span[1])

    async def _note(self, tenant_uid: str, to_mark: list[str], unmark: Iterable[str]) -> None:
        await self._inventory.mark(tenant_uid, to_mark)
        await self._inventory.unmark(tenant_uid, unmark)
        METRICS.marked.inc(len(to_mark))

    async def _remove(self, tenant_uid: str, namespace: str | None, expired: list[str]) -> int:
        await self._removals.spend(len(expired))

        async def live(claimed: frozenset[str]) -> frozenset[str]:
            named = Named(claimed)
            async for bodies in self._artifacts(namespace):
                for body in bodies:
                    named.add(body)
            async for pin in self._inventory.pins(tenant_uid):
                named.add_pin(pin)
            return named.digests

        done = await self._inventory.remove(tenant_uid, expired, live, self._grace)
        if done.late:
            METRICS.failures.inc()
            _logger.warning(
                "the store has refused removals that came too late, or its clock is behind",
                extra={"tenant_uid": tenant_uid, "count": len(done.late)},
            )
        size_bytes = sum(blob.size_bytes for blob in done.removed)
        METRICS.removed.inc(len(done.removed))
        METRICS.removed_bytes.inc(size_bytes)
        _logger.info(
            "garbage removed",
            extra={"tenant_uid": tenant_uid, "count": len(done.removed), "size_bytes": size_bytes},
        )
        return len(done.removed)

    async def _empty_quarantine(self, tenant_uid: str, *, is_gone: bool) -> None:
        before = self._ctx.clock.now() - (self._grace if is_gone else QUARANTINE)
        async for item in self._inventory.quarantined(tenant_uid):
            if item.modified < before:
                await self._inventory.discard(item)
