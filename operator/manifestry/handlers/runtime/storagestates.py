"""What the operator remembers of the storage quotas; all of it can be lost, a resync finds it again."""

from dataclasses import dataclass, field

from manifestry.adapters.quota import storagebooks
from manifestry.adapters.store import pins
from manifestry.core.quota.storage.charges import Charge
from manifestry.core.quota.storage.grants import Wanted, fits
from manifestry.core.quota.storage.limits import Limits


@dataclass
class Storage:
    """The storage quotas of this process.

    Args:
        books: the storage ledgers.
        waiting: by namespace and name, the charges that found no room, the oldest first.
        relied: by namespace and name, the charge under which an artifact is being stored.
        stale: namespaces whose totals must be counted, because an artifact has gone.
        free: namespaces that are known to have no limit and no ledger.
        not_before: monotonic time of the earliest next count, by namespace.
        retained: what is retained of deleted artifacts, as it was counted last.
    """

    books: storagebooks.StorageBooks
    waiting: dict[str, dict[str, Wanted]] = field(default_factory=dict)
    relied: dict[tuple[str, str], Charge] = field(default_factory=dict)
    stale: set[str] = field(default_factory=set)
    free: set[str] = field(default_factory=set)
    not_before: dict[str, float] = field(default_factory=dict)
    retained: pins.Counts = field(default_factory=pins.Counts)

    def wait(self, namespace: str, wanted: Wanted) -> None:
        """Remember that an artifact waits for room; it keeps its place."""
        self.waiting.setdefault(namespace, {})[wanted.name] = wanted

    def forget(self, namespace: str, name: str) -> None:
        """Forget an artifact."""
        self.relied.pop((namespace, name), None)
        names = self.waiting.get(namespace, {})
        names.pop(name, None)
        if not names:
            self.waiting.pop(namespace, None)

    def remembered(self, namespace: str, name: str, uid: str) -> int:
        """Return how much an artifact was found to need, 0 for unknown."""
        wanted = self.waiting.get(namespace, {}).get(name)
        return wanted.size_bytes if wanted is not None and wanted.uid == uid else 0

    def wakeable(self, namespace: str, limits: Limits) -> list[str]:
        """Return the names of those that wait and have room by what this process knows, one by one."""
        waiting = self.waiting.get(namespace, {})
        account = self.books.account(namespace)
        if account is None or not limits.is_set:
            return list(waiting)
        return [name for name, wanted in waiting.items() if fits(account, wanted, limits)]
