"""The collector's side of a store: what there is, what is marked, pinned and claimed, and how a blob goes.

Removing a blob takes these steps, in this order: claim it; fence the claim; read live what refers to it; read
its time again; remove it; give the claim back. docs/adr/0005 says why no publisher can lose its blob by that.
"""

import contextlib
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection, Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import NamedTuple

from manifestry.adapters.store.contract import bounded, claim_ports, ports, record_ports
from manifestry.adapters.store.contract.claim_ports import CLAIM_STALE, Claim
from manifestry.adapters.store.contract.record_ports import LIST_MAX, Item
from manifestry.core.artifacts import uploads
from manifestry.core.blobs import garbage, garbagekeys
from manifestry.core.blobs import keys as blob_keys
from manifestry.core.blobs.garbage import Blob, Pin

Live = Callable[[frozenset[str]], Awaitable[Collection[str]]]


class Page(NamedTuple):
    """Some of a tenant's blobs, and the marks among them.

    Args:
        marks: by digest since when nothing refers to a blob, by the store's clock; the blob may be gone.
        last: where the next page begins; empty for no next page.
    """

    blobs: list[Blob]
    marks: dict[str, datetime]
    last: str


@dataclass
class Removal:
    """What came of a batch.

    Args:
        removed: what is gone.
        kept: what turned out to be new, or to be referred to, or claimed by somebody else.
        late: of these, what the store has refused to remove: the claim was too old, or gone.
        unclaimed: what there was no room to claim; removing the others has made some.
    """

    removed: list[Blob] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    late: list[str] = field(default_factory=list)
    unclaimed: list[str] = field(default_factory=list)


@dataclass
class _Claimed:
    made: list[Claim] = field(default_factory=list)
    unclaimed: list[str] = field(default_factory=list)
    full: ports.StoreFullError | None = None


@dataclass
class _Batch:
    referred: Collection[str]
    grace: timedelta
    done: Removal
    error: ports.StoreError | None = None


class Inventory:
    """Everything of every tenant in one store.

    Args:
        store: whose blobs.
    """

    def __init__(self, store: ports.Store) -> None:
        self._records: record_ports.Records = store.records()
        self._claims: claim_ports.Claims = store.claims()

    async def tenants(self) -> list[str]:
        """Return the uid of every tenant that has something stored."""
        return [name for name in await self._records.folders(garbagekeys.TENANTS) if blob_keys.is_uuid(name)]

    async def blobs(self, tenant_uid: str, *, after: str = "", limit: int = LIST_MAX) -> list[Blob]:
        """Return a tenant's first blobs after the digest `after`, in the order of their digests."""
        start, found = blob_keys.blob(tenant_uid, after) if after else "", list[Blob]()
        while len(found) < limit:  # more than once only where somebody has put other keys between ours
            items = await self._records.scan(blob_keys.tenant(tenant_uid), after=start, limit=limit)
            found += [blob for item in items if (blob := _blob(item)) is not None]
            if len(items) < limit:
                break
            start = items[-1].key
        return found[:limit]

    async def blob(self, tenant_uid: str, digest: str) -> Blob | None:
        """Return a blob as it is now."""
        item = await self._records.head(blob_keys.blob(tenant_uid, digest))
        return None if item is None else _blob(item)

    async def page(self, tenant_uid: str, *, after: str = "", limit: int = LIST_MAX) -> Page:
        """Return a tenant's next blobs and marks, which lie side by side.

        Args:
            tenant_uid: whose.
            after: `last` of the page before.
            limit: how many keys to look at, 2 at least.
        """
        items = await self._records.scan(blob_keys.tenant(tenant_uid), after=after, limit=limit)
        last = ""
        if len(items) == limit:
            if _blob(items[-1]) is not None:
                items.pop()  # its mark would be on the next page
            before = _blob(items[-1])  # a mark that is made now must not be on the next page either
            last = items[-1].key if before is None else garbagekeys.mark(tenant_uid, before.digest)
        marks = {
            digest: item.modified
            for item in items
            if (digest := garbagekeys.parse_mark(item.key)) is not None
        }
        return Page([blob for item in items if (blob := _blob(item)) is not None], marks, last)

    async def marks_of(self, tenant_uid: str, digests: Collection[str]) -> dict[str, datetime]:
        """Return since when nothing refers to some blobs; those that are marked only."""
        key_of = [garbagekeys.mark]
        if await self._records.scan(garbagekeys.old_marks(tenant_uid), limit=1):
            key_of.insert(0, garbagekeys.old_mark)
        keys = [(digest, make(tenant_uid, digest)) for make in key_of for digest in digests]
        found = await bounded.each(self._records.head(key) for _, key in keys)
        return {
            digest: item.modified for (digest, _), item in zip(keys, found, strict=True) if item is not None
        }

    async def adopt(self, tenant_uid: str) -> None:
        """Put the marks of earlier versions where they are now; a bucket makes their time new by that."""
        async for items in _batches(self._all(garbagekeys.old_marks(tenant_uid))):
            await bounded.each(self._adopt(tenant_uid, item.key) for item in items)

    async def _adopt(self, tenant_uid: str, key: str) -> None:
        digest = garbagekeys.parse_old_mark(key)
        if digest is not None and await self.blob(tenant_uid, digest) is not None:
            await self._records.move(key, garbagekeys.mark(tenant_uid, digest))
        else:
            await self._records.remove(key)

    async def mark(self, tenant_uid: str, digests: Iterable[str]) -> None:
        """Say that nothing refers to these blobs from now on.

        Raises:
            StoreFullError: there is no room to mark all.
        """
        await bounded.each(self._records.touch(garbagekeys.mark(tenant_uid, digest)) for digest in digests)

    async def unmark(self, tenant_uid: str, digests: Iterable[str]) -> None:
        """Take marks away; nothing happens where there are none."""
        await bounded.each(self._records.remove(garbagekeys.mark(tenant_uid, digest)) for digest in digests)

    async def pins(self, tenant_uid: str, known: set[bytes] | None = None) -> AsyncIterator[Pin]:
        """Yield a tenant's pins, some read at once.

        Args:
            tenant_uid: whose.
            known: versions of pins that are passed over; those that are yielded are put in. So only pins
                that were written since it was last given cost a request each.

        Raises:
            PinError: one cannot be read.
        """
        versions = set[bytes]() if known is None else known
        async for items in _batches(self._all(garbagekeys.pins(tenant_uid))):
            fresh = [item for item in items if _version(item) not in versions]
            read = await bounded.each(map(self._pin_of, fresh))
            for item, pin in zip(fresh, read, strict=True):
                if pin is not None:
                    versions.add(_version(item))
                    yield pin

    async def _pin_of(self, item: Item) -> Pin | None:
        """Return a pin, None when it is gone by now."""
        artifact_uid = garbagekeys.parse_pin(item.key)
        if artifact_uid is None:
            raise garbage.PinError("below a tenant's pins there must be nothing else")
        data = await self._pin(item.key)
        if data is None and await self._records.head(item.key) is None:
            return None
        return garbage.parse_pin(artifact_uid, data)

    async def _pin(self, key: str) -> bytes | None:
        return await self._records.read(key, limit_bytes=garbage.PIN_MAX_BYTES)

    async def pin(self, tenant_uid: str, artifact_uid: str, content: bytes) -> None:
        """Keep what an Artifact has after its deletion; written when it stands otherwise only."""
        key = garbagekeys.pin(tenant_uid, artifact_uid)
        if await self._pin(key) != content:
            await self._records.write(key, content)

    async def unpin(self, tenant_uid: str, artifact_uid: str) -> None:
        """Let an Artifact's bytes go with it; nothing happens when it is not pinned."""
        await self._records.remove(garbagekeys.pin(tenant_uid, artifact_uid))

    async def verifications(self, tenant_uid: str) -> dict[str, datetime]:
        """Return by the artifact's uid when a pin's bytes were last read back, by the store's clock."""
        items = [item async for item in self._all(garbagekeys.verified(tenant_uid))]
        found = ((garbagekeys.parse_verification(item.key), item.modified) for item in items)
        return {uid: when for uid, when in found if uid is not None}

    async def verify(self, tenant_uid: str, artifact_uid: str) -> None:
        """Say that a pin's bytes were read back."""
        await self._records.write(garbagekeys.verification(tenant_uid, artifact_uid), b"")

    async def forget(self, tenant_uid: str, artifact_uid: str) -> None:
        """Forget when the bytes of a pin were read back that is not there any more."""
        await self._records.remove(garbagekeys.verification(tenant_uid, artifact_uid))

    async def remove(
        self, tenant_uid: str, digests: Collection[str], live: Live, grace: timedelta
    ) -> Removal:
        """Remove blobs that are still garbage.

        Args:
            tenant_uid: whose.
            digests: those whose marks are older than the grace period; `at_once` at most.
            live: reads from the cluster which of some digests something refers to now.
            grace: what was published in this time stays.

        Raises:
            StoreUnavailableError: the store fails; claims of requests that may still be on their way are left
                to become stale.
            StoreFullError: there is no room for a single claim.
        """
        found = _Claimed()
        try:
            await self._claim_all(tenant_uid, digests, found)
            claims = await self._claims.fence(found.made)
            referred = await live(frozenset(claim.digest for claim in claims)) if claims else ()
        except BaseException:
            with contextlib.suppress(ports.StoreError):  # else they become stale
                await self._claims.give_back(found.made)
            raise
        batch = _Batch(frozenset(referred), grace, Removal(unclaimed=found.unclaimed))
        batch.done.kept += sorted(set(digests) - {claim.digest for claim in claims} - {*found.unclaimed})
        await bounded.each(self._finish(batch, claim) for claim in claims)
        if batch.error is not None:
            raise batch.error
        return batch.done

    async def _claim_all(self, tenant_uid: str, digests: Collection[str], found: _Claimed) -> None:
        await bounded.each(self._claim(tenant_uid, digest, found) for digest in sorted(digests))
        if found.full is not None and not found.made:
            raise found.full

    async def _claim(self, tenant_uid: str, digest: str, found: _Claimed) -> None:
        """Claim a blob; when there is no room for it, those that are claimed are removed first."""
        if found.full is not None:
            found.unclaimed.append(digest)
            return
        try:
            claim = await self._claims.make(tenant_uid, digest)
        except ports.StoreFullError as error:
            found.full = error
            found.unclaimed.append(digest)
        else:
            found.made += [claim] if claim is not None else []

    async def _finish(self, batch: "_Batch", claim: Claim) -> None:
        """Remove one claimed blob or let it be; after the first error the others are let be."""
        if claim.digest in batch.referred or batch.error is not None:
            batch.done.kept.append(claim.digest)
        else:
            try:
                await self._remove(batch, claim)
            except ports.StoreError as error:
                batch.error = batch.error or error
                return  # the request may still be on its way: the claim stays
        await self._claims.release(claim)

    async def _remove(self, batch: "_Batch", claim: Claim) -> None:
        blob = await self.blob(claim.tenant_uid, claim.digest)
        if blob is None or not garbage.may_remove(blob, claim.made, batch.grace):
            batch.done.kept.append(claim.digest)
        elif await self._claims.remove(claim):
            batch.done.removed.append(blob)
            await self.unmark(claim.tenant_uid, [claim.digest])
        else:
            batch.done.kept.append(claim.digest)
            batch.done.late.append(claim.digest)

    async def quarantine(self, tenant_uid: str, seen: Blob) -> bool:
        """Set damaged bytes aside, if they are the ones that were `seen`; tell whether they were.

        Who publishes the digest again then finds it absent and stores good bytes.
        """

        async def is_same() -> bool:
            return await self.blob(tenant_uid, seen.digest) == seen

        return await self._claims.set_aside(tenant_uid, seen.digest, is_same)

    async def quarantined(self, tenant_uid: str) -> AsyncIterator[Item]:
        """Yield what was set aside, in no order."""
        async for item in self._all(garbagekeys.damaged(tenant_uid)):
            yield item

    async def discard(self, item: Item) -> None:
        """Remove what was set aside."""
        await self._records.remove(item.key)

    def reread(self, tenant_uid: str, digest: str) -> AsyncGenerator[memoryview, None]:
        """Yield a blob's bytes past what this machine remembers of them; see `Records.stream`."""
        return self._records.stream(blob_keys.blob(tenant_uid, digest))

    async def reap(self, age: timedelta = CLAIM_STALE) -> int:
        """Take away the claims of collectors that have died; return how many."""
        return await self._claims.reap(age)

    @property
    def at_once(self) -> int:
        """Return how many blobs `remove` may be given."""
        return self._claims.at_once

    async def prepare(self, tenant_uid: str) -> None:
        """Get ready to remove a tenant's blobs when the store is full.

        Raises:
            StoreFullError: it is already.
        """
        await self._claims.prepare(tenant_uid)

    async def prune(self, tenant_uid: str) -> None:
        """Remove the empty folders of a tenant that is gone."""
        for prefix in (
            garbagekeys.prefix(tenant_uid),
            garbagekeys.claims(tenant_uid),
            f"{uploads.SESSIONS}{tenant_uid}/",
        ):
            await self._records.prune(prefix)

    def _all(self, prefix: str) -> AsyncIterator[Item]:
        return self._records.walk(prefix)


async def _batches(items: AsyncIterator[Item]) -> AsyncIterator[list[Item]]:
    batch: list[Item] = []
    async for item in items:
        batch.append(item)
        if len(batch) == LIST_MAX:
            yield batch
            batch = []
    if batch:
        yield batch


def _version(item: Item) -> bytes:
    """Return what tells a key's version from any other, in 16 bytes: there may be many."""
    told = f"{item.key} {item.size_bytes} {item.modified.timestamp()} {item.version}"
    return hashlib.blake2b(told.encode(), digest_size=16).digest()


def _blob(item: Item) -> Blob | None:
    parsed = blob_keys.parse_blob(item.key)
    return None if parsed is None else Blob(parsed[1], item.size_bytes, item.modified)
