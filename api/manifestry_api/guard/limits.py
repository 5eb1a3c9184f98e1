"""The tenants' limits as the watch cache has them, arranged for one look-up per request."""

from collections.abc import Mapping
from typing import Any

from manifestry.adapters.kube import watches
from manifestry.core.quota import quotas


class QuotaIndex:
    """TenantQuotas by tenant; arranged anew when what one of them says has changed, not its status."""

    def __init__(self, tenant_quotas: watches.Reflector) -> None:
        self._tenant_quotas = tenant_quotas
        self._table: quotas.Table | None = None
        self._meanings: dict[str, Any] = {}
        tenant_quotas.subscribe(self._note)

    @property
    def table(self) -> quotas.Table:
        """Return every quota, arranged; the status in it may be an earlier one."""
        if self._table is None:
            self._table = quotas.Table.of(self._tenant_quotas.items.values())
        return self._table

    def _note(self, change: str, quota: Mapping[str, Any]) -> None:
        metadata = quota["metadata"]
        before = self._meanings.pop(metadata["name"], None)
        meaning = (metadata.get("creationTimestamp"), quota.get("spec"))
        if change != "DELETED":
            self._meanings[metadata["name"]] = meaning
        if change == "DELETED" or before != meaning:
            self._table = None
