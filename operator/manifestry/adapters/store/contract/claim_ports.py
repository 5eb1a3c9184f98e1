"""What a collector's claim on a blob is, and what every store promises of it.

While a claim is there no publisher of the blob is told that its bytes are stored. A claim fences its owner:
when it is gone, whoever took it away, nothing that its owner does or has under way can remove the blob, or
anybody else's claim, however long the owner slept in between. docs/adr/0005 says how, and why that is so.
"""

import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final, Protocol

# So long after it was made the owner of a claim can remove the blob, by the bucket's clock, which sees to it.
CLAIM_SECONDS: Final = 120.0
# A claim is taken for abandoned after this time. In a bucket the difference, three minutes, is what a request
# may take that the server let in just before it expired.
CLAIM_STALE: Final = timedelta(seconds=300)

Look = Callable[[], Awaitable[bool]]


@dataclass(frozen=True)
class Claim:
    """The right to remove one blob.

    Args:
        tenant_uid: whose blob.
        digest: the blob's.
        made: when it was made, by the store's clock.
        token: a UUID that no other claim has.
        began: when making it began, in seconds of each of this process's clocks.
        signed: a bucket's requests that remove the blob and the claim, good for `CLAIM_SECONDS`.
    """

    tenant_uid: str
    digest: str
    made: datetime
    token: str = field(default_factory=lambda: str(uuid.uuid4()))
    began: tuple[float, ...] = ()
    signed: tuple[str, ...] = field(default=(), repr=False)


class Claims(Protocol):
    """Claims of one store; every method may raise `StoreUnavailableError` as the store's do.

    Then it is unknown what came of it: the claim must be left alone until it is stale.
    """

    at_once: int  # how many blobs may be claimed for one look at what refers to them

    async def prepare(self, tenant_uid: str) -> None:
        """Get ready to claim a tenant's blobs when the store is full.

        Raises:
            StoreFullError: it is already.
        """
        ...

    async def make(self, tenant_uid: str, digest: str) -> Claim | None:
        """Claim a blob; None when somebody else has."""
        ...

    async def fence(self, claims: Sequence[Claim]) -> list[Claim]:
        """Bound in time what can be done under new claims; before one looks whether their blobs may go."""
        ...

    async def remove(self, claim: Claim) -> bool:
        """Remove the claimed blob; tell whether it was done, and not refused because the claim is too old."""
        ...

    async def set_aside(self, tenant_uid: str, digest: str, is_same: Look) -> bool:
        """Move a blob to where damaged bytes are kept if, under a claim, it is still the same; tell whether.

        Args:
            tenant_uid: whose.
            digest: the blob's.
            is_same: looks at the blob.
        """
        ...

    async def give_back(self, claims: Sequence[Claim]) -> None:
        """Release claims before anything was done under them, fenced or not."""
        ...

    async def release(self, claim: Claim) -> None:
        """Give a claim back; nothing happens when it is gone, or another's by now."""
        ...

    async def reap(self, age: timedelta) -> int:
        """Take claims away that are as old as this; return how many."""
        ...
