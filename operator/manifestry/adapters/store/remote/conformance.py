"""Whether a bucket's server does what everything relies on: conditions, and an end of signed requests.

A server that knows nothing of `If-None-Match` and `If-Match` ignores them and says that all went well: two
appends at one offset are both acknowledged, two collectors hold one claim (docs/adr/0005).
"""

import asyncio
import logging
import uuid
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

import obstore
from obstore import exceptions as obstore_errors

from manifestry.adapters.store.remote import deletes as remote_deletes
from manifestry.adapters.store.remote import records
from manifestry.core.blobs import keys, signedurls

if TYPE_CHECKING:
    from obstore.store import ObjectStore

SIGNED_SECONDS: Final = 1
PATIENCE: Final = 8  # looks at the server's clock, a second apart
MARGIN: Final = timedelta(seconds=1)  # S3 says whole seconds

_logger = logging.getLogger(__name__)


class Examiner:
    """Tries one bucket under keys that no other process uses at this time; nothing stays of it.

    Args:
        bucket: an obstore store whose root is ours alone.
        call: how the store sends a request.
        deletes: makes removals that have an end, where the store can.
        probe_id: a UUID of this process.
    """

    def __init__(
        self,
        bucket: "ObjectStore",
        call: records.Call,
        deletes: remote_deletes.Deletes | None,
        probe_id: str,
    ) -> None:
        self._bucket = bucket
        self._call = call
        self._deletes = deletes
        self._records = records.RemoteRecords(bucket, call)
        self._key, self._clock = (
            keys.canary(str(uuid.uuid5(uuid.UUID(probe_id), name))) for name in ("key", "clock")
        )

    async def examine(self, *, removals: bool) -> str:
        """Return what the server does wrong, empty when it does all of it right.

        Raises:
            StoreError: it does not answer, or is full.
        """
        try:
            return (
                await self._creates()
                or await self._replaces()
                or (await self._removes() if removals and self._deletes is not None else "")
            )
        finally:
            await self._records.remove(self._key)
            await self._records.remove(self._clock)

    async def _creates(self) -> str:
        await self._records.remove(self._key)
        if await self._records.create(self._key, b"one") is None:
            return "the server refuses to create an object that is not there (If-None-Match: *)"
        if await self._records.create(self._key, b"two") is not None or await self._read() != b"one":
            return "the server overwrites an object that is there already (it ignores If-None-Match: *)"
        return ""

    async def _replaces(self) -> str:
        found = await self._call("examine", obstore.head_async(self._bucket, self._key))
        seen = records.version(found)
        if not seen:
            return "the server gives no entity tags"
        await self._records.write(self._key, b"three")
        if await self._put(b"four", seen) or await self._read() != b"three":
            return "the server overwrites an object that has changed (it ignores If-Match)"
        if not await self._records.replace(self._key, b"three", b"five"):
            return "the server refuses to overwrite an object that has not changed (If-Match)"
        return ""

    async def _put(self, data: bytes, seen: "obstore.UpdateVersion") -> bool:
        try:
            await self._call("examine", obstore.put_async(self._bucket, self._key, data, mode=seen))
        except (obstore_errors.PreconditionError, obstore_errors.AlreadyExistsError):
            return False
        return True

    async def _read(self) -> bytes | None:
        return await self._records.read(self._key, limit_bytes=16)

    async def _removes(self) -> str:
        """Let a signed removal expire by the server's clock, and send it then."""
        assert self._deletes is not None  # noqa: S101 - its caller has looked
        urls = await self._call("examine", self._deletes.sign([self._key], SIGNED_SECONDS))
        if urls is None:
            return ""  # the collector knows that, and warns
        span = signedurls.span(urls[0])
        if span is None or not await self._is_past(span[1]):
            _logger.warning("the object store's clock is behind ours; the end of removals was not tried")
            return ""
        gone = await self._deletes.send(urls[0])
        if gone or await self._records.head(self._key) is None:
            return "the server obeys a signed removal after its end (it ignores X-Amz-Expires or the like)"
        return ""

    async def _is_past(self, end: datetime) -> bool:
        for _ in range(PATIENCE):
            await self._records.write(self._clock, b"now")
            item = await self._records.head(self._clock)
            if item is not None and item.modified > end + MARGIN:
                return True
            await asyncio.sleep(1.0)
        return False
