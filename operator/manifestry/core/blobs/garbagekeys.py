"""Keys of what the collector keeps beside the blobs: marks, claims, pins, and bytes found damaged.

Like `keys` they are built from digests and UUIDs only. A mark lies beside its blob, so that one listing
shows both, and making one needs no folder. A claim is where every version looks for it: its key has no
algorithm.
"""

from typing import Final

from manifestry.core.blobs import digests, keys

CLAIMS: Final = "gc/"
OWNER: Final = "gc/owner.json"
CLOCK: Final = "gc/clock"  # written to see a bucket's time
SPARES: Final = "gc/spare/"  # what a collector on a full volume claims and marks with
TENANTS: Final = "tenants/"
_JSON: Final = ".json"
_MARK: Final = ".mark"


def prefix(tenant_uid: str) -> str:
    """Return the prefix under which everything of a tenant lives.

    Raises:
        KeyPartError: `tenant_uid` is not a UUID.
    """
    return f"{TENANTS}{keys.parse_uuid(tenant_uid)}/"


def tenant(tenant_uid: str) -> str:
    """Return the key of the record that says of which cluster and namespace a tenant's bytes are."""
    return prefix(tenant_uid) + "tenant.json"


def gone(tenant_uid: str) -> str:
    """Return the key that says since when a tenant's namespace is missed: by its age."""
    return prefix(tenant_uid) + "gone"


def old_marks(tenant_uid: str) -> str:
    """Return the prefix under which versions before 2026-12 kept a tenant's marks, all in one folder."""
    return prefix(tenant_uid) + "marks/"


def old_mark(tenant_uid: str, digest: str) -> str:
    """Return the key of a blob's mark in those versions."""
    return old_marks(tenant_uid) + digests.hex_of(digest)


def mark(tenant_uid: str, digest: str) -> str:
    """Return the key of the mark that says since when nothing refers to a blob."""
    return keys.blob(tenant_uid, digest) + _MARK


def claims(tenant_uid: str) -> str:
    """Return the prefix of the claims on a tenant's blobs."""
    return f"{CLAIMS}{keys.parse_uuid(tenant_uid)}/"


def claim(tenant_uid: str, digest: str) -> str:
    """Return the key of the claim that a collector holds while it may remove a blob."""
    return claims(tenant_uid) + digests.hex_of(digest)


def pins(tenant_uid: str) -> str:
    """Return the prefix of a tenant's pins."""
    return prefix(tenant_uid) + "pins/"


def pin(tenant_uid: str, artifact_uid: str) -> str:
    """Return the key of the pin that keeps an artifact's bytes after its deletion."""
    return f"{pins(tenant_uid)}{keys.parse_uuid(artifact_uid)}{_JSON}"


def verified(tenant_uid: str) -> str:
    """Return the prefix of what says when a pin's bytes were last read back: by its age."""
    return prefix(tenant_uid) + "verified/"


def verification(tenant_uid: str, artifact_uid: str) -> str:
    """Return the key that says when the bytes of an artifact's pin were last read back."""
    return verified(tenant_uid) + keys.parse_uuid(artifact_uid)


def parse_verification(key: str) -> str | None:
    """Return the artifact's uid of such a key, None for any other."""
    try:
        return keys.parse_uuid(key.rpartition("/")[2])
    except keys.KeyPartError:
        return None


def damaged(tenant_uid: str) -> str:
    """Return the prefix of a tenant's bytes that did not hash to their digest."""
    return prefix(tenant_uid) + "damaged/"


def quarantine(tenant_uid: str, digest: str) -> str:
    """Return the key where the damaged bytes of a digest are set aside."""
    return f"{damaged(tenant_uid)}{digests.ALGORITHM}/{digests.hex_of(digest)}"


def old_quarantine(tenant_uid: str, digest: str) -> str:
    """Return the key where versions before 2026-12 have set the damaged bytes of a digest aside."""
    return damaged(tenant_uid) + digests.hex_of(digest)


def parse_quarantine(key: str) -> str | None:
    """Return the digest of bytes that were set aside, in either form; None for any other key."""
    folder, _, name = key.partition("/damaged/")[2].rpartition("/")
    return _digest(name) if folder in {"", digests.ALGORITHM} else None


def parse_mark(key: str) -> str | None:
    """Return the digest of a mark's key, None for any other."""
    parsed = keys.parse_blob(key.removesuffix(_MARK)) if key.endswith(_MARK) else None
    return None if parsed is None else parsed[1]


def parse_old_mark(key: str) -> str | None:
    """Return the digest of a mark that an earlier version has made, None for any other key."""
    return _digest(key.rpartition("/")[2])


def parse_claim(key: str) -> tuple[str, str] | None:
    """Return (tenant uid, digest) of a claim's key, None for any other."""
    tenant_uid, _, name = key.removeprefix(CLAIMS).partition("/")
    digest = _digest(name)
    return None if digest is None or not keys.is_uuid(tenant_uid) else (tenant_uid, digest)


def parse_pin(key: str) -> str | None:
    """Return the artifact's uid of a pin's key, None for any other."""
    name = key.rpartition("/")[2]
    try:
        return keys.parse_uuid(name.removesuffix(_JSON)) if name.endswith(_JSON) else None
    except keys.KeyPartError:
        return None


def _digest(name: str) -> str | None:
    try:
        return digests.parse(f"{digests.ALGORITHM}:{name}")
    except digests.DigestError:
        return None
