"""Keys of what the collector keeps beside the blobs: marks, claims, pins, and bytes found damaged.

Like `keys` they are built from digests and UUIDs only.
"""

from typing import Final

from manifestry.core.blobs import digests, keys

CLAIMS: Final = "gc/"
OWNER: Final = "gc/owner.json"
CLOCK: Final = "gc/clock"  # written to see a bucket's time
TENANTS: Final = "tenants/"
_JSON: Final = ".json"


def prefix(tenant_uid: str) -> str:
    """Return the prefix under which everything of a tenant lives.

    Raises:
        KeyPartError: `tenant_uid` is not a UUID.
    """
    return f"{TENANTS}{keys.parse_uuid(tenant_uid)}/"


def marks(tenant_uid: str) -> str:
    """Return the prefix of a tenant's marks."""
    return prefix(tenant_uid) + "marks/"


def mark(tenant_uid: str, digest: str) -> str:
    """Return the key of the mark that says since when nothing refers to a blob."""
    return marks(tenant_uid) + digests.hex_of(digest)


def claim(tenant_uid: str, digest: str) -> str:
    """Return the key of the claim that a collector holds while it may remove a blob."""
    return f"{CLAIMS}{keys.parse_uuid(tenant_uid)}/{digests.hex_of(digest)}"


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
    return damaged(tenant_uid) + digests.hex_of(digest)


def parse_mark(key: str) -> str | None:
    """Return the digest of a mark's key, None for any other."""
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
