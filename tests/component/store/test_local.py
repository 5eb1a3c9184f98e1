"""What only a disk can do to a store: run full, hang, hold a planted link."""

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from manifestry.adapters.store.contract import ports
from manifestry.adapters.store.local import blobs
from manifestry.core.blobs import digests, keys

CHILD = Path(__file__).with_name("store_child.py")
TENANT = str(uuid.uuid4())


@pytest.fixture
async def local(tmp_path: Path) -> AsyncIterator[blobs.LocalStore]:
    opened = blobs.LocalStore(tmp_path / "root", timeout_seconds=0.5)
    yield opened
    await opened.close()


async def one(data: bytes) -> AsyncIterator[bytes]:
    yield data


def fill(root: Path, *wrapper: str, verb: str = "fill", **env: str) -> list[dict[str, Any]]:
    env |= {"PATH": os.environ["PATH"], "MANIFESTRY_STORE_PATH": str(root)}
    argv = [*wrapper, sys.executable, str(CHILD), verb, TENANT]
    done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


# A file system of 3 MiB in a mount namespace of its own: no root needed, gone with the process.
SMALL_DISK = 'mount -t tmpfs -o size=3m tmpfs "$MANIFESTRY_STORE_PATH" && exec "$@"'


SMALL = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", SMALL_DISK, "sh")


def may_mount() -> bool:
    probe = ["unshare", "--user", "--map-root-user", "--mount", "true"]
    try:
        return subprocess.run(probe, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not may_mount(), reason="needs user namespaces (`unshare`) for a small file system")
def test_a_full_disk_is_said_to_be_full_and_keeps_what_it_has(tmp_path: Path) -> None:
    staged, put, after = fill(tmp_path, *SMALL)
    assert staged == put == {"error": "StoreFullError"}
    assert after == {"kept": "kept", "small": 5}  # the room of the failed ones was given back


@pytest.mark.skipif(not may_mount(), reason="needs user namespaces (`unshare`) for a small file system")
def test_new_bytes_leave_the_room_in_which_others_are_removed(tmp_path: Path) -> None:
    told, removed, after = fill(tmp_path, *SMALL, verb="fill-up")
    full = "StoreFullError"
    assert told["errors"] == {
        "stage": full, "append": full, "put": full, "create": full, "canary": full, "look": "",
    }  # fmt: skip
    assert 0.11 < told["free_share"] < 0.16  # an eighth, on a disk of 3 MiB
    assert (removed["removed"], after["after"]) == (True, "")


def test_a_file_size_limit_is_a_full_store(tmp_path: Path) -> None:
    staged, put, after = fill(tmp_path, FILE_LIMIT_BYTES=str(3 << 20))
    assert staged == put == {"error": "StoreFullError"}
    assert after == {"kept": "kept", "small": 5}
    assert list((tmp_path / "uploads").iterdir()) == []


@pytest.mark.parametrize("level", range(1, 6))
async def test_a_planted_link_is_never_followed(local: blobs.LocalStore, tmp_path: Path, level: int) -> None:
    secret = tmp_path / "elsewhere"
    key = Path(keys.blob(TENANT, digests.of(b"secret")))
    target = secret.joinpath(*key.parts[level:])
    target.parent.mkdir(parents=True)
    target.write_bytes(b"secret")
    link = (tmp_path / "root").joinpath(*key.parts[:level])
    link.parent.mkdir(parents=True)
    link.symlink_to(secret)
    for attempt in (
        local.head(TENANT, digests.of(b"secret")),
        local.read(TENANT, digests.of(b"secret"), limit_bytes=9),
        local.put(TENANT, b"secret"),
    ):
        with pytest.raises(ports.BlobDamagedError):
            await attempt
    assert target.read_bytes() == b"secret"


@pytest.mark.parametrize("kind", ["link", "folder", "pipe"])
async def test_what_is_not_a_file_is_not_read(local: blobs.LocalStore, tmp_path: Path, kind: str) -> None:
    path = local.local_path(TENANT, digests.of(b"x"))
    assert path is not None
    path.parent.mkdir(parents=True)
    make: dict[str, Callable[[], None]] = {
        "link": lambda: path.symlink_to("/etc/passwd"),
        "folder": path.mkdir,
        "pipe": lambda: os.mkfifo(path),
    }
    make[kind]()
    with pytest.raises(ports.BlobDamagedError):
        await local.head(TENANT, digests.of(b"x"))
    with pytest.raises(ports.BlobDamagedError):
        await local.read(TENANT, digests.of(b"x"), limit_bytes=1 << 20)
    with pytest.raises(ports.BlobDamagedError):
        async for _ in local.stream(TENANT, digests.of(b"x")):
            pass


async def test_a_hung_disk_is_unavailable_within_the_timeout(
    local: blobs.LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    hung, sync = threading.Event(), os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: hung.wait(20) and sync(fd))
    started = time.monotonic()
    with pytest.raises(ports.StoreUnavailableError):
        await local.stage(one(b"hello"), limit_bytes=5)
    assert time.monotonic() - started < 2
    hung.set()
    await local.canary()


async def test_short_writes_are_completed(local: blobs.LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:3]))
    blob = await local.put(TENANT, b"ten bytes.")
    assert await local.read(TENANT, blob.digest, limit_bytes=10) == b"ten bytes."


async def test_a_store_that_cannot_be_written_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    used = blobs.LocalStore(tmp_path / "file" / "root", timeout_seconds=5)
    for attempt in (used.canary, used.look):
        with pytest.raises(ports.StoreError):
            await attempt()
    await used.close()


async def test_files_and_folders_are_private_and_synced(
    local: blobs.LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    sync = os.fsync

    def recording(fd: int) -> None:
        synced.append(Path(f"/proc/self/fd/{fd}").readlink().name)
        sync(fd)

    monkeypatch.setattr(os, "fsync", recording)
    staged = await local.stage(one(b"hello"), limit_bytes=5)
    blob = await local.publish(TENANT, staged)
    path = local.local_path(TENANT, blob.digest)
    assert path is not None
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert synced.index(staged.upload_id) < len(synced) - 1
    assert synced[-1] == path.parent.name  # the folder last: now the name outlives a power cut
    assert {"tenants", TENANT, "blobs", "sha256", path.parent.parent.name} <= {*synced}


def open_below(root: Path) -> list[str]:
    """Return the files below a folder that this process has open."""
    links = [str(each.readlink()) for each in Path("/proc/self/fd").iterdir() if each.is_symlink()]
    return [link for link in links if link.startswith(str(root))]


@pytest.mark.parametrize("write", [False, True])
async def test_whoever_leaves_while_all_threads_are_busy_leaves_nothing_open(
    tmp_path: Path, *, write: bool
) -> None:
    used = blobs.LocalStore(tmp_path, timeout_seconds=30)
    blob = await used.put(TENANT, b"bytes")
    busy, begun = threading.Event(), asyncio.Event()

    async def chunks() -> AsyncIterator[bytes]:
        yield bytes(2 << 20)
        begun.set()
        await asyncio.Event().wait()

    async def reading() -> None:
        async with contextlib.aclosing(used.stream(TENANT, blob.digest)) as views:
            async for _ in views:
                begun.set()
                await asyncio.Event().wait()

    using = asyncio.create_task(used.stage(chunks(), limit_bytes=1 << 30) if write else reading())
    await begun.wait()
    for _ in range(blobs.THREADS):
        used._pool.submit(busy.wait)
    for _ in range(2):  # once for whatever it waits for, once more while it tidies up
        using.cancel()
        await asyncio.sleep(0)
    await asyncio.gather(using, return_exceptions=True)
    busy.set()
    await used.head(TENANT, blob.digest)
    used._pool.shutdown(wait=True)
    assert open_below(tmp_path) == []
    assert not list((tmp_path / "uploads").iterdir())
