"""Resumable uploads in a bucket: one object per piece, made only if there is none: one writer wins.

A piece at an offset is made only by one who knows that the pieces before it are there: it has listed them, or
made the last one itself. Pieces are removed with all that come after them, the last one first. So there is
never a gap before one that counts. An empty piece ends the upload: it takes the only place where one could go
on. Each piece carries its digest, as it was received, and what is read to be joined must have it; those that
an earlier version made have none, and are taken as they are.
"""

import asyncio
import contextlib
import hashlib
import uuid
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import obstore

from manifestry.adapters.store.contract import ports, session_ports
from manifestry.adapters.store.contract.ports import (
    BlobNotFoundError,
    Staged,
    StoreError,
    StoreUnavailableError,
)
from manifestry.adapters.store.contract.session_ports import (
    OffsetError,
    PieceDamagedError,
    SessionLimitError,
    SessionLostError,
    SessionNotFoundError,
)
from manifestry.adapters.store.remote import blobs
from manifestry.adapters.store.remote import pieces as remote_pieces
from manifestry.core.artifacts import uploads
from manifestry.core.blobs import digests, keys

if TYPE_CHECKING:
    from obstore import ObjectMeta
    from obstore.store import ObjectStore

PIECE_BYTES: Final = 8 << 20
# An append holds the chunks of the piece being filled, their join, and obstore's copy of it: 3 x 8 MiB.
UPLOAD_BOUND_BYTES: Final = 3 * (PIECE_BYTES + session_ports.CHUNK_BYTES)
# Completing holds the window being staged and the one fetched ahead, besides what staging itself holds.
COMPLETION_BOUND_BYTES: Final = 2 * remote_pieces.WINDOW_BYTES + blobs.UPLOAD_BOUND_BYTES


class RemoteSessions:
    """Sessions in a bucket; see `session_ports.Sessions` for the contract.

    Args:
        bucket: obstore's client of the store's bucket.
        objects: the store, for staging what is complete.
        timeout_seconds: how long one request may take, retries included.
    """

    piece_bytes = PIECE_BYTES

    def __init__(self, bucket: "ObjectStore", objects: ports.Store, *, timeout_seconds: float) -> None:
        self._bucket = bucket
        self._objects = objects
        self._pieces = remote_pieces.Pieces(bucket, timeout_seconds)

    async def create(self, session: uploads.Session, *, limit: int) -> uploads.Session:
        """Begin a session in one of the tenant's free slots."""
        placed = replace(session, slot=await self._take(session, limit))
        try:
            await self._pieces.put(_key(placed.session_id, remote_pieces.RECORD), uploads.to_bytes(placed))
        except BaseException:
            with contextlib.suppress(StoreError):
                await self.abort(placed)
            raise
        return placed

    async def head(self, session_id: str) -> uploads.State | None:
        """Return how far a session is, None when there is no such session."""
        record, found = await asyncio.gather(
            self._pieces.read(_key(session_id, remote_pieces.RECORD)),
            self._pieces.listed(keys.upload(session_id)),
        )
        session = None if record is None else uploads.session_from(record)
        if session is None or found is None:
            return None
        sealed = await self._pieces.read(_key(session_id, remote_pieces.SEAL)) if found.has_seal else None
        seal = None if sealed is None else uploads.seal_from(sealed)
        pieces = uploads.chain(found.pieces)
        offset = sum(size for _, size in pieces) if seal is None else seal.size_bytes
        return uploads.State(session, offset, found.touched, seal, len(pieces))

    async def append(
        self,
        session: uploads.Session,
        offset: int,
        chunks: AsyncIterator[ports.Chunk],
        *,
        limit_bytes: int,
    ) -> int:
        """Store more bytes at the end, and return the new end once they are durable.

        The end is looked for first. It only moves forward, and where it was there is a piece now: so whoever
        has moved it since makes `create` fail, which is the compare-and-swap. It is looked for once more
        before the answer: the session may have been given up meanwhile.
        """
        is_checked = False
        async for data in ports.batches(chunks, batch_bytes=self.piece_bytes, limit_bytes=limit_bytes):
            if not is_checked:
                await self._check_end(session, offset)
                is_checked = True
            said = {remote_pieces.DIGEST: (await asyncio.to_thread(hashlib.sha256, data)).hexdigest()}
            if not await self._pieces.create(uploads.piece(session.session_id, offset), bytes(data), said):
                raise OffsetError("the stored bytes do not end there")
            offset += len(data)
        if is_checked:
            await self._check_alive(session)
        return offset

    async def cut(self, session: uploads.Session, offset: int) -> None:  # noqa: ARG002 - the port's
        """Give the session up: nobody could move its end back and keep others from appending behind it."""
        found = await self._pieces.listed(keys.upload(session.session_id))
        if found is None or not found.has_record:
            raise SessionNotFoundError("the upload is gone")
        if found.has_seal:
            raise OffsetError("the upload is complete")
        await self.abort(session)
        raise SessionLostError("the upload had wrong bytes and is gone; begin a new one")

    async def _check_alive(self, session: uploads.Session) -> None:
        if await self._pieces.read(_key(session.session_id, remote_pieces.RECORD)) is None:
            raise SessionNotFoundError("the upload is gone")

    async def _check_end(self, session: uploads.Session, offset: int) -> None:
        found = await self._pieces.listed(keys.upload(session.session_id))
        if found is None or not found.has_record:
            raise SessionNotFoundError("the upload is gone")
        if found.has_seal or sum(size for _, size in uploads.chain(found.pieces)) != offset:
            raise OffsetError("the stored bytes do not end there")

    async def seal(self, session: uploads.Session, *, size_bytes: int | None = None) -> Staged:
        """Copy the pieces together, hashing and comparing them, and let no more come."""
        try:
            return await self._seal(session, size_bytes)
        except (OffsetError, SessionNotFoundError):  # whoever seals it at the same time may be quicker
            state = await self.head(session.session_id)
            if state is not None and state.seal is not None:
                session_ports.check_size(state.seal.size_bytes, size_bytes)
                return Staged(*state.seal)
            if state is not None:
                raise OffsetError("the stored bytes have changed") from None
            raise

    async def _seal(self, session: uploads.Session, wanted_bytes: int | None) -> Staged:
        state = await self.head(session.session_id)
        if state is None:
            raise SessionNotFoundError("the upload is gone")
        session_ports.check_size(state.offset, wanted_bytes)
        if state.seal is not None and await self._is_fresh(session):
            return Staged(*state.seal)
        found = await self._pieces.listed(keys.upload(session.session_id))
        end = None if state.seal is None else state.seal.size_bytes
        pieces = uploads.chain(found.pieces if found else {}, end)
        size_bytes = sum(size for _, size in pieces)
        if state.seal is not None and size_bytes != state.seal.size_bytes:
            raise SessionNotFoundError("the upload's bytes are gone")
        session_ports.check_size(size_bytes, wanted_bytes)
        await self._end(session, size_bytes)
        try:
            staged = await self._staged(session, pieces, size_bytes)
        except PieceDamagedError as error:
            if await self._is_damaged(session, pieces, error.offset):
                await self.abort(session)
                raise SessionLostError("the store has other bytes than were sent; begin a new one") from error
            raise StoreUnavailableError("the object store returned other bytes than it has (seal)") from error
        await self._pieces.put(
            _key(session.session_id, remote_pieces.SEAL), uploads.to_bytes(uploads.Seal(*staged))
        )
        return staged

    async def _staged(
        self, session: uploads.Session, pieces: list[tuple[int, int]], size_bytes: int
    ) -> Staged:
        if len(pieces) == 1:
            return await self._copied(session, pieces)
        return await self._joined(session, pieces, size_bytes)

    async def _is_damaged(self, session: uploads.Session, pieces: list[tuple[int, int]], offset: int) -> bool:
        """Read a piece again: what was read wrong once need not be stored wrong."""
        piece = [each for each in pieces if each[0] == offset]
        try:
            async with contextlib.aclosing(self._pieces.windows(session, piece)) as windows:
                async for _ in windows:
                    pass
        except PieceDamagedError:
            return True
        return False

    async def _joined(
        self, session: uploads.Session, pieces: list[tuple[int, int]], size_bytes: int
    ) -> Staged:
        """Read the pieces and write them as one object.

        What is read must be hashed anyway. Joining on the server (S3's UploadPartCopy, GCS's compose, Azure's
        block lists) would save the writing, but obstore offers none of these.
        """
        async with contextlib.aclosing(self._pieces.windows(session, pieces)) as windows:
            return await self._objects.stage(windows, limit_bytes=size_bytes)

    async def _copied(self, session: uploads.Session, pieces: list[tuple[int, int]]) -> Staged:
        """Read and hash the only piece, and let the server copy it."""
        ((offset, size_bytes),), sha256 = pieces, hashlib.sha256()
        async with contextlib.aclosing(self._pieces.windows(session, pieces)) as windows:
            async for data in windows:
                await asyncio.to_thread(sha256.update, data)
        upload_id, source = str(uuid.uuid4()), uploads.piece(session.session_id, offset)
        try:
            await self._pieces.call("seal", obstore.copy_async(self._bucket, source, keys.upload(upload_id)))
        except BlobNotFoundError:
            raise SessionNotFoundError("the upload's bytes are gone") from None
        return Staged(upload_id, f"{digests.ALGORITHM}:{sha256.hexdigest()}", size_bytes)

    async def finish(self, session: uploads.Session) -> None:
        """Give the slot and the pieces free; the record, the seal and the end stay."""
        keep = frozenset({remote_pieces.RECORD, remote_pieces.SEAL})
        await self._pieces.remove_below(
            session.session_id, lambda item: item["size"] == 0 or _name(item) in keep
        )
        await self._free(session)

    async def abort(self, session: uploads.Session) -> None:
        """Remove a session with everything it has, the record first."""
        await self._pieces.delete(_key(session.session_id, remote_pieces.RECORD))
        sealed = await self._pieces.read(_key(session.session_id, remote_pieces.SEAL))
        seal = None if sealed is None else uploads.seal_from(sealed)
        if seal is not None:
            await self._objects.discard(Staged(*seal))
        await self._pieces.remove_below(session.session_id)
        await self._free(session)

    async def entries(self) -> AsyncGenerator[uploads.State | uploads.Leftover, None]:
        """Yield every session, and what else lies below `uploads/`."""
        listed = await self._pieces.call(
            "list", obstore.list_with_delimiter_async(self._bucket, keys.UPLOADS.rstrip("/"))
        )
        for item in listed["objects"]:
            upload_id = item["path"].removeprefix(keys.UPLOADS)
            if keys.is_uuid(upload_id):
                yield uploads.Leftover(upload_id, item["last_modified"])
        for prefix in listed["common_prefixes"]:
            upload_id = prefix.removeprefix(keys.UPLOADS).rstrip("/")
            if not keys.is_uuid(upload_id):
                continue
            state = await self.head(upload_id)
            found = None if state else await self._pieces.listed(keys.upload(upload_id))
            if state:
                yield state
            elif found:
                yield uploads.Leftover(upload_id, found.touched)

    async def remove(self, leftover: uploads.Leftover) -> None:
        """Remove bytes that belong to no session."""
        await self._pieces.delete(keys.upload(leftover.upload_id))
        await self._pieces.remove_below(leftover.upload_id)

    async def free_slots(self, before: datetime) -> int:
        """Free the slots last written before `before` whose sessions are gone."""
        freed = 0
        async for item in self._pieces.items(uploads.SESSIONS.rstrip("/")):
            if uploads.parse_slot(item["path"]) is None or item["last_modified"] >= before:
                continue
            data = await self._pieces.read(item["path"])
            session_id = (data or b"").decode("ascii", "replace")
            if data is None or (keys.is_uuid(session_id) and await self.head(session_id)):
                continue
            await self._pieces.delete(item["path"])
            freed += 1
        return freed

    async def close(self) -> None:
        """Do nothing: obstore's connections end with the object."""

    async def _take(self, session: uploads.Session, limit: int) -> int:
        listed = [
            item["path"] async for item in self._pieces.items(uploads.slots(session.tenant_uid).rstrip("/"))
        ]
        taken = [found[1] for path in listed if (found := uploads.parse_slot(path))]
        for number in uploads.free_slots(taken, limit):
            if await self._pieces.create(
                uploads.slot(session.tenant_uid, number), session.session_id.encode()
            ):
                return number
        raise SessionLimitError(max(len(taken), limit))

    async def _free(self, session: uploads.Session) -> None:
        key = uploads.slot(session.tenant_uid, session.slot)
        if await self._pieces.read(key) == session.session_id.encode():
            await self._pieces.delete(key)

    async def _is_fresh(self, session: uploads.Session) -> bool:
        found = await self._pieces.call(
            "head", obstore.head_async(self._bucket, _key(session.session_id, remote_pieces.SEAL))
        )
        return bool(datetime.now(UTC) - found["last_modified"] < uploads.RESEAL_AFTER)

    async def _end(self, session: uploads.Session, size_bytes: int) -> None:
        """Take the place of the piece that would come next, so that nobody can append any more.

        Raises:
            OffsetError: somebody has appended since the pieces were listed.
        """
        key = uploads.piece(session.session_id, size_bytes)
        if not await self._pieces.create(key, b"") and await self._pieces.size(key) != 0:
            raise OffsetError("more bytes have come")


def _key(session_id: str, name: str) -> str:
    return f"{keys.upload(session_id)}/{name}"


def _name(item: "ObjectMeta") -> str:
    return item["path"].rpartition("/")[2]
