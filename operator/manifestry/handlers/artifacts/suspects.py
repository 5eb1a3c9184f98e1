"""Bytes that could not be downloaded are read back soon, not when the scrub comes to them.

What is damaged or missing then stands in the Artifact's status, and whoever has the bytes can store them
again.
"""

import logging

from manifestry.adapters.kube import apierrors
from manifestry.adapters.store.contract import ports
from manifestry.core.artifacts import suspects
from manifestry.core.artifacts.suspects import Suspect
from manifestry.core.kube import names
from manifestry.handlers.artifacts import scrubber
from manifestry.handlers.runtime.registry import Context

_logger = logging.getLogger(__name__)

EVERY_SECONDS = 30.0
WORK = 100  # notes taken in one round


class Suspects:
    """Runs in the leader, beside the scrub, at the scrub's rate.

    Args:
        ctx: the operator's ports.
    """

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._records = ctx.store.records()
        self._after = ""  # a note that cannot be done must not keep the others from being read

    async def run(self) -> None:
        """Look for notes for ever."""
        while True:
            await self._ctx.clock.sleep(EVERY_SECONDS)
            try:
                await self.once()
            except ports.StoreError as error:
                _logger.warning("notes of failed downloads not read", extra={"error": str(error)})

    async def once(self) -> int:
        """Read back what the notes name; return how many notes are done.

        Raises:
            StoreError: the store does not answer.
        """
        if self._ctx.guard is not None and not self._ctx.guard.is_ours:
            return 0  # in a store that is not ours all bytes would be called missing
        found = await self._records.scan(suspects.PREFIX, after=self._after, limit=WORK)
        self._after = found[-1].key if len(found) == WORK else ""
        return sum([await self._attempt(item.key) for item in found])

    async def _attempt(self, key: str) -> bool:
        try:
            data = await self._records.read(key, limit_bytes=suspects.NOTE_MAX_BYTES)
            suspect = None if data is None else suspects.parse(key, data)
            if suspect is not None and await self._is_alive(suspect):
                # A scrub of its own: what another one has found sound lately is what is in doubt.
                await scrubber.Scrubber(self._ctx).verify(suspect.namespace, suspect.name)
        except (apierrors.ApiError, ports.StoreError) as error:
            _logger.warning("suspect not read back", extra={"key": key, "error": str(error)})
            return False
        await self._records.remove(key)
        return True

    async def _is_alive(self, suspect: Suspect) -> bool:
        try:
            found = await self._ctx.client.get(names.ARTIFACTS, suspect.name, suspect.namespace)
        except apierrors.NotFoundError:
            return False
        return bool(found["metadata"]["uid"] == suspect.uid)
