"""Uploads that nobody goes on with: found by looking through the store now and then, and removed.

There is no object in the Kubernetes API for an upload, so there is nothing to reconcile, only this.
"""

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import NamedTuple

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

Entry = uploads.State | uploads.Leftover


class _Sight(NamedTuple):
    """When bytes without a session were seen first, and which downloads were under way: perhaps theirs."""

    at: datetime
    fetching: "frozenset[asyncio.Task[None]]"


@dataclass
class Collector:
    """Removes abandoned sessions, abandoned plain uploads, and slots without a session.

    Args:
        sessions: the resumable uploads of the store.
    """

    sessions: session_ports.Sessions
    _next: float = field(default=float("-inf"), init=False)
    _sights: dict[str, _Sight] = field(default_factory=dict, init=False)

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
        async for found in self.sessions.entries():
            entry = self._dated(ctx, found)
            known.add(uploads.upload_id(entry))
            match self._verdict(ctx, entry, expiry):
                case "remove":
                    counts[await self._remove(ctx, entry)] += 1
                case "ask" if isinstance(entry, uploads.State) and not await _is_awaited(ctx, entry.session):
                    counts[await self._remove(ctx, entry)] += 1
                case _:
                    pass
        freed = await self.sessions.free_slots(ctx.clock.now() - uploads.GRACE)
        charges = await _give_back_unknown(ctx, known, started - uploads.GRACE)
        self._sights = {each: sight for each, sight in self._sights.items() if each in known}
        return counts + Counter(slots=freed, charges=charges)

    def _dated(self, ctx: Context, entry: Entry) -> Entry:
        """Return a leftover as old as we know it: an S3 object in parts has the time of its first request."""
        if isinstance(entry, uploads.State):
            return entry
        if entry.upload_id not in self._sights:
            fetching = frozenset() if ctx.fetches is None else ctx.fetches.under_way()
            self._sights[entry.upload_id] = _Sight(ctx.clock.now(), fetching)
        return replace(entry, touched=max(entry.touched, self._sights[entry.upload_id].at))

    def _verdict(self, ctx: Context, entry: Entry, expiry: timedelta) -> uploads.Verdict:
        verdict = uploads.verdict(entry, ctx.clock.now(), expiry)
        is_old = verdict == "remove" and isinstance(entry, uploads.Leftover)
        return "keep" if is_old and self._is_fetched(ctx, uploads.upload_id(entry)) else verdict

    def _is_fetched(self, ctx: Context, upload_id: str) -> bool:
        """Tell whether bytes were fetched for an Artifact that waits for its other files, or may still be.

        Asked for each, not once for all: a fetch may have ended since the listing began.
        """
        if ctx.fetches is None:
            return False
        return upload_id in ctx.fetches.staged() or bool(
            self._sights[upload_id].fetching & ctx.fetches.under_way()
        )

    async def _remove(self, ctx: Context, entry: Entry) -> str:
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
