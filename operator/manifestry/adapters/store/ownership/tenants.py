"""Which cluster and namespace a tenant's prefix belongs to, and since when its namespace is missed."""

from collections.abc import Callable
from datetime import datetime
from typing import Final, NamedTuple

from manifestry.adapters.store.contract.record_ports import RECORD_MAX_BYTES, Records
from manifestry.core.blobs import garbagekeys, tenantrecords
from manifestry.core.blobs.tenantrecords import TenantRecord

OWN_KEYS: Final = 2  # the record, and since when the namespace is missed


class Found(NamedTuple):
    """What a store says of a tenant.

    Args:
        record: None when there is none that can be read.
        gone_since: when its namespace was first missed, None when it was not.
    """

    record: TenantRecord | None
    gone_since: datetime | None


class TenantRecords:
    """The records of the tenants in a store; every method may raise `StoreError`.

    Args:
        records: of the store.
    """

    def __init__(self, records: Records) -> None:
        self._records = records

    async def find(self, tenant_uid: str) -> Found:
        """Return what the store says of a tenant."""
        key = garbagekeys.tenant(tenant_uid)
        record = tenantrecords.parse(await self._records.read(key, limit_bytes=RECORD_MAX_BYTES))
        item = await self._records.head(garbagekeys.gone(tenant_uid))
        return Found(record, None if item is None else item.modified)

    async def note(self, tenant_uid: str, record: TenantRecord) -> None:
        """Write the record if there is none."""
        await self._records.create(garbagekeys.tenant(tenant_uid), tenantrecords.render(record))

    async def adopt(self, tenant_uid: str, record: TenantRecord) -> None:
        """Write the record in the place of whatever is there; the time that it is missed begins anew."""
        await self._records.write(garbagekeys.tenant(tenant_uid), tenantrecords.render(record))
        await self.keep(tenant_uid)

    async def miss(self, tenant_uid: str) -> None:
        """Say that a namespace is missed from now on, by the store's clock, unless it is missed already."""
        await self._records.create(garbagekeys.gone(tenant_uid), b"")

    async def keep(self, tenant_uid: str) -> None:
        """Say that a namespace is there."""
        await self._records.remove(garbagekeys.gone(tenant_uid))

    async def forget(self, tenant_uid: str) -> bool:
        """Remove the record of a tenant that has nothing else; tell whether it has nothing else."""
        own = {garbagekeys.tenant(tenant_uid), garbagekeys.gone(tenant_uid)}
        left = await self._records.scan(garbagekeys.prefix(tenant_uid), limit=OWN_KEYS + 1)
        if not {item.key for item in left} <= own:
            return False
        for key in sorted(own):  # the record last: a prefix without one would be kept for ever
            await self._records.remove(key)
        return True


class Tenants:
    """Notes whose a prefix is before the first publication of this process there, and remembers that.

    Args:
        records: of the store.
        cluster_uid: ours.
        name_of: the name of the namespace with a uid, empty for unknown.
    """

    def __init__(
        self, records: Records, cluster_uid: Callable[[], str], name_of: Callable[[str], str]
    ) -> None:
        self._records = TenantRecords(records)
        self._cluster_uid = cluster_uid
        self._name_of = name_of
        self._noted: set[str] = set()

    async def note(self, tenant_uid: str) -> None:
        """See to it that a tenant's prefix has a record; one small request for each tenant of a process."""
        if tenant_uid in self._noted:
            return
        await self._records.note(tenant_uid, TenantRecord(self._cluster_uid(), self._name_of(tenant_uid)))
        self._noted.add(tenant_uid)
