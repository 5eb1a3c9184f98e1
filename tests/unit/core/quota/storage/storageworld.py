"""An API server with Artifacts and the ledger of a tenant, and what must hold there at every moment."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from manifestry.core.quota.storage import charges
from manifestry.core.quota.storage.charges import Account, artifact_of, parse, provisional, render
from manifestry.core.quota.storage.limits import Limits
from manifestry.core.quota.storage.lives import Live, State

LIMITS = Limits(100, 4)
NAMES = ("a", "b", "c", "d", "e")
RETAINED = ("b", "d")  # by their `deletionPolicy`
FILES = ("x", "y")  # of each upload


class ConflictError(Exception):
    """The resourceVersion does not match."""


@dataclass(frozen=True)
class Artifact:
    """An object of the API server; a new value for each write.

    Args:
        given_bytes: what the spec itself brings.
        files: by name, (digest, size) of what was uploaded.
    """

    name: str
    uid: str
    is_upload: bool
    given_bytes: int = 0
    files: tuple[tuple[str, str, int], ...] = ()
    is_stored: bool = False
    ended: datetime | None = None
    is_fetched: bool = False
    failures: int = 0  # that its status tells
    is_retained: bool = False

    @property
    def is_complete(self) -> bool:
        return not self.is_fetched and (not self.is_upload or len(self.files) == len(FILES))

    @property
    def size_bytes(self) -> int:
        return self.given_bytes + sum(size for _, _, size in self.files)

    @property
    def digests(self) -> dict[str, str]:
        return {file: digest for file, digest, _ in self.files}

    @property
    def recorded(self) -> frozenset[str]:
        return frozenset(charges.landed(self.uid, file, digest) for file, digest, _ in self.files)

    def live(self) -> Live:
        if self.is_stored:
            return Live(self.uid, self.name, State.STORED, self.size_bytes, recorded=self.recorded)
        if self.ended is not None:
            return Live(self.uid, self.name, State.ENDED, 0, self.ended, self.recorded)
        state = State.PENDING if self.is_complete or self.is_fetched else State.AWAITING
        return Live(self.uid, self.name, state, self.size_bytes, recorded=self.recorded)


@dataclass
class World:
    """etcd; every method is one atomic API call.

    Args:
        accepted: by upload, and by `landed` key when they are all stored, the bytes that a facade has taken,
            and until when it relies on their charge.
        pins: by the Artifact's uid what the store keeps after it; no write of theirs is bound to another.
    """

    now: datetime = datetime(2026, 1, 1, tzinfo=UTC)
    account: Account = field(default_factory=Account)
    version: int = 1
    artifacts: dict[str, Artifact] = field(default_factory=dict)
    uids: int = 0
    fetching: set[str] = field(default_factory=set)  # uids: only the leader fetches, each artifact once
    accepted: dict[str, tuple[int, datetime]] = field(default_factory=dict)
    pins: dict[str, Live] = field(default_factory=dict)

    def pin(self, seen: Artifact, size_bytes: int) -> None:
        """What an operator does before it says that all is stored: nothing if the Artifact has changed."""
        if seen.is_retained and self.artifacts.get(seen.name) == seen:
            self.pins[seen.uid] = Live(seen.uid, seen.name, State.RETAINED, size_bytes)

    @property
    def retained(self) -> list[Live]:
        alive = {each.uid for each in self.artifacts.values()}
        return [pin for uid, pin in self.pins.items() if uid not in alive]

    def write(self, version: int, account: Account) -> None:
        if version != self.version:
            raise ConflictError
        self.version += 1
        self.account = parse({"status": {"initializedTime": "x", **render(account)}})
        assert self.account == account

    def create(self, name: str, *, is_upload: bool, size_bytes: int) -> Artifact | None:
        if name in self.artifacts:
            return None
        self.uids += 1
        made = Artifact(
            name,
            f"uid-{self.uids}",
            is_upload,
            0 if is_upload else size_bytes,
            is_retained=name in RETAINED,
        )
        self.artifacts[name] = made
        return made

    def change(self, seen: Artifact, **changes: Any) -> Artifact:
        if self.artifacts.get(seen.name) != seen:
            raise ConflictError
        self.artifacts[seen.name] = replace(seen, **changes)
        return self.artifacts[seen.name]


def violations(world: World) -> Iterator[str]:
    """Yield which limit does not hold right now: in the ledger, or by what was accepted in fact."""
    account = world.account
    assert LIMITS.max_bytes is not None
    assert LIMITS.max_artifacts is not None
    if account.used_bytes > LIMITS.max_bytes:
        yield f"bytes: {account}"
    if account.artifacts > LIMITS.max_artifacts:
        yield f"artifacts: {account}"
    stored: list[Artifact | Live] = [each for each in world.artifacts.values() if each.is_stored]
    stored += world.retained
    if sum(each.size_bytes for each in stored) > LIMITS.max_bytes:
        yield f"stored bytes: {stored}"
    if len(stored) > LIMITS.max_artifacts:
        yield f"stored artifacts: {stored}"
    uploaded = [each for each in world.artifacts.values() if each.files and not each.is_stored]
    recorded = {key for each in world.artifacts.values() for key in each.recorded}
    alive = {each.uid for each in world.artifacts.values()}
    streaming = sum(
        size
        for key, (size, until) in world.accepted.items()
        # what has landed goes with its artifact, as what is stored does
        if world.now <= until and key not in recorded and ("/" not in key or artifact_of(key) in alive)
    )
    if sum(each.size_bytes for each in (*stored, *uploaded)) + streaming > LIMITS.max_bytes:
        yield f"accepted bytes: {stored}, {uploaded}, {world.accepted}, {account}"
    assert account.reserved_bytes == sum(each.size_bytes for each in account.charges.values())
    assert account.uploads == sum("/" in key for key in account.charges)


def leaks(world: World) -> Iterator[str]:
    """Yield what the ledger has wrong when nothing is under way and it was repaired."""
    waiting = {each.uid for each in world.artifacts.values() if not each.is_stored and not each.ended}
    names = {provisional(each.name) for each in world.artifacts.values() if each.uid in waiting}
    landed = {key for each in world.artifacts.values() if not each.is_stored for key in each.recorded}
    for key, charge in world.account.charges.items():
        if key not in waiting | names | landed:
            yield f"charge of nobody: {charge}"
    for artifact in world.artifacts.values():
        keys = {artifact.uid, *artifact.recorded}
        held = sum(each.size_bytes for key, each in world.account.charges.items() if key in keys)
        if artifact.uid in waiting and not artifact.is_complete and held > artifact.size_bytes:
            yield f"bytes of nobody: {artifact}, {held}"
    stored = [each for each in world.artifacts.values() if each.is_stored]
    retained = world.retained
    kept, totals = sum(each.size_bytes for each in retained), world.account.totals
    stored_bytes = kept + sum(each.size_bytes for each in stored)
    if (totals.committed_bytes, totals.artifact_count) != (stored_bytes, len(stored) + len(retained)):
        yield f"totals: {totals}, stored {stored}, retained {retained}"
    if (totals.retained_bytes, totals.retained_count) != (kept, len(retained)):
        yield f"retained: {totals}, {retained}"
