"""The object store on a local volume: plain system calls, not obstore's `LocalStore`.

Why: obstore's `LocalStore` neither syncs a file and its folder before the name appears (a power cut could
leave a published, empty blob), nor opens with `O_NOFOLLOW`, and streaming from it costs 6 times the CPU of
positional reads (design/artifact-storage.md). Folders are opened one by one below the root, so a planted
symbolic link is refused at any level.

Publishing links or renames over the key. That is create-if-absent for readers, because the bytes under a
digest are always the same, and in one step it also heals a damaged blob and makes its modification time new.
The staged name stays until no collector can take the blob away (`holds`).
"""

import contextlib
import errno
import os
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Final, ParamSpec, TypeVar

from manifestry.adapters import threads
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
from manifestry.adapters.store.local import claims as local_claims
from manifestry.adapters.store.local import conformance, files, payloads
from manifestry.adapters.store.local import records as local_records
from manifestry.adapters.store.local import room as local_room
from manifestry.core.blobs import digests, garbagekeys, keys

# An upload holds the chunks of the batch being filled, and their join while it is written: 2 x 1 MiB.
UPLOAD_BOUND_BYTES: Final = 2 * BATCH_BYTES
# A download holds one window, and the one before it as long as the consumer keeps it: 2 x 1 MiB.
DOWNLOAD_BOUND_BYTES: Final = 2 * BATCH_BYTES
THREADS: Final = 16  # enough to keep a disk's queue full; a hung disk cannot take more of them

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_NOT_A_FILE: Final = frozenset({errno.ELOOP, errno.ENOTDIR, errno.EISDIR})

P = ParamSpec("P")
T = TypeVar("T")


class LocalStore:
    """A store below one folder of a local or shared volume; see `ports.Store` for the contract.

    Args:
        root: the folder, made when it is missing.
        timeout_seconds: how long one disk operation may take.
        room: what new bytes may take of the volume; None for all of it.
    """

    def __init__(self, root: Path, *, timeout_seconds: float, room: local_room.Room | None = None) -> None:
        self._root = root
        self._room = room
        self._timeout_seconds = timeout_seconds
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="store")
        self._opener = payloads.Opener(root, self._run)

    async def stage(self, chunks: AsyncIterator[ports.Chunk], *, limit_bytes: int) -> Staged:
        """Store and hash a stream where nobody sees it."""
        writer = files.StagingFile(self._root, str(uuid.uuid4()), self._room)
        try:
            await self._run("stage", writer.open)
            async for batch in ports.batches(chunks, limit_bytes=limit_bytes):
                await self._run("stage", writer.append, batch)
            return await self._run("stage", writer.finish)
        except BaseException:
            with contextlib.suppress(StoreError):
                await self._run("discard", writer.abandon)
            raise

    async def publish(self, tenant_uid: str, staged: Staged) -> Blob:
        """Make staged bytes visible under their digest."""
        target = _Target(tenant_uid, Blob(staged.digest, staged.size_bytes))
        source = keys.upload(staged.upload_id)
        await self._outlast("publish", target, lambda: self._link(source, target))
        with contextlib.suppress(StoreError):  # published is published; a left-over is collected later
            await self._run("publish", self._forget, source)
        return target.blob

    async def put(self, tenant_uid: str, data: bytes) -> Blob:
        """Publish a few bytes that are in memory anyway."""
        if len(data) > PUT_MAX_BYTES:
            raise TooLargeError(f"the bytes must not be more than {PUT_MAX_BYTES}")
        target = _Target(tenant_uid, Blob(digests.of(data), len(data)))
        await self._outlast("put", target, lambda: self._put(target.key, data))
        return target.blob

    async def head(self, tenant_uid: str, digest: str) -> Blob | None:
        """Return a blob's size, None when the tenant has no such blob."""
        size_bytes = await self._run("head", self._size, keys.blob(tenant_uid, digest))
        return None if size_bytes is None else Blob(digest, size_bytes)

    async def confirm(self, tenant_uid: str, digest: str) -> Blob | None:
        """Return a blob's size once no collector is about to decide on it."""
        claim = garbagekeys.claim(tenant_uid, digest)
        await holds.until_gone(
            lambda: self._run("head", self._is_there, claim), wait_seconds=holds.WAIT_SECONDS
        )
        return await self.head(tenant_uid, digest)

    async def read(self, tenant_uid: str, digest: str, *, limit_bytes: int) -> bytes:
        """Return a small blob, hashed again."""
        data = await self._run("read", self._read, keys.blob(tenant_uid, digest), limit_bytes)
        if not digests.verify(data, digest):
            raise BlobDamagedError("the stored bytes do not match their digest")
        return data

    async def stream(
        self, tenant_uid: str, digest: str, *, offset: int = 0, count: int | None = None
    ) -> AsyncGenerator[memoryview, None]:
        """Yield the bytes in windows of 1 MiB, each a positional read in a thread."""
        reader = files.BlobFile(self._root, keys.blob(tenant_uid, digest))
        try:
            size_bytes = await self._run("stream", reader.open)
            end = size_bytes if count is None else offset + count
            for start in range(offset, end, BATCH_BYTES):
                yield memoryview(await self._run("stream", reader.window, start, end))
        finally:
            with contextlib.suppress(StoreError):
                await self._run("close", reader.close)

    async def open(self, tenant_uid: str, digest: str) -> payloads.LocalPayload:
        """Return a blob's open file."""
        with typed("stream"):
            return await self._opener.open(keys.blob(tenant_uid, digest))

    async def link(self, tenant_uid: str, digest: str, seconds: float) -> None:  # noqa: ARG002 - the port's
        """Return None: nobody else serves these bytes."""
        return None  # noqa: RET501 - the port's signature

    async def discard(self, staged: Staged) -> None:
        """Remove staged bytes."""
        await self._run("discard", self._unlink, keys.upload(staged.upload_id))

    async def delete(self, tenant_uid: str, digest: str) -> None:
        """Remove a blob."""
        await self._run("delete", self._unlink, keys.blob(tenant_uid, digest))

    async def look(self) -> None:
        """List the root; a volume that nobody has written to yet gets one."""
        await self._run("look", self._list)

    async def canary(self) -> None:
        """Write, sync, read back and delete a few bytes."""
        key, data = keys.canary(processids.process_id()), os.urandom(16)
        try:
            await self._run("canary", self._put, key, data)
            found = await self._run("canary", self._read, key, len(data))
        finally:
            with contextlib.suppress(StoreError):
                await self._run("canary", self._unlink, key)
        if found != data:
            raise StoreUnavailableError("the object store returned other bytes than were written")

    async def examine(self, *, removals: bool) -> str:  # noqa: ARG002 - the port's; here they are renames
        """Try what everything relies on."""
        return await self._run("examine", conformance.examine, self._root, processids.process_id())

    def local_path(self, tenant_uid: str, digest: str) -> Path | None:
        """Return where the blob lies or would lie, for a zero-copy send."""
        return self._root / keys.blob(tenant_uid, digest)

    def records(self) -> local_records.LocalRecords:
        """Return what the collector works on."""
        return local_records.LocalRecords(self._root, self._run)

    def claims(self) -> local_claims.LocalClaims:
        """Return how the collector removes."""
        return local_claims.LocalClaims(self._root, self._run)

    async def close(self) -> None:
        """Let the threads end; a hung one is not waited for."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._opener.close()

    async def _run(self, operation: str, function: Callable[P, T], *args: P.args, **_: P.kwargs) -> T:
        with typed(operation):
            return await threads.run(self._pool, self._timeout_seconds, operation, function, *args)

    async def _outlast(self, operation: str, target: "_Target", publish: Callable[[], None]) -> None:
        def attempt() -> Hold:
            publish()
            return self._hold(target)

        await holds.outlast(
            lambda: self._run(operation, attempt),
            lambda: self._run(operation, self._is_there, target.claim),
            wait_seconds=holds.WAIT_SECONDS,
        )

    def _hold(self, target: "_Target") -> Hold:
        """Look whether a new blob can be relied on; the claim first, the blob last."""
        if self._is_there(target.claim):
            return Hold.CLAIMED
        return Hold.SAFE if self._size(target.key) == target.blob.size_bytes else Hold.GONE

    def _list(self) -> None:
        here = PurePosixPath()
        with files.open_folder(self._root, here, create=True) as where, os.scandir(where) as entries:
            next(entries, None)

    def _is_there(self, key: str) -> bool:
        path = PurePosixPath(key)
        try:
            with files.open_folder(self._root, path.parent) as where:
                os.stat(path.name, dir_fd=where, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return True

    def _link(self, staged: str, target: "_Target") -> None:
        """Give staged bytes their digest's name besides their own, and a new time."""
        source, path = PurePosixPath(staged), PurePosixPath(target.key)
        with files.open_folder(self._root, path.parent, create=True) as to:
            try:
                with files.open_folder(self._root, source.parent) as where:
                    os.utime(source.name, dir_fd=where, follow_symlinks=False)
                    _link_over(where, source.name, to, path.name)
            except FileNotFoundError:
                if files.size_in(to, path.name) != target.blob.size_bytes:
                    raise
                os.utime(path.name, dir_fd=to, follow_symlinks=False)  # an earlier try got this far
            os.fsync(to)

    def _forget(self, staged: str) -> None:
        path = PurePosixPath(staged)
        with (
            contextlib.suppress(FileNotFoundError),
            files.open_folder(self._root, path.parent) as where,
        ):
            os.unlink(path.name, dir_fd=where)

    def _put(self, key: str, data: bytes) -> None:
        if self._holds(key, data):
            with contextlib.suppress(FileNotFoundError):  # removed since: `_hold` finds out
                self._touch(key)
            return
        writer = files.StagingFile(self._root, str(uuid.uuid4()), self._room)
        try:
            writer.open()
            writer.append(data)
            source = PurePosixPath(keys.upload(writer.finish().upload_id))
            path = PurePosixPath(key)
            with (
                files.open_folder(self._root, path.parent, create=True) as to,
                files.open_folder(self._root, source.parent) as where,
            ):
                os.rename(source.name, path.name, src_dir_fd=where, dst_dir_fd=to)
                os.fsync(to)
        except BaseException:
            writer.abandon()
            raise

    def _holds(self, key: str, data: bytes) -> bool:
        """Tell whether exactly these bytes are there: damaged ones of the same size are written anew."""
        try:
            return self._size(key) == len(data) and self._read(key, len(data)) == data
        except (FileNotFoundError, TooLargeError, BlobDamagedError):  # it is changing
            return False

    def _touch(self, key: str) -> None:
        """Make a file's time new, and its name durable: who has made it may not have come so far."""
        path = PurePosixPath(key)
        with files.open_folder(self._root, path.parent) as where:
            os.utime(path.name, dir_fd=where, follow_symlinks=False)
            os.fsync(where)

    def _size(self, key: str) -> int | None:
        path = PurePosixPath(key)
        try:
            with files.open_folder(self._root, path.parent) as where:
                return files.size_in(where, path.name)
        except FileNotFoundError:
            return None

    def _read(self, key: str, limit_bytes: int) -> bytes:
        reader = files.BlobFile(self._root, key)
        try:
            size_bytes = reader.open()
            if size_bytes > limit_bytes:
                raise TooLargeError(f"the blob must not be more than {limit_bytes} bytes")
            return b"".join(reader.window(at, size_bytes) for at in range(0, size_bytes, BATCH_BYTES))
        finally:
            reader.close()

    def _unlink(self, key: str) -> None:
        path = PurePosixPath(key)
        with (
            contextlib.suppress(FileNotFoundError),
            files.open_folder(self._root, path.parent) as where,
        ):
            os.unlink(path.name, dir_fd=where)
            os.fsync(where)


class _Target:
    """Where a blob goes, and where a collector would claim it."""

    def __init__(self, tenant_uid: str, blob: Blob) -> None:
        self.blob = blob
        self.key = keys.blob(tenant_uid, blob.digest)
        self.claim = garbagekeys.claim(tenant_uid, blob.digest)


def _link_over(where: int, source: str, to: int, name: str) -> None:
    """Give a file a second name, in the place of whatever has that name."""
    try:
        os.link(source, name, src_dir_fd=where, dst_dir_fd=to, follow_symlinks=False)
    except FileExistsError:
        spare = str(uuid.uuid4())  # killed here, it is a left-over like any other
        os.link(source, spare, src_dir_fd=where, dst_dir_fd=where, follow_symlinks=False)
        os.rename(spare, name, src_dir_fd=where, dst_dir_fd=to)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(spare, dir_fd=where)  # of two names of one file a rename leaves both
    except OSError as error:
        if error.errno not in files.NO_LINKS:
            raise
        # A claim found after this costs the upload, which then ends with an error; never an acknowledged one.
        os.rename(source, name, src_dir_fd=where, dst_dir_fd=to)


@contextlib.contextmanager
def typed(operation: str) -> Iterator[None]:
    """Raise what went wrong in the store as one of its own errors."""
    try:
        yield
    except FileNotFoundError as error:
        raise BlobNotFoundError("the tenant has no such blob") from error
    except OSError as error:  # also asyncio's TimeoutError
        if error.errno in _FULL:
            raise StoreFullError("the object store is full") from error
        if error.errno in _NOT_A_FILE:
            raise BlobDamagedError("the stored blob is not a regular file") from error
        raise StoreUnavailableError(f"the object store does not answer ({operation})") from error
