"""The storage ledger as a value: charges for bytes on their way, and totals of what is stored."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from manifestry.core.blobs import digests

LEDGER: Final = "storage.manifestry"  # a dot: no JobType can have this name
LEASE: Final = timedelta(seconds=120)  # what a charge is good for that nobody renews
_NEW: Final = "new."
_UPLOAD: Final = "/upload/"
_LANDED: Final = "/landed/"


@dataclass(frozen=True)
class Charge:
    """What one artifact that is not stored yet, or one of its uploads, takes of the quota.

    An artifact has one charge by its uid, which counts as an artifact, and one more for each of its uploads:
    any number may be under way at once, and each is charged on its own before its bytes are accepted.

    Args:
        uid: the key: the Artifact's metadata.uid; or `provisional` of its name while it is being created; or
            `upload` while bytes come; or `landed` from when they are stored until the whole artifact is.
        name: its name.
        since: when the charge was made or changed last, microseconds, UTC; later for each change, so that
            whoever made it sees that it is not its own any more.
        size_bytes: how much is reserved.
        expires: when bytes that are still awaited are given back; None for `since` and a lease.
        unused: when repair first found that nobody uses it; the next repair gives it back.
    """

    uid: str
    name: str
    since: datetime
    size_bytes: int = 0
    expires: datetime | None = None
    unused: datetime | None = None

    def is_expired(self, now: datetime) -> bool:
        """Tell whether whoever sent the bytes has been silent for too long."""
        return now > (self.expires or self.since + LEASE)


@dataclass(frozen=True)
class Totals:
    """What the stored artifacts take, the retained ones included; written by the operator only.

    Args:
        observed: when a count was last written, later for each: so equal `Totals` mean that nothing was
            committed or counted in between.
        retained_bytes: how many of the bytes are those of artifacts that are deleted and retained.
        retained_count: how many of the artifacts are such ones.
    """

    committed_bytes: int = 0
    artifact_count: int = 0
    observed: datetime | None = None
    retained_bytes: int = 0
    retained_count: int = 0


@dataclass(frozen=True)
class Account:
    """A tenant's storage ledger at one resourceVersion.

    Args:
        charges: by key.
        reserved_bytes: their sum, kept in step by `changed`.
        uploads: how many of them are for uploads, and so count as no artifact; kept in step, too.
        initialized: the stored artifacts were counted once; before that it may not be trusted.
        notes: why entries of the stored object were ignored.
    """

    charges: Mapping[str, Charge] = field(default_factory=dict)
    totals: Totals = field(default_factory=Totals)
    reserved_bytes: int = 0
    uploads: int = 0
    initialized: bool = False
    notes: tuple[str, ...] = ()

    @property
    def artifacts(self) -> int:
        """Return how many artifacts count."""
        return self.totals.artifact_count + len(self.charges) - self.uploads

    @property
    def used_bytes(self) -> int:
        """Return how many bytes count, stored and on their way."""
        return self.totals.committed_bytes + self.reserved_bytes


def provisional(name: str) -> str:
    """Return the key of a charge for an artifact that has no uid yet; no uid looks like it."""
    return f"{_NEW}{name}"


def upload(uid: str, token: str) -> str:
    """Return the key of one upload under way; `token` is nobody else's."""
    return f"{uid}{_UPLOAD}{token}"


def landed(uid: str, file: str, digest: str) -> str:
    """Return the key of an upload's bytes that are stored, and perhaps recorded.

    The same for each upload of these bytes, so that who tries again is not charged twice; another for those
    of a rival. The name of the file is hashed: it may be longer than all the rest of a charge.

    Args:
        uid: the Artifact's uid.
        file: whose bytes; empty for an artifact without `files`.
        digest: the digest of the bytes.
    """
    return f"{uid}{_LANDED}{digests.hex_of(digests.of(f'{digest} {file}'.encode()))[:32]}"


def token_of(key: str) -> str:
    """Return the token of an upload's charge, of a resumable one its session; empty for any other charge."""
    return key.partition(_UPLOAD)[2]


def is_upload(key: str) -> bool:
    """Tell whether a charge is that of one upload under way."""
    return _UPLOAD in key


def resting(account: Account, before: datetime) -> list[str]:
    """Return the keys of resumable uploads' charges that were last renewed before a time."""
    return [
        key
        for key, charge in account.charges.items()
        if _UPLOAD in key and charge.expires is not None and charge.since < before
    ]


def artifact_of(key: str) -> str:
    """Return the uid of the artifact that a charge is for; a `provisional` key as it is."""
    return key.partition("/")[0]


def changed(
    account: Account, *, remove: Iterable[str] = (), put: Iterable[Charge] = (), totals: Totals | None = None
) -> Account:
    """Return the account without `remove`, then with `put`, then with `totals`."""
    charges, reserved = dict(account.charges), account.reserved_bytes
    for key in remove:
        old = charges.pop(key, None)
        reserved -= old.size_bytes if old else 0
    for charge in put:
        old = charges.get(charge.uid)
        reserved += charge.size_bytes - (old.size_bytes if old else 0)
        charges[charge.uid] = charge
    uploads = sum("/" in key for key in charges)
    return replace(
        account, charges=charges, reserved_bytes=reserved, uploads=uploads, totals=totals or account.totals
    )


def build(charges: Iterable[Charge], totals: Totals | None = None, *, initialized: bool = True) -> Account:
    """Return an account of these charges, the sum taken."""
    return changed(Account(initialized=initialized), put=charges, totals=totals)


def parse(body: Mapping[str, Any]) -> Account:
    """Read a QuotaLedger for storage; an entry that cannot be read is left out and dropped by the next write.

    References: CRD QuotaLedger `status.holders`, `status.storage`.
    """
    status = _mapping(body.get("status"))
    charges, notes = [], []
    for key, entry in _mapping(status.get("holders")).items():
        charge = _parse_charge(key, _mapping(entry))
        if charge is None:
            notes.append(f"holder '{key}' cannot be read")
        else:
            charges.append(charge)
    found = _mapping(status.get("storage"))
    totals = Totals(
        _count(found.get("committedBytes")),
        _count(found.get("artifactCount")),
        _parse_time(found.get("observedTime")),
        _count(found.get("retainedBytes")),
        _count(found.get("retainedCount")),
    )
    account = build(charges, totals, initialized=bool(status.get("initializedTime") and totals.observed))
    return replace(account, notes=tuple(notes))


def render(account: Account) -> dict[str, Any]:
    """Return `holders` and `storage` of the status, sorted: equal accounts give equal bytes."""
    totals = account.totals
    storage: dict[str, Any] = {
        "committedBytes": totals.committed_bytes,
        "artifactCount": totals.artifact_count,
    }
    if totals.retained_count:
        storage |= {"retainedBytes": totals.retained_bytes, "retainedCount": totals.retained_count}
    if totals.observed is not None:
        storage["observedTime"] = format_time(totals.observed)
    holders = {key: _render_charge(account.charges[key]) for key in sorted(account.charges)}
    return {"holders": holders, "storage": storage}


def format_time(when: datetime) -> str:
    """Return an RFC 3339 time in UTC with microseconds."""
    return when.isoformat(timespec="microseconds").replace("+00:00", "Z")


def _parse_charge(key: str, entry: Mapping[str, Any]) -> Charge | None:
    name, since = entry.get("name"), _parse_time(entry.get("since"))
    if not isinstance(name, str) or not name or since is None:
        return None
    times = _parse_time(entry.get("expirationTime")), _parse_time(entry.get("unusedTime"))
    return Charge(key, name, since, _count(entry.get("sizeBytes")), *times)


def _render_charge(charge: Charge) -> dict[str, Any]:
    entry: dict[str, Any] = {"name": charge.name, "state": "Reserved", "since": format_time(charge.since)}
    if charge.size_bytes:
        entry["sizeBytes"] = charge.size_bytes
    if charge.expires is not None:
        entry["expirationTime"] = format_time(charge.expires)
    if charge.unused is not None:
        entry["unusedTime"] = format_time(charge.unused)
    return entry


def _parse_time(text: object) -> datetime | None:
    try:
        when = datetime.fromisoformat(str(text))
    except ValueError:
        return None
    return when.astimezone(UTC) if when.tzinfo else when.replace(tzinfo=UTC)


def _count(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
