"""What an event does: keep the small kinds and the ledgers, put a key into the queue, nothing else."""

import logging
from collections.abc import Mapping
from typing import Any

from manifestry.adapters.queues import queues
from manifestry.adapters.quota import ledgers
from manifestry.core.kube import names
from manifestry.handlers.runtime import caches, keys

_logger = logging.getLogger(__name__)


class Feed:
    """Takes the events of all watched kinds; must be quick, and no object may make it fail."""

    def __init__(self, cache: caches.Caches, queue: queues.KeyedQueue, books: ledgers.Ledgers) -> None:
        self._caches = cache
        self._queue = queue
        self._books = books

    def take(self, resource: names.Resource, change: str | None, item: Mapping[str, Any]) -> None:
        """Take an event.

        Args:
            resource: the kind that is watched.
            change: ADDED, MODIFIED, DELETED, or None for the initial listing.
            item: the object.
        """
        key = keys.key_of(resource, item)
        if key is None:
            _logger.warning("event without a usable name", extra={"resource": resource.plural})
            return
        if resource in caches.CACHED:
            self._remember(resource.kind, change, key[2], item)
        if key[0] == names.QUOTA_LEDGERS.kind:
            self._note_ledger(change, key, item)
        if resource == names.JOBS and change == "DELETED":
            self._caches.note_deleted(str(item["metadata"].get("uid")))
        if resource == names.ARTIFACTS and change == "DELETED":
            self._caches.note_departed(key[1], key[2], item)
        self._queue.add(key)

    def _note_ledger(self, change: str | None, key: queues.Key, item: Mapping[str, Any]) -> None:
        if change == "DELETED":
            self._books.forget(key[1], key[2])
        else:
            self._books.observe(key[1], key[2], item)

    def _remember(self, kind: str, change: str | None, name: str, item: Mapping[str, Any]) -> None:
        if change == "DELETED":
            self._caches.drop(kind, name)
        else:
            self._caches.put(kind, item)
