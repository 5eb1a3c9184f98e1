"""Bring a storage ledger in line with the Artifacts that exist: count what is stored, drop what is unused.

What others may rely on is never taken back in one step: `recount` marks an unused charge, and only a later
one, whose LIST began after the mark was written, gives it back: who wants it has cleared the mark by then.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Final

from manifestry.core.quota.storage.charges import (
    LEASE,
    Account,
    Charge,
    Totals,
    artifact_of,
    changed,
    is_upload,
    provisional,
)
from manifestry.core.quota.storage.lives import Live, State

MAX_MARKS: Final = 1000  # in one write: each makes the object a little larger
_COUNTED: Final = (State.STORED, State.RETAINED)
_TICK: Final = timedelta(microseconds=1)  # what the ledger can tell apart


@dataclass(frozen=True)
class Recount:
    """What a recount did: keys that were given back or shrunk, by cause; how many were marked."""

    released: Mapping[str, str] = field(default_factory=dict)
    marked: int = 0
    changed: bool = False


def recount(
    account: Account, seen: Account, artifacts: Iterable[Live], now: datetime
) -> tuple[Account, Recount | None]:
    """Bring an account in line with the Artifacts that exist.

    Args:
        account: as it is now; charges may have come and gone since `seen`.
        seen: as it was read BEFORE the Artifacts were listed.
        artifacts: all of the tenant's, listed live, and what is retained of deleted ones, listed after them.
        now: the time before they were listed.

    Returns:
        None instead of a report when something was committed or counted meanwhile: list again.
    """
    if account.totals != seen.totals or account.initialized != seen.initialized:
        return account, None
    live = {each.uid: each for each in artifacts}
    stored = [each for each in live.values() if each.state in _COUNTED]
    findings = list(_findings(account, seen, live, now))
    marked = [replace(charge, unused=now) for charge, cause, _ in findings if not cause][:MAX_MARKS]
    cleared = [replace(charge, unused=None) for charge in _in_use(account, seen, findings)]
    gone = [charge.uid for charge, cause, left in findings if cause and left is None]
    shrunk = [
        replace(charge, size_bytes=left, unused=None, expires=None)
        for charge, cause, left in findings
        if cause and left is not None
    ]
    totals = _totals(account, stored, now)
    kept = replace(totals, observed=account.totals.observed) == account.totals
    if account.initialized and kept and not (account.notes or marked or cleared or gone or shrunk):
        return account, Recount()
    result = changed(account, remove=gone, put=(*marked, *cleared, *shrunk), totals=totals)
    released = {charge.uid: cause for charge, cause, _ in findings if cause}
    return replace(result, initialized=True, notes=()), Recount(released, len(marked), changed=True)


def _findings(
    account: Account, seen: Account, live: Mapping[str, Live], now: datetime
) -> Iterator[tuple[Charge, str, int | None]]:
    """Yield (charge, cause, bytes to leave): without a cause it is to be marked, with None it goes."""
    unnamed = {
        provisional(each.name): each
        for each in live.values()
        if each.uid not in account.charges and each.state is not State.RETAINED  # a new one may have its name
    }
    for charge in account.charges.values():
        artifact = live.get(artifact_of(charge.uid))
        if artifact is not None and _is_stored(charge, artifact):
            yield charge, "stored", None
        elif seen.charges.get(charge.uid) == charge:
            verdict = _verdict(account, charge, artifact or unnamed.get(charge.uid), now)
            if verdict is not None:
                yield charge, verdict[0] if charge.unused is not None else "", verdict[1]


def _is_stored(charge: Charge, artifact: Live) -> bool:
    """Tell whether the totals count what is charged: then it goes at once, or it would count twice."""
    if artifact.state is State.RETAINED:
        return not is_upload(charge.uid)  # all that landed is kept, or will never be its artifact's
    return artifact.state is State.STORED and charge.uid in {artifact.uid, *artifact.recorded}


def _verdict(
    account: Account, charge: Charge, artifact: Live | None, now: datetime
) -> tuple[str, int | None] | None:
    """Return why nobody uses a charge and how many bytes to leave of it; None when it is in use."""
    is_part = artifact is not None and artifact_of(charge.uid) != charge.uid
    if (
        artifact is None
        or artifact.state is State.RETAINED
        or (artifact.state is State.STORED and not is_part)
    ):
        # where it is stored it was counted, and this is another's of the same name
        return ("absent", None) if now - charge.since > LEASE else None
    if artifact.state is State.ENDED:
        if charge.uid in artifact.recorded or (artifact.is_pinned and not is_upload(charge.uid)):
            return None  # the spec, or a pin, refers to these bytes: they stay as long as the artifact does
        ended = max(artifact.since or charge.since, charge.since)
        return ("ended", None) if now - ended > LEASE else None
    if not charge.is_expired(now) or charge.uid in artifact.recorded:
        return None
    if is_part:
        return "abandoned", None
    landed = sum(account.charges[key].size_bytes for key in artifact.recorded if key in account.charges)
    left = max(0, artifact.size_bytes - landed)
    return ("abandoned", left) if artifact.state is State.AWAITING and charge.size_bytes > left else None


def _in_use(
    account: Account, seen: Account, findings: list[tuple[Charge, str, int | None]]
) -> Iterator[Charge]:
    """Yield the marked charges that are in use after all: a mark must not outlive its finding."""
    found = {charge.uid for charge, _, _ in findings}
    return (
        charge
        for charge in account.charges.values()
        if charge.unused is not None and charge.uid not in found and seen.charges.get(charge.uid) == charge
    )


def _totals(account: Account, stored: list[Live], now: datetime) -> Totals:
    old = account.totals.observed
    observed = now if old is None else max(now, old + _TICK)
    retained = [each.size_bytes for each in stored if each.state is State.RETAINED]
    size_bytes = sum(each.size_bytes for each in stored)
    return Totals(size_bytes, len(stored), observed, sum(retained), len(retained))
