"""How storage is charged: the ways in which a ledger changes by those who store, and what users are told.

Every function takes an account and returns a new one; the adapter writes it with compare-and-swap.
`recounts` brings an account in line with what exists.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Final, Literal, NamedTuple

from manifestry.core.kube.conditions import Condition
from manifestry.core.quota.storage import charges as storage_charges
from manifestry.core.quota.storage.charges import LEASE, Account, Charge, changed, provisional
from manifestry.core.quota.storage.limits import Limits, usage

MAX_CHARGES: Final = 8000  # the CRD's maxProperties
STEP_BYTES: Final = 64 << 20
_TICK: Final = timedelta(microseconds=1)  # what the ledger can tell apart
_ROOM_SHARE: Final = 8  # near the limit a stream of unknown length asks for less, to leave others some

Reason = Literal["Reserved", "WaitingForQuota", "ExceedsMaxQuota"]


@dataclass(frozen=True)
class Wanted:
    """A charge that somebody wants.

    Args:
        uid: the Artifact's uid; empty while it is being created.
        size_bytes: how much must be reserved at least.
        step: reserve up to STEP_BYTES more where there is room, for a stream of unknown length.
        lease: how long the charge is good for without being renewed; None keeps one that is there as it is.
        upload: an upload's own token; empty for what the artifact takes as a whole.
        recorded: the keys of `charges.landed` whose bytes `size_bytes` counts, too.
    """

    uid: str
    name: str
    size_bytes: int
    step: bool = False
    lease: timedelta | None = None
    upload: str = ""
    recorded: frozenset[str] = frozenset()

    @property
    def artifact(self) -> str:
        """Return the key of the artifact's own charge."""
        return self.uid or provisional(self.name)

    @property
    def key(self) -> str:
        """Return the key in the ledger."""
        return storage_charges.upload(self.uid, self.upload) if self.upload else self.artifact


@dataclass(frozen=True)
class Grant:
    """The answer to a `Wanted`.

    Args:
        reason: `Reserved` or why not.
        charge: what now stands in the ledger for the artifact; None when refused.
        before: what stood there before, for `restore`.
        usage: as REST shows it, after the decision.
        size_bytes: how much of what is wanted is charged now, with what has landed.
    """

    reason: Reason
    charge: Charge | None = None
    before: Charge | None = None
    usage: Mapping[str, int] = field(default_factory=dict)
    size_bytes: int = 0


def reserve(account: Account, wanted: Wanted, limits: Limits, now: datetime) -> tuple[Account, Grant]:
    """Charge bytes before they are accepted; what was charged to the name before it had a uid counts."""
    found = _found(account, wanted)
    refused = _refusal(account, found, wanted, limits)
    if refused is not None:
        return account, Grant(refused, usage=usage(account, limits))
    charge = _charged(account, found, wanted, limits, now)
    size_bytes = charge.size_bytes + found.landed_bytes
    if account.charges.get(charge.uid) == charge and found.artifact is not None:
        return account, Grant("Reserved", charge, charge, usage(account, limits), size_bytes)
    put = (charge,) if charge.uid == wanted.artifact else (_counted(found, wanted, now), charge)
    result = changed(account, remove=found.renamed, put=put)
    return result, Grant("Reserved", charge, found.before, usage(result, limits), size_bytes)


def land(account: Account, wanted: Wanted, key: str, limits: Limits, now: datetime) -> tuple[Account, Grant]:
    """Turn the charge of an upload whose bytes are all stored into that of these bytes; safe to repeat.

    From here on it is the artifact's: the record of the bytes is on its way, or whoever tries again takes it.

    Args:
        account: the ledger.
        wanted: the upload, with all of its bytes.
        key: `charges.landed` of the bytes.
        limits: they hold where the upload's own charge was given back meanwhile.
        now: from when the record has `LEASE` to arrive.
    """
    old, found = account.charges.get(key), _found(account, wanted)
    held = sum(each.size_bytes for each in (old, found.before) if each is not None)
    if _has_no_room(account, wanted.size_bytes - held, limits) or _is_full(account, found, limits):
        return account, Grant("WaitingForQuota", usage=usage(account, limits))
    since = now if old is None else max(now, old.since + _TICK)
    charge = Charge(key, wanted.name, since, wanted.size_bytes)
    gone, put = (*found.renamed, wanted.key), (_counted(found, wanted, now), charge)
    result = changed(account, remove=gone, put=put)
    return result, Grant("Reserved", charge, old, usage(result, limits))


def restore(account: Account, charge: Charge, before: Charge | None) -> tuple[Account, bool]:
    """Take a charge back, unless somebody has changed it since: then it is theirs."""
    if account.charges.get(charge.uid) != charge:
        return account, False
    if before is None:
        return changed(account, remove=(charge.uid,)), True
    size_bytes = min(before.size_bytes, charge.size_bytes)
    return changed(account, put=(replace(before, size_bytes=size_bytes, unused=None),)), True


def trim(account: Account, wanted: Wanted, now: datetime) -> tuple[Account, bool]:
    """Give back what an artifact's own charge holds above what is wanted: a download has ended without bytes.

    Only for who decides alone about that charge, which is the operator.
    """
    charge = account.charges.get(wanted.artifact)
    left = max(0, wanted.size_bytes - _found(account, wanted).landed_bytes)
    if charge is None or charge.size_bytes <= left:
        return account, False
    since = max(now, charge.since + _TICK)
    return changed(account, put=(replace(charge, since=since, size_bytes=left, unused=None),)), True


def held_bytes(account: Account, wanted: Wanted) -> int:
    """Return how much of what is wanted is charged already, with what has landed."""
    return _found(account, wanted).held_bytes


def release(account: Account, key: str) -> tuple[Account, bool]:
    """Give back what an upload was charged that was given up; the artifact itself still counts."""
    if key not in account.charges:
        return account, False
    return changed(account, remove=(key,)), True


def commit(
    account: Account, charge: Charge, size_bytes: int, recorded: Iterable[str] = ()
) -> tuple[Account, bool]:
    """Turn the charges under which an artifact was stored into a part of the totals, once.

    Where its own does not stand any more, only a count can tell whether it is in the totals already.
    Uploads that are still under way keep theirs: each has accepted bytes, and gives them back itself.

    Args:
        account: the ledger.
        charge: the artifact's own.
        size_bytes: of the artifact as it is stored.
        recorded: the keys of `charges.landed` of its uploads.
    """
    if account.charges.get(charge.uid) != charge:
        return account, False
    old = account.totals
    totals = replace(
        old, committed_bytes=old.committed_bytes + size_bytes, artifact_count=old.artifact_count + 1
    )
    return changed(account, remove=(charge.uid, *recorded), totals=totals), True


def fits(account: Account, wanted: Wanted, limits: Limits) -> bool:
    """Tell whether `reserve` would let it in."""
    return _refusal(account, _found(account, wanted), wanted, limits) is None


def condition(reason: Reason, size_bytes: int, limits: Limits, *, at_least: bool = False) -> Condition:
    """Return the condition QuotaReserved; its text stays the same while others come and go."""
    if reason == "Reserved":
        return Condition("QuotaReserved", "True", reason, "the artifact is charged to the tenant's quota")
    shown = [f"{limits.max_bytes} bytes"] if limits.max_bytes is not None else []
    shown += [f"{limits.max_artifacts} artifacts"] if limits.max_artifacts is not None else []
    need = f"the artifact of {'at least ' if at_least else ''}{size_bytes} bytes"
    most = f"the tenant's storage quota of {' and '.join(shown)}"
    if reason == "ExceedsMaxQuota":
        return Condition("QuotaReserved", "False", reason, f"{need} must not be greater than {most}")
    return Condition("QuotaReserved", "False", reason, f"{need} waits for room in {most}")


class _Found(NamedTuple):
    """What a ledger has of a `Wanted`.

    Args:
        before: the charge with the wanted key.
        artifact: the artifact's own charge, by the right key; the same one where no upload is meant.
        renamed: keys that are to go, because what they charge gets another key.
        landed_bytes: what uploads have stored of what is wanted, charged already.
    """

    before: Charge | None
    artifact: Charge | None
    renamed: tuple[str, ...]
    landed_bytes: int

    @property
    def held_bytes(self) -> int:
        return self.landed_bytes + (self.before.size_bytes if self.before else 0)

    @property
    def new_charges(self) -> int:
        if self.artifact is None:
            return 2  # at most
        return 1 if self.before is None else 0


def _found(account: Account, wanted: Wanted) -> _Found:
    charges, name = account.charges, provisional(wanted.name)
    held = charges.get(wanted.artifact) or charges.get(name)
    artifact = None if held is None else replace(held, uid=wanted.artifact)
    renamed = () if held is None or held.uid == wanted.artifact else (held.uid,)
    landed = sum(charges[key].size_bytes for key in wanted.recorded if key in charges)
    return _Found(charges.get(wanted.key) if wanted.upload else artifact, artifact, renamed, landed)


def _refusal(account: Account, found: _Found, wanted: Wanted, limits: Limits) -> Reason | None:
    most, more_bytes = limits.max_bytes, wanted.size_bytes - found.held_bytes
    too_large = most is not None and more_bytes > 0 and wanted.size_bytes > most
    if too_large or (found.artifact is None and limits.max_artifacts == 0):
        return "ExceedsMaxQuota"
    if _has_no_room(account, more_bytes, limits) or _is_full(account, found, limits):
        return "WaitingForQuota"
    return None


def _has_no_room(account: Account, more_bytes: int, limits: Limits) -> bool:
    most = limits.max_bytes
    return most is not None and more_bytes > 0 and account.used_bytes + more_bytes > most


def _is_full(account: Account, found: _Found, limits: Limits) -> bool:
    """Tell whether there is no place for one more artifact, or one more charge."""
    count = limits.max_artifacts
    if found.artifact is None and count is not None and account.artifacts >= count:
        return True
    return bool(found.new_charges) and len(account.charges) + found.new_charges > MAX_CHARGES


def _counted(found: _Found, wanted: Wanted, now: datetime) -> Charge:
    """Return the charge by which an upload's artifact counts: as it is, or without any bytes."""
    return found.artifact or Charge(wanted.artifact, wanted.name, now)


def _charged(account: Account, found: _Found, wanted: Wanted, limits: Limits, now: datetime) -> Charge:
    before = found.before
    held = before.size_bytes if before else 0
    size_bytes = max(held, wanted.size_bytes - found.landed_bytes)
    if wanted.step and held <= wanted.size_bytes:
        room = None if limits.max_bytes is None else limits.max_bytes - account.used_bytes - size_bytes + held
        size_bytes += STEP_BYTES if room is None else max(0, min(STEP_BYTES, room // _ROOM_SHARE))
    since = now if before is None else max(now, before.since + _TICK)
    if before is not None and wanted.lease is None:
        as_it_is = before.unused is None and held == size_bytes and wanted.key in account.charges
        return before if as_it_is else replace(before, since=since, size_bytes=size_bytes, unused=None)
    lease = wanted.lease or LEASE
    return Charge(wanted.key, wanted.name, since, size_bytes, None if lease == LEASE else now + lease)
