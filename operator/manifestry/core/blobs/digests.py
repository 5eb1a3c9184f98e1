"""Digests name bytes: one canonical spelling, one algorithm, compared in constant time."""

import base64
import binascii
import functools
import hashlib
import hmac
import re
from typing import Final

from manifestry.core.kube import names

ALGORITHM: Final = "sha256"
FIELD_MAX_LENGTH: Final = 1024  # a Digest field of four algorithms is about 300 characters
_PREFIX: Final = f"{ALGORITHM}:"
_MEMBER = re.compile(r"[ \t]*([a-z*][a-z0-9_.*-]*)=:([A-Za-z0-9+/=]*):[ \t]*")


class DigestError(ValueError):
    """The text is not a digest that we serve; the message says what it must be."""


def of(data: bytes | bytearray | memoryview) -> str:
    """Return the digest of `data` as `sha256:<hex>`."""
    return _PREFIX + hashlib.sha256(data).hexdigest()


def parse(text: object) -> str:
    """Return `text` when it is a canonical digest of an allowed algorithm.

    Raises:
        DigestError: another algorithm, upper-case letters, a wrong length, or not a string.

    References: OCI image-spec descriptor.md "Digests" (lower-case hex, exact length).
    """
    if isinstance(text, str) and names.is_digest(text):
        return text
    raise DigestError("a digest must be 'sha256:' and 64 lower-case hexadecimal digits")


def hex_of(digest: str) -> str:
    """Return the hexadecimal part of a canonical digest.

    Raises:
        DigestError: `digest` is not canonical.
    """
    return parse(digest).removeprefix(_PREFIX)


def equal(left: str, right: str) -> bool:
    """Tell whether two digests are the same, in constant time for equal lengths."""
    return hmac.compare_digest(left.encode(), right.encode())


def verify(data: bytes | bytearray | memoryview, digest: str) -> bool:
    """Tell whether `data` hashes to `digest`; a digest that is not canonical never matches."""
    return equal(of(data), digest)


@functools.lru_cache(maxsize=1024)  # of a payload it is asked for twice in each download
def format_field(digest: str) -> str:
    """Return the value of a `Repr-Digest` or `Content-Digest` field, such as `sha-256=:...:`.

    Raises:
        DigestError: `digest` is not canonical.

    References: RFC 9530 sections 2 and 3; RFC 8941 section 3.3.5 (byte sequences).
    """
    encoded = base64.b64encode(bytes.fromhex(hex_of(digest))).decode()
    return f"sha-256=:{encoded}:"


def parse_field(value: str) -> str | None:
    """Return the sha-256 digest that a `Repr-Digest` or `Content-Digest` field states.

    Args:
        value: the field's value, a structured dictionary of byte sequences.

    Returns:
        A canonical digest; None when the field names only algorithms that we do not serve, which
        RFC 9530 lets a recipient ignore. Of a key given twice the last one counts.

    Raises:
        DigestError: the field is not a dictionary of byte sequences, or sha-256 has a wrong length.
    """
    if len(value) > FIELD_MAX_LENGTH:
        raise DigestError(f"a digest field must not be over {FIELD_MAX_LENGTH} characters")
    members = [_member(part) for part in value.split(",")]
    encoded = dict(members).get("sha-256")
    return None if encoded is None else _decode(encoded)


def _member(part: str) -> tuple[str, str]:
    match = _MEMBER.fullmatch(part)
    if match is None:
        raise DigestError("a digest field must have the form `sha-256=:<base64>:`")
    return match[1], match[2]


def _decode(encoded: str) -> str:
    try:
        raw = base64.b64decode(encoded, validate=True)
    except binascii.Error:
        raise DigestError("the value of `sha-256` must be base64") from None
    if len(raw) != hashlib.sha256().digest_size:
        raise DigestError("the value of `sha-256` must be 32 bytes")
    return _PREFIX + raw.hex()
