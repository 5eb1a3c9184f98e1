"""Digests: one spelling, one algorithm, RFC 9530 fields."""

import base64
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifestry.core.blobs import digests

HELLO = "sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
HELLO_FIELD = "sha-256=:LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ=:"


def test_the_digest_of_bytes_is_lower_case_sha256() -> None:
    assert digests.of(b"hello") == HELLO


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sha256:",
        HELLO.upper(),
        HELLO[:-1],
        HELLO + "0",
        HELLO + "\n",
        " " + HELLO,
        HELLO.replace("sha256", "sha512"),
        HELLO.replace("sha256", "SHA256"),
        "sha256:" + "g" * 64,
        "sha256:../" + "a" * 61,
        "sha256:" + "\u0660" * 64,
        "sha512:" + "a" * 128,
        None,
        7,
        b"sha256:" + b"a" * 64,
    ],
)
def test_anything_but_a_canonical_sha256_digest_is_refused(text: object) -> None:
    with pytest.raises(digests.DigestError, match="must be"):
        digests.parse(text)


def test_a_canonical_digest_is_returned_unchanged() -> None:
    assert digests.parse(HELLO) == HELLO
    assert digests.hex_of(HELLO) == HELLO[7:]


@pytest.mark.parametrize(
    ("data", "digest", "same"),
    [(b"hello", HELLO, True), (b"hellO", HELLO, False), (b"hello", HELLO.upper(), False), (b"", "", False)],
)
def test_bytes_are_verified_against_a_digest(data: bytes, digest: str, same: bool) -> None:
    assert digests.verify(data, digest) is same


def test_a_field_is_written_as_rfc_9530_has_it() -> None:
    assert digests.format_field(HELLO) == HELLO_FIELD


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (HELLO_FIELD, HELLO),
        (f" {HELLO_FIELD}\t", HELLO),
        (f"sha-512=:AAAA:, {HELLO_FIELD}", HELLO),
        (f"sha-256=:{base64.b64encode(bytes(32)).decode()}:,{HELLO_FIELD}", HELLO),
        ("sha-512=:AAAA:", None),
        ("md5=:AAAA:, *x.y-z_0=::", None),
    ],
)
def test_a_field_is_read(value: str, expected: str | None) -> None:
    assert digests.parse_field(value) == expected


@pytest.mark.parametrize(
    "value",
    [
        "",
        "sha-256",
        "sha-256=abc",
        "sha-256=:abc",
        "sha-256=:AAAA:",  # 3 bytes
        "sha-256=:A:",  # not base64
        "sha-256=:AA=A:",
        "sha-256::AAAA:",
        "SHA-256=:AAAA:",
        f"{HELLO_FIELD},",
        f"{HELLO_FIELD};q=1",
        f"{HELLO_FIELD}\r\nX-Actor: root",
        "a=:A:" + " " * 1024,
    ],
)
def test_a_malformed_field_is_refused(value: str) -> None:
    with pytest.raises(digests.DigestError, match="must"):
        digests.parse_field(value)


@given(st.binary(max_size=100))
def test_a_field_says_what_was_hashed(data: bytes) -> None:
    assert digests.parse_field(digests.format_field(digests.of(data))) == digests.of(data)
    assert digests.hex_of(digests.of(data)) == hashlib.sha256(data).hexdigest()


@given(st.text(max_size=80))
def test_any_text_is_a_field_or_a_digest_error(value: str) -> None:
    try:
        found = digests.parse_field(value)
    except digests.DigestError:
        return
    assert found is None or digests.parse(found) == found
