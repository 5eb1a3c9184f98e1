"""How a publisher and a collector of one blob keep out of each other's way.

The publisher makes the blob new and then looks for a claim; the collector makes a claim and then looks
whether the blob is new, or whether something refers to it. At least one of them sees the other (Dekker's
rule). The publisher gives way: it waits until the claim is gone and publishes again. Because a claim may have
come and gone between its two steps, it looks at last whether its blob is still there.

References: docs/adr/0005; `inventory` and `claim_ports` are the collector's side.
"""

import asyncio
from collections.abc import Awaitable, Callable
from enum import Enum
from typing import Final

from manifestry.adapters.store.contract.ports import StoreUnavailableError

WAIT_SECONDS: Final = 60.0
_FIRST_PAUSE_SECONDS: Final = 0.02
_LAST_PAUSE_SECONDS: Final = 1.0


class Hold(Enum):
    """What a publisher found after it had made its blob new."""

    SAFE = "no collector can remove the blob before the grace period is over"
    CLAIMED = "a collector is about to decide"
    GONE = "a collector has just removed it"


async def outlast(
    attempt: Callable[[], Awaitable[Hold]], is_claimed: Callable[[], Awaitable[bool]], *, wait_seconds: float
) -> None:
    """Publish until it holds.

    Args:
        attempt: publishes and looks.
        is_claimed: tells whether the claim is still there.
        wait_seconds: how long to wait for collectors in all.

    Raises:
        StoreUnavailableError: a claim stays, or blobs keep vanishing.
    """
    pauses = _Pauses(wait_seconds)
    while (hold := await attempt()) is not Hold.SAFE:
        await pauses.take()
        if hold is Hold.CLAIMED:
            await _until_gone(is_claimed, pauses)


async def until_gone(is_claimed: Callable[[], Awaitable[bool]], *, wait_seconds: float) -> None:
    """Wait until there is no claim.

    Raises:
        StoreUnavailableError: it stays.
    """
    await _until_gone(is_claimed, _Pauses(wait_seconds))


async def _until_gone(is_claimed: Callable[[], Awaitable[bool]], pauses: "_Pauses") -> None:
    while await is_claimed():
        await pauses.take()


class _Pauses:
    def __init__(self, wait_seconds: float) -> None:
        self._left = wait_seconds
        self._next = _FIRST_PAUSE_SECONDS

    async def take(self) -> None:
        if self._left <= 0:
            raise StoreUnavailableError("the object store is removing older bytes of this digest")
        pause = min(self._next, self._left)
        self._left -= pause
        self._next = min(2 * self._next, _LAST_PAUSE_SECONDS)
        await asyncio.sleep(pause)
