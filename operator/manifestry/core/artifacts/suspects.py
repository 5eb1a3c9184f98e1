"""Artifacts whose bytes somebody could not download: notes in the store, for the operator to read them back.

The facade acts in its callers' names, and who may download may not write an Artifact; so it leaves a note
where only facade and operator come to, and the operator, which has looked itself, writes the status.
"""

import json
from typing import Final, NamedTuple

from manifestry.core.blobs import keys
from manifestry.core.kube import names

PREFIX: Final = "suspects/"
NOTE_MAX_BYTES: Final = 1024  # a namespace has 63 characters, a name 253


class Suspect(NamedTuple):
    """An Artifact whose bytes are to be read back; one note for it, however often it was asked for."""

    uid: str
    namespace: str
    name: str


def key(uid: str) -> str:
    """Return the key of the note about an Artifact.

    Raises:
        KeyPartError: `uid` is not a UUID.
    """
    return PREFIX + keys.parse_uuid(uid)


def to_bytes(suspect: Suspect) -> bytes:
    """Return what is stored of a note; the uid is in its key."""
    return json.dumps({"namespace": suspect.namespace, "name": suspect.name}).encode()


def parse(found: str, data: bytes) -> Suspect | None:
    """Return the note under a key, None when it was cut off or is not one."""
    try:
        uid, fields = keys.parse_uuid(found.removeprefix(PREFIX)), json.loads(data)
    except (ValueError, keys.KeyPartError):
        return None
    match fields:
        case {"namespace": str(namespace), "name": str(name)} if _is_named(namespace, name):
            return Suspect(uid, namespace, name)
    return None


def _is_named(namespace: str, name: str) -> bool:
    is_name = len(name) <= 253 and all(names.is_dns_label(part, 253) for part in name.split("."))
    return is_name and names.is_dns_label(namespace)
