"""Integrity of what outlives its Artifact: the bytes that pins name are read back like all others."""

import logging
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Final

from manifestry.adapters.kube import apierrors
from manifestry.adapters.store import inventory
from manifestry.adapters.store.contract import ports
from manifestry.adapters.telemetry.storage_metrics import METRICS
from manifestry.core.artifacts import scrubs
from manifestry.core.artifacts.scrubs import Finding
from manifestry.core.blobs import garbage
from manifestry.core.blobs.garbage import Pin
from manifestry.core.kube import names
from manifestry.handlers.artifacts.readbacks import Readback
from manifestry.handlers.runtime.registry import Context

_logger = logging.getLogger(__name__)

WORK: Final = 100  # pins of a tenant taken from one look at all of them

Report = Callable[[str, str, Finding], Awaitable[None]]


class PinScrub:
    """Reads the bytes of pins back, those first that were read longest ago.

    Args:
        ctx: the operator's ports.
        readback: shared with the scrub of Artifacts: what one has read the other need not.
        report: tells the Artifacts of a namespace that have some bytes what was found of them.
    """

    def __init__(self, ctx: Context, readback: Readback, report: Report) -> None:
        self._ctx = ctx
        self._readback = readback
        self._report = report
        self._inventory = inventory.Inventory(ctx.store)
        self._period = timedelta(seconds=ctx.settings.scrub_period_seconds)

    async def once(self) -> bool:
        """Read back the pins of every tenant that wait longest; tell whether there are more of them."""
        try:
            tenants = await self._inventory.tenants()
        except ports.StoreError as error:
            _failed("", error)
            return False
        return any([await self._attempt(tenant_uid) for tenant_uid in tenants])

    async def _attempt(self, tenant_uid: str) -> bool:
        try:
            return await self._tenant(tenant_uid)
        except (ports.StoreError, apierrors.ApiError, garbage.PinError) as error:
            _failed(tenant_uid, error)
            return False

    async def _tenant(self, tenant_uid: str) -> bool:
        verified = await self._inventory.verifications(tenant_uid)
        pins = [pin async for pin in self._inventory.pins(tenant_uid)]
        for artifact_uid in verified.keys() - {pin.artifact_uid for pin in pins}:
            await self._inventory.forget(tenant_uid, artifact_uid)
        work = scrubs.due_pins(pins, verified, self._ctx.clock.now(), self._period, WORK)
        for due in work:
            await self._verify(tenant_uid, due.pin)
        return len(work) == WORK

    async def _verify(self, tenant_uid: str, pin: Pin) -> None:
        for digest in sorted(pin.digests):
            match await self._readback.check(tenant_uid, digest):
                case "Damaged" | "Missing" as finding:
                    await self._tell(tenant_uid, pin, digest, finding)
        await self._inventory.verify(tenant_uid, pin.artifact_uid)

    async def _tell(self, tenant_uid: str, pin: Pin, digest: str, finding: Finding) -> None:
        """Tell the Artifacts that have the bytes, too, and of the one that may be gone by an Event."""
        _logger.error(
            "retained bytes found bad",
            extra={"tenant_uid": tenant_uid, "pin": pin.artifact_uid, "digest": digest, "finding": finding},
        )
        namespace = self._namespace(tenant_uid)
        if namespace is None:
            METRICS.findings.labels(finding).inc()
            return
        await self._report(namespace, digest, finding)
        metadata = {"name": pin.name, "namespace": namespace, "uid": pin.artifact_uid}
        body, now, instance = {"metadata": metadata}, self._ctx.clock.now(), self._ctx.settings.identity
        event = scrubs.event(body, finding, scrubs.retained(digest, finding), now, instance)
        try:
            await self._ctx.client.create(names.EVENTS, event, namespace)
        except apierrors.ApiError as error:  # the log says the same
            _logger.warning("event not written", extra={"error": str(error)})

    def _namespace(self, tenant_uid: str) -> str | None:
        """Return the tenant's namespace, None when it is gone."""
        known = self._ctx.caches
        return next((name for name in tuple(known.namespaces) if known.tenant_uid(name) == tenant_uid), None)


def _failed(tenant_uid: str, error: Exception) -> None:
    METRICS.scrub_failures.inc()
    _logger.warning("pins not read back", extra={"tenant_uid": tenant_uid, "error": str(error)})
