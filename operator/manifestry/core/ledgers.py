"""The quota ledger as a value: who holds what, and the only ways in which that may change.

Every function takes a ledger and returns a new one; the adapter writes it with compare-and-swap. Usage is
derived from the holders and never stored. References: shared design quota-ledger.md, T1 to T5 and I1 to I4.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Any

from manifestry.core import quotas
from manifestry.core.quotas import Limits, Usage

MAX_HOLDERS = 8000  # the CRD's maxProperties: about 1 MiB, what etcd takes in one object
RESERVED_GRACE = timedelta(
    seconds=120
)  # kube-apiserver ends a mutating request after 34 s: far more than that
TAKE_OVER_WINDOW = timedelta(seconds=60)  # 34 s, and the seconds by which clocks may differ


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
        usage: the number of holders by state, kept in step by `_with`.
        reserved: uids of the Reserved holders by name; more than one only for a suspended Job's successor.
        initialized: T5 has filled it once; before that it may not be trusted.
        notes: why entries of the stored object were ignored.
    """

    holders: Mapping[str, Holder] = field(default_factory=dict)
    usage: Usage = field(default_factory=Usage)
    reserved: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    initialized: bool = False
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
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


def reserve(ledger: Ledger, uid: str, name: str, limits: Limits, now: datetime) -> tuple[Ledger, Outcome]:
    """T1: charge a Job that is being created.

    A Reserved entry belongs to a name: another attempt at the same name takes it over without a second
    charge, because only one object of a name can come to exist.
    """
    if uid in ledger.holders:
        return ledger, Outcome.KEPT
    entry = Holder(uid, name, State.RESERVED, now)
    earlier = _charges(ledger, name)
    if earlier:
        return _with(ledger, remove=(earlier[-1].uid,), put=(entry,)), Outcome.CHANGED
    if not _has_room(ledger, limits):
        return ledger, Outcome.OVER_LIMIT
    return _with(ledger, put=(entry,)), Outcome.CHANGED


def claim(ledger: Ledger, job: LiveJob, limits: Limits, now: datetime) -> tuple[Ledger, Outcome]:
    """T2: let a Job that exists compete for a slot.

    Args:
        ledger: the ledger as read.
        job: the Job; `running` restores a lost entry as Admitted whatever the limit says, `parked` keeps
            the charge without competing.
        limits: the submit gate for a Job that no webhook has charged.
        now: the clock.
    """
    wanted = _wanted_state(job)
    held = ledger.holders.get(job.uid)
    if held is None:
        held = _taken_over(ledger, job)
    if held is None:
        if wanted is not State.ADMITTED and not _has_room(ledger, limits):
            return ledger, Outcome.OVER_LIMIT
        return _with(ledger, put=(Holder(job.uid, job.name, wanted, now, job.priority),)), Outcome.CHANGED
    entry = _advanced(held, job, wanted)
    if ledger.holders.get(job.uid) == entry:
        return ledger, Outcome.KEPT
    return _with(ledger, remove=(held.uid,), put=(entry,)), Outcome.CHANGED


def park(ledger: Ledger, holder: Holder, now: datetime) -> tuple[Ledger, Outcome]:
    """Give up a suspended Job's slot or place in the queue but keep its charge.

    Only the entry that was seen is parked, and it gets a new age: after a resume a late park, of an operator
    that had paused, finds another entry and must not take the new slot away.
    """
    if holder.state is State.RESERVED or ledger.holders.get(holder.uid) != holder:
        return ledger, Outcome.KEPT
    return _with(ledger, put=(replace(holder, state=State.RESERVED, since=now),)), Outcome.CHANGED


def admit(ledger: Ledger, limits: Limits) -> tuple[Ledger, tuple[Holder, ...]]:
    """T3: flip all free slots from Queued to Admitted, in the order of `Holder.rank`.

    Returns:
        The ledger and who was admitted by this call; empty when nothing is free or nobody waits.
    """
    if not ledger.initialized or not ledger.usage.queued:
        return ledger, ()
    free = quotas.free_slots(ledger.usage, limits)
    if free == 0:
        return ledger, ()
    admitted = tuple(replace(holder, state=State.ADMITTED) for holder in queue(ledger)[:free])
    return _with(ledger, put=admitted), admitted


def release(ledger: Ledger, uid: str) -> tuple[Ledger, Outcome]:
    """T4: forget a Job whose pods are gone."""
    if uid not in ledger.holders:
        return ledger, Outcome.KEPT
    return _with(ledger, remove=(uid,)), Outcome.CHANGED


def repair(
    ledger: Ledger, jobs: Iterable[LiveJob], unfinished: frozenset[str], limits: Limits, now: datetime
) -> tuple[Ledger, Repair]:
    """T5: bring a ledger in line with the Jobs that exist.

    Args:
        ledger: read BEFORE the Jobs were listed; the result may only be written at its resourceVersion.
        jobs: all Jobs of the tenant and job type, listed live AFTER the ledger was read.
        unfinished: uids that still have an unfinished batch Job or pod, whether the Job exists or not.
        limits: the submit gate, for Jobs without an entry.
        now: the time BEFORE the Jobs were listed: an entry is too old when its Job was absent at that age.
    """
    live = {job.uid: job for job in jobs}
    released = dict(_stale(ledger, live, unfinished, now))
    result = replace(_with(ledger, remove=tuple(released)), initialized=True)
    claimed, unplaced = [], []
    for job in sorted(live.values(), key=lambda job: (not job.running, job.uid)):
        if job.terminal or (job.uid in result.holders and not job.running):
            continue
        result, outcome = claim(result, job, limits, now)
        if outcome is Outcome.CHANGED:
            claimed.append(job.name)
        elif outcome is Outcome.OVER_LIMIT:
            unplaced.append(job.name)
    return result, Repair(released, tuple(claimed), tuple(unplaced))


def queue(ledger: Ledger) -> tuple[Holder, ...]:
    """Return the waiting holders in the order in which they will be admitted."""
    return tuple(sorted(in_state(ledger, State.QUEUED), key=Holder.rank))


def in_state(ledger: Ledger, state: State) -> Iterator[Holder]:
    """Yield the holders in `state`."""
    return (holder for holder in ledger.holders.values() if holder.state is state)


def named(ledger: Ledger, name: str) -> tuple[Holder, ...]:
    """Return every holder of a Job name, also of Jobs that are gone."""
    return tuple(holder for holder in ledger.holders.values() if holder.name == name)


def _stale(
    ledger: Ledger, live: Mapping[str, LiveJob], unfinished: frozenset[str], now: datetime
) -> Iterator[tuple[str, str]]:
    for uid, holder in ledger.holders.items():
        job = live.get(uid)
        if uid in unfinished:
            continue
        if job is not None:
            if job.terminal:
                yield uid, "terminal"
        elif holder.state is not State.RESERVED:
            yield uid, "absent"
        elif now - holder.since > RESERVED_GRACE:
            yield uid, "expired"


def _has_room(ledger: Ledger, limits: Limits) -> bool:
    return len(ledger.holders) < MAX_HOLDERS and quotas.fits(ledger.usage, limits)


def _wanted_state(job: LiveJob) -> State:
    if job.running:
        return State.ADMITTED
    return State.RESERVED if job.parked else State.QUEUED


def _taken_over(ledger: Ledger, job: LiveJob) -> Holder | None:
    """Return the charge of another attempt at the name, made before the name was seen to be taken.

    A much younger one belongs to a later Job: this one is gone, and whoever claims for it had paused.
    """
    charges = _charges(ledger, job.name)
    if job.created is not None:
        charges = [entry for entry in charges if entry.since - job.created <= TAKE_OVER_WINDOW]
    return charges[0] if charges else None


def _charges(ledger: Ledger, name: str) -> list[Holder]:
    """Return the Reserved entries of a name, the oldest first."""
    entries = [ledger.holders[uid] for uid in ledger.reserved.get(name, ())]
    return sorted(entries, key=lambda entry: (entry.since, entry.uid))


def _advanced(held: Holder, job: LiveJob, wanted: State) -> Holder:
    keeps = held.state is State.ADMITTED or (held.state is State.QUEUED and wanted is State.RESERVED)
    return replace(
        held, uid=job.uid, name=job.name, state=held.state if keeps else wanted, priority=job.priority
    )


def _with(ledger: Ledger, *, remove: tuple[str, ...] = (), put: tuple[Holder, ...] = ()) -> Ledger:
    """Return the ledger without `remove`, then with `put`; usage follows in O(changes)."""
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
