"""The collector's side of a store: what there is, what is marked, pinned and claimed, and how a blob goes.

Removing a blob takes these steps, in this order: claim it; fence the claim; read live what refers to it; read
its time again; remove it; give the claim back. docs/adr/0005 says why no publisher can lose its blob by that.
"""

import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from manifestry.adapters.store.contract import bounded, claim_ports, ports, record_ports
from manifestry.adapters.store.contract.claim_ports import CLAIM_STALE, Claim
from manifestry.adapters.store.contract.record_ports import LIST_MAX, RECORD_MAX_BYTES, Item
from manifestry.core.blobs import garbage, garbagekeys, keys
from manifestry.core.blobs.garbage import Blob, Pin

_OWNER_START: Final = b'{"version": 1, "clusterUid": "'

Live = Callable[[frozenset[str]], Awaitable[Collection[str]]]


class Mark(NamedTuple):
    """Since when nothing refers to a blob, by the store's clock."""

    digest: str
    since: datetime


@dataclass
class Removal:
    """What came of a batch.

    Args:
        removed: what is gone.
        kept: what turned out to be new, or to be referred to, or claimed by somebody else.
        late: of these, what the store has refused to remove: the claim was too old, or gone.
    """

    removed: list[Blob] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    late: list[str] = field(default_factory=list)


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

    async def own(self, cluster_uid: str, now: datetime) -> str:
        """Make the store that of a cluster if it is nobody's, and return whose it is; empty for unknown.

        A collector takes what its cluster does not know for garbage. So two clusters must never collect in
        one store, and a restored cluster, whose namespaces have new uids, not in its old store.

        A record that breaks off before it names a cluster has been left by one who was killed: it says
        nothing, and is replaced when nobody can be writing it any more.
        """
        content = json.dumps({"version": 1, "clusterUid": cluster_uid}).encode()
        if await self._records.create(garbagekeys.OWNER, content) is not None:
            return cluster_uid
        item = await self._records.head(garbagekeys.OWNER)
        found = await self._records.read(garbagekeys.OWNER, limit_bytes=RECORD_MAX_BYTES)
        if item is None or found is None:
            return ""
        is_old = item.modified + CLAIM_STALE < now
        if is_old and _is_blank(found) and await self._records.replace(garbagekeys.OWNER, found, content):
            return cluster_uid
        return _owner(found)

    async def tenants(self) -> list[str]:
        """Return the uid of every tenant that has something stored."""
        return [name for name in await self._records.folders(garbagekeys.TENANTS) if keys.is_uuid(name)]

    async def blobs(self, tenant_uid: str, *, after: str = "", limit: int = LIST_MAX) -> list[Blob]:
        """Return a tenant's first blobs after the digest `after`, in the order of their digests."""
        start, found = keys.blob(tenant_uid, after) if after else "", list[Blob]()
        while len(found) < limit:  # more than once only where somebody has put other keys between ours
            items = await self._records.scan(keys.tenant(tenant_uid), after=start, limit=limit)
            found += [blob for item in items if (blob := _blob(item)) is not None]
            if len(items) < limit:
                break
            start = items[-1].key
        return found[:limit]

    async def blob(self, tenant_uid: str, digest: str) -> Blob | None:
        """Return a blob as it is now."""
        item = await self._records.head(keys.blob(tenant_uid, digest))
        return None if item is None else _blob(item)

    async def marks(self, tenant_uid: str, *, after: str = "", upto: str = "") -> AsyncIterator[Mark]:
        """Yield a tenant's marks after the digest `after`, up to and with `upto`, in the order of digests."""
        start, end = (garbagekeys.mark(tenant_uid, each) if each else "" for each in (after, upto))
        async for item in self._all(garbagekeys.marks(tenant_uid), start):
            if end and item.key > end:
                return
            digest = garbagekeys.parse_mark(item.key)
            if digest is not None:
                yield Mark(digest, item.modified)

    async def mark(self, tenant_uid: str, digests: Iterable[str]) -> None:
        """Say that nothing refers to these blobs from now on."""
        await bounded.each(
            self._records.write(garbagekeys.mark(tenant_uid, digest), b"") for digest in digests
        )

    async def unmark(self, tenant_uid: str, digests: Iterable[str]) -> None:
        """Take marks away; nothing happens where there are none."""
        await bounded.each(self._records.remove(garbagekeys.mark(tenant_uid, digest)) for digest in digests)

    async def pins(self, tenant_uid: str) -> AsyncIterator[Pin]:
        """Yield a tenant's pins.

        Raises:
            PinError: one cannot be read.
        """
        async for item in self._all(garbagekeys.pins(tenant_uid)):
            artifact_uid = garbagekeys.parse_pin(item.key)
            if artifact_uid is None:
                raise garbage.PinError("below a tenant's pins there must be nothing else")
            yield garbage.parse_pin(artifact_uid, await self._pin(item.key))

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
            digests: those whose marks are older than the grace period; a few hundred at most.
            live: reads from the cluster which of some digests something refers to now.
            grace: what was published in this time stays.

        Raises:
            StoreUnavailableError: the store fails; claims of requests that may still be on their way are left
                to become stale.
        """
        made: list[Claim] = []
        try:
            await bounded.each(self._claim(tenant_uid, digest, made) for digest in sorted(digests))
            claims = await self._claims.fence(made)
            referred = await live(frozenset(claim.digest for claim in claims)) if claims else ()
        except BaseException:
            with contextlib.suppress(ports.StoreError):  # else they become stale
                await self._claims.give_back(made)
            raise
        batch = _Batch(frozenset(referred), grace, Removal())
        batch.done.kept += sorted(set(digests) - {claim.digest for claim in claims})
        await bounded.each(self._finish(batch, claim) for claim in claims)
        if batch.error is not None:
            raise batch.error
        return batch.done

    async def _claim(self, tenant_uid: str, digest: str, made: list[Claim]) -> None:
        claim = await self._claims.make(tenant_uid, digest)
        if claim is not None:
            made.append(claim)

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
        """Yield what was set aside."""
        async for item in self._all(garbagekeys.damaged(tenant_uid)):
            yield item

    async def discard(self, item: Item) -> None:
        """Remove what was set aside."""
        await self._records.remove(item.key)

    async def reap(self, age: timedelta = CLAIM_STALE) -> int:
        """Take away the claims of collectors that have died; return how many."""
        return await self._claims.reap(age)

    async def prune(self, tenant_uid: str) -> None:
        """Remove the empty folders of a tenant that is gone."""
        await self._records.prune(garbagekeys.prefix(tenant_uid))

    def _all(self, prefix: str, after: str = "") -> AsyncIterator[Item]:
        return record_ports.walk(self._records, prefix, after)


def _is_blank(record: bytes) -> bool:
    """Tell whether the record of the owner was cut off before the owner; a power cut may leave zeros."""
    return _OWNER_START.startswith(record.rstrip(b"\0"))


def _owner(record: bytes) -> str:
    try:
        return str(json.loads(record)["clusterUid"])
    except (ValueError, KeyError, TypeError):
        return ""


def _blob(item: Item) -> Blob | None:
    parsed = keys.parse_blob(item.key)
    return None if parsed is None else Blob(parsed[1], item.size_bytes, item.modified)
