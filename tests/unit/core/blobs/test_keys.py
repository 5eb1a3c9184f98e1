"""Keys never carry anything but UUIDs and hexadecimal digits."""

import re
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifestry.core.blobs import digests, keys

TENANT = "0a1b2c3d-0000-4000-8000-00000000000f"
DIGEST = digests.of(b"hello")
HEX = DIGEST[7:]

HOSTILE = [
    "",
    "..",
    "../../etc/passwd",
    "/etc/passwd",
    "a/b",
    r"\..\x",
    "%2e%2e",
    "%252e",
    "a\x00b",
    TENANT.upper(),
    "{" + TENANT + "}",
    "urn:uuid:" + TENANT,
    TENANT.replace("-", ""),
    TENANT + "/",
    TENANT + "\n",
    TENANT.replace("0", "\u0660"),
    None,
    5,
]


def test_keys_have_the_documented_form() -> None:
    assert keys.tenant(TENANT) == f"tenants/{TENANT}/blobs/"
    assert keys.blob(TENANT, DIGEST) == f"tenants/{TENANT}/blobs/sha256/2c/f2/{HEX}"
    assert keys.upload(TENANT) == f"uploads/{TENANT}"
    assert keys.canary(TENANT) == f"canary/{TENANT}"


@pytest.mark.parametrize("text", HOSTILE)
def test_an_identifier_that_is_not_a_canonical_uuid_is_refused(text: str) -> None:
    for build in (keys.tenant, keys.upload, keys.canary, lambda uid: keys.blob(uid, DIGEST)):
        with pytest.raises(keys.KeyPartError, match="must be a lower-case UUID"):
            build(text)


@pytest.mark.parametrize("digest", ["", "..", "sha256:..", DIGEST.upper(), f"{DIGEST}/..", f"sha512:{HEX}"])
def test_a_digest_that_is_not_canonical_is_refused(digest: str) -> None:
    with pytest.raises(digests.DigestError):
        keys.blob(TENANT, digest)


@given(st.uuids(), st.binary(max_size=20))
def test_a_blobs_key_tells_tenant_and_digest(tenant: uuid.UUID, data: bytes) -> None:
    key = keys.blob(str(tenant), digests.of(data))
    assert keys.parse_blob(key) == (str(tenant), digests.of(data))
    assert re.fullmatch(r"[a-z0-9/-]+", key)


@pytest.mark.parametrize(
    "key",
    [
        f"uploads/{TENANT}",
        f"tenants/{TENANT}/blobs/sha256/2c/f3/{HEX}",
        f"tenants/{TENANT}/blobs/sha256/2c/f2/{HEX}x",
        f"/tenants/{TENANT}/blobs/sha256/2c/f2/{HEX}",
        f"tenants/{TENANT.upper()}/blobs/sha256/2c/f2/{HEX}",
    ],
)
def test_another_key_is_no_blob(key: str) -> None:
    assert keys.parse_blob(key) is None


@given(st.text(), st.text())
def test_no_text_gets_into_a_key(tenant: str, digest: str) -> None:
    with pytest.raises(ValueError, match="must be"):
        keys.blob(tenant, digest)
