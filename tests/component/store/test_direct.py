"""Long uploads past the page cache: what is stored is what came, whatever the file system can do."""

import errno
import fcntl
import hashlib
import mmap
import os
import random
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from manifestry.adapters.store.contract.ports import BATCH_BYTES, Chunk
from manifestry.adapters.store.local import blobs, files

TENANT = "3f2b8a52-7f6e-4d8e-9a53-0b1c2d3e4f50"
LIMIT_BYTES = 1 << 30
LONG_BYTES = files.DIRECT_FROM_BYTES + 3 * BATCH_BYTES + 12_345
DATA = random.Random(1).randbytes(LONG_BYTES)
DIGEST = f"sha256:{hashlib.sha256(DATA).hexdigest()}"


def in_pages(data: bytes) -> Iterator[memoryview]:
    """Give the data as the facade does: always in the same buffer, which begins at a page."""
    buffer = mmap.mmap(-1, BATCH_BYTES)
    for start in range(0, len(data), BATCH_BYTES):
        piece = data[start : start + BATCH_BYTES]
        buffer[: len(piece)] = piece
        yield memoryview(buffer)[: len(piece)]


def beside_pages(data: bytes) -> Iterator[memoryview]:
    """Give the data where no disk can read it from."""
    buffer = mmap.mmap(-1, BATCH_BYTES + 1)
    for start in range(0, len(data), BATCH_BYTES):
        piece = data[start : start + BATCH_BYTES]
        buffer[1 : 1 + len(piece)] = piece
        yield memoryview(buffer)[1 : 1 + len(piece)]


def in_odd_pieces(data: bytes) -> Iterator[memoryview]:
    """Give the data in pieces that are no multiple of a block."""
    buffer = mmap.mmap(-1, BATCH_BYTES + 4096)
    for start in range(0, len(data), BATCH_BYTES + 7):
        piece = data[start : start + BATCH_BYTES + 7]
        buffer[: len(piece)] = piece
        yield memoryview(buffer)[: len(piece)]


async def stream(chunks: Iterator[memoryview]) -> AsyncIterator[Chunk]:
    for chunk in chunks:
        yield chunk


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[blobs.LocalStore]:
    made = blobs.LocalStore(tmp_path / "store", timeout_seconds=30)
    yield made
    await made.close()


async def stored(store: blobs.LocalStore, chunks: Iterator[memoryview]) -> Path:
    staged = await store.stage(stream(chunks), limit_bytes=LIMIT_BYTES)
    assert (staged.digest, staged.size_bytes) == (DIGEST, LONG_BYTES)
    await store.publish(TENANT, staged)
    path = store.local_path(TENANT, DIGEST)
    assert path is not None
    return path


@pytest.mark.parametrize("way", [in_pages, beside_pages, in_odd_pieces])
async def test_what_is_stored_is_what_came(
    store: blobs.LocalStore, way: Callable[[bytes], Iterator[memoryview]]
) -> None:
    path = await stored(store, way(DATA))
    assert path.read_bytes() == DATA


async def test_a_long_upload_leaves_only_its_beginning_in_memory(store: blobs.LocalStore) -> None:
    path = await stored(store, in_pages(DATA))
    if _file_system(path) == "tmpfs":
        pytest.skip("tmpfs is memory")
    fd = os.open(path, os.O_RDONLY)
    try:
        cached = [_is_cached(fd, at) for at in range(0, LONG_BYTES, BATCH_BYTES)]
    except OSError as error:
        pytest.skip(f"the file system does not tell what it has in memory: {error}")
    finally:
        os.close(fd)
    beginning = files.DIRECT_FROM_BYTES // BATCH_BYTES
    assert cached == [True] * beginning + [False] * 3 + [True], "the last bytes are no whole batch"


def _file_system(path: Path) -> str:
    return subprocess.check_output(["stat", "-f", "-c", "%T", path], text=True).strip()


def _is_cached(fd: int, at: int) -> bool:
    try:
        return os.preadv(fd, [bytearray(1)], at, os.RWF_NOWAIT) == 1
    except BlockingIOError:
        return False


async def test_a_file_system_without_it_is_written_as_ever(
    store: blobs.LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def refuse(fd: int, command: int, flags: int = 0) -> int:
        if command == fcntl.F_SETFL:
            asked.append(flags)
            raise OSError(errno.EINVAL, "Invalid argument")
        return 0

    monkeypatch.setattr(fcntl, "fcntl", refuse)
    path = await stored(store, in_pages(DATA))
    assert path.read_bytes() == DATA
    assert len(asked) == 1, "one no is enough"
