"""Read stored bytes back at a bounded rate, and say whether they are what their digest says.

They are read past what this machine remembers: there, wrong twice is no more than wrong once, and right says
nothing about the disk.
"""

import asyncio
import hashlib
from collections import OrderedDict
from contextlib import aclosing
from datetime import timedelta
from typing import Final, Literal

from manifestry.adapters.queues import pacing
from manifestry.adapters.store import inventory
from manifestry.adapters.store.contract import ports
from manifestry.adapters.telemetry.storage_metrics import METRICS
from manifestry.core.blobs import digests
from manifestry.handlers.runtime.registry import Context

REMEMBERED: Final = 10_000  # digests that many Artifacts share need to be read once in a period

Key = tuple[str, str]
Result = Literal["Sound", "Damaged", "Missing", "Changed"]


class Readback:
    """Reads blobs back; what was sound is believed for half a period.

    Args:
        ctx: the operator's ports.
    """

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._inventory = inventory.Inventory(ctx.store)
        self._period = timedelta(seconds=ctx.settings.scrub_period_seconds)
        self._pace = pacing.Pace(ctx.settings.scrub_bytes_per_second, ctx.clock)
        self._sound: OrderedDict[Key, float] = OrderedDict()

    async def check(self, tenant_uid: str, digest: str, size_bytes: int | None = None) -> Result:
        """Read a blob; bytes that are wrong twice are set aside.

        Args:
            tenant_uid: whose blob.
            digest: its digest.
            size_bytes: how long it must be, None for unknown.

        Raises:
            StoreError: the store does not answer.
        """
        if self._is_known(tenant_uid, digest):
            return "Sound"
        seen = None
        for _ in range(2):  # a wrong bit may have come up on the way; twice the same, it is stored so
            if not await self._is_there(tenant_uid, digest):
                return "Missing"
            seen = await self._inventory.blob(tenant_uid, digest)
            if seen is None:
                return "Changed"
            if size_bytes in {None, seen.size_bytes} and await self._is_sound(tenant_uid, digest):
                self._remember(tenant_uid, digest)
                return "Sound"
        assert seen is not None  # noqa: S101 - the loop has run
        return "Damaged" if await self._inventory.quarantine(tenant_uid, seen) else "Changed"

    async def _is_there(self, tenant_uid: str, digest: str) -> bool:
        try:
            return await self._ctx.store.confirm(tenant_uid, digest) is not None
        except ports.BlobDamagedError:  # not even a file
            return True

    async def _is_sound(self, tenant_uid: str, digest: str) -> bool:
        sha256 = hashlib.sha256()
        try:
            async with aclosing(self._inventory.reread(tenant_uid, digest)) as views:
                async for view in views:
                    await asyncio.to_thread(sha256.update, view)
                    METRICS.scrubbed_bytes.inc(len(view))
                    await self._pace.spend(len(view))
        except ports.BlobDamagedError:
            return False
        return digests.equal(f"{digests.ALGORITHM}:{sha256.hexdigest()}", digest)

    def _is_known(self, tenant_uid: str, digest: str) -> bool:
        read = self._sound.get((tenant_uid, digest))
        # Half a period, so that what many share is not believed for two.
        return read is not None and self._ctx.clock.monotonic() - read < self._period.total_seconds() / 2

    def _remember(self, tenant_uid: str, digest: str) -> None:
        self._sound[tenant_uid, digest] = self._ctx.clock.monotonic()
        self._sound.move_to_end((tenant_uid, digest))
        while len(self._sound) > REMEMBERED:
            self._sound.popitem(last=False)
