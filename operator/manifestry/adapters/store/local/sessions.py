"""Resumable uploads on a local volume: one file that grows, so that completing is a rename, not a copy."""

import contextlib
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Final, ParamSpec, TypeVar

from manifestry.adapters import offers, threads
from manifestry.adapters.store.contract import ports, session_ports
from manifestry.adapters.store.contract.ports import (
    BATCH_BYTES,
    Chunk,
    Staged,
    StoreError,
    StoreUnavailableError,
)
from manifestry.adapters.store.contract.session_ports import (
    OffsetError,
    PieceDamagedError,
    SessionLimitError,
    SessionNotFoundError,
)
from manifestry.adapters.store.local import (
    blobs,
    files,
    session_checks,
    session_files,
    session_logs,
    session_parts,
)
from manifestry.adapters.store.local import room as local_room
from manifestry.core.artifacts import uploads

# An append holds the chunks of the piece being filled, and their join while it is written: 2 x 1 MiB.
UPLOAD_BOUND_BYTES: Final = 2 * (BATCH_BYTES + session_ports.CHUNK_BYTES)
THREADS: Final = 8
_BYTES: Final = ("", session_logs.SUFFIX)  # what is not needed any more when they are published
_SESSIONS: Final = PurePosixPath(uploads.SESSIONS)

P = ParamSpec("P")
T = TypeVar("T")


class LocalSessions:
    """Sessions below one folder of a local or shared volume; see `session_ports.Sessions` for the contract.

    Args:
        root: the store's folder.
        timeout_seconds: how long one disk operation may take.
        room: what new bytes may take of the volume; None for all of it.
    """

    piece_bytes = BATCH_BYTES

    def __init__(self, root: Path, *, timeout_seconds: float, room: local_room.Room | None = None) -> None:
        self._root = root
        self._room = room
        self._timeout_seconds = timeout_seconds
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="sessions")
        self._hashers = ThreadPoolExecutor(THREADS, thread_name_prefix="session-hashes")

    async def create(self, session: uploads.Session, *, limit: int) -> uploads.Session:
        """Begin a session in one of the tenant's free slots; what comes too late is undone."""
        offer = offers.Offer[uploads.Session]()
        try:
            return await self._run("create", self._create, session, limit, offer)
        except BaseException:
            if (made := offer.leave()) is not None:
                self._pool.submit(self._undo, made)
            raise

    async def head(self, session_id: str) -> uploads.State | None:
        """Return how far a session is, None when there is no such session."""
        return await self._run("head", session_files.head, self._root, session_id)

    async def append(
        self, session: uploads.Session, offset: int, chunks: AsyncIterator[Chunk], *, limit_bytes: int
    ) -> int:
        """Store more bytes at the end, and return the new end once they are durable."""
        parts = session_parts.Parts(self._root, session.session_id, self._room, self._hashers)
        is_open = False
        try:
            async for data in ports.batches(chunks, batch_bytes=self.piece_bytes, limit_bytes=limit_bytes):
                if not is_open:  # nothing is opened for nothing: the bytes may be published
                    await self._run("append", parts.open)
                    is_open = True
                await self._run("append", parts.write, offset, data)
                offset += len(data)
            if is_open:
                await self._run("append", parts.commit)
        except StoreError:
            raise
        except BaseException:  # of whoever sends: what has come stays
            if is_open:
                with contextlib.suppress(StoreError):
                    await self._run("append", parts.commit)
            raise
        finally:
            with contextlib.suppress(StoreError):
                await self._run("close", parts.close)
        return offset

    async def cut(self, session: uploads.Session, offset: int) -> None:
        """Remove the bytes from `offset` on."""
        async with self._opened(session) as (parts, _):
            await self._run("cut", parts.cut, offset)

    async def seal(self, session: uploads.Session, *, size_bytes: int | None = None) -> Staged:
        """Hash the bytes, compare them with what was received, and let no more come."""
        if (staged := await self._sealed(session, size_bytes)) is not None:
            return staged
        try:
            return await self._seal(session, size_bytes)
        except (OffsetError, SessionNotFoundError):  # whoever seals it at the same time may be quicker
            if (staged := await self._sealed(session, size_bytes)) is not None:
                return staged
            raise

    async def _sealed(self, session: uploads.Session, size_bytes: int | None) -> Staged | None:
        state = await self.head(session.session_id)
        if state is None or state.seal is None:
            return None
        session_ports.check_size(state.seal.size_bytes, size_bytes)
        await self._run("seal", self._touch, session.session_id)
        return Staged(*state.seal)

    async def _seal(self, session: uploads.Session, size_bytes: int | None) -> Staged:
        async with self._opened(session) as (parts, _):
            look = await self._compared(parts, size_bytes)
            if look.is_damaged:  # what was read wrong once need not be stored wrong
                before, look = look.end, await self._compared(parts, size_bytes)
                if look.is_damaged and look.end != before:
                    raise StoreUnavailableError("the object store returns other bytes each time (seal)")
            if look.is_damaged:
                raise PieceDamagedError(await self._run("seal", parts.cut, look.end))
            seal = uploads.Seal(session.session_id, look.digest, look.end)
            await self._run("seal", parts.seal, seal)
        return Staged(*seal)

    async def _compared(
        self, parts: session_parts.Parts, size_bytes: int | None
    ) -> session_checks.Comparison:
        end = await self._run("seal", parts.halt)
        session_ports.check_size(end, size_bytes)
        look = session_checks.Comparison(parts, end)
        while not await self._run("seal", look.advance):
            pass
        return look

    async def finish(self, session: uploads.Session) -> None:
        """Give the slot and the bytes free; the record and the seal stay."""
        await self._run("finish", session_files.remove, self._root, session.session_id, _BYTES)
        await self._run("finish", self._free, session.tenant_uid, session.slot, session.session_id)

    async def abort(self, session: uploads.Session) -> None:
        """Remove a session with everything it has, the record first."""
        await self._run(
            "abort", session_files.remove, self._root, session.session_id, session_files.EVERYTHING
        )
        await self._run("abort", self._free, session.tenant_uid, session.slot, session.session_id)

    async def entries(self) -> AsyncGenerator[uploads.State | uploads.Leftover, None]:
        """Yield every session, and what else lies below `uploads/`."""
        for upload_id, changed in (await self._run("list", session_files.names, self._root)).items():
            yield await self.head(upload_id) or uploads.Leftover(upload_id, changed)

    async def remove(self, leftover: uploads.Leftover) -> None:
        """Remove bytes that belong to no session."""
        await self._run(
            "remove", session_files.remove, self._root, leftover.upload_id, session_files.EVERYTHING
        )

    async def free_slots(self, before: datetime) -> int:
        """Free the slots last written before `before` whose sessions are gone."""
        return await self._run("free", self._free_slots, before)

    async def close(self) -> None:
        """Let the threads end; a hung one is not waited for."""
        for pool in (self._pool, self._hashers):
            pool.shutdown(wait=False, cancel_futures=True)

    @contextlib.asynccontextmanager
    async def _opened(self, session: uploads.Session) -> AsyncIterator[tuple[session_parts.Parts, int]]:
        parts = session_parts.Parts(self._root, session.session_id)
        try:
            yield parts, await self._run("open", parts.open)
        finally:
            with contextlib.suppress(StoreError):
                await self._run("close", parts.close)

    async def _run(self, operation: str, function: Callable[P, T], *args: P.args, **_: P.kwargs) -> T:
        with blobs.typed(operation):
            return await threads.run(self._pool, self._timeout_seconds, operation, function, *args)

    def _create(
        self, session: uploads.Session, limit: int, offer: offers.Offer[uploads.Session]
    ) -> uploads.Session:
        local_room.Allowance(self._room).take()
        placed = replace(session, slot=self._take(session, limit))
        try:
            session_files.create(self._root, placed)
        except BaseException:
            self._undo(placed)
            raise
        if not offer.make(placed):
            self._undo(placed)
        return placed

    def _undo(self, placed: uploads.Session) -> None:
        session_files.remove(self._root, placed.session_id, session_files.EVERYTHING)
        self._free(placed.tenant_uid, placed.slot, placed.session_id)

    def _take(self, session: uploads.Session, limit: int) -> int:
        path = PurePosixPath(uploads.slots(session.tenant_uid))
        with files.open_folder(self._root, path, create=True) as where:
            taken = [int(name) for name in session_files.listing(where) if name.isdigit()]
            for number in uploads.free_slots(taken, limit):
                with contextlib.suppress(FileExistsError):  # somebody else was quicker
                    name = PurePosixPath(uploads.slot(session.tenant_uid, number)).name
                    session_files.write_new(where, name, session.session_id.encode())
                    return number
            raise SessionLimitError(len(session_files.listing(where)))

    def _free(self, tenant_uid: str, number: int, session_id: str) -> None:
        path = PurePosixPath(uploads.slot(tenant_uid, number))
        with (
            contextlib.suppress(FileNotFoundError),
            files.open_folder(self._root, path.parent) as where,
        ):
            found = session_files.read(where, path.name)
            if found is not None and found[0] == session_id.encode():
                os.unlink(path.name, dir_fd=where)

    def _free_slots(self, before: datetime) -> int:
        return sum(self._free_stale(key, before) for key in self._slots())

    def _free_stale(self, key: str, before: datetime) -> bool:
        path = PurePosixPath(key)
        with files.open_folder(self._root, path.parent) as where:
            found = session_files.read(where, path.name)
            if found is None or found[1] >= before:
                return False
            with contextlib.suppress(ValueError, UnicodeDecodeError):
                if session_files.head(self._root, found[0].decode()) is not None:
                    return False
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path.name, dir_fd=where)
            return True

    def _slots(self) -> Iterator[str]:
        with contextlib.suppress(FileNotFoundError), files.open_folder(self._root, _SESSIONS) as where:
            for tenant_uid in session_files.listing(where):
                with (
                    contextlib.suppress(FileNotFoundError),
                    files.open_folder(self._root, _SESSIONS / tenant_uid) as inner,
                ):
                    keys = [f"{uploads.SESSIONS}{tenant_uid}/{name}" for name in session_files.listing(inner)]
                    yield from (key for key in keys if uploads.parse_slot(key))

    def _touch(self, session_id: str) -> None:
        now = datetime.now(UTC).timestamp()
        with contextlib.suppress(FileNotFoundError), session_files.folder(self._root) as where:
            os.utime(session_id, (now, now), dir_fd=where, follow_symlinks=False)
