"""What a store's clients have been told, and hold it to."""

import copy
from dataclasses import dataclass, field
from typing import Any

from manifestry.core.artifacts import uploads

Key = tuple[str, str]  # tenant uid, digest
Objects = dict[tuple[str, str, str], dict[str, Any]]


@dataclass(frozen=True)
class Upload:
    """A resumable upload as its client knows it.

    Args:
        session: what was created.
        data: all the bytes that the client means to send.
        offset: the last one it was told, by an answer to a PATCH or to a HEAD.
        may_be_gone: its completion is recorded, or its removal was asked for.
    """

    session: uploads.Session
    data: bytes
    offset: int = 0
    may_be_gone: bool = False


@dataclass
class Promises:
    """What must be there, whatever happens to the machine.

    Args:
        blobs: what was acknowledged and is referred to, with its bytes.
        damaged: what a disk has spoilt.
        uploads: by session id.
        objects: the API server's; it has a disk of its own.
    """

    blobs: dict[Key, bytes] = field(default_factory=dict)
    damaged: frozenset[Key] = frozenset()
    uploads: dict[str, Upload] = field(default_factory=dict)
    objects: Objects = field(default_factory=dict)

    def copy(self) -> "Promises":
        """Return what is promised now."""
        return Promises(dict(self.blobs), self.damaged, dict(self.uploads), copy.deepcopy(self.objects))
