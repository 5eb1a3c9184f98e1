"""The one periodic loop: what events may have missed is found here, at the latest after a minute."""

import asyncio
import logging
from collections.abc import Mapping

from manifestry.adapters.kube import apierrors
from manifestry.adapters.quota import books
from manifestry.adapters.store.contract import ports
from manifestry.adapters.telemetry import metrics
from manifestry.core.kube import conditions, names
from manifestry.handlers import prerequisites
from manifestry.handlers.runtime import caches
from manifestry.handlers.runtime.registry import Context, Resync

_logger = logging.getLogger(__name__)

FULL_EVERY = 10  # each tenth time the settled objects are looked at, too
# Not defects of ours.
EXPECTED = (apierrors.ApiError, books.LedgerError, ports.StoreUnavailableError, ports.StoreFullError)
PART_SECONDS = 300.0  # a part that takes longer is broken, and must not stop the others for ever


class Resyncs:
    """Lists what is watched, corrects the caches, wakes what is not settled, calls each module's `resync`.

    Args:
        ctx: the operator's ports.
        modules: the modules' own resyncs, by kind.
        process: metrics.
    """

    def __init__(self, ctx: Context, modules: Mapping[str, Resync], process: metrics.ProcessMetrics) -> None:
        self._ctx = ctx
        self._modules = modules
        self._metrics = process
        self._count = 0
        self.last_success = float("-inf")

    async def run(self) -> None:
        """Resync now and then every `resync_seconds`, for ever."""
        while True:
            await self.once()
            await self._ctx.clock.sleep(self._ctx.settings.resync_seconds)

    async def once(self) -> bool:
        """Resync; one part's failure stops no other part; tell whether all succeeded."""
        started = self._ctx.clock.monotonic()
        parts: dict[str, Resync] = {"caches": self._refresh, "artifacts": self._sweep, **self._modules}
        failed = [name for name, part in parts.items() if not await self._attempt(name, part)]
        self._count += 1
        self._metrics.resync_seconds.observe(self._ctx.clock.monotonic() - started)
        if not failed:
            self.last_success = self._ctx.clock.monotonic()
            self._metrics.resync_success.set(self._ctx.clock.now().timestamp())
        return not failed

    async def _attempt(self, name: str, part: Resync) -> bool:
        try:
            async with asyncio.timeout(PART_SECONDS):
                await part(self._ctx)
        except Exception as error:  # an outermost boundary: the next run may succeed
            expected = isinstance(error, EXPECTED)
            _logger.log(
                logging.WARNING if expected else logging.ERROR,
                "resync failed",
                extra={"part": name, "error": f"{type(error).__name__}: {error}"},
                exc_info=None if expected else error,
            )
            self._metrics.resync_failures.labels(name).inc()
            return False
        return True

    async def _refresh(self, ctx: Context) -> None:
        for resource in caches.CACHED:
            for name in await prerequisites.refresh(ctx.client, ctx.caches, resource):
                ctx.queue.add((resource.kind, "", name))

    async def _sweep(self, ctx: Context) -> None:
        """Wake the Artifacts; the module for ledgers wakes the Jobs, which it has listed anyway."""
        full = self._count % FULL_EVERY == 0
        async for page in ctx.client.pages(names.ARTIFACTS):
            for item in page:
                if full or conditions.kstatus(item) != "Current":
                    metadata = item["metadata"]
                    ctx.queue.add((names.ARTIFACTS.kind, metadata["namespace"], metadata["name"]))
