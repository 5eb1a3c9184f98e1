"""The quota ledger as a value: its holders, read from and written to a QuotaLedger's status."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import Enum
from functools import cached_property
from typing import Any

from manifestry.core.quota.quotas import Usage


class State(Enum):
    """What a holder may do.

    RESERVED counts but does not compete for a slot: a Job being created, or a suspended one.
    """

    RESERVED = "Reserved"
    QUEUED = "Queued"
    ADMITTED = "Admitted"


class Outcome(Enum):
    """What a transition did."""

    CHANGED = "Changed"
    KEPT = "Kept"  # it already was as asked
    OVER_LIMIT = "OverLimit"


@dataclass(frozen=True)
class Holder:
    """One Job's entry.

    Args:
        uid: the Job's metadata.uid; never used twice by Kubernetes.
        name: the Job's name.
        state: what it may do.
        since: when it came in, microseconds, UTC; the age that admission goes by.
        priority: the greater goes first.
    """

    uid: str
    name: str
    state: State
    since: datetime
    priority: int = 0

    def rank(self) -> tuple[int, datetime, str]:
        """Return the sort key of admission: priority, then age, then uid."""
        return -self.priority, self.since, self.uid


@dataclass(frozen=True)
class Ledger:
    """All holders of one tenant and job type at one resourceVersion.

    Args:
        holders: by uid.
        usage: the number of holders by state, kept in step by `changed`.
        reserved: uids of the Reserved holders by name; more than one only for a suspended Job's successor.
        initialized: T5 has filled it once; before that it may not be trusted.
        notes: why entries of the stored object were ignored.
    """

    holders: Mapping[str, Holder] = field(default_factory=dict)
    usage: Usage = field(default_factory=Usage)
    reserved: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    initialized: bool = False
    notes: tuple[str, ...] = ()

    @cached_property
    def by_name(self) -> Mapping[str, tuple[Holder, ...]]:
        """Return the holders by the name of their Job; made once for each version of the ledger."""
        found: dict[str, tuple[Holder, ...]] = {}
        for holder in self.holders.values():
            found[holder.name] = (*found.get(holder.name, ()), holder)
        return found


@dataclass(frozen=True, slots=True)
class LiveJob:
    """What repair knows about a Job that exists.

    Args:
        uid: the Job's metadata.uid.
        name: its name.
        terminal: its status is final.
        running: an unfinished batch Job of it exists that is not suspended.
        parked: it is suspended by its user and must not compete.
        priority: the priority it is entitled to.
        created: its creationTimestamp, None for unknown.
    """

    uid: str
    name: str
    terminal: bool = False
    running: bool = False
    parked: bool = False
    priority: int = 0
    created: datetime | None = None


@dataclass(frozen=True)
class Repair:
    """What T5 changed: released uids by cause, and the names that came in or must be looked at."""

    released: Mapping[str, str] = field(default_factory=dict)
    claimed: tuple[str, ...] = ()
    unplaced: tuple[str, ...] = ()


def build(holders: Iterable[Holder], *, initialized: bool = True, notes: tuple[str, ...] = ()) -> Ledger:
    """Return a ledger of these holders, usage counted."""
    by_uid = {holder.uid: holder for holder in holders}
    states = [holder.state for holder in by_uid.values()]
    usage = Usage(states.count(State.RESERVED), states.count(State.QUEUED), states.count(State.ADMITTED))
    reserved: dict[str, tuple[str, ...]] = {}
    for holder in by_uid.values():
        if holder.state is State.RESERVED:
            _index(reserved, holder)
    return Ledger(by_uid, usage, reserved, initialized, notes)


def changed(ledger: Ledger, *, remove: tuple[str, ...] = (), put: tuple[Holder, ...] = ()) -> Ledger:
    """Return the ledger without `remove`, then with `put`; usage follows in O(changes).

    Returns:
        The same ledger when there is nothing to do: its identity tells that no write is needed.
    """
    if not remove and not put:
        return ledger
    holders, reserved = dict(ledger.holders), dict(ledger.reserved)
    delta = dict.fromkeys(State, 0)
    for uid in (*remove, *(holder.uid for holder in put)):
        old = holders.pop(uid, None)
        if old is not None:
            delta[old.state] -= 1
            _unindex(reserved, old)
    for holder in put:
        holders[holder.uid] = holder
        delta[holder.state] += 1
        if holder.state is State.RESERVED:
            _index(reserved, holder)
    before = ledger.usage
    usage = Usage(
        before.reserved + delta[State.RESERVED],
        before.queued + delta[State.QUEUED],
        before.admitted + delta[State.ADMITTED],
    )
    return replace(ledger, holders=holders, usage=usage, reserved=reserved)


def parse(body: Mapping[str, Any]) -> Ledger:
    """Read a QuotaLedger; an entry that cannot be read is left out, so that the next write drops it.

    References: CRD QuotaLedger `status.holders`.
    """
    status = body.get("status")
    status = status if isinstance(status, Mapping) else {}
    entries = status.get("holders")
    notes: list[str] = []
    holders = []
    for uid, entry in (entries if isinstance(entries, Mapping) else {}).items():
        holder = _parse_holder(uid, entry)
        if holder is None:
            notes.append(f"holder '{uid}' cannot be read")
        else:
            holders.append(holder)
    return build(holders, initialized=bool(status.get("initializedTime")), notes=tuple(notes))


def render(ledger: Ledger) -> dict[str, dict[str, Any]]:
    """Return `status.holders`, sorted by uid: equal ledgers give equal bytes."""
    return {uid: _render_holder(ledger.holders[uid]) for uid in sorted(ledger.holders)}


def _index(reserved: dict[str, tuple[str, ...]], holder: Holder) -> None:
    reserved[holder.name] = tuple(sorted({*reserved.get(holder.name, ()), holder.uid}))


def _unindex(reserved: dict[str, tuple[str, ...]], holder: Holder) -> None:
    left = tuple(uid for uid in reserved.pop(holder.name, ()) if uid != holder.uid)
    if left:
        reserved[holder.name] = left


def _parse_holder(uid: Any, entry: Any) -> Holder | None:
    if not isinstance(uid, str) or not isinstance(entry, Mapping):
        return None
    name, since = entry.get("name"), _parse_time(entry.get("since"))
    if not isinstance(name, str) or not name or since is None:
        return None
    priority = entry.get("priority")
    return Holder(
        uid, name, _parse_state(entry.get("state")), since, priority if isinstance(priority, int) else 0
    )


def _parse_state(text: Any) -> State:
    try:
        return State(text)
    except ValueError:
        return State.ADMITTED  # the CRD says so: a state we do not know counts as running


def _parse_time(text: Any) -> datetime | None:
    try:
        time = datetime.fromisoformat(text)
    except (TypeError, ValueError):
        return None
    return time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)


def _render_holder(holder: Holder) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "name": holder.name,
        "state": holder.state.value,
        "since": holder.since.isoformat(timespec="microseconds").replace("+00:00", "Z"),
    }
    return {**entry, "priority": holder.priority} if holder.priority else entry
