"""What collecting costs: blobs on a volume, or pins in a bucket. A program, not a test.

`python -m tests.bench.garbage blobs FOLDER COUNT REMOVED` makes so many blobs of one byte below a folder,
marks them all in one run, and removes so many in another.
`python -m tests.bench.garbage pins COUNT REMOVED` does the second with so many pins in a bucket of
SeaweedFS. The collector's own pace is taken off; the API server is in memory.
"""

import asyncio
import logging
import os
import resource
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import obstore
from obstore.store import LocalStore as Folder
from obstore.store import ObjectStore, S3Store

from manifestry.adapters.store import stores
from manifestry.core.blobs import digests, garbage, garbagekeys, keys
from manifestry.handlers.artifacts import collector
from manifestry.settings import StoreSettings
from tests.component.artifacts.garbageworld import World
from tests.seaweed.server import S3Server

_CALLS = ("get_async", "head_async", "put_async", "delete_async", "list", "get_range_async", "sign_async")


def say(what: str, began: float, **more: object) -> None:
    rss_mib = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() >> 20
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    told = {"seconds": round(time.monotonic() - began, 1), "rss_mib": rss_mib, "peak_mib": peak_mib, **more}
    print(what, told, flush=True)


def make_blobs(root: Path, uid: str, count: int) -> None:
    for number in range(count):
        path = root / keys.blob(uid, digests.of(b"%d" % number))
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CREAT)
        except FileNotFoundError:
            path.parent.mkdir(parents=True, exist_ok=True)
            fd = os.open(path, os.O_WRONLY | os.O_CREAT)
        os.write(fd, b"x")
        os.close(fd)
        os.utime(path, (1e9, 1e9))


def age(root: Path, uid: str, count: int) -> None:
    """Let the first marks be old."""
    for number in range(count):
        os.utime(root / garbagekeys.mark(uid, digests.of(b"%d" % number)), (1.1e9, 1.1e9))


async def blobs(root: Path, count: int, removed: int) -> None:
    used = stores.open_store(StoreSettings.from_mapping({"MANIFESTRY_STORE_PATH": str(root)}))
    world = World(used, cast("ObjectStore", Folder(root)))
    object.__setattr__(world.ctx.settings, "gc_grace_seconds", 7200.0)
    world.collector = collector.Collector(world.ctx)
    began = time.monotonic()
    make_blobs(root, world.uid, count)
    say("made", began, blobs=count)
    for what in ("marked", "looked at again"):
        began = time.monotonic()
        assert await world.collector.once()
        say(what, began)
    age(root, world.uid, removed)
    began = time.monotonic()
    assert await world.collector.once()
    say("removed", began, blobs=removed, lists=world.api.lists)
    await used.close()


@contextmanager
def counting() -> Iterator[Counter[str]]:
    counts: Counter[str] = Counter()
    for name in _CALLS:
        original = getattr(obstore, name)

        def counted(*args: Any, _name: str = name, _original: Any = original, **options: Any) -> Any:
            counts[_name] += 1
            return _original(*args, **options)

        setattr(obstore, name, counted)
    yield counts


async def pins(count: int, removed: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        server = S3Server(Path(folder))
        server.start()
        try:
            await _pins(server, count, removed)
        finally:
            server.dispose()


async def _pins(server: S3Server, count: int, removed: int) -> None:
    prefix = f"bench-{uuid.uuid4()}"
    settings = server.settings() | {"MANIFESTRY_STORE_PREFIX": prefix, "MANIFESTRY_GC_GRACE_SECONDS": "1"}
    used = stores.open_store(StoreSettings.from_mapping(settings))
    behind = S3Store(
        server.bucket,
        prefix=prefix,
        endpoint=server.endpoint,
        region=server.region,
        access_key_id=server.access_key,
        secret_access_key=server.secret_key,
        client_options={"allow_http": True},
    )
    world = World(used, cast("ObjectStore", behind))
    slots = asyncio.Semaphore(32)

    async def make(number: int) -> None:
        async with slots:
            uid = str(uuid.UUID(int=number))
            body = {"metadata": {"uid": uid, "name": f"p{number}", "namespace": "team"}}
            await world.inventory.pin(world.uid, uid, garbage.render_pin(body, [digests.of(uid.encode())]))

    async def blob(number: int) -> None:
        async with slots:
            await used.put(world.uid, b"%d" % number)

    began = time.monotonic()
    await asyncio.gather(*map(make, range(count)), *map(blob, range(removed)))
    say("made", began, pins=count, blobs=removed)
    await world.grace()
    began = time.monotonic()
    assert await world.collector.once()
    say("marked", began)
    await world.grace()
    with counting() as counts:
        began = time.monotonic()
        assert await world.collector.once()
        say("removed", began, requests=dict(counts), left=len(await world.inventory.blobs(world.uid)))
    await used.close()


def main() -> None:
    logging.basicConfig(level=logging.WARNING)
    collector.BLOBS_PER_SECOND = collector.REMOVALS_PER_SECOND = 0.0
    match sys.argv[1:]:
        case ["blobs", folder, count, removed]:
            Path(folder).mkdir(parents=True)
            asyncio.run(blobs(Path(folder), int(count), int(removed)))
        case ["pins", count, removed]:
            asyncio.run(pins(int(count), int(removed)))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
