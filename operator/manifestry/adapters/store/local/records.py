"""The records of a store on a local volume; folders are opened below the root without following a link."""

import contextlib
import fcntl
import os
import stat
import threading
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, Final, Protocol, TypeVar

from manifestry.adapters.store.contract.ports import BATCH_BYTES, StoreError
from manifestry.adapters.store.contract.record_ports import LIST_MAX, RECORD_MAX_BYTES, Item
from manifestry.adapters.store.local import cold_files, files, spares
from manifestry.core.blobs import keys

T = TypeVar("T")
_READ_FLAGS: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_NEW_FLAGS: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_FOLDER_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Run(Protocol):
    """Runs a function in one of the store's threads, bounded in time, its errors typed."""

    async def __call__(self, operation: str, function: Callable[..., T], *args: Any) -> T:
        """Return what the function returns."""


class LocalRecords:
    """See `record_ports.Records`.

    Args:
        root: the store's folder.
        run: how the store runs what blocks.
    """

    def __init__(self, root: Path, run: Run) -> None:
        self._root = root
        self._run = run
        self._spares = spares.Spares(root)

    async def scan(self, prefix: str, *, after: str = "", limit: int = LIST_MAX) -> list[Item]:
        """Return keys below a prefix, in order."""
        return await self._run("list", self._list, prefix, after, limit)

    async def walk(self, prefix: str) -> AsyncIterator[Item]:
        """Yield all keys below a prefix, as the folders give them."""
        listing = _Listing(self._root, prefix)
        try:
            while page := await self._run("list", listing.page):
                for item in page:
                    yield item
        finally:
            with contextlib.suppress(StoreError):
                await self._run("list", listing.close)

    async def folders(self, prefix: str) -> list[str]:
        """Return the folders directly below a prefix."""
        return await self._run("list", self._folders, prefix)

    async def head(self, key: str) -> Item | None:
        """Return one key."""
        return await self._run("head", self._head, key)

    async def create(self, key: str, data: bytes) -> Item | None:
        """Write a few bytes if the key is not there."""
        return await self._run("create", self._create, key, data)

    async def replace(self, key: str, seen: bytes, data: bytes) -> bool:
        """Write a few bytes if the key still has those that were seen."""
        return await self._run("replace", self._replace, key, seen, data)

    async def write(self, key: str, data: bytes) -> None:
        """Write a few bytes durably."""
        await self._run("write", self._write, key, data)

    async def read(self, key: str, *, limit_bytes: int) -> bytes | None:
        """Return the bytes of a small file."""
        return await self._run("read", self._read, key, limit_bytes)

    async def touch(self, key: str) -> None:
        """Make an empty file anew; on a full volume from what was kept for that."""
        await self._run("write", self._touch, key)

    async def move(self, key: str, to: str) -> None:
        """Rename a file within its folders, which must be there."""
        await self._run("move", self._move, key, to)

    async def stream(self, key: str) -> AsyncGenerator[memoryview, None]:
        """Yield the bytes from the medium."""
        reader = cold_files.ColdFile(self._root, key)
        try:
            size_bytes = await self._run("stream", reader.open)
            for start in range(0, size_bytes, BATCH_BYTES):
                yield await self._run("stream", reader.cold, start, size_bytes)
        finally:
            with contextlib.suppress(StoreError):
                await self._run("close", reader.close)

    async def remove(self, key: str) -> None:
        """Remove a file."""
        await self._run("remove", self._remove, key)

    async def prune(self, prefix: str) -> None:
        """Remove empty folders, the deepest first."""
        await self._run("prune", self._prune, PurePosixPath(prefix))

    def _list(self, prefix: str, after: str, limit: int) -> list[Item]:
        try:
            with files.open_folder(self._root, PurePosixPath(prefix)) as folder:
                return list(islice(_walk(folder, prefix, after), limit))
        except FileNotFoundError:
            return []

    def _folders(self, prefix: str) -> list[str]:
        try:
            with (
                files.open_folder(self._root, PurePosixPath(prefix)) as folder,
                os.scandir(folder) as found,
            ):
                return sorted(each.name for each in found if each.is_dir(follow_symlinks=False))
        except FileNotFoundError:
            return []

    def _head(self, key: str) -> Item | None:
        path = PurePosixPath(key)
        try:
            with files.open_folder(self._root, path.parent) as folder:
                return _item(key, os.stat(path.name, dir_fd=folder, follow_symlinks=False))
        except FileNotFoundError:
            return None

    def _create(self, key: str, data: bytes) -> Item | None:
        path = PurePosixPath(key)
        with files.open_folder(self._root, path.parent, create=True) as to:
            if not data:
                return _touch_new(to, path.name, key)
            if files.size_in(to, path.name) is not None:
                return None
            with self._staged(data) as (where, source):
                return _link_new(where, source, to, path.name, key)

    def _write(self, key: str, data: bytes) -> None:
        path = PurePosixPath(key)
        with (
            self._staged(data) as (where, source),
            files.open_folder(self._root, path.parent, create=True) as to,
        ):
            os.rename(source, path.name, src_dir_fd=where, dst_dir_fd=to)
            os.fsync(to)

    def _replace(self, key: str, seen: bytes, data: bytes) -> bool:
        """Replace under the kernel's lock on the old file: who gets it later finds another file there."""
        path = PurePosixPath(key)
        try:
            with files.open_folder(self._root, path.parent) as to, _locked(to, path.name) as found:
                if found != seen:
                    return False
                with self._staged(data) as (where, source):
                    os.rename(source, path.name, src_dir_fd=where, dst_dir_fd=to)
                    os.fsync(to)
                return True
        except FileNotFoundError:
            return False

    @contextlib.contextmanager
    def _staged(self, data: bytes) -> Iterator[tuple[int, str]]:
        """Write bytes durably under a name that nobody looks at; give the open folder and the name."""
        writer = files.StagingFile(self._root, str(uuid.uuid4()))
        try:
            writer.open()
            writer.append(data)
            source = PurePosixPath(keys.upload(writer.finish().upload_id))
            with files.open_folder(self._root, source.parent) as where:
                yield where, source.name
        finally:
            writer.abandon()

    def _read(self, key: str, limit_bytes: int) -> bytes | None:
        path = PurePosixPath(key)
        try:
            with files.open_folder(self._root, path.parent) as folder:
                fd = os.open(path.name, _READ_FLAGS, dir_fd=folder)
        except FileNotFoundError:
            return None
        with open(fd, "rb") as file:  # noqa: PTH123 - it is a descriptor
            data = file.read(limit_bytes + 1)
        return data if len(data) <= limit_bytes else None

    def _touch(self, key: str) -> None:
        path = PurePosixPath(key)
        with files.open_folder(self._root, path.parent, create=True) as folder:
            # Not given a new time: it may be one of several names.
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path.name, dir_fd=folder)
            try:
                _touch_new(folder, path.name, key)
            except OSError as error:
                if error.errno not in spares.FULL or not self._spares.mark(folder, path.name):
                    raise

    def _move(self, key: str, to: str) -> None:
        source, target = PurePosixPath(key), PurePosixPath(to)
        with (
            contextlib.suppress(FileNotFoundError),
            files.open_folder(self._root, source.parent) as where,
        ):
            try:
                with files.open_folder(self._root, target.parent) as there:
                    os.rename(source.name, target.name, src_dir_fd=where, dst_dir_fd=there)
            except FileNotFoundError:
                os.unlink(source.name, dir_fd=where)

    def _remove(self, key: str) -> None:
        path = PurePosixPath(key)
        with (
            contextlib.suppress(FileNotFoundError),
            files.open_folder(self._root, path.parent) as folder,
        ):
            os.unlink(path.name, dir_fd=folder)

    def _prune(self, path: PurePosixPath) -> None:
        for name in self._folders(str(path)):
            self._prune(path / name)
        # What has a key in it stays, and what was never there need not go.
        with contextlib.suppress(OSError), files.open_folder(self._root, path.parent) as parent:
            os.rmdir(path.name, dir_fd=parent)


class _Listing:
    """Files below a folder in no order; the folders on the way to one are open, and nothing else is held."""

    def __init__(self, root: Path, prefix: str) -> None:
        self._found = _files(root, prefix)
        self._lock = threading.Lock()  # a thread that was given up may still be at it

    def page(self) -> list[Item]:
        """Return the next files, none at the end."""
        with self._lock:
            return list(islice(self._found, LIST_MAX))

    def close(self) -> None:
        """Close the folders."""
        with self._lock:
            self._found.close()


def _files(root: Path, prefix: str) -> Generator[Item, None, None]:
    with (
        contextlib.suppress(FileNotFoundError),
        files.open_folder(root, PurePosixPath(prefix)) as folder,
    ):
        yield from _below(folder, prefix)


def _below(folder: int, prefix: str) -> Iterator[Item]:
    with os.scandir(folder) as found:
        for each in found:
            with contextlib.suppress(FileNotFoundError):  # removed since it was listed
                if each.is_dir(follow_symlinks=False):
                    with _opened(folder, each.name) as fd:
                        yield from _below(fd, f"{prefix}{each.name}/")
                else:
                    status = os.stat(each.name, dir_fd=folder, follow_symlinks=False)
                    yield _item(prefix + each.name, status)


@contextlib.contextmanager
def _opened(folder: int, name: str) -> Iterator[int]:
    fd = os.open(name, _FOLDER_FLAGS, dir_fd=folder)
    try:
        yield fd
    finally:
        os.close(fd)


def _touch_new(folder: int, name: str, key: str) -> Item | None:
    try:
        fd = os.open(name, _NEW_FLAGS, 0o600, dir_fd=folder)
    except FileExistsError:
        return None
    try:
        return _item(key, os.fstat(fd))
    finally:
        os.close(fd)


def _link_new(where: int, source: str, to: int, name: str, key: str) -> Item | None:
    """Give a staged file its name, if there is none; a crash leaves all of it or nothing."""
    try:
        os.link(source, name, src_dir_fd=where, dst_dir_fd=to, follow_symlinks=False)
    except FileExistsError:
        return None
    except OSError as error:
        if error.errno not in files.NO_LINKS:
            raise
        return _copy_new(where, source, to, name, key)
    os.fsync(to)
    return _item(key, os.stat(name, dir_fd=to, follow_symlinks=False))


def _copy_new(where: int, source: str, to: int, name: str, key: str) -> Item | None:
    """Take an absent name on a file system without links, and put the bytes there: two steps.

    Who is killed between them leaves an empty record: see `Inventory.own`.
    """
    taken = _touch_new(to, name, key)
    if taken is None:
        return None
    os.rename(source, name, src_dir_fd=where, dst_dir_fd=to)
    os.fsync(to)
    return _item(key, os.stat(name, dir_fd=to, follow_symlinks=False))


@contextlib.contextmanager
def _locked(folder: int, name: str) -> Iterator[bytes | None]:
    """Lock a small file and give its bytes; None when the name is another file's by now."""
    fd = os.open(name, _READ_FLAGS, dir_fd=folder)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        status, named = os.fstat(fd), os.stat(name, dir_fd=folder, follow_symlinks=False)
        is_same = (status.st_dev, status.st_ino) == (named.st_dev, named.st_ino)
        yield os.pread(fd, RECORD_MAX_BYTES, 0) if is_same else None
    finally:
        os.close(fd)


def _walk(folder: int, prefix: str, after: str) -> Iterator[Item]:
    """Yield the files below an open folder in the order of their keys, as S3 lists them."""
    for name, is_folder in _entries(folder):
        key = prefix + name
        if is_folder:
            below = key + "/"
            if after[: len(below)] <= below:
                yield from _descend(folder, name, below, after)
        elif key > after:
            with contextlib.suppress(FileNotFoundError):  # removed since it was listed
                yield _item(key, os.stat(name, dir_fd=folder, follow_symlinks=False))


def _entries(folder: int) -> list[tuple[str, bool]]:
    with os.scandir(folder) as found:
        entries = [(each.name, each.is_dir(follow_symlinks=False)) for each in found]
    return sorted(entries, key=lambda entry: entry[0] + "/" if entry[1] else entry[0])


def _descend(folder: int, name: str, prefix: str, after: str) -> Iterator[Item]:
    with contextlib.suppress(FileNotFoundError), _opened(folder, name) as fd:
        yield from _walk(fd, prefix, after)


def _item(key: str, status: os.stat_result) -> Item:
    size_bytes = status.st_size if stat.S_ISREG(status.st_mode) else 0
    version = f"{status.st_ino} {status.st_ctime_ns}"
    return Item(key, size_bytes, datetime.fromtimestamp(status.st_mtime, UTC), version)
