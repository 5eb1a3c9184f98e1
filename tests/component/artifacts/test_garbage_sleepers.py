"""A collector that sleeps between any two of its steps, for as long as it takes to be given up.

Its claim becomes stale and is taken away, somebody publishes the same bytes and is told that they are stored,
it wakes up and goes on: the bytes must stay. `test_garbage_races` does the same in orders made by chance.
"""

import asyncio
import contextlib
import errno
import itertools
import os
import threading
from collections.abc import Callable, Collection, Coroutine, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from manifestry.adapters.store import inventory
from manifestry.adapters.store.contract import claim_ports, holds, ports
from manifestry.adapters.store.local import blobs as local_blobs
from manifestry.adapters.store.local import claims as local_claims
from manifestry.adapters.store.remote import blobs as remote_blobs
from manifestry.adapters.store.remote import claims as remote_claims
from manifestry.core.blobs import digests, garbage, garbagekeys, keys
from tests.component.store.membucket import Bucket, everywhere

TENANT = "00000000-0000-0000-0000-000000000005"
DATA = b"the same bytes"
DIGEST = digests.of(DATA)
KEY = keys.blob(TENANT, DIGEST)
CLAIM = garbagekeys.claim(TENANT, DIGEST)
GRACE = timedelta(days=30)
LONG = timedelta(seconds=400)
AT_ONCE = timedelta(days=-1)
STEPS = 16  # more than any of them takes

_who: ContextVar[str] = ContextVar("who")


class Puppets:
    """Coroutines that go on as far as they are told; tasks that they start belong to them."""

    def __init__(self) -> None:
        self._waiting: dict[str, list[asyncio.Future[None]]] = {}
        self._tasks: dict[str, asyncio.Task[Any]] = {}

    async def step(self) -> None:
        """Wait for permission."""
        turn = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(_who.get(), []).append(turn)
        await turn

    def start(self, name: str, work: Coroutine[Any, Any, Any]) -> None:
        async def act() -> Any:
            _who.set(name)
            return await work

        self._tasks[name] = asyncio.create_task(act())

    async def forward(self, name: str, steps: int = 1000) -> None:
        """Let one take some steps, or go to its end; what it does without a step is done then, too."""
        for left in range(steps, -1, -1):
            await self._settle(name)
            if self._tasks[name].done() or not left:
                return
            self._waiting[name].pop(0).set_result(None)

    async def _settle(self, name: str) -> None:
        while not self._tasks[name].done() and not self._waiting.get(name):  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0)
        await asyncio.sleep(0)

    async def end(self) -> None:
        """Let all end; a store that was too slow is no failure."""
        for name in self._tasks:
            await self.forward(name)
        for result in await asyncio.gather(*self._tasks.values(), return_exceptions=True):
            if isinstance(result, BaseException) and not isinstance(result, ports.StoreUnavailableError):
                raise result


async def keeps(asked: Collection[str]) -> Collection[str]:
    return asked


async def nothing(_: Collection[str]) -> Collection[str]:
    return ()


def work(kind: str, used: ports.Store) -> Coroutine[Any, Any, Any]:
    found = inventory.Inventory(used)
    match kind:
        case "collect" | "collect too":
            return found.remove(TENANT, [DIGEST], nothing, GRACE)
        case "look only":
            return found.remove(TENANT, [DIGEST], keeps, GRACE)
        case "reap" | "reap first":
            return found.reap()
        case "set aside":
            old = datetime(2026, 1, 1, tzinfo=UTC)
            return found.quarantine(TENANT, garbage.Blob(DIGEST, len(DATA), old))
    raise ValueError(kind)


async def play(bucket: Bucket, puppets: Puppets, schedule: Sequence[tuple[str, int]]) -> bool:
    """Tell whether the blob is there after somebody was told so."""
    used = remote_blobs.RemoteStore(bucket, timeout_seconds=60, deletes=bucket)  # type: ignore[arg-type]
    started, told = set[str](), False

    async def publish() -> None:
        nonlocal told
        await used.put(TENANT, DATA)
        told = True

    for name, steps in schedule:
        if name == "time passes":
            bucket.now += LONG
            continue
        if name not in started:
            puppets.start(name, publish() if name == "publish" else work(name, used))
            started.add(name)
        await puppets.forward(name, steps)
    await puppets.end()
    return not told or KEY in bucket.objects


def survives(schedule: Sequence[tuple[str, int]], skew: timedelta, *, orphan: bool) -> bool:
    """Play a schedule on a bucket with one old blob, and perhaps the claim of one that died."""
    puppets = Puppets()
    bucket = Bucket(puppets.step, skew=skew)
    bucket.objects[KEY] = (DATA, datetime(2026, 1, 1, tzinfo=UTC))
    if orphan:
        bucket.objects[CLAIM] = (b"somebody's", bucket.now - LONG)

    async def pause(_: float) -> None:
        await puppets.step()

    with pytest.MonkeyPatch.context() as patch:
        everywhere(bucket, patch)
        patch.setattr(holds, "asyncio", SimpleNamespace(sleep=pause))
        return asyncio.run(play(bucket, puppets, schedule))


ALL = 1000


def schedules(sleeper: str) -> Iterator[list[tuple[str, int]]]:
    """Let the sleeper sleep once or twice, others at work in between; a second collector may be half-way."""
    for first, then in itertools.product(range(STEPS), range(STEPS)):
        begin = [(sleeper, first), ("time passes", 0), ("reap", ALL)]
        yield [*begin, (sleeper, then), ("publish", ALL), (sleeper, ALL)]
        yield [*begin, ("collect too", then), (sleeper, ALL), ("publish", ALL)]
        yield [(sleeper, first), ("reap", ALL), ("collect too", then), (sleeper, ALL), ("publish", ALL)]


SLEEPERS = ["collect", "look only", "reap first", "set aside"]
SKEWS = [timedelta(seconds=seconds) for seconds in (-800, 0, 90, 200)]


@pytest.mark.parametrize("skew", SKEWS)
@pytest.mark.parametrize("sleeper", SLEEPERS)
def test_on_a_bucket_no_sleep_loses_what_was_acknowledged(sleeper: str, skew: timedelta) -> None:
    lost = [plan for plan in schedules(sleeper) if not survives(plan, skew, orphan=sleeper == "reap first")]
    assert not lost, lost[0]


async def unsigned(_: remote_claims.RemoteClaims, claims: Sequence[claim_ports.Claim]) -> Any:
    return list(claims)


async def unchecked(self: remote_claims.RemoteClaims, claims: Sequence[claim_ports.Claim]) -> Any:
    assert self._deletes is not None
    seconds = int(claim_ports.CLAIM_SECONDS)
    return [
        replace(each, signed=tuple(await self._deletes.sign(remote_claims._keys(each), seconds) or ()))
        for each in claims
    ]


async def anybodys(self: remote_claims.RemoteClaims, key: str, _token: str) -> datetime | None:
    found = await self._records.head(key)
    return None if found is None else found.modified


async def plain_release(self: remote_claims.RemoteClaims, claim: claim_ports.Claim) -> None:
    await self._records.remove(garbagekeys.claim(claim.tenant_uid, claim.digest))


async def plain_reap(self: remote_claims.RemoteClaims, tenant_uid: str, digest: str, _: datetime) -> bool:
    await self._records.remove(garbagekeys.claim(tenant_uid, digest))
    return True


@pytest.mark.parametrize(
    ("method", "broken", "sleeper"),
    [
        ("fence", unsigned, "collect"),
        ("_sign", unchecked, "collect"),
        ("_made", anybodys, "look only"),
        ("release", plain_release, "look only"),
        ("_reap", plain_reap, "reap first"),
        ("fence", unsigned, "set aside"),
    ],
)
def test_each_part_of_the_fence_is_needed(
    method: str, broken: Any, sleeper: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_claims.RemoteClaims, method, broken)
    orphan = sleeper == "reap first"
    assert not all(survives(plan, skew, orphan=orphan) for skew in SKEWS for plan in schedules(sleeper))


CALLS = ("mkdir", "rmdir", "rename", "unlink", "stat", "scandir", "listdir", "fsync", "open")


class Sleep:
    """Does something before the n-th call of the system that a store's thread makes."""

    def __init__(self, calls: int, meanwhile: Callable[[], None]) -> None:
        self._left, self._meanwhile = calls, meanwhile
        self.has_slept = False

    def call(self, original: Callable[..., Any], *args: Any, **options: Any) -> Any:
        if threading.current_thread().name.startswith("store") and not self.has_slept:
            self._left -= 1
            if self._left < 0:
                self.has_slept = True
                other = threading.Thread(target=self._meanwhile)
                other.start()
                other.join()
        return original(*args, **options)


@contextlib.contextmanager
def sleeping(sleep: Sleep) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name in CALLS:
            original = getattr(os, name)

            def called(*args: Any, _original: Any = original, **options: Any) -> Any:
                return sleep.call(_original, *args, **options)

            patch.setattr(os, name, called)
        yield


def no_room(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


async def make_ready(root: Path) -> None:
    """Make what a full store has: the folders and the spare claims of the runs before."""
    for key in (garbagekeys.quarantine(TENANT, DIGEST), keys.upload(TENANT)):
        (root / key).parent.mkdir(parents=True)
    used = local_blobs.LocalStore(root, timeout_seconds=20)
    await inventory.Inventory(used).prepare(TENANT)
    await used.close()


def slept_on_disk(root: Path, calls: int, kind: str, *, full: bool = False) -> tuple[bool, bool]:
    """Tell whether the collector, or the scrub, has slept at that call, and whether the bytes are there."""
    path = root / KEY
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(DATA)
    old = datetime(2026, 1, 1, tzinfo=UTC).timestamp()
    os.utime(path, (old, old))

    async def others() -> None:
        used = local_blobs.LocalStore(root, timeout_seconds=20)
        await inventory.Inventory(used).reap(AT_ONCE)
        await used.put(TENANT, DATA)
        await used.close()

    async def collector() -> None:
        used = local_blobs.LocalStore(root, timeout_seconds=20)
        await work(kind, used)
        await used.close()

    sleep = Sleep(calls, lambda: asyncio.run(others()))
    with pytest.MonkeyPatch.context() as patch:
        if full:
            asyncio.run(make_ready(root))
            patch.setattr(os, "mkdir", no_room)
        with sleeping(sleep):
            asyncio.run(collector())
    assert not list((root / "gc" / TENANT).glob("*")), "a claim was left behind"
    assert not list((root / "uploads").glob("*")), "a file was left behind"
    return sleep.has_slept, path.exists()


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("kind", ["collect", "look only", "set aside"])
def test_on_a_disk_no_sleep_loses_what_was_acknowledged(tmp_path: Path, kind: str, full: bool) -> None:
    for calls in itertools.count():
        has_slept, is_there = slept_on_disk(tmp_path / str(calls), calls, kind, full=full)
        if not has_slept:
            break
        assert is_there, calls
    assert calls > 20
    assert is_there is (kind == "look only"), "nobody published: it goes"


@pytest.mark.parametrize("kind", ["collect", "set aside"])
def test_a_removal_that_is_not_bound_to_its_claim_loses_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    def unbound(self: local_claims.LocalClaims, claim: claim_ports.Claim, _: str) -> bool:
        path = self._root / keys.blob(claim.tenant_uid, claim.digest)
        os.listdir(self._root)  # noqa: PTH208 - a call that it may sleep before
        path.unlink(missing_ok=True)
        return True

    monkeypatch.setattr(local_claims.LocalClaims, "_take", unbound)
    found = [slept_on_disk(tmp_path / str(calls), calls, kind) for calls in range(60)]
    assert (True, False) in found
