"""What a deleted Artifact's last `deletionPolicy` still asks for: it may have changed just before the end.

There is no finalizer, so nothing waits for the operator: a policy that was edited just before the deletion is
known from the object as the deletion's event shows it, and from nowhere else.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from manifestry.core.artifacts import lives as artifact_lives
from manifestry.core.artifacts.plans import DropPin, PutPin
from manifestry.core.blobs import garbage
from manifestry.core.quota.storage import lives as storage_lives

_STORED: Final = ("artifact", "files", "manifest")

Body = Mapping[str, Any]


def pins(body: Body, tenant_uid: str) -> tuple[PutPin | DropPin, ...]:
    """Return what is to be done about an Artifact's pin after its deletion; mostly nothing.

    Args:
        body: the Artifact as it was last.
        tenant_uid: whose bytes they are.
    """
    metadata = body["metadata"]
    uid = metadata.get("uid")
    if not isinstance(uid, str) or artifact_lives.is_ready(body):  # ready: the policy was carried out
        return ()
    if not garbage.is_retained(body):
        return (DropPin(tenant_uid, uid),) if metadata.get("generation", 1) != 1 else ()
    if not storage_lives.is_stored(body):
        return ()  # it has never been `Ready`, and so nothing was promised
    size_bytes = storage_lives.stored_bytes(body)
    return (PutPin(tenant_uid, uid, garbage.render_pin(body, _stored(body), size_bytes)),)


def _stored(body: Body) -> Iterator[str]:
    """Yield the digests of what the status says is stored: the payloads and the manifest."""
    status = body["status"]
    return garbage.digests_of({"status": {name: status.get(name) for name in _STORED}})
