"""The only ways in which a storage ledger may change, and what users are told about it.

Every function takes an account and returns a new one; the adapter writes it with compare-and-swap. What
others may rely on is never taken back in one step: `recount` marks an unused charge, and only a later one,
whose LIST began after the mark was written, gives it back: whoever wants it has cleared the mark by then.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Final, Literal

from manifestry.core import bodies, quotas
from manifestry.core.conditions import Condition
from manifestry.core.storageartifacts import Live, State
from manifestry.core.storagecharges import LEASE, Account, Charge, Totals, changed, provisional

MAX_CHARGES: Final = 8000  # the CRD's maxProperties
MAX_MARKS: Final = 1000  # in one write: each makes the object a little larger
STEP_BYTES: Final = 64 << 20
_TICK: Final = timedelta(microseconds=1)  # what the ledger can tell apart
_ROOM_SHARE: Final = 8  # near the limit a stream of unknown length asks for less, to leave others some

Reason = Literal["Reserved", "WaitingForQuota", "ExceedsMaxQuota"]


@dataclass(frozen=True)
class Limits:
    """How much a tenant may store; None is unlimited, 0 is nothing."""

    max_bytes: int | None = None
    max_artifacts: int | None = None

    @property
    def is_set(self) -> bool:
        """Tell whether there is anything to keep."""
        return self.max_bytes is not None or self.max_artifacts is not None


UNLIMITED = Limits()


@dataclass(frozen=True)
class Wanted:
    """A charge that somebody wants.

    Args:
        uid: the Artifact's uid; empty while it is being created.
        size_bytes: how much must be reserved at least.
        step: reserve up to STEP_BYTES more where there is room, for a stream of unknown length.
        lease: how long the charge is good for without being renewed; None keeps one that is there as it is.
    """

    uid: str
    name: str
    size_bytes: int
    step: bool = False
    lease: timedelta | None = None

    @property
    def key(self) -> str:
        """Return the key in the ledger."""
        return self.uid or provisional(self.name)


@dataclass(frozen=True)
class Grant:
    """The answer to a `Wanted`.

    Args:
        reason: `Reserved` or why not.
        charge: what now stands in the ledger for the artifact; None when refused.
        before: what stood there before, for `restore`.
        usage: as REST shows it, after the decision.
    """

    reason: Reason
    charge: Charge | None = None
    before: Charge | None = None
    usage: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Recount:
    """What a recount did: keys that were given back or shrunk, by cause; how many were marked."""

    released: Mapping[str, str] = field(default_factory=dict)
    marked: int = 0
    changed: bool = False


def limits_for(tenant: str, found: Iterable[Mapping[str, Any]]) -> Limits:
    """Return the limits of one tenant's storage, UNLIMITED without a quota.

    Args:
        tenant: the tenant's name.
        found: TenantQuota bodies in any order.
    """
    quota = quotas.governing(tenant, found)
    row = bodies.spec_of(quota).get("storage") or {}
    if not isinstance(row, Mapping):
        return Limits(0, 0)  # unreadable: refuse rather than overshoot
    return Limits(_limit(row, "maxBytes"), _limit(row, "maxArtifacts"))


def reserve(account: Account, wanted: Wanted, limits: Limits, now: datetime) -> tuple[Account, Grant]:
    """Charge bytes before they are accepted; what was charged to the name before it had a uid counts."""
    held = account.charges.get(wanted.key) or account.charges.get(provisional(wanted.name))
    before = None if held is None else replace(held, uid=wanted.key)
    refused = _refusal(account, before, wanted, limits)
    if refused is not None:
        return account, Grant(refused, usage=usage(account, limits))
    charge = _charged(account, before, wanted, limits, now)
    if account.charges.get(charge.uid) == charge:
        return account, Grant("Reserved", charge, charge, usage(account, limits))
    result = changed(account, remove=() if held is None else (held.uid,), put=(charge,))
    return result, Grant("Reserved", charge, before, usage(result, limits))


def restore(account: Account, charge: Charge, before: Charge | None) -> tuple[Account, bool]:
    """Take a charge back, unless somebody has changed it since: then it is theirs."""
    if account.charges.get(charge.uid) != charge:
        return account, False
    if before is None:
        return changed(account, remove=(charge.uid,)), True
    size_bytes = min(before.size_bytes, charge.size_bytes)
    return changed(account, put=(replace(before, size_bytes=size_bytes, unused=None),)), True


def shrink(account: Account, uid: str, size_bytes: int) -> tuple[Account, bool]:
    """Leave no more than `size_bytes` reserved for an artifact whose further bytes were given up."""
    charge = account.charges.get(uid)
    if charge is None or charge.size_bytes <= size_bytes:
        return account, False
    return changed(account, put=(replace(charge, size_bytes=size_bytes, expires=None),)), True


def commit(account: Account, charge: Charge, size_bytes: int) -> tuple[Account, bool]:
    """Turn the charge under which an artifact was stored into a part of the totals, once.

    Where it does not stand any more, only a count can tell whether the artifact is in the totals already.
    """
    if account.charges.get(charge.uid) != charge:
        return account, False
    old = account.totals
    totals = replace(
        old, committed_bytes=old.committed_bytes + size_bytes, artifact_count=old.artifact_count + 1
    )
    return changed(account, remove=(charge.uid,), totals=totals), True


def recount(
    account: Account, seen: Account, artifacts: Iterable[Live], now: datetime
) -> tuple[Account, Recount | None]:
    """Bring an account in line with the Artifacts that exist.

    Args:
        account: as it is now; charges may have come and gone since `seen`.
        seen: as it was read BEFORE the Artifacts were listed.
        artifacts: all of the tenant's, listed live.
        now: the time before they were listed.

    Returns:
        None instead of a report when something was committed or counted meanwhile: list again.
    """
    if account.totals != seen.totals or account.initialized != seen.initialized:
        return account, None
    live = {each.uid: each for each in artifacts}
    stored = [each for each in live.values() if each.state is State.STORED]
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
    old = account.totals
    kept = (totals.committed_bytes, totals.artifact_count) == (old.committed_bytes, old.artifact_count)
    if account.initialized and kept and not (account.notes or marked or cleared or gone or shrunk):
        return account, Recount()
    result = changed(account, remove=gone, put=(*marked, *cleared, *shrunk), totals=totals)
    released = {charge.uid: cause for charge, cause, _ in findings if cause}
    return replace(result, initialized=True, notes=()), Recount(released, len(marked), changed=True)


def usage(account: Account, limits: Limits) -> dict[str, int]:
    """Return the numbers that REST shows; an unlimited limit is absent."""
    row = {
        "usedBytes": account.totals.committed_bytes,
        "reservedBytes": account.reserved_bytes,
        "maxBytes": limits.max_bytes,
        "artifacts": account.artifacts,
        "maxArtifacts": limits.max_artifacts,
    }
    return {key: value for key, value in row.items() if value is not None}


def fits(account: Account, wanted: Wanted, limits: Limits) -> bool:
    """Tell whether `reserve` would let it in."""
    before = account.charges.get(wanted.key) or account.charges.get(provisional(wanted.name))
    return _refusal(account, before, wanted, limits) is None


def is_over(account: Account, limits: Limits) -> bool:
    """Tell whether usage is above a limit that came, or was lowered, after the artifacts were accepted."""
    bytes_over = limits.max_bytes is not None and account.used_bytes > limits.max_bytes
    return bytes_over or (limits.max_artifacts is not None and account.artifacts > limits.max_artifacts)


def describe(tenant: str, found: Mapping[str, int]) -> str:
    """Return what a refusal says: `tenant "a", storage: bytes 1+2/10, artifacts 3/unlimited`."""
    most, artifacts = found.get("maxBytes", "unlimited"), found.get("maxArtifacts", "unlimited")
    return (
        f'tenant "{tenant}", storage: bytes {found.get("usedBytes", 0)} stored and '
        f"{found.get('reservedBytes', 0)} reserved of {most}, "
        f"artifacts {found.get('artifacts', 0)} of {artifacts}"
    )


def condition(reason: Reason, size_bytes: int, limits: Limits) -> Condition:
    """Return the condition QuotaReserved; its text stays the same while others come and go."""
    if reason == "Reserved":
        return Condition("QuotaReserved", "True", reason, "the artifact is charged to the tenant's quota")
    shown = [f"{limits.max_bytes} bytes"] if limits.max_bytes is not None else []
    shown += [f"{limits.max_artifacts} artifacts"] if limits.max_artifacts is not None else []
    need = f"the artifact of {size_bytes} bytes"
    most = f"the tenant's storage quota of {' and '.join(shown)}"
    if reason == "ExceedsMaxQuota":
        return Condition("QuotaReserved", "False", reason, f"{need} must not be greater than {most}")
    return Condition("QuotaReserved", "False", reason, f"{need} waits for room in {most}")


def _refusal(account: Account, before: Charge | None, wanted: Wanted, limits: Limits) -> Reason | None:
    held = before.size_bytes if before else 0
    more_bytes, is_more = wanted.size_bytes - held, before is None
    most, count = limits.max_bytes, limits.max_artifacts
    if (most is not None and more_bytes > 0 and wanted.size_bytes > most) or (is_more and count == 0):
        return "ExceedsMaxQuota"
    if most is not None and more_bytes > 0 and account.used_bytes + more_bytes > most:
        return "WaitingForQuota"
    full = len(account.charges) >= MAX_CHARGES or (count is not None and account.artifacts >= count)
    return "WaitingForQuota" if is_more and full else None


def _charged(
    account: Account, before: Charge | None, wanted: Wanted, limits: Limits, now: datetime
) -> Charge:
    held = before.size_bytes if before else 0
    size_bytes = max(held, wanted.size_bytes)
    if wanted.step and held <= wanted.size_bytes:
        room = None if limits.max_bytes is None else limits.max_bytes - account.used_bytes - size_bytes + held
        size_bytes += STEP_BYTES if room is None else max(0, min(STEP_BYTES, room // _ROOM_SHARE))
    since = now if before is None else max(now, before.since + _TICK)
    if before is not None and wanted.lease is None:
        as_it_is = before.unused is None and held == size_bytes and wanted.key in account.charges
        return before if as_it_is else replace(before, since=since, size_bytes=size_bytes, unused=None)
    lease = wanted.lease or LEASE
    return Charge(wanted.key, wanted.name, since, size_bytes, None if lease == LEASE else now + lease)


def _findings(
    account: Account, seen: Account, live: Mapping[str, Live], now: datetime
) -> Iterator[tuple[Charge, str, int | None]]:
    """Yield (charge, cause, bytes to leave): without a cause it is to be marked, with None it goes."""
    unnamed = {provisional(each.name): each for each in live.values() if each.uid not in account.charges}
    for charge in account.charges.values():
        artifact = live.get(charge.uid)
        if artifact is not None and artifact.state is State.STORED:
            yield charge, "stored", None
        elif seen.charges.get(charge.uid) == charge:
            verdict = _verdict(charge, artifact or unnamed.get(charge.uid), now)
            if verdict is not None:
                yield charge, verdict[0] if charge.unused is not None else "", verdict[1]


def _verdict(charge: Charge, artifact: Live | None, now: datetime) -> tuple[str, int | None] | None:
    """Return why nobody uses a charge and how many bytes to leave of it; None when it is in use."""
    if artifact is None or artifact.state is State.STORED:  # the latter was counted, this is another's
        return ("absent", None) if now - charge.since > LEASE else None
    if artifact.state is State.ENDED:
        ended = max(artifact.since or charge.since, charge.since)
        return ("ended", None) if now - ended > LEASE else None
    is_too_much = artifact.state is State.AWAITING and charge.size_bytes > artifact.size_bytes
    return ("abandoned", artifact.size_bytes) if is_too_much and charge.is_expired(now) else None


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
    return Totals(sum(each.size_bytes for each in stored), len(stored), observed)


def _limit(row: Mapping[str, Any], name: str) -> int | None:
    limit = row.get(name)
    if limit is None:
        return None
    return limit if isinstance(limit, int) and limit >= 0 else 0  # unreadable: refuse rather than overshoot
