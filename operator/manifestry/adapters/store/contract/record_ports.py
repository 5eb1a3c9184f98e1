"""What a store offers beside the blobs: small records and listings, on which the collector is built.

Times are the store's own: of the file system or of the bucket's server, never this process's clock.
"""

from collections.abc import AsyncGenerator, AsyncIterator
from datetime import datetime
from typing import Final, NamedTuple, Protocol

LIST_MAX: Final = 1000  # S3 answers at most so many keys
RECORD_MAX_BYTES: Final = 64 << 10  # what `replace` compares; the pin of an artifact of 64 files has 5 KiB


class Item(NamedTuple):
    """A stored key.

    Args:
        version: differs for whatever has been written under the key in the same moment; empty for unknown.
    """

    key: str
    size_bytes: int
    modified: datetime
    version: str = ""


class Records(Protocol):
    """Keys of a store as they are; every method may raise `StoreUnavailableError` as the store's do."""

    async def scan(self, prefix: str, *, after: str = "", limit: int = LIST_MAX) -> list[Item]:
        """Return the first `limit` keys below `prefix` that come after `after`, in order."""
        ...

    def walk(self, prefix: str) -> AsyncIterator[Item]:
        """Yield all keys below `prefix`, in no order; what comes or goes meanwhile may or may not be shown.

        A few pages are held at a time, however many there are.
        """
        ...

    async def folders(self, prefix: str) -> list[str]:
        """Return the names directly below `prefix` that have keys below them, in order."""
        ...

    async def head(self, key: str) -> Item | None:
        """Return one key, None when it is not there."""
        ...

    async def create(self, key: str, data: bytes) -> Item | None:
        """Write a few bytes, durably and all at once, if the key is not there; None when it is.

        Nothing durable is promised for no bytes at all: such a key says something by being there.
        """
        ...

    async def replace(self, key: str, seen: bytes, data: bytes) -> bool:
        """Write a few bytes if the key still has the bytes that were `seen`; tell whether it had.

        Of any number who try at once, whoever they are, one succeeds.
        """
        ...

    async def write(self, key: str, data: bytes) -> None:
        """Write a few bytes, durably and all at once; what was there is replaced."""
        ...

    async def read(self, key: str, *, limit_bytes: int) -> bytes | None:
        """Return the bytes, None when there are none or more than `limit_bytes`."""
        ...

    async def touch(self, key: str) -> None:
        """Make an empty key, or make its time new; soon, not at once, durable. It needs least room of all."""
        ...

    async def move(self, key: str, to: str) -> None:
        """Give an empty key another name and, where it can be, keep its time; one that is gone stays so."""
        ...

    def stream(self, key: str) -> AsyncGenerator[memoryview, None]:
        """Yield a key's bytes as the store has them, and not as this machine remembers them.

        A view is good until the next one is asked for.

        Raises:
            BlobNotFoundError: there is no such key.
            BlobDamagedError: it is no file, or ends early.
        """
        ...

    async def remove(self, key: str) -> None:
        """Remove a key; nothing happens when it is gone."""
        ...

    async def prune(self, prefix: str) -> None:
        """Remove the empty folders below `prefix` and itself, where a store has folders."""
        ...
