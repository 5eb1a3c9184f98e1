"""The records of a store on a local volume; folders are opened below the root without following a link."""

import contextlib
import os
import stat
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, Final, Protocol, TypeVar

from manifestry.adapters import store_files
from manifestry.adapters.inventory_port import LIST_MAX, Item
from manifestry.core import blobkeys

T = TypeVar("T")
_READ_FLAGS: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_FOLDER_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Run(Protocol):
    """Runs a function in one of the store's threads, bounded in time, its errors typed."""

    async def __call__(self, operation: str, function: Callable[..., T], *args: Any) -> T:
        """Return what the function returns."""


class LocalRecords:
    """See `inventory_port.Records`.

    Args:
        root: the store's folder.
        run: how the store runs what blocks.
    """

    def __init__(self, root: Path, run: Run) -> None:
        self._root = root
        self._run = run

    async def scan(self, prefix: str, *, after: str = "", limit: int = LIST_MAX) -> list[Item]:
        """Return keys below a prefix, in order."""
        return await self._run("list", self._list, prefix, after, limit)

    async def folders(self, prefix: str) -> list[str]:
        """Return the folders directly below a prefix."""
        return await self._run("list", self._folders, prefix)

    async def head(self, key: str) -> Item | None:
        """Return one key."""
        return await self._run("head", self._head, key)

    async def create(self, key: str, data: bytes) -> Item | None:
        """Write a few bytes if the key is not there."""
        return await self._run("create", self._create, key, data)

    async def write(self, key: str, data: bytes) -> None:
        """Write a few bytes durably."""
        await self._run("write", self._write, key, data)

    async def read(self, key: str, *, limit_bytes: int) -> bytes | None:
        """Return the bytes of a small file."""
        return await self._run("read", self._read, key, limit_bytes)

    async def remove(self, key: str) -> None:
        """Remove a file."""
        await self._run("remove", self._remove, key)

    async def move(self, key: str, to: str) -> None:
        """Rename a file."""
        await self._run("move", self._move, key, to)

    async def prune(self, prefix: str) -> None:
        """Remove empty folders, the deepest first."""
        await self._run("prune", self._prune, PurePosixPath(prefix))

    def _list(self, prefix: str, after: str, limit: int) -> list[Item]:
        try:
            with store_files.open_folder(self._root, PurePosixPath(prefix)) as folder:
                return list(islice(_walk(folder, prefix, after), limit))
        except FileNotFoundError:
            return []

    def _folders(self, prefix: str) -> list[str]:
        try:
            with (
                store_files.open_folder(self._root, PurePosixPath(prefix)) as folder,
                os.scandir(folder) as found,
            ):
                return sorted(each.name for each in found if each.is_dir(follow_symlinks=False))
        except FileNotFoundError:
            return []

    def _head(self, key: str) -> Item | None:
        path = PurePosixPath(key)
        try:
            with store_files.open_folder(self._root, path.parent) as folder:
                return _item(key, os.stat(path.name, dir_fd=folder, follow_symlinks=False))
        except FileNotFoundError:
            return None

    def _create(self, key: str, data: bytes) -> Item | None:
        path = PurePosixPath(key)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with store_files.open_folder(self._root, path.parent, create=True) as folder:
            try:
                fd = os.open(path.name, flags, 0o600, dir_fd=folder)
            except FileExistsError:
                return None
            try:
                os.write(fd, data)
                return _item(key, os.fstat(fd))
            finally:
                os.close(fd)

    def _write(self, key: str, data: bytes) -> None:
        path = PurePosixPath(key)
        writer = store_files.StagingFile(self._root, str(uuid.uuid4()))
        try:
            writer.open()
            writer.append(data)
            source = PurePosixPath(blobkeys.upload(writer.finish().upload_id))
            with (
                store_files.open_folder(self._root, source.parent) as where,
                store_files.open_folder(self._root, path.parent, create=True) as to,
            ):
                os.rename(source.name, path.name, src_dir_fd=where, dst_dir_fd=to)
                os.fsync(to)
        except BaseException:
            writer.abandon()
            raise

    def _read(self, key: str, limit_bytes: int) -> bytes | None:
        path = PurePosixPath(key)
        try:
            with store_files.open_folder(self._root, path.parent) as folder:
                fd = os.open(path.name, _READ_FLAGS, dir_fd=folder)
        except FileNotFoundError:
            return None
        with open(fd, "rb") as file:  # noqa: PTH123 - it is a descriptor
            data = file.read(limit_bytes + 1)
        return data if len(data) <= limit_bytes else None

    def _remove(self, key: str) -> None:
        path = PurePosixPath(key)
        with (
            contextlib.suppress(FileNotFoundError),
            store_files.open_folder(self._root, path.parent) as folder,
        ):
            os.unlink(path.name, dir_fd=folder)

    def _move(self, key: str, to: str) -> None:
        source, target = PurePosixPath(key), PurePosixPath(to)
        with (
            store_files.open_folder(self._root, target.parent, create=True) as there,
            contextlib.suppress(FileNotFoundError),
            store_files.open_folder(self._root, source.parent) as here,
        ):
            os.rename(source.name, target.name, src_dir_fd=here, dst_dir_fd=there)
            os.fsync(there)
            os.fsync(here)

    def _prune(self, path: PurePosixPath) -> None:
        for name in self._folders(str(path)):
            self._prune(path / name)
        # What has a key in it stays, and what was never there need not go.
        with contextlib.suppress(OSError), store_files.open_folder(self._root, path.parent) as parent:
            os.rmdir(path.name, dir_fd=parent)


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
    try:
        fd = os.open(name, _FOLDER_FLAGS, dir_fd=folder)
    except FileNotFoundError:
        return
    try:
        yield from _walk(fd, prefix, after)
    finally:
        os.close(fd)


def _item(key: str, status: os.stat_result) -> Item:
    size_bytes = status.st_size if stat.S_ISREG(status.st_mode) else 0
    return Item(key, size_bytes, datetime.fromtimestamp(status.st_mtime, UTC))
