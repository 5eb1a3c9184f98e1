"""Facades, operators and an API server, with pauses and crashes at every call, driven by core functions."""

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from manifestry.core import storagequotas
from manifestry.core.storageartifacts import Live, State
from manifestry.core.storagecharges import LEASE, Account, Charge, parse, provisional, render
from manifestry.core.storagequotas import Grant, Limits, Wanted

LIMITS = Limits(100, 4)
NAMES = ("a", "b", "c", "d", "e")
FRESH = LEASE / 2

T = TypeVar("T")
Op = Generator[None, None, None]


class ConflictError(Exception):
    """The resourceVersion does not match."""


@dataclass(frozen=True)
class Artifact:
    """An object of the API server; a new value for each write."""

    name: str
    uid: str
    is_upload: bool
    size_bytes: int | None = None  # None: not uploaded yet
    is_stored: bool = False
    ended: datetime | None = None

    def live(self) -> Live:
        if self.is_stored:
            return Live(self.uid, self.name, State.STORED, self.size_bytes or 0)
        if self.ended is not None:
            return Live(self.uid, self.name, State.ENDED, 0, self.ended)
        awaiting = self.is_upload and self.size_bytes is None
        return Live(self.uid, self.name, State.AWAITING if awaiting else State.PENDING, self.size_bytes or 0)


@dataclass
class World:
    """etcd; every method is one atomic API call."""

    now: datetime = datetime(2026, 1, 1, tzinfo=UTC)
    account: Account = field(default_factory=Account)
    version: int = 1
    artifacts: dict[str, Artifact] = field(default_factory=dict)
    uids: int = 0

    def write(self, version: int, account: Account) -> None:
        if version != self.version:
            raise ConflictError
        self.version += 1
        self.account = parse({"status": {"initializedTime": "x", **render(account)}})
        assert self.account == account

    def create(self, name: str, *, is_upload: bool, size_bytes: int | None) -> Artifact | None:
        if name in self.artifacts:
            return None
        self.uids += 1
        made = Artifact(name, f"uid-{self.uids}", is_upload, None if is_upload else size_bytes)
        self.artifacts[name] = made
        return made

    def change(self, seen: Artifact, **changes: Any) -> Artifact:
        if self.artifacts.get(seen.name) != seen:
            raise ConflictError
        self.artifacts[seen.name] = replace(seen, **changes)
        return self.artifacts[seen.name]


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
    return (
        yield from transact(world, lambda account: storagequotas.reserve(account, wanted, LIMITS, world.now))
    )


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
        yield from transact(world, lambda account: storagequotas.restore(account, charge, before))


def bypass(world: World, name: str, size_bytes: int, *, is_upload: bool) -> Op:
    """`kubectl apply`."""
    yield
    world.create(name, is_upload=is_upload, size_bytes=size_bytes)


class Hold:
    """What `reservations._Charged` remembers."""

    def __init__(self, world: World, seen: Artifact, size_bytes: int | None) -> None:
        self.world = world
        self.wanted = Wanted(seen.uid, seen.name, size_bytes or 0, size_bytes is None, LEASE)
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

    def give_back(self) -> Op:
        charge, before = self.charge, self.before
        if charge is not None:
            yield from transact(self.world, lambda account: storagequotas.restore(account, charge, before))


def put(world: World, name: str, chunks: list[int], *, stated: bool, fails: bool) -> Op:
    """The facade's PUT: charge, stream, make sure, record."""
    seen = world.artifacts.get(name)
    yield
    if seen is None or not seen.is_upload or seen.size_bytes is not None or seen.ended:
        return
    hold = Hold(world, seen, sum(chunks) if stated else None)
    if not (yield from hold.begin()):
        return
    total = 0
    for chunk in chunks:
        yield
        total += chunk
        if not (yield from hold.grow(total)):
            yield from hold.give_back()
            return
    if fails or not (yield from hold.grow(total)):
        yield from hold.give_back()
        return
    for _ in range(3):
        yield
        try:
            world.change(seen, size_bytes=total)
            return
        except ConflictError:
            found = world.artifacts.get(name)
            if found is None or found.uid != seen.uid or found.size_bytes is not None:
                return
            seen = found


def reconcile(world: World, name: str) -> Op:
    """An operator's look at one Artifact; any number of them may be under way."""
    seen = world.artifacts.get(name)
    yield
    if seen is None or seen.ended is not None:
        return
    if seen.is_stored:
        if seen.uid in world.account.charges:
            yield from recount(world)
        return
    grant = yield from reserve(world, Wanted(seen.uid, seen.name, seen.size_bytes or 0))
    yield
    if grant.reason == "ExceedsMaxQuota" and world.artifacts.get(name) == seen:
        world.change(seen, ended=world.now)
    if grant.charge is None or seen.size_bytes is None:
        return
    try:
        seen = world.change(seen, is_stored=True)
    except ConflictError:
        return
    yield
    size_bytes, charge = seen.size_bytes or 0, grant.charge
    done = yield from transact(world, lambda account: storagequotas.commit(account, charge, size_bytes))
    if not done:
        yield from recount(world)


def recount(world: World) -> Op:
    """Ledger, then Artifacts, then the write on whatever the ledger is by then."""
    for _ in range(5):
        seen, now = world.account, world.now
        yield
        listed = [artifact.live() for artifact in world.artifacts.values()]
        while True:
            yield
            version, account = world.version, world.account
            yield
            after, report = storagequotas.recount(account, seen, listed, now)
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


def violations(world: World) -> Iterator[str]:
    """Yield which limit does not hold right now: in the ledger, or by what is stored in fact."""
    account = world.account
    assert LIMITS.max_bytes is not None
    assert LIMITS.max_artifacts is not None
    if account.used_bytes > LIMITS.max_bytes:
        yield f"bytes: {account}"
    if account.artifacts > LIMITS.max_artifacts:
        yield f"artifacts: {account}"
    stored = [each for each in world.artifacts.values() if each.is_stored]
    if sum(each.size_bytes or 0 for each in stored) > LIMITS.max_bytes:
        yield f"stored bytes: {stored}"
    if len(stored) > LIMITS.max_artifacts:
        yield f"stored artifacts: {stored}"
    assert account.reserved_bytes == sum(each.size_bytes for each in account.charges.values())


def leaks(world: World) -> Iterator[str]:
    """Yield what the ledger has wrong when nothing is under way and it was repaired."""
    waiting = {each.uid for each in world.artifacts.values() if not each.is_stored and not each.ended}
    names = {provisional(each.name) for each in world.artifacts.values() if each.uid in waiting}
    for key, charge in world.account.charges.items():
        if key not in waiting | names:
            yield f"charge of nobody: {charge}"
    for artifact in world.artifacts.values():
        held = world.account.charges.get(artifact.uid)
        if held is not None and artifact.size_bytes is None and held.size_bytes:
            yield f"bytes of nobody: {held}"
    stored = [each for each in world.artifacts.values() if each.is_stored]
    totals = world.account.totals
    if (totals.committed_bytes, totals.artifact_count) != (
        sum(each.size_bytes or 0 for each in stored),
        len(stored),
    ):
        yield f"totals: {totals}, stored {stored}"


def settle(world: World) -> None:
    """Let time pass and everything be repaired, as resyncs do."""
    for _ in range(3):
        world.now += LEASE + timedelta(seconds=1)
        for name in list(world.artifacts):
            drain(reconcile(world, name))
        drain(recount(world))
        drain(recount(world))
