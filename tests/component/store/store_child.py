"""A process that uses a store, to be killed or to run out of something. Run as a program, it is not a test.

`python store_child.py VERB TENANT` with the store's settings as MANIFESTRY_* variables; prints JSON lines.
"""

import asyncio
import json
import os
import resource
import signal
import sys
import uuid
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from typing import Any

from manifestry.adapters.store import sessions, stores
from manifestry.adapters.store.contract import ports
from manifestry.core.artifacts import uploads
from manifestry.settings import StoreSettings

MIB = 1 << 20


def say(**values: Any) -> None:
    sys.stdout.write(json.dumps(values) + "\n")
    sys.stdout.flush()


async def zeros(size_bytes: int, chunk: bytes = bytes(64 << 10)) -> AsyncIterator[bytes]:
    for _ in range(0, size_bytes, len(chunk)):
        yield chunk


async def random_bytes(size_bytes: int) -> AsyncIterator[bytes]:
    for _ in range(0, size_bytes, 64 << 10):
        yield os.urandom(64 << 10)


def peak_mib() -> float:
    """Return the highest resident memory since `forget_peak`; `ru_maxrss` begins with the parent's."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1024


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


async def die_before_publishing(used: ports.Store, tenant: str) -> None:
    """Stage 3 MiB, say so, be killed."""
    staged = await used.stage(random_bytes(3 * MIB), limit_bytes=4 * MIB)
    say(digest=staged.digest)
    os.kill(os.getpid(), signal.SIGKILL)


async def publish_for_ever(used: ports.Store, tenant: str) -> None:
    """Say a digest after it was published, again and again, until killed from outside."""
    while True:
        blob = await used.publish(tenant, await used.stage(random_bytes(2 * MIB), limit_bytes=4 * MIB))
        say(digest=blob.digest)
        say(digest=(await used.put(tenant, os.urandom(1000))).digest)


async def measure(used: ports.Store, tenant: str) -> None:
    """Stream 256 MiB in and out and say by how much the peak of memory rose."""
    await used.publish(tenant, await used.stage(random_bytes(8 * MIB), limit_bytes=8 * MIB))
    forget_peak()
    before = peak_mib()
    staged = await used.stage(zeros(256 * MIB), limit_bytes=256 * MIB)
    written = peak_mib() - before
    blob = await used.publish(tenant, staged)
    received = 0
    async for view in used.stream(tenant, blob.digest):
        received += len(view)
    say(written_mib=written, read_mib=peak_mib() - before, received=received)


async def fill(used: ports.Store, tenant: str) -> None:
    """Store little, then too much, and say what came of it."""
    kept = await used.put(tenant, b"kept")
    for attempt in (
        lambda: used.stage(zeros(16 * MIB), limit_bytes=16 * MIB),
        lambda: used.put(tenant, bytes(4 * MIB)),
    ):
        try:
            await attempt()
            say(error=None)
        except ports.StoreError as error:
            say(error=type(error).__name__)
    small = await used.put(tenant, b"small")
    say(kept=(await used.read(tenant, kept.digest, limit_bytes=10)).decode(), small=small.size_bytes)


async def said(attempt: Awaitable[object]) -> str:
    """Return the error's name, or an empty string."""
    try:
        await attempt
    except ports.StoreError as error:
        return type(error).__name__
    return ""


async def fill_up(used: ports.Store, tenant: str) -> None:
    """Write by every way until each is refused; then write what frees room, free it, and write again."""
    root, records = Path(os.environ["MANIFESTRY_STORE_PATH"]), used.records()
    partial = sessions.open_sessions(StoreSettings.from_mapping(os.environ), used)
    session = await partial.create(uploads.Session(str(uuid.uuid4()), tenant, "t", "a", "u"), limit=9)
    errors: dict[str, str] = {}
    kept: list[str] = []
    while not errors.get("stage"):
        kept.append((await used.put(tenant, os.urandom(4096))).digest)
        errors["stage"] = await said(used.stage(random_bytes(64 << 10), limit_bytes=MIB))
    errors["append"] = await said(partial.append(session, 0, random_bytes(MIB), limit_bytes=MIB))
    while not errors.get("put"):
        errors["put"] = await said(used.put(tenant, os.urandom(4096)))
    again = uploads.Session(str(uuid.uuid4()), tenant, "t", "b", "v")
    errors["create"] = await said(partial.create(again, limit=9))
    errors["canary"], errors["look"] = await said(used.canary()), await said(used.look())
    found = os.statvfs(root)
    say(errors=errors, free_share=found.f_bavail / found.f_blocks)
    claim = await used.claims().make(tenant, kept[0])
    assert claim is not None
    await records.write(f"gc/{tenant}/mark", bytes(100))
    await partial.seal(session)
    await partial.abort(session)
    await used.claims().fence([claim])
    say(removed=await used.claims().remove(claim))
    await used.claims().release(claim)
    for digest in kept[1:]:
        await used.delete(tenant, digest)
    say(after=await said(used.put(tenant, b"again")))
    await partial.close()


async def main(verb: str, tenant: str) -> None:
    if limit := os.environ.get("FILE_LIMIT_BYTES"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
    used = stores.open_store(StoreSettings.from_mapping(os.environ))
    verbs = {
        "die": die_before_publishing,
        "loop": publish_for_ever,
        "measure": measure,
        "fill": fill,
        "fill-up": fill_up,
    }
    await verbs[verb](used, tenant)
    await used.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
