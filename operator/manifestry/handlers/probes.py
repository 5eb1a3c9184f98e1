"""The rows of the operator's health answers."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from manifestry.adapters import clock as clocks
from manifestry.adapters.kube import election
from manifestry.adapters.queues import queues
from manifestry.adapters.store.ownership import guards
from manifestry.adapters.telemetry import health
from manifestry.handlers import shell
from manifestry.handlers.resyncs import Resyncs

STUCK_SECONDS = 1200.0  # longer than a reconcile may take
STALE_RESYNCS = 5  # so many missed resyncs make the operator unready


@dataclass
class Probes:
    """Reads the parts of a running operator; `queue` and `resyncs` are None until it leads.

    Args:
        clock: time.
        lag: how late the event loop is.
        contacts: when the watchers last spoke to the API server.
        leadership: the election, or None where there is none.
        resync_seconds: the pause between two resyncs.
    """

    clock: clocks.Clock
    lag: health.LoopLag
    contacts: health.WatchContacts
    leadership: election.Election | None
    resync_seconds: float
    queue: queues.KeyedQueue | None = field(default=None)
    resyncs: Resyncs | None = field(default=None)
    watching: bool = field(default=False)
    guard: guards.Guard | None = field(default=None)

    def live(self) -> Sequence[health.Check]:
        """Return the rows of /livez: what a restart can mend."""
        return (self._loop(), self._watchers(), self._workers())

    def ready(self) -> Sequence[health.Check]:
        """Return the rows of /readyz; a replica that waits for the leadership is ready for it."""
        leader = self._leader()
        if self._stands_by():
            return (leader,)
        return (leader, self._watches(), self._repair(), *self._store())

    def _loop(self) -> health.Check:
        return health.Check("event-loop", ok=True, reason="late by", age_seconds=self.lag.seconds)

    def _watchers(self) -> health.Check:
        path, age = max(self.contacts.ages().items(), key=lambda item: item[1], default=("none", 0.0))
        return health.Check("watchers", age < shell.SILENCE_SECONDS, f"least recent: {path}", age)

    def _workers(self) -> health.Check:
        age = self.queue.stuck_seconds() if self.queue else 0.0
        return health.Check("workers", age < STUCK_SECONDS, "since the last progress", age)

    def _stands_by(self) -> bool:
        leadership = self.leadership
        return leadership is not None and leadership.holder not in {"", leadership.identity}

    def _leader(self) -> health.Check:
        if self.leadership is None:
            return health.Check("leader", ok=True, reason="no election")
        holder = self.leadership.holder
        if self.leadership.is_leader:
            return health.Check("leader", ok=True, reason="this process leads")
        return health.Check("leader", ok=self._stands_by(), reason=f"held by {holder or 'nobody'}")

    def _watches(self) -> health.Check:
        return health.Check("watches", self.watching, "begun" if self.watching else "not begun")

    def _store(self) -> Sequence[health.Check]:
        rows = () if self.guard is None else self.guard.rows()
        return [health.Check(row.name, not row.reason, row.reason, row.age_seconds) for row in rows]

    def _repair(self) -> health.Check:
        if self.resyncs is None:
            return health.Check("resync", ok=False, reason="not begun")
        age = self.clock.monotonic() - self.resyncs.last_success
        if age == float("inf"):
            return health.Check("resync", ok=False, reason="none has succeeded yet")
        limit = max(300.0, STALE_RESYNCS * self.resync_seconds)
        return health.Check("resync", age < limit, "since the last complete one", age)
