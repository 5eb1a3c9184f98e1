"""Real collectors, processes of their own, that are stopped or killed at each of their steps."""

import asyncio
import itertools
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

from manifestry.adapters.store import inventory, stores
from manifestry.adapters.store.contract import ports
from manifestry.core.blobs import digests, keys
from manifestry.settings import StoreSettings
from tests.component.artifacts import collector_child
from tests.seaweed.server import S3Server

TENANT = str(uuid.uuid4())
AT_ONCE = timedelta(days=-1)
HOUR = 3600
GRACE_SECONDS, CLAIM_SECONDS = 5, 3  # a bucket's clock shows whole seconds
STALE = timedelta(seconds=CLAIM_SECONDS + 2)


def begin(
    settings: Mapping[str, str], digest: str, number: int, step: int, grace: int
) -> "subprocess.Popen[bytes]":
    arguments = (TENANT, digest, number, step, grace, CLAIM_SECONDS)
    program = [sys.executable, collector_child.__file__, *map(str, arguments)]
    return subprocess.Popen(program, env={**os.environ, **settings})


def until_stopped(child: "subprocess.Popen[bytes]") -> bool:
    """Wait until a child is stopped, or has come to its end."""
    _, status = os.waitpid(child.pid, os.WUNTRACED)
    if os.WIFSTOPPED(status):
        return True
    child.returncode = os.waitstatus_to_exitcode(status)
    assert child.returncode == 0
    return False


def go_on(children: list["subprocess.Popen[bytes]"]) -> None:
    for child in children:
        child.send_signal(signal.SIGCONT)
    for child in children:
        assert child.wait(30) == 0


def old_blob(root: Path, data: bytes) -> str:
    digest = digests.of(data)
    path = root / keys.blob(TENANT, digest)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    os.utime(path, (1e9, 1e9))
    return digest


def on_disk(root: Path) -> tuple[dict[str, str], ports.Store]:
    settings = {"MANIFESTRY_STORE_PATH": str(root)}
    return settings, stores.open_store(StoreSettings.from_mapping(settings))


async def acknowledged(used: ports.Store, data: bytes) -> bool:
    return await used.read(TENANT, digests.of(data), limit_bytes=100) == data


async def test_on_a_disk_a_stopped_collector_removes_nothing_that_was_published_meanwhile(
    tmp_path: Path,
) -> None:
    settings, used = on_disk(tmp_path)
    stopped: list[subprocess.Popen[bytes]] = []
    contents: list[bytes] = []
    for step in itertools.count(6, 5):  # the others are tried in test_garbage_sleepers
        data = b"step %d" % step
        child = begin(settings, old_blob(tmp_path, data), signal.SIGSTOP, step, HOUR)
        if not until_stopped(child):
            break
        stopped, contents = [*stopped, child], [*contents, data]
    assert await used.head(TENANT, digests.of(data)) is None, "without a stop it goes"
    assert len(stopped) > 5
    await inventory.Inventory(used).reap(AT_ONCE)
    for each in contents:
        await used.put(TENANT, each)
    go_on(stopped)
    assert all([await acknowledged(used, each) for each in contents])
    assert not list((tmp_path / "gc" / TENANT).iterdir())
    await used.close()


async def test_on_a_disk_a_killed_collector_leaves_nothing_that_is_not_tidied_up(tmp_path: Path) -> None:
    settings, used = on_disk(tmp_path)
    for step in itertools.count(8, 4):
        data = b"step %d" % step
        child = begin(settings, old_blob(tmp_path, data), signal.SIGKILL, step, HOUR)
        if child.wait(30) == 0:
            break
        assert child.returncode == -signal.SIGKILL
        await inventory.Inventory(used).reap(AT_ONCE)
        assert not list((tmp_path / "gc" / TENANT).glob("*"))
        left = list((tmp_path / "uploads").glob("*"))
        assert len(left) <= 1, "at most one left-over, as of an upload"
        for path in left:
            path.unlink()
        await used.put(TENANT, data)
        assert await acknowledged(used, data)
    assert step > 20
    await used.close()


async def test_on_a_bucket_a_stopped_collector_removes_nothing_that_was_published_meanwhile(
    s3: S3Server,
) -> None:
    settings = {
        **s3.settings(),
        "MANIFESTRY_STORE_PREFIX": f"signals-{uuid.uuid4()}",
        "MANIFESTRY_GC_GRACE_SECONDS": "1",
    }
    used = stores.open_store(StoreSettings.from_mapping(settings))
    contents = [b"step %d" % step for step in range(10)]
    for data in contents:
        await used.put(TENANT, data)
    await asyncio.sleep(GRACE_SECONDS + 1.1)
    children = [
        begin(settings, digests.of(data), signal.SIGSTOP, step, GRACE_SECONDS)
        for step, data in enumerate(contents)
    ]
    stopped = [child for child in children if until_stopped(child)]
    assert 6 <= len(stopped) < len(children)
    await asyncio.sleep(STALE.total_seconds() + 1.1)
    assert await inventory.Inventory(used).reap(STALE) > 2
    for data in contents[: len(stopped)]:
        await used.put(TENANT, data)
    begun = datetime.now(UTC)
    go_on(stopped)
    assert datetime.now(UTC) - begun < timedelta(seconds=GRACE_SECONDS), "the machine is too slow for this"
    assert all([await acknowledged(used, data) for data in contents[: len(stopped)]])
    assert await used.head(TENANT, digests.of(contents[-1])) is None, "without a stop it goes"
    await used.close()
