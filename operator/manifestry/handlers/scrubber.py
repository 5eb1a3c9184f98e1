"""Integrity: read stored bytes back at a bounded rate, and say whose are damaged or missing.

The order is kept in the Artifacts themselves: those whose `status.lastVerifiedTime` is oldest come first, so
a restart goes on where the last process was. Bytes are called damaged when they were read wrong twice; they
are set aside, so that whoever stores the same bytes again heals every Artifact that has them.
"""

import asyncio
import hashlib
import logging
from collections import OrderedDict
from contextlib import aclosing
from datetime import timedelta
from typing import Literal

from manifestry.adapters import cluster, inventory, pacing, store
from manifestry.adapters.storage_metrics import METRICS
from manifestry.core import artifacts, digests, names, scrubs
from manifestry.core.scrubs import Due, Finding, Part
from manifestry.handlers.registry import Context

_logger = logging.getLogger(__name__)

FIRST_AFTER_SECONDS = 60.0
LOOKS_PER_PERIOD = 24
PAUSE_MAX_SECONDS = 3600.0
WORK = 500  # Artifacts taken from one look at all of them
REMEMBERED = 10_000  # digests that many Artifacts share need to be read once in a period
WRITE_ATTEMPTS = 3

Key = tuple[str, str]
Result = Literal["Sound", "Damaged", "Missing", "Changed"]


class Scrubber:
    """Runs in the leader, beside the reconciles.

    Args:
        ctx: the operator's ports.
    """

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._inventory = inventory.Inventory(ctx.store)
        self._period = timedelta(seconds=ctx.settings.scrub_period_seconds)
        self._pace = pacing.Pace(ctx.settings.scrub_bytes_per_second, ctx.clock)
        self._sound: OrderedDict[Key, float] = OrderedDict()

    async def run(self) -> None:
        """Read everything back once a period, for ever; never, where the rate is 0."""
        period = self._ctx.settings.scrub_period_seconds
        pause = min(period / LOOKS_PER_PERIOD, PAUSE_MAX_SECONDS)
        await self._ctx.clock.sleep(min(pause, FIRST_AFTER_SECONDS))
        while True:
            more = self._ctx.settings.scrub_bytes_per_second > 0 and await self.once()
            await self._ctx.clock.sleep(0.0 if more else pause)

    async def once(self) -> bool:
        """Read back the Artifacts that wait longest; tell whether there are more of them."""
        try:
            work = await self._due()
        except cluster.ApiError as error:
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
        except (cluster.ApiError, store.StoreError) as error:
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
        if body is None or tenant_uid is None or not artifacts.is_ready(body):
            return
        results = {part.digest: await self._check(tenant_uid, part) for part in scrubs.parts(body)}
        for digest, result in results.items():
            match result:
                case "Damaged" | "Missing":
                    await self._report(namespace, digest, result)
        if set(results.values()) == {"Sound"}:
            await self._write_verified(namespace, name, frozenset(results))

    async def _check(self, tenant_uid: str, part: Part) -> Result:
        if self._is_known(tenant_uid, part.digest):
            return "Sound"
        seen = None
        for _ in range(2):  # a wrong bit may have come up on the way; twice the same, it is stored so
            if not await self._is_there(tenant_uid, part.digest):
                return "Missing"
            seen = await self._inventory.blob(tenant_uid, part.digest)
            if seen is None:
                return "Changed"
            if seen.size_bytes == part.size_bytes and await self._is_sound(tenant_uid, part):
                self._remember(tenant_uid, part.digest)
                return "Sound"
        assert seen is not None  # noqa: S101 - the loop has run
        return "Damaged" if await self._inventory.quarantine(tenant_uid, seen) else "Changed"

    async def _is_there(self, tenant_uid: str, digest: str) -> bool:
        try:
            return await self._ctx.store.confirm(tenant_uid, digest) is not None
        except store.BlobDamagedError:  # not even a file
            return True

    async def _is_sound(self, tenant_uid: str, part: Part) -> bool:
        sha256 = hashlib.sha256()
        try:
            async with aclosing(self._ctx.store.stream(tenant_uid, part.digest)) as views:
                async for view in views:
                    await asyncio.to_thread(sha256.update, view)
                    METRICS.scrubbed_bytes.inc(len(view))
                    await self._pace.spend(len(view))
        except store.BlobDamagedError:
            return False
        return digests.equal(f"{digests.ALGORITHM}:{sha256.hexdigest()}", part.digest)

    def _is_known(self, tenant_uid: str, digest: str) -> bool:
        read = self._sound.get((tenant_uid, digest))
        # Half a period, so that what many share is not believed for two.
        return read is not None and self._ctx.clock.monotonic() - read < self._period.total_seconds() / 2

    def _remember(self, tenant_uid: str, digest: str) -> None:
        self._sound[tenant_uid, digest] = self._ctx.clock.monotonic()
        self._sound.move_to_end((tenant_uid, digest))
        while len(self._sound) > REMEMBERED:
            self._sound.popitem(last=False)

    async def _report(self, namespace: str, digest: str, finding: Finding) -> None:
        """Tell every Artifact of the tenant that has these bytes; that wakes it to repair what it can."""
        METRICS.findings.labels(finding).inc()
        _logger.error(
            "stored bytes found bad", extra={"namespace": namespace, "digest": digest, "finding": finding}
        )
        async for page in self._ctx.client.pages(names.ARTIFACTS, namespace):
            for body in page:
                if artifacts.is_ready(body) and any(part.digest == digest for part in scrubs.parts(body)):
                    await self._write_broken(body, digest, finding)

    async def _write_broken(self, body: cluster.Object, digest: str, finding: Finding) -> None:
        now, namespace, name = self._ctx.clock.now(), body["metadata"]["namespace"], body["metadata"]["name"]
        for _ in range(WRITE_ATTEMPTS):
            if await self._write(body, scrubs.broken(body, digest, finding, now)):
                await self._tell(body, digest, finding)
                return
            found = await self._find(namespace, name)
            if found is None or not artifacts.is_ready(found):
                return  # it is being looked at anyway
            body = found

    async def _tell(self, body: cluster.Object, digest: str, finding: Finding) -> None:
        now, instance = self._ctx.clock.now(), self._ctx.settings.identity
        event = scrubs.event(body, finding, scrubs.message(body, digest, finding), now, instance)
        try:
            await self._ctx.client.create(names.EVENTS, event, event["metadata"]["namespace"])
        except cluster.ApiError as error:  # the condition says the same
            _logger.warning("event not written", extra={"error": str(error)})

    async def _write_verified(self, namespace: str, name: str, read: frozenset[str]) -> None:
        """Write the time, unless the Artifact has changed meanwhile: then it will be its turn again."""
        body = await self._find(namespace, name)
        if (
            body is not None
            and artifacts.is_ready(body)
            and {each.digest for each in scrubs.parts(body)} <= read
        ):
            await self._write(body, scrubs.verified(body, self._ctx.clock.now()))

    async def _write(self, body: cluster.Object, status: cluster.Object) -> bool:
        try:
            await self._ctx.client.replace(names.ARTIFACTS, {**body, "status": status}, subresource="status")
        except cluster.ConflictError:
            return False
        except cluster.NotFoundError:
            return True
        return True

    async def _find(self, namespace: str, name: str) -> cluster.Object | None:
        try:
            return await self._ctx.client.get(names.ARTIFACTS, name, namespace)
        except cluster.NotFoundError:
            return None
