"""The objects of an upload in a bucket: written once, listed, read back and compared with what came."""

import asyncio
import contextlib
import hashlib
import itertools
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

import obstore
from obstore import exceptions as obstore_errors

from manifestry.adapters.store.contract.ports import BlobNotFoundError, StoreUnavailableError
from manifestry.adapters.store.contract.session_ports import PieceDamagedError, SessionNotFoundError
from manifestry.adapters.store.remote import blobs
from manifestry.core.artifacts import uploads
from manifestry.core.blobs import keys

if TYPE_CHECKING:
    from obstore import ObjectMeta
    from obstore.store import ObjectStore

WINDOW_BYTES: Final = 2 << 20
RECORD: Final = "session.json"
SEAL: Final = "sealed.json"
DIGEST: Final = "sha256"  # in a piece's metadata

T = TypeVar("T")


@dataclass(frozen=True)
class Listed:
    """The objects of one session."""

    pieces: Mapping[int, int]
    touched: datetime
    has_record: bool
    has_seal: bool


class _Window(NamedTuple):
    """A part of a piece.

    Args:
        piece: where the piece begins, in bytes from the upload's first.
        start: where the part begins in it.
        length: in bytes.
        is_last: whether the piece ends with it.
    """

    piece: int
    start: int
    length: int
    is_last: bool


class Pieces:
    """An upload's objects.

    Args:
        bucket: obstore's client of the store's bucket.
        timeout_seconds: how long one request may take, retries included.
    """

    def __init__(self, bucket: "ObjectStore", timeout_seconds: float) -> None:
        self._bucket = bucket
        self._timeout_seconds = timeout_seconds

    async def windows(
        self, session: uploads.Session, pieces: list[tuple[int, int]]
    ) -> AsyncGenerator[bytes, None]:
        """Yield the bytes of some pieces, each compared with what was received.

        Raises:
            PieceDamagedError: a piece is not what it was.
            SessionNotFoundError: one is gone.
        """
        windows = [
            _Window(offset, start, min(WINDOW_BYTES, size - start), start + WINDOW_BYTES >= size)
            for offset, size in pieces
            for start in range(0, size, WINDOW_BYTES)
        ]
        ahead: asyncio.Task[tuple[bytes, str | None]] | None = None
        sha256, said = hashlib.sha256(), None
        try:
            for window, following in itertools.pairwise([*windows, None]):
                assert window is not None  # noqa: S101 - only the last one is None, and never the first of a pair
                data, stated = await (ahead or self.fetch(session, window))
                ahead = asyncio.create_task(self.fetch(session, following)) if following else None
                if window.start == 0:
                    sha256, said = hashlib.sha256(), stated
                await asyncio.to_thread(sha256.update, data)
                if window.is_last and said not in {None, sha256.hexdigest()}:
                    raise PieceDamagedError(window.piece)
                yield data
        finally:
            if ahead is not None:
                ahead.cancel()
                await asyncio.gather(ahead, return_exceptions=True)

    async def fetch(self, session: uploads.Session, window: _Window) -> tuple[bytes, str | None]:
        """Return a part of a piece, and with its first one what the piece was when it was received."""
        key, part = (
            uploads.piece(session.session_id, window.piece),
            (window.start, window.start + window.length),
        )
        try:
            found = await self.call("seal", obstore.get_async(self._bucket, key, options={"range": part}))
            data = bytes(await self.call("seal", found.bytes_async()))
        except BlobNotFoundError:
            raise SessionNotFoundError("the upload's bytes are gone") from None
        if len(data) != window.length:
            raise SessionNotFoundError("the upload's bytes are gone")
        return data, found.attributes.get(DIGEST)

    async def listed(self, prefix: str) -> Listed | None:
        """Return what a session has, None for nothing."""
        pieces: dict[int, int] = {}
        touched: list[datetime] = []
        names: set[str] = set()
        async for item in self.items(prefix):
            name = item["path"].rpartition("/")[2]
            offset = uploads.parse_piece(name)
            if offset is not None:
                pieces[offset] = item["size"]
            else:
                names.add(name)
            touched.append(item["last_modified"])
        return Listed(pieces, max(touched), RECORD in names, SEAL in names) if touched else None

    async def items(self, prefix: str) -> AsyncGenerator["ObjectMeta", None]:
        """Yield every object below a prefix."""
        pages = obstore.list(self._bucket, prefix).__aiter__()
        while True:
            try:
                page = await self.call("list", pages.__anext__())
            except StopAsyncIteration:
                return
            for item in page:
                yield item

    async def size(self, key: str) -> int | None:
        """Return an object's size in bytes, None when there is none."""
        with contextlib.suppress(BlobNotFoundError):
            found = await self.call("head", obstore.head_async(self._bucket, key))
            return int(found["size"])
        return None

    async def remove_below(
        self, upload_id: str, stays: Callable[["ObjectMeta"], bool] = lambda _: False
    ) -> None:
        """Remove an upload's objects, the last piece first: what a cut leaves has no gap."""
        items = [item async for item in self.items(keys.upload(upload_id))]
        for path in sorted((item["path"] for item in items if not stays(item)), reverse=True):
            await self.delete(path)

    async def create(self, key: str, data: bytes, said: Mapping[str, str] | None = None) -> bool:
        """Make an object if there is none; tell whether it was made."""
        attributes = {**blobs.ATTRIBUTES, **(said or {})}
        try:
            put = obstore.put_async(self._bucket, key, data, mode="create", attributes=attributes)
            await self.write(put)
        except obstore_errors.AlreadyExistsError:
            return False
        return True

    async def put(self, key: str, data: bytes) -> None:
        """Write an object."""
        await self.write(obstore.put_async(self._bucket, key, data, use_multipart=False))

    async def read(self, key: str) -> bytes | None:
        """Return an object's bytes, None when there is none."""
        try:
            found = await self.call("read", obstore.get_async(self._bucket, key))
            return bytes(await self.call("read", found.bytes_async()))
        except BlobNotFoundError:
            return None

    async def delete(self, key: str) -> None:
        """Remove an object; nothing happens when it is gone."""
        with contextlib.suppress(BlobNotFoundError):
            await self.call("remove", obstore.delete_async(self._bucket, key))

    async def call(self, operation: str, request: Awaitable[T]) -> T:
        """Return what a request answers, within the time that it has."""
        with blobs.typed(operation):
            async with asyncio.timeout(self._timeout_seconds):
                return await request

    async def write(self, request: Awaitable[T]) -> T:
        """Return what a request answers that writes."""
        try:
            return await self.call("append", request)
        except BlobNotFoundError as error:  # what a store says to a write when the bucket is missing
            raise StoreUnavailableError("the object store has no such bucket (append)") from error
