"""Claims in a bucket: objects whose owner can only send what the bucket refuses in time.

A claim is `gc/<tenant>/<hex>` with a token in it. Its owner's removals, of the blob and of the claim, are
signed before the owner looks, and end `CLAIM_SECONDS` after the claim was made by the bucket's own clock. The
claim itself stands for `CLAIM_STALE` at least: then who reaps puts a claim of its own in its place, if it is
still the same one, and gives that back. Where removals cannot be signed this process's clock must do.
"""

import contextlib
import time
import uuid
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, Protocol

import obstore
from obstore import exceptions as obstore_errors

from manifestry.adapters.store.contract import bounded, claim_ports
from manifestry.adapters.store.contract.claim_ports import Claim, Look
from manifestry.adapters.store.contract.ports import BlobNotFoundError, StoreUnavailableError
from manifestry.adapters.store.remote import records
from manifestry.core.blobs import garbagekeys, signedurls
from manifestry.core.blobs import keys as blob_keys

if TYPE_CHECKING:
    from obstore.store import ObjectStore

SIGNED_AT_ONCE: Final = 16  # claims; some clouds are asked once for each call, others once for each URL
_TOKEN_BYTES: Final = 36


class Deletes(Protocol):
    """What signs and sends removals; see `deletes.Deletes`."""

    @property
    def ahead(self) -> timedelta:
        """Return by how much our clock may be ahead of the store's."""

    async def sign(self, keys: Sequence[str], seconds: int) -> list[str] | None:
        """Return URLs, None when they cannot be had."""

    async def send(self, url: str) -> bool:
        """Tell whether the key is gone."""


class RemoteClaims:
    """See `claim_ports.Claims`.

    Args:
        bucket: an obstore store whose root is ours alone.
        call: how the store sends a request.
        deletes: signed removals, where the store has them.
    """

    at_once = 200  # their removals end after `CLAIM_SECONDS`, the look included

    def __init__(self, bucket: "ObjectStore", call: records.Call, deletes: Deletes | None) -> None:
        self._bucket = bucket
        self._call = call
        self._deletes = deletes
        self._records = records.RemoteRecords(bucket, call)

    async def prepare(self, tenant_uid: str) -> None:
        """Do nothing: a bucket has no end."""

    async def make(self, tenant_uid: str, digest: str) -> Claim | None:
        """Write the claim if there is none."""
        return await self._write(tenant_uid, digest, "create")

    async def _write(self, tenant_uid: str, digest: str, mode: Any) -> Claim | None:
        key, token, began = garbagekeys.claim(tenant_uid, digest), str(uuid.uuid4()), _clocks()
        try:
            await self._call("claim", obstore.put_async(self._bucket, key, token.encode(), mode=mode))
        except (obstore_errors.AlreadyExistsError, obstore_errors.PreconditionError):
            return None
        made = await self._made(key, token)
        return None if made is None else Claim(tenant_uid, digest, made, token, began)

    async def _made(self, key: str, token: str) -> datetime | None:
        """Return when a claim was made, None when it is another one by now; both from one answer."""
        try:
            found = await self._call("claim", obstore.get_async(self._bucket, key))
        except BlobNotFoundError:
            return None
        meta = found.meta
        if (
            meta["size"] != _TOKEN_BYTES
            or bytes(await self._call("claim", found.bytes_async())) != token.encode()
        ):
            return None
        return meta["last_modified"]

    async def fence(self, claims: Sequence[Claim]) -> list[Claim]:
        """Sign the removals that the claims allow."""
        parts = [claims[at : at + SIGNED_AT_ONCE] for at in range(0, len(claims), SIGNED_AT_ONCE)]
        return [claim for part in await bounded.each(map(self._sign, parts)) for claim in part]

    async def _sign(self, claims: Sequence[Claim]) -> list[Claim]:
        """Sign until a moment of the store's clock; ours says only how far from now that is.

        If it is ahead, that is for fewer seconds, for none when it is ahead by the whole time; if it is
        behind, for more. What was signed is compared with that moment: a process that slept between the two
        clocks has signed for too long.
        """
        if self._deletes is None:
            return list(claims)
        first, now = min(claims, key=lambda claim: claim.made), _now()
        end = first.made + timedelta(seconds=claim_ports.CLAIM_SECONDS)
        seconds = int((end - now).total_seconds())
        ahead = now - first.made - timedelta(seconds=_since(first))
        if seconds < 1 or ahead > self._deletes.ahead:
            raise StoreUnavailableError("the object store's clock is behind, or claiming took too long")
        keys = [key for claim in claims for key in _keys(claim)]
        urls = await self._call("sign", self._deletes.sign(keys, seconds))
        if urls is None:
            return list(claims)
        spans = [signedurls.span(url) for url in urls]
        if any(span is None or span[1] > end for span in spans):
            raise StoreUnavailableError("signing took too long")
        return [
            replace(claim, signed=(blob, own))
            for claim, blob, own in zip(claims, urls[::2], urls[1::2], strict=True)
        ]

    async def remove(self, claim: Claim) -> bool:
        """Send what was signed for the blob."""
        return await self._send(claim, 0)

    async def release(self, claim: Claim) -> None:
        """Send what was signed for the claim; refused, it is left to who reaps."""
        await self._send(claim, 1)

    async def _send(self, claim: Claim, which: int) -> bool:
        if self._deletes is not None and claim.signed:
            return await self._call("delete", self._deletes.send(claim.signed[which]))
        if _since(claim) >= claim_ports.CLAIM_SECONDS:
            return False
        await self._records.remove(_keys(claim)[which])
        return True

    async def give_back(self, claims: Sequence[Claim]) -> None:
        """Release claims that nobody looked under; if they cannot be signed, as long as our clocks let us."""
        with contextlib.suppress(StoreUnavailableError):
            claims = await self.fence(claims)
        await bounded.each(self.release(claim) for claim in claims)

    async def set_aside(self, tenant_uid: str, digest: str, is_same: Look) -> bool:
        """Copy the blob first, which may take longer than a claim is good; then remove it under a claim.

        A copy that was not needed goes with the others, in a week.
        """
        aside = garbagekeys.quarantine(tenant_uid, digest)
        await self._records.copy(blob_keys.blob(tenant_uid, digest), aside)
        made = await self.make(tenant_uid, digest)
        if made is None:
            return False
        try:
            (claim,) = await self.fence([made])
        except StoreUnavailableError:
            await self.give_back([made])
            raise
        same = await is_same()
        if same:
            await self.remove(claim)
        await self.release(claim)
        return same

    async def reap(self, age: timedelta) -> int:
        """Take over the claims that are old by the store's clock, and give them back."""
        listed = [item async for item in self._records.walk(garbagekeys.CLAIMS)]
        claims = [(item, parsed) for item in listed if (parsed := garbagekeys.parse_claim(item.key))]
        if not claims:
            return 0
        before = await self._time() - age
        stale = [parsed for item, parsed in claims if item.modified <= before]
        return sum(await bounded.each(self._reap(*parsed, before) for parsed in stale))

    async def _reap(self, tenant_uid: str, digest: str, before: datetime) -> bool:
        try:
            request = obstore.head_async(self._bucket, garbagekeys.claim(tenant_uid, digest))
            found = await self._call("claim", request)
            if found["last_modified"] > before:
                return False
            mine = await self._write(tenant_uid, digest, records.version(found))
        except BlobNotFoundError:  # given back; also what Amazon says to a write that may only replace
            return False
        if mine is not None:
            await self.give_back([mine])
        return mine is not None

    async def _time(self) -> datetime:
        """Return the store's time, or a little less."""
        await self._records.write(garbagekeys.CLOCK, b"")
        found = await self._records.head(garbagekeys.CLOCK)
        if found is None:
            raise StoreUnavailableError("the object store does not keep what is written")
        return found.modified


def _keys(claim: Claim) -> tuple[str, str]:
    names = claim.tenant_uid, claim.digest
    return blob_keys.blob(*names), garbagekeys.claim(*names)


def _clocks() -> tuple[float, ...]:
    """Return the time by a clock that nobody sets, and by one that also goes on while a machine is paused."""
    return time.monotonic(), _now().timestamp()


def _since(claim: Claim) -> float:
    return max(now - then for now, then in zip(_clocks(), claim.began, strict=True))


def _now() -> datetime:
    return datetime.now(UTC)
