"""Who may use the bucket: bearer tokens that a service account's key has signed, and V4 signed URLs.

References: https://cloud.google.com/storage/docs/authentication/signatures and ".../canonical-requests";
https://google.aip.dev/auth/4111 (self-signed JWT).
"""

import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import jwt
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from tests.clouds.gcs_objects import RefusedError

ALGORITHM = "GOOG4-RSA-SHA256"
EMAIL = "manifestry@test.iam.gserviceaccount.com"
SCOPES = {
    "https://www.googleapis.com/auth/devstorage.full_control",
    "https://www.googleapis.com/auth/devstorage.read_write",
    "https://www.googleapis.com/auth/cloud-platform",
}
# The only host that the real service serves signed paths of this form on; obstore signs no other one.
HOST = "storage.googleapis.com"


def service_account() -> str:
    """Return a new service account's key as Google hands it out, in JSON."""
    private_key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = private_key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    key = {"type": "service_account", "private_key_id": "k1", "client_email": EMAIL}
    return json.dumps({**key, "private_key": pem.decode()})


class Gate:
    """Tells who may pass.

    Args:
        account: what `service_account` returned.
        tokens: those that the metadata server has handed out.
    """

    def __init__(self, account: str, tokens: set[str]) -> None:
        loaded = serialization.load_pem_private_key(json.loads(account)["private_key"].encode(), None)
        assert isinstance(loaded, rsa.RSAPrivateKey)
        self._key, self._tokens = loaded.public_key(), tokens

    def check(self, method: str, path: str, query: Mapping[str, str], headers: Mapping[str, str]) -> None:
        """Refuse a request that neither a token nor a signature allows."""
        if "X-Goog-Signature" in query:
            self._check_signature(method, path, query, headers)
        else:
            self._check_token(headers.get("Authorization", ""))

    def _check_token(self, authorization: str) -> None:
        kind, _, token = authorization.partition(" ")
        if token in self._tokens:
            return
        try:
            claims: dict[str, Any] = jwt.decode(token, self._key, algorithms=["RS256"])
        except jwt.InvalidTokenError:
            raise RefusedError(401, "AuthenticationRequired") from None
        allowed = kind == "Bearer" and claims.get("iss") == claims.get("sub") == EMAIL
        if not allowed or not SCOPES & set(claims.get("scope", "").split()):
            raise RefusedError(403, "AccessDenied")

    def _check_signature(
        self, method: str, path: str, query: Mapping[str, str], headers: Mapping[str, str]
    ) -> None:
        signed = dict(query)
        signature = bytes.fromhex(signed.pop("X-Goog-Signature"))
        made = datetime.strptime(query["X-Goog-Date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
        scope = f"{made:%Y%m%d}/auto/storage/goog4_request"
        if query["X-Goog-Algorithm"] != ALGORITHM or query["X-Goog-Credential"] != f"{EMAIL}/{scope}":
            raise RefusedError(403, "SignatureDoesNotMatch")
        if datetime.now(UTC) > made + timedelta(seconds=int(query["X-Goog-Expires"])):
            raise RefusedError(400, "ExpiredToken")
        canonical = _canonical(method, path, signed, headers)
        text = "\n".join((ALGORITHM, query["X-Goog-Date"], scope, _hex(canonical)))
        try:
            self._key.verify(signature, text.encode(), padding.PKCS1v15(), hashes.SHA256())
        except InvalidSignature:
            raise RefusedError(403, "SignatureDoesNotMatch") from None


def _canonical(method: str, path: str, query: Mapping[str, str], headers: Mapping[str, str]) -> str:
    pairs = sorted((quote(name, safe="-_.~"), quote(value, safe="-_.~")) for name, value in query.items())
    names = query["X-Goog-SignedHeaders"].split(";")
    lines = [f"{name}:{' '.join(headers.get(name, '').split())}" for name in names]
    text = "&".join(f"{name}={value}" for name, value in pairs)
    return "\n".join((method, path, text, *lines, "", ";".join(names), "UNSIGNED-PAYLOAD"))


def _hex(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
