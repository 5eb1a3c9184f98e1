"""Charges and Artifacts as tests of the storage ledger need them."""

from datetime import UTC, datetime, timedelta
from typing import Any

from manifestry.core.quota.storage.charges import LEASE, Charge
from manifestry.core.quota.storage.lives import Live, State

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
LATER = NOW + LEASE + timedelta(seconds=1)


def charge(uid: str = "u1", size_bytes: int = 10, **changes: Any) -> Charge:
    return Charge(uid, changes.pop("name", "a"), changes.pop("since", NOW), size_bytes, **changes)


def live(
    state: State,
    size_bytes: int = 0,
    uid: str = "u1",
    since: datetime | None = None,
    recorded: frozenset[str] = frozenset(),
) -> Live:
    return Live(uid, "a", state, size_bytes, since, recorded)
