"""A collector against publishers of the same bytes, step by step in every order Hypothesis can think of.

Remote: the real `RemoteStore` and `Inventory` over a bucket in memory whose every request is a step; before
any step minutes may go by, in which whoever was about to take it slept. Local: the real `LocalStore` on a
real disk, where every call of the system that others can see is a step; there claims are taken away at any
moment, as time plays no part in it.
"""

import asyncio
import contextlib
import errno
import itertools
import os
import random
import tempfile
import uuid
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from manifestry.adapters.store import inventory
from manifestry.adapters.store.contract import claim_ports, holds, ports
from manifestry.adapters.store.local import blobs as local_blobs
from manifestry.adapters.store.remote import blobs as remote_blobs
from manifestry.core.blobs import digests, garbage, garbagekeys, keys
from tests.component.artifacts.turns import Choose, ThreadTurns, Turns
from tests.component.store.membucket import Bucket, everywhere

TENANT = str(uuid.UUID(int=5))
DATA = b"the same bytes"
DIGEST = digests.of(DATA)
KEY = keys.blob(TENANT, DIGEST)
GRACE = timedelta(days=30)  # no sleep is as long
ACTORS = ("upload", "put", "refer", "collect", "collect again", "reap", "reap again")
SCRUBBED = ("upload", "put", "collect", "reap", "set aside", "set aside again")
SLEEPS = (timedelta(seconds=50), timedelta(seconds=400))  # within a claim's time; beyond it
AT_ONCE = timedelta(days=-1)


@dataclass
class Cluster:
    """What refers to the blob, and who was told that it is stored.

    Args:
        damaged: the blob as it was at first, when a scrub may have found it damaged.
    """

    damaged: garbage.Blob
    references: set[str] = field(default_factory=set)
    acknowledged: list[str] = field(default_factory=list)


async def actor(kind: str, used: ports.Store, cluster: Cluster, step: Callable[[], Any]) -> None:
    """Do what a facade, an operator or a collector does with one blob."""

    async def live(asked: Collection[str]) -> Collection[str]:
        await step()
        found = set(cluster.references)
        await step()  # the answer may be old when it arrives
        return asked if found else ()

    if kind in {"upload", "put"}:
        staged = ports.Staged(str(uuid.uuid5(uuid.NAMESPACE_OID, kind)), DIGEST, len(DATA))
        await (used.publish(TENANT, staged) if kind == "upload" else used.put(TENANT, DATA))
        await step()
        cluster.references.add(kind)
        cluster.acknowledged.append(kind)
    elif kind == "refer":
        await step()
        cluster.references.add(kind)
        if await used.confirm(TENANT, DIGEST) is not None:
            cluster.acknowledged.append(kind)
    elif kind.startswith("reap"):
        age = AT_ONCE if isinstance(used, local_blobs.LocalStore) else claim_ports.CLAIM_STALE
        await inventory.Inventory(used).reap(age)
    elif kind.startswith("set aside"):
        await inventory.Inventory(used).quarantine(TENANT, cluster.damaged)
    else:
        await inventory.Inventory(used).remove(TENANT, [DIGEST], live, GRACE)


def stage_id() -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_OID, "upload"))


def expected(results: list[Any]) -> None:
    """Fail on anything but a publisher that gave up waiting for a claim."""
    for result in results:
        if isinstance(result, BaseException) and not isinstance(result, ports.StoreUnavailableError):
            raise result


def awake() -> timedelta:
    return timedelta()


def race_remote(
    kinds: list[str], choose: Choose, sleep: Callable[[], timedelta] = awake, skew: timedelta = timedelta()
) -> tuple[bool, Cluster]:
    """Return whether the blob is there at the end, and who relies on it."""
    turns = Turns(choose)
    bucket = Bucket(turns.step, sleep, skew)
    old = bucket.now - 2 * GRACE
    cluster = Cluster(garbage.Blob(DIGEST, len(DATA), old))
    bucket.objects = {KEY: (DATA, old), keys.upload(stage_id()): (DATA, old)}

    async def pause(_: float) -> None:
        await turns.step()

    with pytest.MonkeyPatch.context() as patch:
        everywhere(bucket, patch)
        patch.setattr(holds, "asyncio", SimpleNamespace(sleep=pause))
        used = remote_blobs.RemoteStore(bucket, timeout_seconds=60, deletes=bucket)  # type: ignore[arg-type]

        async def main() -> list[Any]:
            done = await turns.run(*(actor(kind, used, cluster, turns.step) for kind in kinds))
            if sleep is not awake:  # who slept may have left a claim
                bucket.now += 2 * claim_ports.CLAIM_STALE
                bucket.sleep, bucket.skew = awake, timedelta()
                done += await turns.run(inventory.Inventory(used).reap())
            return done

        expected(asyncio.run(main()))
    claims = [key for key in bucket.objects if garbagekeys.parse_claim(key)]
    assert not claims, "a claim was left behind"
    return KEY in bucket.objects, cluster


def no_room(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@contextlib.contextmanager
def stepping(turns: ThreadTurns, *, full: bool = False) -> Iterator[None]:
    """Make steps of the system calls that others can see, and run the store's work in its caller's thread.

    Args:
        turns: whose steps they are.
        full: there is no room for a folder.
    """
    patch = pytest.MonkeyPatch()
    if full:
        patch.setattr(os, "mkdir", no_room)
    for name in (
        "link",
        "rename",
        "utime",
        "unlink",
        "stat",
        "fstat",
        "mkdir",
        "rmdir",
        "scandir",
        "listdir",
    ):
        original = getattr(os, name)

        def stepped(*args: Any, _original: Any = original, **options: Any) -> Any:
            turns.step()
            return _original(*args, **options)

        patch.setattr(os, name, stepped)
    open_ = os.open

    def opened(path: Any, flags: int, *args: Any, **options: Any) -> int:
        if flags & os.O_CREAT:
            turns.step()
        return open_(path, flags, *args, **options)

    async def inline(_: Any, operation: str, function: Callable[..., Any], *args: Any) -> Any:
        with local_blobs.typed(operation):
            return function(*args)

    async def pause(_: float) -> None:
        turns.step()

    patch.setattr(os, "open", opened)
    patch.setattr(local_blobs.LocalStore, "_run", inline)
    patch.setattr(holds, "asyncio", SimpleNamespace(sleep=pause))
    try:
        yield
    finally:
        patch.undo()


def race_local(kinds: list[str], choose: Choose, root: Path, *, full: bool = False) -> tuple[bool, Cluster]:
    """Return whether the blob is there at the end, and who relies on it."""
    turns, old = ThreadTurns(choose), (datetime.now(UTC) - 2 * GRACE).replace(microsecond=0)
    past, cluster = old.timestamp(), Cluster(garbage.Blob(DIGEST, len(DATA), old))
    for key in (KEY, keys.upload(stage_id())):
        path = root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(DATA)
        os.utime(path, (past, past))

    async def step() -> None:
        turns.step()

    def act(kind: str) -> Callable[[], None]:
        used = local_blobs.LocalStore(root, timeout_seconds=60)
        return lambda: asyncio.run(actor(kind, used, cluster, step))

    if full:
        asyncio.run(make_ready(root))
    with stepping(turns, full=full):
        expected(turns.run(*(act(kind) for kind in kinds)))
    assert not list((root / "gc" / TENANT).glob("*")), "a claim was left behind"
    assert not [path for path in (root / "uploads").iterdir() if path.name != stage_id()]
    return (root / KEY).exists(), cluster


async def make_ready(root: Path) -> None:
    """Make what a full store has: the folders and the spare claims of the runs before."""
    (root / garbagekeys.quarantine(TENANT, DIGEST)).parent.mkdir(parents=True)
    used = local_blobs.LocalStore(root, timeout_seconds=60)
    await inventory.Inventory(used).prepare(TENANT)
    await used.close()


def in_between(first: int, then: int) -> Choose:
    """Let the first actor take some steps, then the second some, then the first all, then the second."""
    left = iter([0] * first + [1] * then)
    return lambda count: next(left, 0) % count


kinds_of = st.lists(st.sampled_from(ACTORS), min_size=1, max_size=4).map(lambda kinds: [*kinds, "collect"])
scrubs_of = st.lists(st.sampled_from(SCRUBBED), min_size=1, max_size=4).map(
    lambda kinds: [*kinds, "set aside"]
)
relaxed = settings(suppress_health_check=list(HealthCheck), deadline=None)


orders = st.lists(st.integers(0, 3), max_size=80)
naps = st.lists(st.sampled_from([0] * 8 + [1, 2]), max_size=80)
skews = st.integers(-900, 115).map(lambda seconds: timedelta(seconds=seconds))


def order(chosen: list[int]) -> Choose:
    """Follow the choices, then let whoever waits longest go on."""
    left = iter(chosen)
    return lambda count: next(left, 0) % count


def sleeping(chosen: Iterator[int]) -> Callable[[], timedelta]:
    """Sleep not at all (0), or as long as `SLEEPS` says."""
    return lambda: (timedelta(), *SLEEPS)[next(chosen, 0)]


def stubborn(rng: random.Random) -> Choose:
    """Let the same one go on for long, as the others sleep."""
    last = 0

    def choose(count: int) -> int:
        nonlocal last
        last = rng.randrange(count) if rng.random() < 0.1 else last % count
        return last

    return choose


def drowsy(rng: random.Random) -> Callable[[], timedelta]:
    """Sleep now and then."""
    return lambda: rng.choice(SLEEPS) if rng.random() < 0.15 else timedelta()


def held(there: bool, cluster: Cluster) -> None:
    assert there or not cluster.acknowledged, f"{cluster.acknowledged} were told that the blob is stored"


@relaxed
@given(kinds=kinds_of | scrubs_of, chosen=orders, slept=naps, skew=skews)
def test_on_a_bucket_no_order_of_steps_and_sleeps_loses_what_was_acknowledged(
    kinds: list[str], chosen: list[int], slept: list[int], skew: timedelta
) -> None:
    held(*race_remote(kinds, order(chosen), sleeping(iter(slept)), skew))


@relaxed
@given(kinds=kinds_of | scrubs_of, chosen=orders, full=st.booleans())
def test_on_a_disk_no_order_of_steps_loses_what_was_acknowledged(
    kinds: list[str], chosen: list[int], full: bool
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        held(*race_local(kinds, order(chosen), Path(folder), full=full))


PUBLISHERS = ("upload", "put", "refer")
STEPS = 24, 12  # more than a collector, and a publisher until it knows, take


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("kind", PUBLISHERS)
def test_on_a_disk_nobody_who_comes_in_between_loses_what_was_acknowledged(
    kind: str, full: bool, tmp_path: Path
) -> None:
    for first, then in itertools.product(*map(range, STEPS)):
        root = tmp_path / f"{first}-{then}"
        held(*race_local(["collect", kind], in_between(first, then), root, full=full))


@pytest.mark.parametrize("seed", range(20))
def test_a_thousand_random_orders_lose_nothing(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    for number in range(50):
        actors, choose = rng.choice((ACTORS, SCRUBBED)), rng.choice((rng.randrange, stubborn(rng)))
        kinds = [*rng.sample(actors, k=rng.randint(1, 3)), "collect" if actors is ACTORS else "set aside"]
        held(*race_remote(kinds, choose, drowsy(rng), timedelta(seconds=rng.randint(-900, 115))))
        if number % 10 == 0:
            held(*race_local(kinds, choose, tmp_path / str(number), full=rng.random() < 0.5))


@pytest.mark.parametrize(
    "broken", ["no claim is looked for", "the blob is not looked for", "refer unconfirmed"]
)
def test_each_part_of_the_rule_is_needed(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without one of its parts, some order of steps loses bytes: so these tests would find it."""

    async def never(*_: Any) -> bool:
        return False

    async def careless(
        self: remote_blobs.RemoteStore, operation: str, tenant_uid: str, blob: ports.Blob, publish: Any
    ) -> None:
        key = keys.blob(tenant_uid, blob.digest)
        while True:
            await publish(key)
            if not await self._is_there(operation, garbagekeys.claim(tenant_uid, blob.digest)):
                return

    async def unconfirmed(self: remote_blobs.RemoteStore, tenant_uid: str, digest: str) -> ports.Blob | None:
        return await self.head(tenant_uid, digest)

    kinds = ["collect", "put"]
    if broken == "no claim is looked for":
        monkeypatch.setattr(remote_blobs.RemoteStore, "_is_there", never)
    elif broken == "the blob is not looked for":
        monkeypatch.setattr(remote_blobs.RemoteStore, "_outlast", careless)
    else:
        monkeypatch.setattr(remote_blobs.RemoteStore, "confirm", unconfirmed)
        kinds = ["collect", "refer"]

    def loses(seed: int) -> bool:
        there, cluster = race_remote(kinds, random.Random(seed).randrange)
        return not there and bool(cluster.acknowledged)

    assert any(loses(seed) for seed in range(2000))


def nowhere(self: local_blobs.LocalStore, key: str) -> bool:
    return garbagekeys.parse_claim(key) is None and (self._root / key).exists()


def unlooked(self: local_blobs.LocalStore, target: Any) -> holds.Hold:
    return holds.Hold.CLAIMED if self._is_there(target.claim) else holds.Hold.SAFE


def blob_first(self: local_blobs.LocalStore, target: Any) -> holds.Hold:
    if self._size(target.key) != target.blob.size_bytes:
        return holds.Hold.GONE
    return holds.Hold.CLAIMED if self._is_there(target.claim) else holds.Hold.SAFE


async def unconfirmed(self: local_blobs.LocalStore, tenant_uid: str, digest: str) -> ports.Blob | None:
    return await self.head(tenant_uid, digest)


@pytest.mark.parametrize(
    ("method", "broken", "kind"),
    [
        ("_is_there", nowhere, "put"),
        ("_hold", unlooked, "put"),
        ("_hold", blob_first, "put"),
        ("_hold", blob_first, "upload"),
        ("confirm", unconfirmed, "refer"),
    ],
)
def test_each_part_of_the_rule_is_needed_on_a_disk(
    method: str, broken: Any, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_blobs.LocalStore, method, broken)

    def loses(first: int, then: int) -> bool:
        there, cluster = race_local(["collect", kind], in_between(first, then), tmp_path / f"{first}-{then}")
        return not there and bool(cluster.acknowledged)

    assert any(loses(first, then) for first, then in itertools.product(*map(range, STEPS)))
