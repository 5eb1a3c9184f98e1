"""What every object store promises, so that neither shell knows whether bytes are on a disk or in a cloud."""

from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import ClassVar, Final, NamedTuple, Protocol

from manifestry.adapters.store.contract.claim_ports import Claims
from manifestry.adapters.store.contract.record_ports import Records
from manifestry.core import errors

# A memoryview may be over a buffer that is used again as soon as the next chunk is asked for.
Chunk = bytes | memoryview

# A batch is hashed and written in one thread hop: 1 MiB takes 0.6 ms to hash, a hop about 0.05 ms.
BATCH_BYTES: Final = 1 << 20
PUT_MAX_BYTES: Final = (
    4 << 20
)  # `put` is for manifests and inline payloads: an OCI manifest has at most 4 MiB


class StoreError(Exception):
    """Something about the object store; `kind` is the row of the error table.

    Messages are constant for an operation, because they end in conditions: a message with a time in it
    would make every retry a write. What the store really said is in `__cause__`.
    """

    kind: ClassVar[errors.ErrorKind] = errors.INTERNAL


class StoreUnavailableError(StoreError):
    """The store does not answer in time, refuses our credentials, or fails."""

    kind = errors.DEPENDENCY_UNAVAILABLE


class StoreRefusedError(StoreUnavailableError):
    """The store is not known to be this cluster's, or not to do what it must: we do not write to it."""

    kind = errors.STORE_REFUSED


class StoreFullError(StoreError):
    """The store has no room for the bytes."""

    kind = errors.STORAGE_FULL


class TooLargeError(StoreError):
    """The bytes are more than the caller allowed."""

    kind = errors.PAYLOAD_TOO_LARGE


class BlobNotFoundError(StoreError):
    """The tenant has no blob of this digest."""

    kind = errors.NOT_FOUND


class BlobDamagedError(StoreError):
    """The stored bytes are not what their digest says."""

    kind = errors.INTERNAL


class Blob(NamedTuple):
    """Published bytes."""

    digest: str
    size_bytes: int


class Staged(NamedTuple):
    """Bytes that are stored and hashed, but that no reader can see; `upload_id` is a UUID."""

    upload_id: str
    digest: str
    size_bytes: int


class Payload(Protocol):
    """An open file of published bytes on this machine, to be sent by its descriptor; close it in any case."""

    size_bytes: int

    def fileno(self) -> int:
        """Return the descriptor; it may only be read from by position."""
        ...

    async def load(self, offset: int, count: int) -> None:
        """Bring a part into memory, so that sending it right after this does not wait for the disk.

        Raises:
            BlobDamagedError: the file ends before `offset + count`.
        """
        ...

    async def aclose(self) -> None:
        """Close the file."""
        ...


class Store(Protocol):
    """A content-addressed store, one prefix per tenant.

    Every method may raise `StoreUnavailableError`; each single request or disk operation ends within
    the store's timeout. A `tenant_uid` that is not a UUID or a digest that is not canonical is a
    `ValueError`: the shells have checked them long before.
    """

    async def stage(self, chunks: AsyncIterator[Chunk], *, limit_bytes: int) -> Staged:
        """Store a stream where nobody sees it, hashing as it passes.

        Raises:
            TooLargeError: more than `limit_bytes` came; nothing is left behind.
            StoreFullError: no room; nothing is left behind.
        """
        ...

    async def publish(self, tenant_uid: str, staged: Staged) -> Blob:
        """Make staged bytes visible under their digest, all of them at once; safe to repeat.

        Raises:
            BlobNotFoundError: the staged bytes are gone and were not published.
        """
        ...

    async def put(self, tenant_uid: str, data: bytes) -> Blob:
        """Publish a few bytes that are in memory anyway (at most `PUT_MAX_BYTES`); safe to repeat.

        Raises:
            TooLargeError: `data` is longer than that.
            StoreFullError: no room.
        """
        ...

    async def head(self, tenant_uid: str, digest: str) -> Blob | None:
        """Return a blob's size, None when the tenant has no such blob."""
        ...

    async def confirm(self, tenant_uid: str, digest: str) -> Blob | None:
        """Return what `head` does, but not while a collector is about to decide on the blob.

        For whoever has made something refer to stored bytes: a collector that decides later sees that.

        Raises:
            StoreUnavailableError: a collector takes too long.
        """
        ...

    async def read(self, tenant_uid: str, digest: str, *, limit_bytes: int) -> bytes:
        """Return a small blob, hashed again before it is returned.

        Raises:
            BlobNotFoundError: no such blob.
            TooLargeError: the blob is longer than `limit_bytes`.
            BlobDamagedError: the bytes do not hash to `digest`.
        """
        ...

    def stream(
        self, tenant_uid: str, digest: str, *, offset: int = 0, count: int | None = None
    ) -> AsyncGenerator[memoryview, None]:
        """Yield the bytes from `offset`, `count` of them or all, at the consumer's pace.

        Raises:
            BlobNotFoundError: no such blob.
            BlobDamagedError: the blob ends before `offset + count`.
        """
        ...

    async def open(self, tenant_uid: str, digest: str) -> Payload | None:
        """Return a blob's open file for sending it without a copy, None for a remote store.

        Raises:
            BlobNotFoundError: no such blob.
            BlobDamagedError: it is not a regular file.
        """
        ...

    async def link(self, tenant_uid: str, digest: str, seconds: float) -> str | None:
        """Return a URL at which anybody may read the blob for `seconds`, None when there is no such."""
        ...

    async def discard(self, staged: Staged) -> None:
        """Remove staged bytes; nothing happens when they are gone."""
        ...

    async def delete(self, tenant_uid: str, digest: str) -> None:
        """Remove a blob, whoever may be publishing it; the collector removes under a claim only."""
        ...

    async def look(self) -> None:
        """Read something, as the readiness of a Service needs it; a full or read-only store passes."""
        ...

    async def canary(self) -> None:
        """Write, read back and delete a few bytes, as readiness needs it."""
        ...

    async def examine(self, *, removals: bool) -> str:
        """Try what everything relies on: conditional writes, or locks and renames; nothing stays of it.

        Args:
            removals: also try whether removals end, which takes some seconds in a bucket.

        Returns:
            What the store does wrong, empty when it does all of it right.
        """
        ...

    def local_path(self, tenant_uid: str, digest: str) -> Path | None:
        """Return where the blob lies (or would lie) on this machine's disk, None for a remote store."""
        ...

    def records(self) -> Records:
        """Return what the collector works on, see `inventory`."""
        ...

    def claims(self) -> Claims:
        """Return how the collector removes, see `claim_ports`."""
        ...

    async def close(self) -> None:
        """Release threads and descriptors."""
        ...


async def batches(
    chunks: AsyncIterator[Chunk], *, limit_bytes: int, batch_bytes: int = BATCH_BYTES
) -> AsyncIterator[Chunk]:
    """Yield the stream in pieces of `batch_bytes` to twice a chunk more; none is empty.

    A chunk that is large enough is passed on as it is, good until the next one is asked for.

    Raises:
        TooLargeError: more than `limit_bytes` came; the whole pieces before that were yielded.
    """
    held: list[bytes] = []
    held_bytes = total = 0
    async for chunk in chunks:
        total += len(chunk)
        if total > limit_bytes:
            raise TooLargeError(f"the bytes must not be more than {limit_bytes}")
        if not held and len(chunk) >= batch_bytes:
            yield chunk
            continue
        held.append(bytes(chunk))  # what a memoryview shows does not stay
        held_bytes += len(chunk)
        if held_bytes >= batch_bytes:
            yield b"".join(held)
            held, held_bytes = [], 0
    if held_bytes:
        yield b"".join(held)
