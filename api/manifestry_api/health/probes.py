"""Background probes: health answers read their last results and never wait for a dependency."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from manifestry.adapters.kube import apierrors
from manifestry.adapters.store.contract import ports as store_ports
from manifestry.core.kube import names
from manifestry_api.guard import deps
from manifestry_api.health import checks
from manifestry_api.objects import caches

TIMEOUT_SECONDS = 8.0
UNWELL_PERIOD_SECONDS = 2.0  # what is not well is looked at more often: back in the Service soon after it is
logger = logging.getLogger(__name__)

Examine = Callable[[], Awaitable[str]]


class Probe:
    """Examines one dependency again and again.

    Args:
        name: the row's name.
        period_seconds: the pause between two looks.
        examine: returns why it is not well, empty when it is; may raise what adapters raise.
        is_vital: whether nothing can be served without it.
    """

    def __init__(self, name: str, period_seconds: float, examine: Examine, *, is_vital: bool = True) -> None:
        self.name = name
        self._is_vital = is_vital
        self._period_seconds = period_seconds
        self._examine = examine
        self._reason = "not examined yet"
        self._looked_seconds: float | None = None

    async def run(self) -> None:
        """Look for ever."""
        while True:
            await self.look()
            soon = min(self._period_seconds, UNWELL_PERIOD_SECONDS)
            await asyncio.sleep(soon if self._reason else self._period_seconds)

    async def look(self) -> None:
        """Look once, within a bounded time."""
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                reason = await self._examine()
        except (apierrors.ApiError, store_ports.StoreError, TimeoutError) as error:
            reason = _reason(error)
        if reason != self._reason:
            logger.info("probe changed", extra={"probe": self.name, "reason": reason})
        self._reason, self._looked_seconds = reason, time.monotonic()

    def row(self) -> checks.Row:
        """Return the last result; one that is three periods old is not believed."""
        age = None if self._looked_seconds is None else time.monotonic() - self._looked_seconds
        is_stuck = age is not None and age > 3 * self._period_seconds + TIMEOUT_SECONDS
        reason = "the probe itself is stuck" if is_stuck else self._reason
        return checks.Row(self.name, not reason, age, reason, self._is_vital)


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer within {TIMEOUT_SECONDS:.0f} s"
    if isinstance(error, apierrors.ApiError):
        return f"{error.status} {error.reason}"
    return f"{type(error).__name__}"


class Certificate(Protocol):
    """The webhook's certificate, as far as readiness cares."""

    @property
    def reason(self) -> str:
        """Return why it cannot be served, empty when it can."""


class Health:
    """All probes of the facade, and the rows that come from memory."""

    def __init__(self, ports: deps.Ports) -> None:
        self._ports = ports
        self.certificate: Certificate | None = None
        self.probes: Sequence[Probe] = (
            Probe("kubernetes-api", 5.0, self._kubernetes),
            Probe("object-store", 10.0, self._reads),
            # What is full or read-only still serves downloads, deletions, Jobs and the webhook.
            Probe("object-store-writes", 10.0, self._writes, is_vital=False),
            Probe("job-runner", 5.0, self._lease),
            Probe("configuration", 30.0, self._configuration),
        )

    async def run(self) -> None:
        """Run every probe until cancelled."""
        async with asyncio.TaskGroup() as group:
            for probe in self.probes:
                group.create_task(probe.run(), name=f"probe/{probe.name}")

    def rows(self) -> list[checks.Row]:
        """Return every row, without waiting for anything."""
        states = [
            (name, cache.synced.is_set(), cache.last_contact, cache.failure)
            for name, cache in caches.each(self._ports.caches)
        ]
        rows = [*(probe.row() for probe in self.probes), checks.caches_row(states, time.monotonic())]
        rows.append(checks.tenants_row(self._ports.tenants.directory))
        guarded = () if self._ports.guard is None else self._ports.guard.rows()
        rows += [checks.Row(each.name, not each.reason, each.age_seconds, each.reason) for each in guarded]
        if self._ports.settings.webhook_enabled:
            reason = self.certificate.reason if self.certificate else "the webhook is not served"
            rows.append(checks.Row("webhook-certificate", not reason, 0.0, reason))
        return rows

    async def _kubernetes(self) -> str:
        await self._ports.client.get_raw("/readyz")
        return ""

    async def _reads(self) -> str:
        return await self._store("look", self._ports.store.look())

    async def _writes(self) -> str:
        return await self._store("canary", self._ports.store.canary())

    async def _store(self, operation: str, request: Awaitable[None]) -> str:
        began, status = time.monotonic(), 503
        try:
            await request
            status = 200
        finally:
            elapsed = time.monotonic() - began
            self._ports.instruments.slow_calls.observe("object-store", operation, status, elapsed)
        return ""

    async def _lease(self) -> str:
        settings = self._ports.settings
        lease = await self._ports.client.get(names.LEASES, settings.lease_name, self._ports.namespace)
        return checks.lease_problem(lease, self._ports.clock())

    async def _configuration(self) -> str:
        for kind in checks.KINDS:
            crd = await self._ports.client.get(names.CRDS, f"{kind.plural}.{kind.group}")
            if problem := checks.crd_problem(crd):
                return problem
        if not self._ports.settings.webhook_enabled:
            return ""
        name = self._ports.settings.webhook_configuration
        return checks.webhook_problem(await self._ports.client.get(names.VALIDATING_WEBHOOKS, name))
