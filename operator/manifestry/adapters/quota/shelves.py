"""The ledgers that a process knows of, found by namespace without a look at all others."""

from collections import UserDict
from typing import TypeVar

T = TypeVar("T")

Key = tuple[str, str]


class Shelf(UserDict[Key, T]):
    """A dict by (namespace, name), in the order in which the entries were put there last."""

    def __init__(self) -> None:
        self._names: dict[str, dict[str, None]] = {}  # by namespace
        super().__init__()

    def __setitem__(self, key: Key, item: T) -> None:
        """Put an entry at the end."""
        self.data.pop(key, None)
        self.data[key] = item
        self._names.setdefault(key[0], {})[key[1]] = None

    def __delitem__(self, key: Key) -> None:
        """Take an entry away."""
        del self.data[key]
        found = self._names[key[0]]
        del found[key[1]]
        if not found:
            del self._names[key[0]]

    def of(self, namespace: str) -> list[tuple[Key, T]]:
        """Return the entries of one namespace."""
        return [((namespace, name), self.data[namespace, name]) for name in self._names.get(namespace, ())]
