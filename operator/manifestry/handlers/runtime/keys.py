"""From an event's object to the key to look at."""

from collections.abc import Mapping
from typing import Any

from manifestry.adapters.queues import queues
from manifestry.core.kube import names
from manifestry.core.quota.storage import charges

STORAGE_LEDGER = "StorageLedger"  # the QuotaLedger of a tenant's storage; the other ones are of job types


def key_of(resource: names.Resource, item: Mapping[str, Any]) -> queues.Key | None:
    """Return the key that an object of `resource` wakes, or None where it tells nobody's.

    A batch Job wakes the Job that owns it, by its label: the owner may be gone already.
    """
    metadata = item.get("metadata")
    if not isinstance(metadata, Mapping):
        return None
    name, namespace = metadata.get("name"), metadata.get("namespace") or ""
    if resource == names.BATCH_JOBS:
        labels = metadata.get("labels")
        name = labels.get(names.JOB_NAME_LABEL) if isinstance(labels, Mapping) else None
    if not isinstance(name, str) or not isinstance(namespace, str) or not name:
        return None
    kind = names.JOBS.kind if resource == names.BATCH_JOBS else resource.kind
    if resource == names.QUOTA_LEDGERS and name == charges.LEDGER:
        kind = STORAGE_LEDGER
    return kind, namespace, name
