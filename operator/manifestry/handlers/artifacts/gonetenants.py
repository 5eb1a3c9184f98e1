"""Tenants whose namespace is gone: left alone for days, told before they go, and only if they are ours."""

import contextlib
import logging
from collections import Counter
from datetime import datetime, timedelta
from typing import Final, get_args

from manifestry.adapters.store.contract import ports
from manifestry.adapters.store.ownership import tenants
from manifestry.adapters.telemetry.storage_metrics import METRICS
from manifestry.core.blobs import tenantrecords
from manifestry.core.blobs.tenantrecords import Fate, Seen, TenantRecord
from manifestry.handlers.runtime.registry import Context

_logger = logging.getLogger(__name__)

LISTED: Final = 100  # lines in the log of one run
FATES: Final = tuple(fate for fate in get_args(Fate) if fate != "live")


class GoneTenants:
    """Asked by the collector for each tenant before it looks at its blobs.

    Args:
        ctx: the operator's ports.
    """

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._records = tenants.TenantRecords(ctx.store.records())
        self._grace = timedelta(seconds=ctx.settings.gc_tenant_grace_seconds)
        self._counts: Counter[Fate] = Counter()

    def begin(self) -> None:
        """Begin a run."""
        self._counts.clear()

    async def may_collect(self, tenant_uid: str, namespace: str | None) -> bool:
        """Tell whether a tenant's garbage may be looked for; note that it is there, or missed.

        Args:
            tenant_uid: its namespace's uid.
            namespace: its name, None when it is gone.
        """
        cluster_uid = self._ctx.guard.cluster_uid if self._ctx.guard else ""
        found = await self._records.find(tenant_uid)
        seen = Seen(found.record, namespace is not None, found.gone_since)
        fate = tenantrecords.fate(seen, cluster_uid, self._ctx.clock.now(), self._grace)
        self._counts[fate] += 1
        match fate:
            case "live":
                await self._keep(tenant_uid, seen, TenantRecord(cluster_uid, namespace or ""))
            case "missed":
                await self._records.miss(tenant_uid)
                self._tell(tenant_uid, fate, found.record, self._ctx.clock.now())
            case _:
                self._tell(tenant_uid, fate, found.record, found.gone_since)
        return fate in {"live", "due"}

    async def _keep(self, tenant_uid: str, seen: Seen, record: TenantRecord) -> None:
        if seen.record is None:  # stored by an earlier version
            with contextlib.suppress(ports.StoreFullError):  # another time: now there must become room
                await self._records.note(tenant_uid, record)
        if seen.gone_since is not None:
            await self._records.keep(tenant_uid)

    def _tell(self, tenant_uid: str, fate: Fate, record: TenantRecord | None, since: datetime | None) -> None:
        if self._counts.total() - self._counts["live"] > LISTED:
            return
        due = "" if since is None or fate in {"foreign", "unknown"} else (since + self._grace).isoformat()
        _logger.warning(
            "a tenant's namespace is not in this cluster",
            extra={
                "tenant_uid": tenant_uid,
                "fate": fate,
                "tenant_namespace": record.namespace if record else "",
                "cluster_uid": record.cluster_uid if record else "",
                "due": due,
            },
        )

    def report(self) -> None:
        """Show how many there are."""
        for fate in FATES:
            METRICS.gone.labels(fate).set(self._counts[fate])

    async def forget(self, tenant_uid: str) -> bool:
        """Remove the record of a tenant that has nothing else any more; tell whether that is so."""
        return await self._records.forget(tenant_uid)
