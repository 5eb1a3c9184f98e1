"""What an event does: keep the small kinds in the caches, put a key into the queue, nothing else."""

import logging
from collections.abc import Mapping
from typing import Any

from manifestry.adapters import queues
from manifestry.core import names
from manifestry.handlers import caches, keys

_logger = logging.getLogger(__name__)


class Feed:
    """Takes the events of all watched kinds; must be quick, and no object may make it fail."""

    def __init__(self, cache: caches.Caches, queue: queues.KeyedQueue) -> None:
        self._caches = cache
        self._queue = queue

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
        if resource == names.JOBS and change == "DELETED":
            self._caches.note_deleted(str(item["metadata"].get("uid")))
        self._queue.add(key)

    def _remember(self, kind: str, change: str | None, name: str, item: Mapping[str, Any]) -> None:
        if change == "DELETED":
            self._caches.drop(kind, name)
        else:
            self._caches.put(kind, item)
