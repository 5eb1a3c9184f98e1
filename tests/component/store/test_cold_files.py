"""Files read from the medium: what comes is what is stored, whatever the file system can do."""

import errno
import fcntl
import os
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from manifestry.adapters.store.contract.ports import (
    BATCH_BYTES,
    BlobDamagedError,
    BlobNotFoundError,
    StoreUnavailableError,
)
from manifestry.adapters.store.local import blobs, cold_files, files

DATA = random.Random(1).randbytes(2 * BATCH_BYTES + 12_345)
KEY = "tenants/file"
BLOCK = files.DIRECT_BLOCK_BYTES


@pytest.fixture(params=["disk", "memory"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """Give a folder on a disk, and one in memory."""
    if request.param == "disk":
        yield tmp_path
        return
    made = Path("/dev/shm") / tmp_path.name
    made.mkdir()
    yield made
    for path in (made / KEY, made / "tenants", made):
        path.unlink() if path.is_file() else path.rmdir()


def written(root: Path, size_bytes: int) -> bytes:
    (root / "tenants").mkdir()
    (root / KEY).write_bytes(DATA[:size_bytes])  # not synced: what is dirty must not be lost, or missed
    return DATA[:size_bytes]


async def read(root: Path) -> bytes:
    used = blobs.LocalStore(root, timeout_seconds=30)
    try:
        return b"".join([bytes(view) async for view in used.records().stream(KEY)])
    finally:
        await used.close()


SIZES = (0, 1, BLOCK - 1, BLOCK, BLOCK + 1, BATCH_BYTES, BATCH_BYTES + 1, len(DATA))


@pytest.mark.parametrize("size_bytes", SIZES)
async def test_all_bytes_come(root: Path, size_bytes: int) -> None:
    assert written(root, size_bytes) == await read(root)


@pytest.mark.parametrize("size_bytes", [1, BATCH_BYTES + 1])
async def test_a_file_system_that_cannot_be_read_directly_serves_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size_bytes: int
) -> None:
    control = fcntl.fcntl

    def refused(fd: int, command: int, flags: int = 0) -> Any:
        if command == fcntl.F_SETFL and flags & os.O_DIRECT:
            raise OSError(errno.EINVAL, "not here")
        return control(fd, command, flags)

    monkeypatch.setattr(fcntl, "fcntl", refused)
    assert written(tmp_path, size_bytes) == await read(tmp_path)


async def test_one_that_says_so_only_when_it_is_read_serves_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = os.preadv

    def refused(fd: int, buffers: Sequence[Any], offset: int) -> int:
        if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT:
            raise OSError(errno.EINVAL, "not aligned")
        return original(fd, buffers, offset)

    monkeypatch.setattr(os, "preadv", refused)
    assert written(tmp_path, len(DATA)) == await read(tmp_path)


async def test_short_reads_are_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = os.preadv

    def short(fd: int, buffers: Sequence[Any], offset: int) -> int:
        return original(fd, [memoryview(buffers[0])[:BLOCK]], offset)

    monkeypatch.setattr(os, "preadv", short)
    assert written(tmp_path, len(DATA)) == await read(tmp_path)


async def test_an_error_of_the_disk_is_no_wrong_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> int:
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(os, "preadv", broken)
    written(tmp_path, 1)
    with pytest.raises(StoreUnavailableError):
        await read(tmp_path)


async def test_what_is_not_there_and_what_is_no_file_are_said(tmp_path: Path) -> None:
    with pytest.raises(BlobNotFoundError):
        await read(tmp_path)
    (tmp_path / KEY).mkdir(parents=True)
    with pytest.raises(BlobDamagedError):
        await read(tmp_path)


def test_a_file_that_has_lost_its_end_is_damaged(tmp_path: Path) -> None:
    written(tmp_path, 10)
    file = cold_files.ColdFile(tmp_path, KEY)
    assert file.open() == 10
    os.truncate(tmp_path / KEY, 4)
    with pytest.raises(BlobDamagedError):
        file.cold(0, 10)
    file.close()
