"""Bytes that could not be sent: a note in the store asks the operator to read them back.

The note is no caller's act: a viewer may not write an Artifact, and no reader gets a right by a disk's fault.
"""

import logging

from manifestry.adapters.store.contract import ports as contract_ports
from manifestry.core.artifacts import suspects
from manifestry.core.artifacts.suspects import Suspect
from manifestry.core.blobs import keys
from manifestry_api.guard import deps
from manifestry_api.objects import lookups

_logger = logging.getLogger(__name__)


def of(artifact: lookups.Object) -> Suspect:
    """Return whom a note would be about."""
    metadata = artifact["metadata"]
    return Suspect(metadata["uid"], metadata["namespace"], metadata["name"])


async def tell(ports: deps.Ports, suspect: Suspect) -> None:
    """Leave a note that an Artifact's bytes are missing or damaged; that it cannot be left is logged only."""
    extra = {"namespace": suspect.namespace, "artifact": suspect.name}
    _logger.error("stored bytes could not be sent", extra=extra)
    try:
        key, records = suspects.key(suspect.uid), ports.store.records()
        if await records.head(key) is None:
            await records.create(key, suspects.to_bytes(suspect))
    except (contract_ports.StoreError, keys.KeyPartError) as error:
        _logger.warning("note not written", extra={**extra, "error": type(error).__name__})
