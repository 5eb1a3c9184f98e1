"""Uploads that nobody goes on with: found by looking through the store now and then, and removed.

There is no object in the Kubernetes API for an upload, so there is nothing to reconcile, only this.
"""

import logging
from collections import Counter
from dataclasses import dataclass, field
from datetime import timedelta

from manifestry.adapters import cluster, sessions
from manifestry.core import conditions, names, uploads
from manifestry.handlers.registry import Context

_logger = logging.getLogger(__name__)

# The store is listed as a whole, so not at each resync; at the latest this long after something has expired.
EVERY_SECONDS = 600.0


@dataclass
class Collector:
    """Removes abandoned sessions, abandoned plain uploads, and slots without a session.

    Args:
        sessions: the resumable uploads of the store.
    """

    sessions: sessions.Sessions
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
        expiry = timedelta(seconds=ctx.settings.upload_expiry_seconds)
        async for entry in self.sessions.entries():
            match uploads.verdict(entry, ctx.clock.now(), expiry):
                case "remove":
                    counts[await self._remove(entry)] += 1
                case "ask" if isinstance(entry, uploads.State) and not await _is_awaited(ctx, entry.session):
                    counts[await self._remove(entry)] += 1
                case _:
                    pass
        freed = await self.sessions.free_slots(ctx.clock.now() - uploads.GRACE)
        return counts + Counter(slots=freed)

    async def _remove(self, entry: uploads.State | uploads.Leftover) -> str:
        match entry:
            case uploads.State(session):
                await self.sessions.abort(session)
                return "sessions"
            case uploads.Leftover():
                await self.sessions.remove(entry)
                return "leftovers"


async def _is_awaited(ctx: Context, session: uploads.Session) -> bool:
    try:
        found = await ctx.client.get(names.ARTIFACTS, session.artifact_name, session.namespace)
    except cluster.NotFoundError:
        found = None
    has_failed = found is not None and conditions.kstatus(found) == "Failed"
    return uploads.is_awaited(session, found, has_failed=has_failed)
