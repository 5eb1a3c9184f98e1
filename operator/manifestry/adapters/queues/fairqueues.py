"""The order in which waiting keys are served: urgent ones first, then round-robin over the namespaces."""

from collections import OrderedDict
from collections.abc import Set as AbstractSet
from typing import NamedTuple

Key = tuple[str, str, str]


class Waiting(NamedTuple):
    """A key that was taken from the queue and when it was put there."""

    key: Key
    since: float


class FairQueue:
    """A set of keys `(kind, namespace, name)` with an order; no clock, no waiting.

    One namespace's thousand keys do not stand before another's one: each turn takes one key of the next
    namespace, oldest first.
    """

    def __init__(self) -> None:
        self._urgent: OrderedDict[Key, float] = OrderedDict()
        self._turns: OrderedDict[str, OrderedDict[Key, float]] = OrderedDict()

    def __len__(self) -> int:
        """Return how many keys wait."""
        return len(self._urgent) + sum(len(keys) for keys in self._turns.values())

    def __contains__(self, key: Key) -> bool:
        """Tell whether `key` waits."""
        return key in self._urgent or key in self._turns.get(key[1], ())

    def push(self, key: Key, now: float, *, urgent: bool = False) -> None:
        """Let `key` wait since `now`; one that waits already keeps its time, but may become urgent."""
        if key in self._urgent:
            return
        if urgent:
            self._urgent[key] = self._drop(key, now)
        else:
            self._turns.setdefault(key[1], OrderedDict()).setdefault(key, now)

    def pop(self, full: AbstractSet[str] = frozenset()) -> Waiting | None:
        """Take the next key, or None.

        Args:
            full: namespaces that have their share of the workers already; only their urgent keys are taken.
        """
        if self._urgent:
            return Waiting(*self._urgent.popitem(last=False))
        namespace = next((each for each in self._turns if each not in full), None)
        if namespace is None:
            return None
        keys = self._turns.pop(namespace)
        taken = Waiting(*keys.popitem(last=False))
        if keys:
            self._turns[namespace] = keys
        return taken

    def oldest(self) -> float | None:
        """Return the time of the key that waits longest, or None."""
        queues = [*self._turns.values(), *([self._urgent] if self._urgent else [])]
        return min((next(iter(keys.values())) for keys in queues), default=None)

    def _drop(self, key: Key, now: float) -> float:
        keys = self._turns.get(key[1])
        if not keys or key not in keys:
            return now
        since = keys.pop(key)
        if not keys:
            del self._turns[key[1]]
        return since
