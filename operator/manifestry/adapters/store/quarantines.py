"""Bytes that the scrub has set aside: what there is of a tenant, and how sound ones come back.

Setting aside is decided by two readings, and a disk, a cable or a memory that was wrong twice may be right
again.
"""

import contextlib
from collections.abc import AsyncIterator
from datetime import datetime
from typing import NamedTuple

from manifestry.adapters.store.contract import ports, record_ports
from manifestry.adapters.store.contract.ports import Blob, BlobDamagedError, BlobNotFoundError
from manifestry.core.blobs import digests, garbagekeys


class Aside(NamedTuple):
    """Bytes that were set aside.

    Args:
        digest: what they should hash to.
        since: when they were set aside, by the store's clock.
        key: where they are; of two of one digest the newer ones lie where they are put now.
    """

    digest: str
    size_bytes: int
    since: datetime
    key: str


class Quarantine:
    """What was set aside in one store.

    Args:
        store: whose.
    """

    def __init__(self, store: ports.Store) -> None:
        self._store = store
        self._records: record_ports.Records = store.records()

    async def page(self, tenant_uid: str, *, after: str = "", limit: int) -> list[Aside]:
        """Return a tenant's first bytes after the key `after`, in the order of their keys."""
        items = await self._records.scan(garbagekeys.damaged(tenant_uid), after=after, limit=limit)
        return [found for item in items if (found := _aside(item)) is not None]

    async def find(self, tenant_uid: str, digest: str) -> Aside | None:
        """Return the bytes that were set aside last for a digest, None when there are none."""
        for make in (garbagekeys.quarantine, garbagekeys.old_quarantine):
            if (item := await self._records.head(make(tenant_uid, digest))) is not None:
                return _aside(item)
        return None

    async def restore(self, tenant_uid: str, digest: str) -> Blob:
        """Publish what was set aside, as any upload is published, if it is what its digest says.

        It is copied, and the copy is hashed on its way; only that is published. What refers to the digest
        becomes whole again by itself.

        Raises:
            BlobNotFoundError: nothing is set aside.
            BlobDamagedError: it is still not what the digest says; it stays where it is.
            StoreFullError: there is no room for the copy.
        """
        aside = await self.find(tenant_uid, digest)
        if aside is None:
            raise BlobNotFoundError("nothing of this digest is set aside")
        async with contextlib.aclosing(self._records.stream(aside.key)) as chunks:
            staged = await self._store.stage(_chunks(chunks), limit_bytes=aside.size_bytes)
        if not digests.equal(staged.digest, digest):
            await self._store.discard(staged)
            raise BlobDamagedError("the bytes that were set aside do not match their digest")
        published = await self._store.publish(tenant_uid, staged)
        await self._records.remove(aside.key)
        return published


async def _chunks(views: AsyncIterator[memoryview]) -> AsyncIterator[ports.Chunk]:
    async for view in views:
        yield view


def _aside(item: record_ports.Item) -> Aside | None:
    digest = garbagekeys.parse_quarantine(item.key)
    return None if digest is None else Aside(digest, item.size_bytes, item.modified, item.key)
