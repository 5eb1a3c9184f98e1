"""What is retained of deleted Artifacts, as it is listed and counted: from a pin and the time of its key."""

from dataclasses import dataclass
from datetime import datetime

from manifestry.core.blobs.garbage import Pin
from manifestry.core.quota.storage.lives import Live, State


@dataclass(frozen=True)
class Retained:
    """The bytes that one pin keeps.

    Args:
        artifact_uid: `metadata.uid` of the Artifact; the id under which they are listed and removed.
        name: the Artifact's name; empty where the pin cannot be read.
        namespace: its namespace's name; empty for unknown.
        digests: of the payloads and of the manifest, in order; none where the pin cannot be read.
        size_bytes: as the quota counts them; 0 where nobody can know.
        since: when they were pinned, by the store's clock.
        is_damaged: the pin cannot be read; until it is removed nothing of its tenant is collected.
    """

    artifact_uid: str
    name: str
    namespace: str
    digests: tuple[str, ...]
    size_bytes: int
    since: datetime
    is_damaged: bool = False

    def live(self) -> Live:
        """Return what the storage quota must know of it: it counts as one artifact, as before."""
        return Live(self.artifact_uid, self.name, State.RETAINED, self.size_bytes)


def of(pin: Pin, size_bytes: int, modified: datetime) -> Retained:
    """Return what a pin keeps.

    Args:
        pin: as it was read.
        size_bytes: of the bytes, where the pin does not say it.
        modified: when the pin was written.
    """
    known = pin.size_bytes if pin.size_bytes is not None else size_bytes
    since = pin.since or modified
    return Retained(pin.artifact_uid, pin.name, pin.namespace, tuple(sorted(pin.digests)), known, since)


def damaged(artifact_uid: str, modified: datetime) -> Retained:
    """Return what is known of a pin that cannot be read: that it is there."""
    return Retained(artifact_uid, "", "", (), 0, modified, is_damaged=True)
