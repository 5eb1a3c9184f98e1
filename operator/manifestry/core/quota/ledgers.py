"""The only ways in which a quota ledger may change.

Every function takes a ledger and returns a new one; the adapter writes it with compare-and-swap. Usage is
derived from the holders and never stored. References: shared design quota-ledger.md, T1 to T5 and I1 to I4.
"""

import heapq
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime, timedelta

from manifestry.core.quota import quotas
from manifestry.core.quota.holders import (
    Holder,
    Ledger,
    LiveJob,
    Outcome,
    Repair,
    State,
    changed,
)
from manifestry.core.quota.quotas import Limits

MAX_HOLDERS = 8000  # the CRD's maxProperties: about 1 MiB, what etcd takes in one object
RESERVED_GRACE = timedelta(
    seconds=120
)  # kube-apiserver ends a mutating request after 34 s: far more than that
TAKE_OVER_WINDOW = timedelta(seconds=60)  # 34 s, and the seconds by which clocks may differ


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
        return changed(ledger, remove=(earlier[-1].uid,), put=(entry,)), Outcome.CHANGED
    if not _has_room(ledger, limits):
        return ledger, Outcome.OVER_LIMIT
    return changed(ledger, put=(entry,)), Outcome.CHANGED


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
        return changed(ledger, put=(Holder(job.uid, job.name, wanted, now, job.priority),)), Outcome.CHANGED
    entry = _advanced(held, job, wanted)
    if ledger.holders.get(job.uid) == entry:
        return ledger, Outcome.KEPT
    return changed(ledger, remove=(held.uid,), put=(entry,)), Outcome.CHANGED


def park(ledger: Ledger, holder: Holder, now: datetime) -> tuple[Ledger, Outcome]:
    """Give up a suspended Job's slot or place in the queue but keep its charge.

    Only the entry that was seen is parked, and it gets a new age: after a resume a late park, of an operator
    that had paused, finds another entry and must not take the new slot away.
    """
    if holder.state is State.RESERVED or ledger.holders.get(holder.uid) != holder:
        return ledger, Outcome.KEPT
    return changed(ledger, put=(replace(holder, state=State.RESERVED, since=now),)), Outcome.CHANGED


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
    first = queue(ledger) if free is None else _first(ledger, free)
    admitted = tuple(replace(holder, state=State.ADMITTED) for holder in first)
    return changed(ledger, put=admitted), admitted


def release(ledger: Ledger, uid: str) -> tuple[Ledger, Outcome]:
    """T4: forget a Job whose pods are gone."""
    if uid not in ledger.holders:
        return ledger, Outcome.KEPT
    return changed(ledger, remove=(uid,)), Outcome.CHANGED


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
    result = replace(changed(ledger, remove=tuple(released)), initialized=True)
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


def _first(ledger: Ledger, count: int) -> list[Holder]:
    """Return the first `count` of `queue`; mostly one slot is free, and thousands wait."""
    return heapq.nsmallest(count, in_state(ledger, State.QUEUED), key=Holder.rank)


def in_state(ledger: Ledger, state: State) -> Iterator[Holder]:
    """Yield the holders in `state`."""
    return (holder for holder in ledger.holders.values() if holder.state is state)


def named(ledger: Ledger, name: str) -> tuple[Holder, ...]:
    """Return every holder of a Job name, also of Jobs that are gone."""
    return ledger.by_name.get(name, ())


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
