"""Usage and queue positions as a tenant sees them: derived from ledgers and limits, never stored."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from manifestry.core.quota import holders, ledgers, quotas


@dataclass(frozen=True)
class Waiting:
    """One waiting Job; position 1 is admitted next."""

    position: int
    holder: holders.Holder

    def key(self) -> tuple[int | str, ...]:
        """Return the order of admission as a page key."""
        return -self.holder.priority, _microseconds(self.holder.since), self.holder.uid


def waiting(ledger: holders.Ledger) -> list[Waiting]:
    """Return the waiting Jobs in the order in which they will be admitted."""
    return [Waiting(number, holder) for number, holder in enumerate(ledgers.queue(ledger), start=1)]


def usage(tenant: str, job_type: str, ledger: holders.Ledger | None, limits: quotas.Limits) -> dict[str, Any]:
    """Return one row of `GET /quotas`; an unlimited limit is absent."""
    counted = ledger.usage if ledger is not None else quotas.Usage()
    row = {
        "tenant": tenant,
        "jobType": job_type,
        "running": counted.admitted,
        "queued": counted.queued,
        "reserved": counted.reserved,
        "maxRunning": limits.max_running,
        "maxQueued": limits.max_queued,
        "initialized": ledger is not None and ledger.initialized,
    }
    return {key: value for key, value in row.items() if value is not None}


def _microseconds(time: datetime) -> int:
    return int(time.timestamp() * 1_000_000)
