"""The records of a store in a bucket."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

import obstore
from obstore import exceptions as obstore_errors

from manifestry.adapters.store.contract.ports import BATCH_BYTES, BlobDamagedError, BlobNotFoundError
from manifestry.adapters.store.contract.record_ports import LIST_MAX, RECORD_MAX_BYTES, Item

if TYPE_CHECKING:
    from obstore import ObjectMeta, UpdateVersion
    from obstore.store import ObjectStore

MOVE_SECONDS: Final = 300.0  # a server-side copy of 5 GiB, slowly
COPY_POLL_SECONDS: Final = 0.1

T = TypeVar("T")


class Call(Protocol):
    """Awaits a request, bounded in time, its errors typed."""

    async def __call__(self, operation: str, request: Awaitable[T], *, seconds: float | None = None) -> T:
        """Return the request's answer; `seconds` in the place of the store's timeout."""


class RemoteRecords:
    """See `record_ports.Records`.

    Args:
        bucket: an obstore store whose root is ours alone.
        call: how the store sends a request.
    """

    def __init__(self, bucket: "ObjectStore", call: Call) -> None:
        self._bucket = bucket
        self._call = call

    async def scan(self, prefix: str, *, after: str = "", limit: int = LIST_MAX) -> list[Item]:
        """Return keys below a prefix, in order; a store that knows no offset is read past it."""
        pages = aiter(obstore.list(self._bucket, prefix, offset=after or None, chunk_size=limit))
        found: list[Item] = []
        while len(found) < limit and (page := await self._call("list", _next(pages))) is not None:
            found += [_item(each) for each in page if each["path"] > after]
        return found[:limit]

    async def walk(self, prefix: str) -> AsyncIterator[Item]:
        """Yield all keys below a prefix, from one listing."""
        pages = aiter(obstore.list(self._bucket, prefix, offset=None, chunk_size=LIST_MAX))
        while (page := await self._call("list", _next(pages))) is not None:
            for each in page:
                yield _item(each)

    async def folders(self, prefix: str) -> list[str]:
        """Return the names directly below a prefix; all of them, there is one for each tenant."""
        found = await self._call("list", obstore.list_with_delimiter_async(self._bucket, prefix))
        return sorted(each.rstrip("/").rpartition("/")[2] for each in found["common_prefixes"])

    async def head(self, key: str) -> Item | None:
        """Return one key."""
        found = await self._meta(key)
        return None if found is None else _item(found)

    async def _meta(self, key: str) -> "ObjectMeta | None":
        try:
            return await self._call("head", obstore.head_async(self._bucket, key))
        except BlobNotFoundError:
            return None

    async def create(self, key: str, data: bytes) -> Item | None:
        """Write a few bytes if the key is not there."""
        try:
            await self._call("create", obstore.put_async(self._bucket, key, data, mode="create"))
        except obstore_errors.AlreadyExistsError:
            return None
        return await self.head(key)

    async def replace(self, key: str, seen: bytes, data: bytes) -> bool:
        """Write a few bytes if the key still has those that were seen, by their entity tag."""
        found = await self._meta(key)
        if found is None or await self.read(key, limit_bytes=RECORD_MAX_BYTES) != seen:
            return False
        try:
            await self._call("replace", obstore.put_async(self._bucket, key, data, mode=version(found)))
        except (obstore_errors.PreconditionError, obstore_errors.AlreadyExistsError):
            return False
        return True

    async def write(self, key: str, data: bytes) -> None:
        """Write a few bytes."""
        await self._call("write", obstore.put_async(self._bucket, key, data, use_multipart=False))

    async def read(self, key: str, *, limit_bytes: int) -> bytes | None:
        """Return the bytes of a small object, by one request."""
        try:
            found = await self._call("read", obstore.get_async(self._bucket, key))
            if found.meta["size"] > limit_bytes:
                return None
            return bytes(await self._call("read", found.bytes_async()))
        except BlobNotFoundError:
            return None

    async def touch(self, key: str) -> None:
        """Write an empty object."""
        await self.write(key, b"")

    async def move(self, key: str, to: str) -> None:
        """Write the other and remove the one; a bucket gives it the present time."""
        if await self._meta(key) is not None:
            await self.write(to, b"")
            await self.remove(key)

    async def stream(self, key: str) -> AsyncGenerator[memoryview, None]:
        """Yield an object's bytes, 1 MiB a request."""
        found = await self._call("stream", obstore.head_async(self._bucket, key))
        for start in range(0, found["size"], BATCH_BYTES):
            length = min(BATCH_BYTES, found["size"] - start)
            window = obstore.get_range_async(self._bucket, key, start=start, length=length)
            data = memoryview(await self._call("stream", window))
            if len(data) != length:
                raise BlobDamagedError("the stored bytes are fewer than their size")
            yield data

    async def remove(self, key: str) -> None:
        """Remove an object."""
        try:
            await self._call("remove", obstore.delete_async(self._bucket, key))
        except BlobNotFoundError:
            return

    async def copy(self, key: str, to: str) -> None:
        """Copy an object and replace what is there; nothing happens when it is gone."""
        found = await self.head(key)
        if found is None:
            return
        if found.size_bytes:
            copy = obstore.copy_async(self._bucket, key, to, overwrite=True)
            try:
                await self._call("move", copy, seconds=MOVE_SECONDS)
            except BlobNotFoundError:
                return
            await self._call("move", landed(lambda: self._meta(to), found.size_bytes), seconds=MOVE_SECONDS)
        else:  # there is nothing to copy
            await self.write(to, b"")

    async def prune(self, prefix: str) -> None:
        """Do nothing: a bucket has no folders."""


def version(found: "ObjectMeta") -> "UpdateVersion":
    """Return what a write is bound to that may replace this version of an object only."""
    seen: UpdateVersion = {}
    if found["e_tag"] is not None:
        seen["e_tag"] = found["e_tag"]
    if found["version"] is not None:
        seen["version"] = found["version"]
    return seen


async def landed(look: Callable[[], Awaitable["ObjectMeta | None"]], size_bytes: int) -> None:
    """Wait for a copy that the store, as Azure may, goes on with after its answer.

    Args:
        look: reads what is known of the copy; None while there is nothing.
        size_bytes: how long it will be.
    """
    while (found := await look()) is None or found["size"] != size_bytes:  # noqa: ASYNC110 - nobody tells
        await asyncio.sleep(COPY_POLL_SECONDS)


async def _next(pages: Any) -> "list[ObjectMeta] | None":
    try:
        return list(await anext(pages))
    except StopAsyncIteration:
        return None


def _item(found: "ObjectMeta") -> Item:
    version = f"{found['e_tag']} {found['version']}"
    return Item(found["path"], found["size"], found["last_modified"], version)
