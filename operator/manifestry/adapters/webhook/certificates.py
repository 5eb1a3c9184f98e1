"""PEM for the webhook: a small CA of our own and serving certificates signed by it."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

CA_LIFETIMES = 4  # a CA outlives its serving certificates, so that most rotations change no caBundle
SKEW = timedelta(minutes=5)  # the API server's clock may be behind ours
RENEW_AT = 2 / 3  # of a certificate's life


@dataclass(frozen=True)
class Pair:
    """A certificate and its private key, both PEM."""

    certificate: bytes
    key: bytes


@dataclass(frozen=True)
class Bundle:
    """What the Secret holds.

    Args:
        authority: the CA that signs from now on.
        serving: the webhook's certificate.
        trusted: the PEM certificates to trust: the CA's, and earlier ones until they expire.
    """

    authority: Pair
    serving: Pair
    trusted: bytes


def issue(names: tuple[str, ...], now: datetime, lifetime: timedelta) -> Bundle:
    """Return a new CA and a serving certificate for `names`."""
    authority = _make_authority(now, lifetime * CA_LIFETIMES)
    return Bundle(authority, _sign(authority, names, now, lifetime), authority.certificate)


def rotate(current: Bundle, names: tuple[str, ...], now: datetime, lifetime: timedelta) -> Bundle:
    """Return the bundle with what is due renewed; the same bundle when nothing is.

    The old CA stays trusted until it expires: replicas that still serve its certificate keep working.

    Raises:
        ValueError: a PEM cannot be read, or a key does not fit its certificate.
    """
    _check(current)
    authority = current.authority
    if is_due(authority.certificate, now):
        authority = _make_authority(now, lifetime * CA_LIFETIMES)
    trusted = _trusted(authority, current.trusted, now)
    if (
        authority == current.authority
        and trusted == current.trusted
        and not is_due(current.serving.certificate, now)
        and _names(current.serving.certificate) == set(names)
        and _is_signed_by(current.serving, authority)
    ):
        return current
    return Bundle(authority, _sign(authority, names, now, lifetime), trusted)


def is_due(certificate: bytes, now: datetime) -> bool:
    """Tell whether two thirds of a certificate's life are over."""
    parsed = x509.load_pem_x509_certificate(certificate)
    life = parsed.not_valid_after_utc - parsed.not_valid_before_utc
    return now >= parsed.not_valid_before_utc + life * RENEW_AT


def expiry(certificate: bytes) -> datetime:
    """Return when a certificate expires."""
    return x509.load_pem_x509_certificate(certificate).not_valid_after_utc.astimezone(UTC)


def _check(bundle: Bundle) -> None:
    for pair in (bundle.authority, bundle.serving):
        certificate = x509.load_pem_x509_certificate(pair.certificate)
        key = serialization.load_pem_private_key(pair.key, password=None)
        if certificate.public_key() != key.public_key():
            raise ValueError("a private key does not fit its certificate")


def _trusted(authority: Pair, earlier: bytes, now: datetime) -> bytes:
    known = x509.load_pem_x509_certificates(earlier)
    own = x509.load_pem_x509_certificate(authority.certificate)
    kept = [own, *(each for each in known if each != own and each.not_valid_after_utc > now)]
    return b"".join(each.public_bytes(serialization.Encoding.PEM) for each in kept)


def _names(certificate: bytes) -> set[str]:
    parsed = x509.load_pem_x509_certificate(certificate)
    found = parsed.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    return set(found.value.get_values_for_type(x509.DNSName))


def _is_signed_by(serving: Pair, authority: Pair) -> bool:
    issuer = x509.load_pem_x509_certificate(authority.certificate)
    try:
        x509.load_pem_x509_certificate(serving.certificate).verify_directly_issued_by(issuer)
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True


def _make_authority(now: datetime, lifetime: timedelta) -> Pair:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "manifestry webhook authority")])
    usage = _key_usage(sign_certificates=True)
    builder = (
        _builder(name, name, key.public_key(), now, lifetime)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
    )
    return _finish(builder, key, key)


def _sign(authority: Pair, names: tuple[str, ...], now: datetime, lifetime: timedelta) -> Pair:
    key = ec.generate_private_key(ec.SECP256R1())
    issuer = x509.load_pem_x509_certificate(authority.certificate)
    issuer_key = serialization.load_pem_private_key(authority.key, password=None)
    if not isinstance(issuer_key, ec.EllipticCurvePrivateKey):
        raise ValueError("the authority's key must be an elliptic curve key")  # noqa: TRY004 - bad content
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0][:64])])
    identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key())
    builder = (
        _builder(name, issuer.subject, key.public_key(), now, lifetime)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(each) for each in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(sign_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(identifier, critical=False)
    )
    return _finish(builder, key, issuer_key)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime, lifetime: timedelta
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - SKEW)
        .not_valid_after(now + lifetime)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _finish(
    builder: x509.CertificateBuilder, key: ec.EllipticCurvePrivateKey, signer: ec.EllipticCurvePrivateKey
) -> Pair:
    certificate = builder.sign(signer, hashes.SHA256())
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return Pair(certificate.public_bytes(serialization.Encoding.PEM), pem)


def _key_usage(*, sign_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not sign_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=sign_certificates,
        crl_sign=sign_certificates,
        encipher_only=False,
        decipher_only=False,
    )
