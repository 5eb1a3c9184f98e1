"""Integrity: read stored bytes back at a bounded rate, and say whose are damaged or missing.

The order is kept in the Artifacts themselves: those whose `status.lastVerifiedTime` is oldest come first, so
a restart goes on where the last process was. For pins, which may have no Artifact, the store keeps the time.
Bytes are called damaged when they were read wrong twice; they are set aside, so that whoever stores the same
bytes again heals every Artifact that has them.
"""

import logging
from datetime import timedelta

from manifestry.adapters.kube import apierrors, calls
from manifestry.adapters.store.contract import ports
from manifestry.adapters.telemetry.storage_metrics import METRICS
from manifestry.core.artifacts import lives, scrubs
from manifestry.core.artifacts.scrubs import Due, Finding
from manifestry.core.kube import names
from manifestry.handlers.artifacts import pinscrubs, readbacks
from manifestry.handlers.runtime.registry import Context

_logger = logging.getLogger(__name__)

FIRST_AFTER_SECONDS = 60.0
LOOKS_PER_PERIOD = 24
PAUSE_MAX_SECONDS = 3600.0
WORK = 500  # Artifacts taken from one look at all of them
WRITE_ATTEMPTS = 3


class Scrubber:
    """Runs in the leader, beside the reconciles.

    Args:
        ctx: the operator's ports.
    """

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._readback = readbacks.Readback(ctx)
        self._pins = pinscrubs.PinScrub(ctx, self._readback, self._report)
        self._period = timedelta(seconds=ctx.settings.scrub_period_seconds)

    async def run(self) -> None:
        """Read everything back once a period, for ever; never, where the rate is 0."""
        period = self._ctx.settings.scrub_period_seconds
        pause = min(period / LOOKS_PER_PERIOD, PAUSE_MAX_SECONDS)
        await self._ctx.clock.sleep(min(pause, FIRST_AFTER_SECONDS))
        while True:
            more = self._ctx.settings.scrub_bytes_per_second > 0 and await self.once()
            await self._ctx.clock.sleep(0.0 if more else pause)

    async def once(self) -> bool:
        """Read back the Artifacts, and the pins, that wait longest; tell whether there are more of them."""
        if self._ctx.guard is not None and not self._ctx.guard.is_ours:
            return False  # in another's store everything would be missing
        more = await self._artifacts()
        return await self._pins.once() or more

    async def _artifacts(self) -> bool:
        try:
            work = await self._due()
        except apierrors.ApiError as error:
            _logger.warning("artifacts not listed for the scrub", extra={"error": str(error)})
            return False
        progress = [await self._attempt(due) for due in work]
        return len(work) == WORK and any(progress)

    async def _due(self) -> list[Due]:
        now, found = self._ctx.clock.now(), list[Due]()
        async for page in self._ctx.client.pages(names.ARTIFACTS):
            each = (scrubs.due(body, now, self._period) for body in page)
            found = scrubs.first([*found, *(due for due in each if due is not None)], WORK)
        return found

    async def _attempt(self, due: Due) -> bool:
        try:
            await self.verify(due.namespace, due.name)
        except (apierrors.ApiError, ports.StoreError) as error:
            METRICS.scrub_failures.inc()
            _logger.warning(
                "artifact not read back",
                extra={"namespace": due.namespace, "artifact": due.name, "error": str(error)},
            )
            return False
        return True

    async def verify(self, namespace: str, name: str) -> None:
        """Read back what one Artifact has, and write down what came of it."""
        body = await self._find(namespace, name)
        tenant_uid = self._ctx.caches.tenant_uid(namespace)
        if body is None or tenant_uid is None or not lives.is_ready(body):
            return
        parts = scrubs.parts(body)
        results = {
            part.digest: await self._readback.check(tenant_uid, part.digest, part.size_bytes)
            for part in parts
        }
        for digest, result in results.items():
            match result:
                case "Damaged" | "Missing":
                    await self._report(namespace, digest, result)
        if set(results.values()) == {"Sound"}:
            await self._write_verified(namespace, name, frozenset(results))

    async def _report(self, namespace: str, digest: str, finding: Finding) -> None:
        """Tell every Artifact of the tenant that has these bytes; that wakes it to repair what it can."""
        METRICS.findings.labels(finding).inc()
        _logger.error(
            "stored bytes found bad", extra={"namespace": namespace, "digest": digest, "finding": finding}
        )
        async for page in self._ctx.client.pages(names.ARTIFACTS, namespace):
            for body in page:
                if lives.is_ready(body) and any(part.digest == digest for part in scrubs.parts(body)):
                    await self._write_broken(body, digest, finding)

    async def _write_broken(self, body: calls.Object, digest: str, finding: Finding) -> None:
        now, namespace, name = self._ctx.clock.now(), body["metadata"]["namespace"], body["metadata"]["name"]
        for _ in range(WRITE_ATTEMPTS):
            if await self._write(body, scrubs.broken(body, digest, finding, now)):
                await self._tell(body, digest, finding)
                return
            found = await self._find(namespace, name)
            if found is None or not lives.is_ready(found):
                return  # it is being looked at anyway
            body = found

    async def _tell(self, body: calls.Object, digest: str, finding: Finding) -> None:
        now, instance = self._ctx.clock.now(), self._ctx.settings.identity
        event = scrubs.event(body, finding, scrubs.message(body, digest, finding), now, instance)
        try:
            await self._ctx.client.create(names.EVENTS, event, event["metadata"]["namespace"])
        except apierrors.ApiError as error:  # the condition says the same
            _logger.warning("event not written", extra={"error": str(error)})

    async def _write_verified(self, namespace: str, name: str, read: frozenset[str]) -> None:
        """Write the time, unless the Artifact has changed meanwhile: then it will be its turn again."""
        body = await self._find(namespace, name)
        if body is not None and lives.is_ready(body) and {each.digest for each in scrubs.parts(body)} <= read:
            await self._write(body, scrubs.verified(body, self._ctx.clock.now()))

    async def _write(self, body: calls.Object, status: calls.Object) -> bool:
        try:
            await self._ctx.client.replace(names.ARTIFACTS, {**body, "status": status}, subresource="status")
        except apierrors.ConflictError:
            return False
        except apierrors.NotFoundError:
            return True
        return True

    async def _find(self, namespace: str, name: str) -> calls.Object | None:
        try:
            return await self._ctx.client.get(names.ARTIFACTS, name, namespace)
        except apierrors.NotFoundError:
            return None
