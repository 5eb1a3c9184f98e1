"""The pins of a store as they are listed, counted and removed; who collects reads them by `inventory`."""

import contextlib
import hashlib
from collections import Counter
from collections.abc import AsyncIterator
from typing import Final

from manifestry.adapters.store import inventory
from manifestry.adapters.store.contract import bounded, ports, record_ports
from manifestry.adapters.store.contract.record_ports import LIST_MAX, Item
from manifestry.core.blobs import garbage, garbagekeys
from manifestry.core.blobs.garbage import Pin
from manifestry.core.quota.storage import retained
from manifestry.core.quota.storage.lives import Live
from manifestry.core.quota.storage.retained import Retained

REMEMBERED_TENANTS: Final = 4096
EMPTY_FOR: Final = 30  # counts: a leader that has just been replaced may have written one pin more


class Pins:
    """What is retained in one store.

    Args:
        store: whose.
    """

    def __init__(self, store: ports.Store) -> None:
        self._store = store
        self._records: record_ports.Records = store.records()
        self._inventory = inventory.Inventory(store)

    async def keys(self, tenant_uid: str, *, after: str = "", limit: int = LIST_MAX) -> list[Item]:
        """Return the keys of a tenant's first pins after an Artifact's uid, in the order of the uids."""
        start = garbagekeys.pin(tenant_uid, after) if after else ""
        return await self._records.scan(garbagekeys.pins(tenant_uid), after=start, limit=limit)

    async def each(self, tenant_uid: str) -> AsyncIterator[Item]:
        """Yield the keys of all of a tenant's pins."""
        async for items in self.pages(tenant_uid):
            for item in items:
                yield item

    async def pages(self, tenant_uid: str) -> AsyncIterator[list[Item]]:
        """Yield the keys of all of a tenant's pins, `LIST_MAX` at once; none is empty."""
        prefix, after = garbagekeys.pins(tenant_uid), ""
        while items := await self._records.scan(prefix, after=after, limit=LIST_MAX):
            yield items
            after = items[-1].key

    async def find(self, tenant_uid: str, artifact_uid: str) -> Retained | None:
        """Return what the pin of one Artifact keeps, None when it is not pinned."""
        item = await self._records.head(garbagekeys.pin(tenant_uid, artifact_uid))
        return None if item is None else await self.read(tenant_uid, item)

    async def read(self, tenant_uid: str, item: Item, *, note: bool = False) -> Retained | None:
        """Return what a pin keeps, None when it is gone.

        Args:
            tenant_uid: whose.
            item: the pin's key.
            note: write down in the pin what only the store could tell; for who counts.
        """
        artifact_uid = garbagekeys.parse_pin(item.key)
        data = await self._records.read(item.key, limit_bytes=garbage.PIN_MAX_BYTES)
        if artifact_uid is None or (data is None and await self._records.head(item.key) is None):
            return None
        try:
            pin = garbage.parse_pin(artifact_uid, data)
        except garbage.PinError:
            return retained.damaged(artifact_uid, item.modified)
        if pin.size_bytes is not None:
            return retained.of(pin, pin.size_bytes, item.modified)
        size_bytes, is_whole = await self._weigh(tenant_uid, pin)
        if note and is_whole and data is not None:
            await self._note(item, data, garbage.weighed_pin(pin, size_bytes, item.modified))
        return retained.of(pin, size_bytes, item.modified)

    async def _note(self, item: Item, seen: bytes, content: bytes) -> None:
        """Replace just what was read: somebody may have removed it; a full store need not take it."""
        with contextlib.suppress(ports.StoreError):
            await self._records.replace(item.key, seen, content)

    async def _weigh(self, tenant_uid: str, pin: Pin) -> tuple[int, bool]:
        """Return what is stored of a pin of an earlier version, and whether that is all of it."""
        blobs = [await self._store.head(tenant_uid, digest) for digest in sorted(pin.digests)]
        there = [blob.size_bytes for blob in blobs if blob is not None]
        return sum(there), len(there) == len(blobs)

    async def remove(self, tenant_uid: str, artifact_uid: str) -> None:
        """Retain an Artifact's bytes no longer: the collector takes them as it takes any others.

        Its next run marks what nothing else refers to, and one after the grace removes it.
        """
        await self._inventory.unpin(tenant_uid, artifact_uid)
        await self._inventory.forget(tenant_uid, artifact_uid)


class Counts:
    """What each tenant's pins keep, read once: a count of many pins lists them, and reads the new ones."""

    def __init__(self) -> None:
        self._known: dict[str, dict[bytes, Live]] = {}  # by the version of the pin
        self._written: Counter[str] = Counter()
        self._empty: Counter[str] = Counter()  # how often a tenant without pins need not be listed

    def note(self, tenant_uid: str) -> None:
        """Say that this process has, or may have, written a pin; nobody else does while it leads."""
        self._written[tenant_uid] += 1
        del self._empty[tenant_uid]

    async def of(self, store: ports.Store, tenant_uid: str) -> list[Live]:
        """Return one for each of a tenant's pins; most tenants have none, and cost a request now and then.

        Raises:
            StoreError: the store does not say what is there; then nothing may be counted.
        """
        if self._empty[tenant_uid] > 0:
            self._empty[tenant_uid] -= 1
            return []
        written = self._written[tenant_uid]
        found = await self._of(store, tenant_uid)
        if not found and written == self._written[tenant_uid]:
            self._empty[tenant_uid] = EMPTY_FOR
        return found

    async def _of(self, store: ports.Store, tenant_uid: str) -> list[Live]:
        pins, known, found = Pins(store), self._known.pop(tenant_uid, {}), dict[bytes, Live]()
        async for items in pins.pages(tenant_uid):
            versions = [(_version(item), item) for item in items]
            found |= {version: known[version] for version, _ in versions if version in known}
            news = [(version, item) for version, item in versions if version not in known]
            read = await _read(pins, tenant_uid, [item for _, item in news])
            for (version, _), each in zip(news, read, strict=True):
                if each is not None:
                    found[version] = each.live()
        self._known[tenant_uid] = found
        if len(self._known) > REMEMBERED_TENANTS:
            del self._known[next(iter(self._known))]
        return list(found.values())


async def _read(pins: Pins, tenant_uid: str, items: list[Item]) -> list[Retained | None]:
    return await bounded.each(pins.read(tenant_uid, item, note=True) for item in items)


def _version(item: Item) -> bytes:
    """Return what tells a pin as it is written from any other, in 16 bytes: there may be many."""
    return hashlib.blake2b(repr(item).encode(), digest_size=16).digest()
