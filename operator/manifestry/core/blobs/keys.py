"""Keys of the object store: built from digests and UUIDs only, never from a string that a client chose."""

import re
from typing import Final

from manifestry.core.blobs import digests

UPLOADS: Final = "uploads/"
CANARY: Final = "canary/"
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_BLOB = re.compile(
    r"tenants/([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})"
    r"/blobs/sha256/([0-9a-f]{2})/([0-9a-f]{2})/(\2\3[0-9a-f]{60})"
)


class KeyPartError(ValueError):
    """A part of a key is not the UUID that it must be."""


def parse_uuid(text: object) -> str:
    """Return `text` when it is a UUID in its canonical lower-case spelling.

    Raises:
        KeyPartError: anything else, also braces, `urn:uuid:` and upper case, which would give one
            tenant two prefixes.
    """
    if isinstance(text, str) and _UUID.fullmatch(text):
        return text
    raise KeyPartError("the identifier must be a lower-case UUID")


def is_uuid(text: str) -> bool:
    """Tell whether `parse_uuid` takes a text."""
    try:
        parse_uuid(text)
    except KeyPartError:
        return False
    return True


def tenant(tenant_uid: str) -> str:
    """Return the prefix under which all blobs of a tenant live, with a trailing slash.

    Args:
        tenant_uid: `metadata.uid` of the tenant's namespace.

    Raises:
        KeyPartError: `tenant_uid` is not a UUID.
    """
    return f"tenants/{parse_uuid(tenant_uid)}/blobs/"


def blob(tenant_uid: str, digest: str) -> str:
    """Return a blob's key; two levels of folders keep each folder small on a local volume.

    Raises:
        KeyPartError: `tenant_uid` is not a UUID.
        DigestError: `digest` is not canonical.
    """
    text = digests.hex_of(digest)
    return f"{tenant(tenant_uid)}sha256/{text[:2]}/{text[2:4]}/{text}"


def upload(upload_id: str) -> str:
    """Return the key of staged bytes, which no reader is ever shown.

    Raises:
        KeyPartError: `upload_id` is not a UUID.
    """
    return UPLOADS + parse_uuid(upload_id)


def canary(canary_id: str) -> str:
    """Return the key of a health probe's few bytes.

    Raises:
        KeyPartError: `canary_id` is not a UUID.
    """
    return CANARY + parse_uuid(canary_id)


def parse_blob(key: str) -> tuple[str, str] | None:
    """Return (tenant uid, digest) of a blob's key, or None for any other key."""
    match = _BLOB.fullmatch(key)
    return None if match is None else (match[1], f"{digests.ALGORITHM}:{match[4]}")
