"""Uploads that nobody goes on with: found by looking through the store now and then, and removed.

There is no object in the Kubernetes API for an upload, so there is nothing to reconcile, only this.
"""

import contextlib
import logging
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from manifestry.adapters.kube import apierrors
from manifestry.adapters.quota.books import LedgerError
from manifestry.adapters.store.contract import session_ports
from manifestry.core.artifacts import lives, uploads
from manifestry.core.kube import conditions, names
from manifestry.core.quota.storage import charges as storage_charges
from manifestry.handlers.runtime.registry import Context

_logger = logging.getLogger(__name__)

# The store is listed as a whole, so not at each resync; at the latest this long after something has expired.
EVERY_SECONDS = 600.0


@dataclass
class Collector:
    """Removes abandoned sessions, abandoned plain uploads, and slots without a session.

    Args:
        sessions: the resumable uploads of the store.
    """

    sessions: session_ports.Sessions
    _next: float = field(default=float("-inf"), init=False)

    async def resync(self, ctx: Context) -> None:
        """Look through the store if it is time.

        Raises:
            StoreError: the store does not answer; the next resync tries again.
            ApiError: an Artifact could not be asked for.
        """
        if ctx.clock.monotonic() < self._next:
            return
        counts = await self.collect(ctx)
        self._next = ctx.clock.monotonic() + min(EVERY_SECONDS, ctx.settings.upload_expiry_seconds / 2)
        if counts:
            _logger.info("collected abandoned uploads", extra=dict(counts))

    async def collect(self, ctx: Context) -> Counter[str]:
        """Remove what is abandoned; return how many of each kind."""
        counts: Counter[str] = Counter()
        expiry, started = timedelta(seconds=ctx.settings.upload_expiry_seconds), ctx.clock.now()
        known: set[str] = set()
        async for entry in self.sessions.entries():
            known.add(entry.session.session_id if isinstance(entry, uploads.State) else entry.upload_id)
            match uploads.verdict(entry, ctx.clock.now(), expiry):
                case "remove":
                    counts[await self._remove(ctx, entry)] += 1
                case "ask" if isinstance(entry, uploads.State) and not await _is_awaited(ctx, entry.session):
                    counts[await self._remove(ctx, entry)] += 1
                case _:
                    pass
        freed = await self.sessions.free_slots(ctx.clock.now() - uploads.GRACE)
        charges = await _give_back_unknown(ctx, known, started - uploads.GRACE)
        return counts + Counter(slots=freed, charges=charges)

    async def _remove(self, ctx: Context, entry: uploads.State | uploads.Leftover) -> str:
        match entry:
            case uploads.State(session):
                await self.sessions.abort(session)
                await _give_back(ctx, session)
                return "sessions"
            case uploads.Leftover():
                await self.sessions.remove(entry)
                return "leftovers"


async def _give_back(ctx: Context, session: uploads.Session) -> None:
    """Give back what a session was charged that is gone; at the latest its lease ends that."""
    if ctx.storage is None:
        return
    key = storage_charges.upload(session.artifact_uid, session.session_id)
    with contextlib.suppress(LedgerError, apierrors.ApiError):  # also for a tenant without a quota
        await ctx.storage.books.release(session.namespace, key)


async def _give_back_unknown(ctx: Context, known: Collection[str], before: datetime) -> int:
    """Give back what is charged for sessions that were never made, or whose release did not arrive.

    Args:
        ctx: the operator's ports.
        known: everything that lies below `uploads/`.
        before: charges that were renewed later are left alone; well before `known` was listed.
    """
    if ctx.storage is None:
        return 0
    books, count = ctx.storage.books, 0
    for namespace in tuple(ctx.caches.namespaces):
        account = books.account(namespace)
        for key in storage_charges.resting(account, before) if account is not None else ():
            if storage_charges.token_of(key) not in known:
                with contextlib.suppress(LedgerError, apierrors.ApiError):
                    count += await books.release(namespace, key)
    return count


async def _is_awaited(ctx: Context, session: uploads.Session) -> bool:
    try:
        found = await ctx.client.get(names.ARTIFACTS, session.artifact_name, session.namespace)
    except apierrors.NotFoundError:
        found = None
    has_failed = found is not None and conditions.kstatus(found) == "Failed"
    is_lost = found is not None and lives.is_lost(found)
    return uploads.is_awaited(session, found, has_failed=has_failed, is_lost=is_lost)
