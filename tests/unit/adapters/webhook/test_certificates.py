"""The webhook's CA and certificate: usable by a TLS client, rotated without a gap."""

import asyncio
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from manifestry.adapters.webhook import certificates

NAMES = ("manifestry-api.manifestry-system.svc", "manifestry-api.manifestry-system.svc.cluster.local")
LIFETIME = timedelta(days=90)
NOW = datetime(2026, 8, 30, tzinfo=UTC)


def issued(now: datetime = NOW) -> certificates.Bundle:
    return certificates.issue(NAMES, now, LIFETIME)


def rotated(bundle: certificates.Bundle, days: float, names: tuple[str, ...] = NAMES) -> certificates.Bundle:
    return certificates.rotate(bundle, names, NOW + timedelta(days=days), LIFETIME)


async def shake_hands(bundle: certificates.Bundle, trusted: bytes, host: str, folder: Path) -> None:
    for name, content in (("c", bundle.serving.certificate), ("k", bundle.serving.key)):
        (folder / name).write_bytes(content)
    server_side = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server_side.load_cert_chain(folder / "c", folder / "k")
    client_side = ssl.create_default_context(cadata=trusted.decode())
    client_side.verify_flags |= ssl.VERIFY_X509_STRICT

    def close(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_server(close, "127.0.0.1", 0, ssl=server_side)
    port = server.sockets[0].getsockname()[1]
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client_side, server_hostname=host)
        writer.close()
    finally:
        server.close()


async def test_a_strict_tls_client_accepts_the_services_name_and_no_other(tmp_path: Path) -> None:
    bundle = issued(datetime.now(UTC))
    await shake_hands(bundle, bundle.trusted, NAMES[0], tmp_path)
    with pytest.raises(ssl.SSLCertVerificationError):
        await shake_hands(bundle, bundle.trusted, "evil.example", tmp_path)
    with pytest.raises(ssl.SSLCertVerificationError):
        await shake_hands(bundle, issued(datetime.now(UTC)).trusted, NAMES[0], tmp_path)


def test_nothing_changes_before_two_thirds_of_the_life() -> None:
    bundle = issued()
    assert rotated(bundle, 59) is bundle


def test_the_serving_certificate_is_renewed_by_the_same_authority() -> None:
    bundle = issued()
    later = rotated(bundle, 61)
    assert later.authority == bundle.authority
    assert later.trusted == bundle.trusted
    assert later.serving != bundle.serving
    assert certificates.expiry(later.serving.certificate) == NOW + timedelta(days=61) + LIFETIME


def test_an_old_authority_stays_trusted_until_it_expires() -> None:
    first = issued()
    second = rotated(first, 241)
    assert second.authority != first.authority
    assert len(x509.load_pem_x509_certificates(second.trusted)) == 2
    assert second.trusted.startswith(second.authority.certificate)
    third = rotated(second, 361)
    assert third.authority == second.authority
    assert third.trusted == second.authority.certificate


def test_another_service_name_means_another_certificate() -> None:
    bundle = issued()
    assert rotated(bundle, 1, ("other.ns.svc",)).serving != bundle.serving


def test_a_certificate_of_a_foreign_authority_is_replaced() -> None:
    bundle, foreign = issued(), issued()
    mixed = certificates.Bundle(bundle.authority, foreign.serving, bundle.trusted)
    assert rotated(mixed, 1).serving not in {foreign.serving, bundle.serving}


@pytest.mark.parametrize("part", ["authority", "serving"])
def test_a_key_that_does_not_fit_is_refused(part: str) -> None:
    bundle, other = issued(), issued()
    pair = certificates.Pair(getattr(bundle, part).certificate, getattr(other, part).key)
    pairs = {"authority": bundle.authority, "serving": bundle.serving, part: pair}
    with pytest.raises(ValueError, match="does not fit"):
        rotated(certificates.Bundle(pairs["authority"], pairs["serving"], bundle.trusted), 1)


def test_what_is_no_pem_is_refused() -> None:
    bundle = issued()
    broken = certificates.Bundle(bundle.authority, certificates.Pair(b"x", b"y"), bundle.trusted)
    with pytest.raises(ValueError, match=r"."):
        rotated(broken, 1)
