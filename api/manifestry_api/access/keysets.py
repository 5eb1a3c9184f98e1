"""An issuer's public keys: fetched when first needed, refreshed when a token names a key we do not know."""

import asyncio
import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import aiohttp
import jwt

from manifestry.adapters.kube import apierrors, cluster
from manifestry.adapters.kube import apierrors as kube_apierrors

REFRESH_MIN_SECONDS = 5.0  # an unknown `kid` costs the issuer at most one request in this time
REFRESH_MAX_SECONDS = 300.0  # a key that the issuer has withdrawn is forgotten after this time
RETRY_SECONDS = 1.0  # callers that waited for a failed first fetch fail with it, not one after the other
KEYS_MAX_COUNT = 64
DOCUMENT_MAX_BYTES = 1 << 20
ALGORITHMS: tuple[str, ...] = (
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA",
)  # fmt: skip
DISCOVERY_PATH = "/.well-known/openid-configuration"
JWKS_PATH = "/openid/v1/jwks"
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Keys:
    """What an issuer publishes: its name and its signature keys by `kid`."""

    issuer: str
    by_id: Mapping[str, jwt.PyJWK] = field(default_factory=dict)


class KeySource(Protocol):
    """Fetches an issuer's keys."""

    async def fetch(self) -> Keys:
        """Return the keys as they are now.

        Raises:
            ApiError: the issuer does not answer.
            ValueError: the answer cannot be used.
        """


class KubernetesKeys:
    """The API server's service account issuer; needs `system:service-account-issuer-discovery`.

    References: https://kubernetes.io/docs/tasks/configure-pod-container/configure-service-account/
        #service-account-issuer-discovery
    """

    def __init__(self, client: cluster.KubeClient) -> None:
        self._client = client

    async def fetch(self) -> Keys:
        """Read the discovery document and the JWKS from the API server itself, whatever `jwks_uri` says."""
        discovery = json.loads(await self._read(DISCOVERY_PATH))
        return Keys(str(discovery["issuer"]), parse_jwks(await self._read(JWKS_PATH)))

    async def _read(self, path: str) -> bytes:
        """Read one document; asked for plain JSON, as `get_raw` does, the API server answers 406 for keys."""
        url = self._client.base_url + path
        try:
            async with self._client.session.get(url, headers={"Accept": "*/*"}) as answer:
                body = await _whole(answer.content)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise apierrors.unavailable(f"{path}: {type(error).__name__}") from error
        if answer.status != 200:
            raise apierrors.parse_error(answer.status, body)
        return body


async def _whole(content: aiohttp.StreamReader) -> bytes:
    """Read a document to its end: one `read` returns what has come so far, which may be half of it."""
    body = bytearray()
    async for chunk in content.iter_any():
        body += chunk
        if len(body) > DOCUMENT_MAX_BYTES:
            raise ValueError(f"the document must have at most {DOCUMENT_MAX_BYTES} bytes")
    return bytes(body)


def parse_jwks(document: bytes | str) -> Mapping[str, jwt.PyJWK]:
    """Return the usable keys of a JWKS: asymmetric, for signatures, with a `kid`; others are ignored."""
    rows = json.loads(document).get("keys") or []
    keys: dict[str, jwt.PyJWK] = {}
    for row in rows[:KEYS_MAX_COUNT]:
        key = _parse_key(row)
        if key is not None and key.key_id:
            keys[key.key_id] = key
    return keys


def _parse_key(row: Mapping[str, object]) -> jwt.PyJWK | None:
    if row.get("kty") not in {"RSA", "EC", "OKP"} or row.get("use", "sig") != "sig":
        return None
    try:
        key = jwt.PyJWK(dict(row))
    except (jwt.PyJWTError, ValueError, TypeError):  # no key: the others are good all the same
        return None
    return key if key.algorithm_name in ALGORITHMS else None


class KeySet:
    """Caches one source; concurrent callers share one refresh, a failed one keeps the keys we have."""

    def __init__(self, source: KeySource, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._source = source
        self._monotonic = monotonic
        self._lock = asyncio.Lock()
        self._keys: Keys | None = None
        self._tried_seconds = float("-inf")

    async def issuer(self) -> str:
        """Return the issuer's name."""
        return (await self._current()).issuer

    async def find(self, key_id: str) -> jwt.PyJWK | None:
        """Return the key, after one refresh if it is not known and the last try is long enough ago."""
        keys = await self._current()
        if key_id not in keys.by_id:
            keys = await self._refresh(REFRESH_MIN_SECONDS)
        return keys.by_id.get(key_id)

    async def _current(self) -> Keys:
        if self._keys is None or self._age() > REFRESH_MAX_SECONDS:
            return await self._refresh(REFRESH_MIN_SECONDS if self._keys else 0.0)
        return self._keys

    async def _refresh(self, min_age_seconds: float) -> Keys:
        async with self._lock:
            if self._keys is not None and self._age() < max(min_age_seconds, REFRESH_MIN_SECONDS):
                return self._keys
            if self._keys is None and self._age() < RETRY_SECONDS:
                raise ValueError("the issuer did not answer a moment ago")
            self._tried_seconds = self._monotonic()
            try:
                self._keys = await self._source.fetch()
            except (kube_apierrors.ApiError, ValueError, KeyError):
                if self._keys is None:
                    raise
                logger.warning("the issuer's keys cannot be refreshed", exc_info=True)
            return self._keys

    def _age(self) -> float:
        return self._monotonic() - self._tried_seconds
