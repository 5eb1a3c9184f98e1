"""Facades and operators, with pauses and crashes at every call, driven by core functions."""

from collections.abc import Callable, Generator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from manifestry.core.quota.storage import charges, grants, recounts
from manifestry.core.quota.storage.charges import LEASE, Account, Charge
from manifestry.core.quota.storage.grants import Grant, Wanted
from manifestry.core.quota.storage.lives import with_retained
from tests.unit.core.quota.storage.storageworld import LIMITS, Artifact, ConflictError, World

FRESH = LEASE / 2

T = TypeVar("T")
Op = Generator[None, None, None]


def transact(world: World, decide: Callable[[Account], tuple[Account, T]]) -> Generator[None, None, T]:
    """Read, pause, compare-and-swap, until it holds."""
    while True:
        version, account = world.version, world.account
        yield
        if not account.initialized:
            continue
        after, answer = decide(account)
        if after is account:
            return answer
        try:
            world.write(version, after)
        except ConflictError:
            continue
        return answer


def reserve(world: World, wanted: Wanted) -> Generator[None, None, Grant]:
    return (yield from transact(world, lambda account: grants.reserve(account, wanted, LIMITS, world.now)))


def post(world: World, name: str, size_bytes: int, *, is_upload: bool, refused: str) -> Op:
    """The facade's creation; `refused`: the API server forbids it, or its answer is lost."""
    charge: Charge | None = None
    is_known = name in world.artifacts  # the facade's cache
    yield
    if not is_known:
        grant = yield from reserve(world, Wanted("", name, 0 if is_upload else size_bytes, lease=LEASE))
        if grant.charge is None:
            return
        charge = grant.charge
        yield
    if refused != "forbidden":
        world.create(name, is_upload=is_upload, size_bytes=size_bytes)
    elif charge is not None:
        before = grant.before
        yield from transact(world, lambda account: grants.restore(account, charge, before))


def bypass(world: World, name: str, size_bytes: int, *, is_upload: bool) -> Op:
    """`kubectl apply`."""
    yield
    world.create(name, is_upload=is_upload, size_bytes=size_bytes)


class Hold:
    """What `reservations._Charged` remembers."""

    def __init__(self, world: World, seen: Artifact, token: str, size_bytes: int | None) -> None:
        self.world = world
        self.wanted = Wanted(seen.uid, seen.name, size_bytes or 0, size_bytes is None, LEASE, token)
        self.charge: Charge | None = None
        self.before: Charge | None = None
        self.renewed = world.now

    def begin(self) -> Generator[None, None, bool]:
        return (yield from self.reserve(self.wanted))

    def grow(self, total: int) -> Generator[None, None, bool]:
        assert self.charge is not None
        if total <= self.charge.size_bytes and self.world.now - self.renewed < FRESH:
            return True
        step = self.wanted.step and total > self.charge.size_bytes
        wanted = replace(self.wanted, size_bytes=max(total, self.wanted.size_bytes), step=step)
        return (yield from self.reserve(wanted))

    def reserve(self, wanted: Wanted) -> Generator[None, None, bool]:
        started = self.world.now
        grant = yield from reserve(self.world, wanted)
        if grant.charge is None:
            return False
        found = grant.before and replace(grant.before, unused=None)
        if self.charge is None or found != self.charge:
            self.before = grant.before
        self.charge, self.renewed = grant.charge, started
        return True

    def accept(self, total: int) -> None:
        """Take bytes; from now on they must be charged as long as the lease is good."""
        self.world.accepted[self.wanted.upload] = total, self.renewed + LEASE

    def land(self, total: int, key: str) -> Generator[None, None, bool]:
        started, wanted = self.world.now, replace(self.wanted, size_bytes=total, step=False)
        grant = yield from transact(
            self.world, lambda account: grants.land(account, wanted, key, LIMITS, self.world.now)
        )
        if grant.charge is not None:
            self.world.accepted.pop(self.wanted.upload, None)
            self.world.accepted[key] = total, started + LEASE
        return grant.charge is not None

    def withdraw(self, key: str) -> Op:
        self.world.accepted.pop(key, None)
        yield from transact(self.world, lambda account: grants.release(account, key))

    def give_back(self) -> Op:
        self.world.accepted.pop(self.wanted.upload, None)
        charge, before = self.charge, self.before
        if charge is not None:
            yield from transact(self.world, lambda account: grants.restore(account, charge, before))


def put(world: World, name: str, file: str, chunks: list[int], *, stated: bool, fails: bool) -> Op:
    """The facade's PUT of one file: charge, stream, land, record."""
    seen = world.artifacts.get(name)
    world.uids += 1
    token = f"upload-{world.uids}"
    yield
    if seen is None or not seen.is_upload or seen.ended or file in seen.digests:
        return
    hold = Hold(world, seen, token, sum(chunks) if stated else None)
    if not (yield from hold.begin()):
        return
    digest = f"{sum(chunks)}"  # equal bytes where the sizes are equal
    key = charges.landed(seen.uid, file, digest)
    is_stored = yield from stream(hold, chunks)
    if not is_stored or fails or not (yield from hold.land(sum(chunks), key)):
        yield from hold.give_back()
    elif not (yield from record(world, seen, (file, digest, sum(chunks)), key)):
        yield from hold.withdraw(key)


def stream(hold: Hold, chunks: list[int]) -> Generator[None, None, bool]:
    """Take the bytes; tell whether there was room for all of them."""
    total = 0
    for chunk in chunks:
        yield
        total += chunk
        if not (yield from hold.grow(total)):
            return False
        hold.accept(total)
    return True


def record(world: World, seen: Artifact, file: tuple[str, str, int], key: str) -> Generator[None, None, bool]:
    """Write the intent; tell whether these bytes may be the artifact's."""
    for _ in range(3):
        yield
        if key in world.accepted and world.now > world.accepted[key][1]:  # a write ends after 34 s
            return True
        try:
            world.change(seen, files=(*seen.files, file))
        except ConflictError:
            found = world.artifacts.get(seen.name)
        else:
            return True
        if found is None or found.uid != seen.uid or found.digests.get(file[0], file[1]) != file[1]:
            return False
        if file[0] in found.digests:
            return True
        seen = found
    return True


def apply_url(world: World, name: str) -> Op:
    """`kubectl apply` of an artifact whose bytes are to be fetched, and whose size nobody knows."""
    yield
    found = world.create(name, is_upload=False, size_bytes=0)
    if found is not None:
        world.change(found, is_fetched=True)


def fetch(world: World, name: str, chunks: list[int], *, fails: bool) -> Op:
    """An operator's look at such an artifact: charge, stream, store; or tell, and give back.

    A new operator may begin when the old one was killed, while what that one has charged still stands.
    """
    seen = world.artifacts.get(name)
    yield
    if seen is None or not seen.is_fetched or seen.is_stored or seen.ended or seen.uid in world.fetching:
        return
    world.fetching.add(seen.uid)
    try:
        yield from _fetch(world, seen, chunks, fails=fails)
    finally:
        world.fetching.discard(seen.uid)
        world.accepted.pop(f"{seen.uid}/fetch", None)


def _fetch(world: World, seen: Artifact, chunks: list[int], *, fails: bool) -> Op:
    grant, total = (yield from reserve(world, Wanted(seen.uid, seen.name, 0))), 0
    for chunk in chunks:
        yield
        total += chunk
        if total > grant.size_bytes:
            grant = yield from reserve(world, Wanted(seen.uid, seen.name, total, step=True))
        if grant.charge is None:
            break
        world.accepted[f"{seen.uid}/fetch"] = total, datetime.max.replace(tzinfo=UTC)
    if grant.charge is not None and not fails:
        grant = yield from reserve(world, Wanted(seen.uid, seen.name, total))
        yield
        if grant.charge is not None:
            yield from store(world, seen, grant.charge, total)
            return
    world.accepted.pop(f"{seen.uid}/fetch", None)
    yield from give_back(world, seen)


def store(world: World, seen: Artifact, charge: Charge, size_bytes: int) -> Op:
    world.pin(seen, size_bytes)
    yield
    try:
        world.change(seen, given_bytes=size_bytes, is_stored=True)
    except ConflictError:
        return
    world.accepted.pop(f"{seen.uid}/fetch", None)
    yield
    done = yield from transact(world, lambda account: grants.commit(account, charge, size_bytes))
    if not done:
        yield from recount(world)


def give_back(world: World, seen: Artifact) -> Op:
    """First the status, then the charge: who has read the artifact before loses the race for its status."""
    yield
    try:
        world.change(seen, failures=seen.failures + 1)
    except ConflictError:
        return
    yield
    world.pins.pop(seen.uid, None)
    wanted = Wanted(seen.uid, seen.name, 0)
    yield from transact(world, lambda account: grants.trim(account, wanted, world.now))


def reconcile(world: World, name: str) -> Op:
    """An operator's look at one Artifact; any number of them may be under way."""
    seen = world.artifacts.get(name)
    yield
    if seen is None or seen.ended is not None:
        return
    if seen.is_fetched and not seen.is_stored:
        yield from fetch(world, name, [], fails=True)
        return
    if seen.is_stored:
        if not seen.recorded.union({seen.uid}).isdisjoint(world.account.charges):
            yield from recount(world)
        return
    grant = yield from reserve(world, Wanted(seen.uid, seen.name, seen.size_bytes, recorded=seen.recorded))
    yield
    if grant.reason == "ExceedsMaxQuota" and world.artifacts.get(name) == seen:
        world.change(seen, ended=world.now)
    if grant.charge is None or not seen.is_complete:
        return
    world.pin(seen, seen.size_bytes)
    yield
    try:
        seen = world.change(seen, is_stored=True)
    except ConflictError:
        return
    yield
    size_bytes, charge, recorded = seen.size_bytes, grant.charge, seen.recorded
    done = yield from transact(world, lambda account: grants.commit(account, charge, size_bytes, recorded))
    if not done:
        yield from recount(world)


def recount(world: World) -> Op:
    """Ledger, then Artifacts, then pins, then the write on whatever the ledger is by then."""
    for _ in range(5):
        seen, now = world.account, world.now
        yield
        alive = [artifact.live() for artifact in world.artifacts.values()]
        yield
        listed = with_retained(alive, world.pins.values())
        while True:
            yield
            version, account = world.version, world.account
            yield
            after, report = recounts.recount(account, seen, listed, now)
            if report is None:
                break
            if not report.changed:
                return
            try:
                world.write(version, after)
            except ConflictError:
                continue
            if not report.marked:
                return
            break


def drain(op: Op) -> None:
    """Run an operation to its end without a pause."""
    for _ in op:
        pass


def settle(world: World) -> None:
    """Let time pass and everything be repaired, as resyncs do."""
    for _ in range(3):
        world.now += LEASE + timedelta(seconds=1)
        for name in list(world.artifacts):
            drain(reconcile(world, name))
        drain(recount(world))
        drain(recount(world))
