"""The object store in a bucket, through obstore: S3 and what speaks it, Google Cloud Storage, Azure.

Bytes are staged by a bounded multipart upload and published by a server-side copy to their digest's key,
so that a name never shows half of them. The copy is create-if-absent; two that race for a key carry the same
bytes, so the loser has won too.
"""

import asyncio
import contextlib
import functools
import hashlib
import itertools
import re
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import obstore
from obstore import exceptions as obstore_errors
from obstore.store import S3Store

from manifestry.adapters.store.contract import holds, ports, processids
from manifestry.adapters.store.contract.holds import Hold
from manifestry.adapters.store.contract.ports import (
    BATCH_BYTES,
    PUT_MAX_BYTES,
    Blob,
    BlobDamagedError,
    BlobNotFoundError,
    Staged,
    StoreError,
    StoreFullError,
    StoreUnavailableError,
    TooLargeError,
)
from manifestry.adapters.store.remote import claims as remote_claims
from manifestry.adapters.store.remote import conformance, links
from manifestry.adapters.store.remote import deletes as remote_deletes
from manifestry.adapters.store.remote import records as remote_records
from manifestry.core.blobs import digests, garbagekeys, keys

if TYPE_CHECKING:
    from obstore import Attributes, ObjectMeta
    from obstore.store import ObjectStore

PART_BYTES: Final = 5 << 20  # S3's smallest part; its 10,000 parts are 48 GiB, above COPY_MAX_BYTES
PARTS_IN_FLIGHT: Final = 3
# An upload holds the parts in flight, the part being filled, and two batches: (3 + 1) x 5 + 2 = 22 MiB.
UPLOAD_BOUND_BYTES: Final = (PARTS_IN_FLIGHT + 1) * PART_BYTES + 2 * BATCH_BYTES
WINDOW_BYTES: Final = 2 << 20
# A download holds the window with the consumer and the one fetched ahead: 2 x 2 = 4 MiB.
DOWNLOAD_BOUND_BYTES: Final = 2 * WINDOW_BYTES
COPY_MAX_BYTES: Final = 5 << 30  # S3's CopyObject and UploadPartCopy end here
COPY_BYTES_PER_SECOND: Final = 32 << 20  # a copy may take this long above the timeout: 5 GiB in 160 s
# An old blob that is published again is copied again, so that a collector's grace period starts anew.
REFRESH_AFTER: Final = timedelta(hours=1)

# What a bucket says to whoever follows a signed link: these are a tenant's bytes, to be saved, never shown
# from the bucket's own host. The same for all, as a blob may belong to several artifacts; copies keep it.
ATTRIBUTES: Final["Attributes"] = {
    "Content-Type": "application/octet-stream",
    "Content-Disposition": "attachment",
    "Cache-Control": "private, no-cache",
}

_FULL = re.compile(
    r"status code: 507|StorageFull|InsufficientStorage|QuotaExceeded|no space left", re.IGNORECASE
)

T = TypeVar("T")


class RemoteStore:
    """A store in a bucket; see `ports.Store` for the contract.

    Args:
        bucket: an obstore store whose root is ours alone.
        timeout_seconds: how long one request may take, retries included.
        signer: makes links for clients, where the store can.
        deletes: makes removals that have an end, where the store can.
    """

    def __init__(
        self,
        bucket: "ObjectStore",
        *,
        timeout_seconds: float,
        signer: links.Signer | None = None,
        deletes: remote_deletes.Deletes | None = None,
        refresh_after: timedelta = REFRESH_AFTER,
    ) -> None:
        self._bucket = bucket
        self._signer = signer
        self._deletes = deletes
        self._timeout_seconds = timeout_seconds
        self._refresh_after = refresh_after

    async def stage(self, chunks: AsyncIterator[ports.Chunk], *, limit_bytes: int) -> Staged:
        """Store and hash a stream where nobody sees it; a failure aborts the multipart upload."""
        upload_id, sha256, size_bytes = str(uuid.uuid4()), hashlib.sha256(), 0
        limit_bytes = min(limit_bytes, COPY_MAX_BYTES)
        async with self._writer(keys.upload(upload_id)) as writer:
            async for batch in ports.batches(chunks, limit_bytes=limit_bytes):
                await asyncio.to_thread(sha256.update, batch)
                await self._write("stage", writer.write(bytes(batch)))  # it keeps what it is given
                size_bytes += len(batch)
        return Staged(upload_id, f"{digests.ALGORITHM}:{sha256.hexdigest()}", size_bytes)

    async def publish(self, tenant_uid: str, staged: Staged) -> Blob:
        """Make staged bytes visible under their digest."""
        blob = Blob(staged.digest, staged.size_bytes)
        source = keys.upload(staged.upload_id)
        await self._outlast("publish", tenant_uid, blob, lambda key: self._publish(source, key, blob))
        with contextlib.suppress(StoreError):  # published is published; a left-over is collected later
            await self.discard(staged)
        return blob

    async def put(self, tenant_uid: str, data: bytes) -> Blob:
        """Publish a few bytes that are in memory anyway."""
        if len(data) > PUT_MAX_BYTES:
            raise TooLargeError(f"the bytes must not be more than {PUT_MAX_BYTES}")
        blob = Blob(digests.of(data), len(data))
        await self._outlast("put", tenant_uid, blob, lambda key: self._put(key, data))
        return blob

    async def confirm(self, tenant_uid: str, digest: str) -> Blob | None:
        """Return a blob's size once no collector is about to decide on it."""
        claim = garbagekeys.claim(tenant_uid, digest)
        await holds.until_gone(lambda: self._is_there("head", claim), wait_seconds=holds.WAIT_SECONDS)
        return await self.head(tenant_uid, digest)

    async def head(self, tenant_uid: str, digest: str) -> Blob | None:
        """Return a blob's size, None when the tenant has no such blob."""
        found = await self._meta("head", keys.blob(tenant_uid, digest))
        return None if found is None else Blob(digest, found["size"])

    async def read(self, tenant_uid: str, digest: str, *, limit_bytes: int) -> bytes:
        """Return a small blob, hashed again."""
        data = b"".join([bytes(view) async for view in self._bounded(tenant_uid, digest, limit_bytes)])
        if not digests.verify(data, digest):
            raise BlobDamagedError("the stored bytes do not match their digest")
        return data

    async def stream(
        self, tenant_uid: str, digest: str, *, offset: int = 0, count: int | None = None
    ) -> AsyncGenerator[memoryview, None]:
        """Yield the bytes in windows of 2 MiB, the next one fetched while the consumer has this one."""
        key = keys.blob(tenant_uid, digest)
        end = await self._size(key) if count is None else offset + count
        starts = range(offset, end, WINDOW_BYTES)
        ahead: asyncio.Task[memoryview] | None = None
        try:
            for start, following in itertools.pairwise([*starts, end]):
                data = await (ahead or self._fetch(key, start, end))
                ahead = self._fetch(key, following, end) if following < end else None
                yield data
        finally:
            if ahead is not None:
                ahead.cancel()
                await asyncio.gather(ahead, return_exceptions=True)

    async def open(self, tenant_uid: str, digest: str) -> None:  # noqa: ARG002 - the port's signature
        """Return None: the bytes are not on this machine."""
        return None  # noqa: RET501 - the port's signature

    async def link(self, tenant_uid: str, digest: str, seconds: float) -> str | None:
        """Return a signed URL of the store's own host."""
        if self._signer is None:
            return None
        return await self._call("sign", self._signer.sign(keys.blob(tenant_uid, digest), seconds))

    async def discard(self, staged: Staged) -> None:
        """Remove staged bytes."""
        await self._remove("discard", keys.upload(staged.upload_id))

    async def delete(self, tenant_uid: str, digest: str) -> None:
        """Remove a blob."""
        await self._remove("delete", keys.blob(tenant_uid, digest))

    async def look(self) -> None:
        """List a prefix that is nearly empty; the answer proves the bucket, and that we may read it."""
        await self._write("look", self.records().scan(keys.CANARY, limit=1))

    async def canary(self) -> None:
        """Write, read back and delete a few bytes."""
        key, data = keys.canary(processids.process_id()), uuid.uuid4().bytes
        try:
            await self._write("canary", obstore.put_async(self._bucket, key, data, use_multipart=False))
            found = await self._window(key, 0, len(data))
        finally:
            with contextlib.suppress(StoreError):
                await self._remove("canary", key)
        if found != data:
            raise StoreUnavailableError("the object store returned other bytes than were written")

    async def examine(self, *, removals: bool) -> str:
        """Try what everything relies on."""
        found = conformance.Examiner(self._bucket, self._call, self._deletes, processids.process_id())
        return await found.examine(removals=removals)

    def local_path(self, tenant_uid: str, digest: str) -> Path | None:  # noqa: ARG002 - the port's signature
        """Return None: the bytes are not on this machine."""
        return None

    def records(self) -> remote_records.RemoteRecords:
        """Return what the collector works on."""
        return remote_records.RemoteRecords(self._bucket, self._call)

    def claims(self) -> remote_claims.RemoteClaims:
        """Return how the collector removes."""
        return remote_claims.RemoteClaims(self._bucket, self._call, self._deletes)

    async def close(self) -> None:
        """Close what sends removals; obstore's connections end with the object."""
        if self._deletes is not None:
            await self._deletes.close()

    @contextlib.asynccontextmanager
    async def _writer(self, key: str) -> AsyncIterator[Any]:
        writer = obstore.open_writer_async(
            self._bucket,
            key,
            attributes=ATTRIBUTES,
            buffer_size=PART_BYTES,
            max_concurrency=PARTS_IN_FLIGHT,
        )
        try:
            yield writer
            await self._write("stage", writer.close())
        except BaseException as error:
            with contextlib.suppress(StoreError):
                await self._call("discard", writer.__aexit__(type(error), error, error.__traceback__))
            raise

    async def _outlast(
        self, operation: str, tenant_uid: str, blob: Blob, publish: Callable[[str], Awaitable[None]]
    ) -> None:
        key, claim = keys.blob(tenant_uid, blob.digest), garbagekeys.claim(tenant_uid, blob.digest)

        async def attempt() -> Hold:
            await publish(key)
            if await self._is_there(operation, claim):
                return Hold.CLAIMED
            found = await self._meta(operation, key)  # last: a claim may have come and gone
            return Hold.SAFE if found is not None and found["size"] == blob.size_bytes else Hold.GONE

        await holds.outlast(
            attempt, lambda: self._is_there(operation, claim), wait_seconds=holds.WAIT_SECONDS
        )

    async def _is_there(self, operation: str, key: str) -> bool:
        return await self._meta(operation, key) is not None

    async def _publish(self, source: str, key: str, blob: Blob) -> None:
        found = await self._meta("publish", key)
        sound = found is not None and found["size"] == blob.size_bytes
        if found is not None and sound and _age(found) <= self._refresh_after:
            return
        try:
            await self._copy(source, key, blob.size_bytes, overwrite=found is not None)
        except BlobNotFoundError:
            if not sound:  # else an earlier try got this far
                raise
            await self._refresh(key, blob.size_bytes)

    async def _refresh(self, key: str, size_bytes: int) -> None:
        """Make a blob's time new; there and back, as S3 refuses to copy an object onto itself."""
        spare = keys.upload(str(uuid.uuid4()))
        for source, target in ((key, spare), (spare, key)):
            await self._copy(source, target, size_bytes, overwrite=True)
            copied = remote_records.landed(functools.partial(self._meta, "publish", target), size_bytes)
            await self._call("publish", copied, seconds=self._patience(size_bytes))
        await self._remove("publish", spare)

    def _patience(self, size_bytes: int) -> float:
        return self._timeout_seconds + size_bytes / COPY_BYTES_PER_SECOND

    async def _put(self, key: str, data: bytes) -> None:
        if not await self._create(key, data) and not await self._holds(key, data):
            await self._replace("put", key, data)

    async def _holds(self, key: str, data: bytes) -> bool:
        """Tell whether exactly these bytes are there, and new enough; damaged ones are written anew."""
        found = await self._meta("put", key)
        if found is None or found["size"] != len(data) or _age(found) > self._refresh_after:
            return False
        try:
            return not data or await self._window(key, 0, len(data)) == data
        except (BlobNotFoundError, BlobDamagedError):  # it is changing
            return False

    async def _create(self, key: str, data: bytes) -> bool:
        try:
            await self._write(
                "put", obstore.put_async(self._bucket, key, data, mode="create", attributes=ATTRIBUTES)
            )
        except obstore_errors.AlreadyExistsError:
            return False
        return True

    async def _replace(self, operation: str, key: str, data: bytes) -> None:
        put = obstore.put_async(self._bucket, key, data, use_multipart=False, attributes=ATTRIBUTES)
        await self._write(operation, put)

    async def _copy(self, source: str, key: str, size_bytes: int, *, overwrite: bool) -> None:
        if size_bytes == 0:  # there is nothing to copy
            await self._replace("publish", key, b"")
            return
        # obstore asks S3 for a copy "if there is none" by an upload in parts, which forgets `ATTRIBUTES`.
        # To copy over what a rival has just made does no harm: under one digest the bytes are the same.
        overwrite = overwrite or isinstance(self._bucket, S3Store)
        copy = obstore.copy_async(self._bucket, source, key, overwrite=overwrite)
        with contextlib.suppress(obstore_errors.AlreadyExistsError):
            await self._call("publish", copy, seconds=self._patience(size_bytes))

    async def _meta(self, operation: str, key: str) -> "ObjectMeta | None":
        try:
            return await self._call(operation, obstore.head_async(self._bucket, key))
        except BlobNotFoundError:
            return None

    async def _size(self, key: str) -> int:
        found = await self._meta("stream", key)
        if found is None:
            raise BlobNotFoundError("the tenant has no such blob")
        return found["size"]

    async def _bounded(self, tenant_uid: str, digest: str, limit_bytes: int) -> AsyncIterator[memoryview]:
        size_bytes = await self._size(keys.blob(tenant_uid, digest))
        if size_bytes > limit_bytes:
            raise TooLargeError(f"the blob must not be more than {limit_bytes} bytes")
        async with contextlib.aclosing(self.stream(tenant_uid, digest, count=size_bytes)) as views:
            async for view in views:
                yield view

    def _fetch(self, key: str, start: int, end: int) -> asyncio.Task[memoryview]:
        return asyncio.create_task(self._window(key, start, min(WINDOW_BYTES, end - start)))

    async def _window(self, key: str, start: int, length: int) -> memoryview:
        window = obstore.get_range_async(self._bucket, key, start=start, length=length)
        data = memoryview(await self._call("stream", window))
        if len(data) != length:
            raise BlobDamagedError("the blob is shorter than its size")
        return data

    async def _remove(self, operation: str, key: str) -> None:
        with contextlib.suppress(BlobNotFoundError):
            await self._call(operation, obstore.delete_async(self._bucket, key))

    async def _call(self, operation: str, request: Awaitable[T], *, seconds: float | None = None) -> T:
        with typed(operation):
            async with asyncio.timeout(seconds or self._timeout_seconds):
                return await request

    async def _write(self, operation: str, request: Awaitable[T]) -> T:
        try:
            return await self._call(operation, request)
        except BlobNotFoundError as error:  # what a store says to a write when the bucket is missing
            raise StoreUnavailableError(f"the object store has no such bucket ({operation})") from error


def _age(found: "ObjectMeta") -> timedelta:
    return datetime.now(UTC) - found["last_modified"]


@contextlib.contextmanager
def typed(operation: str) -> Iterator[None]:
    """Raise what went wrong in the store as one of its own errors."""
    try:
        yield
    except (obstore_errors.AlreadyExistsError, obstore_errors.PreconditionError):
        raise  # answers to a condition, for whoever has set it
    except FileNotFoundError as error:
        raise BlobNotFoundError("the tenant has no such blob") from error
    except (obstore_errors.BaseError, OSError) as error:  # OSError is also asyncio's TimeoutError
        if _FULL.search(str(error)):
            raise StoreFullError("the object store is full") from error
        raise StoreUnavailableError(f"the object store does not answer ({operation})") from error
