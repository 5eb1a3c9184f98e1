"""Bearer JWTs, verified against an issuer's keys.

A verified token is believed for a minute. Then a Kubernetes token is shown to the API server again: one whose
service account, pod or Secret is gone ends within that minute, however long its `exp`. While the API server
does not answer, nothing can be deleted there either: then the signature decides. At once acts the removal of
a RoleBinding, because a token carries no roles.

References: RFC 8725 (JWT best current practices); RFC 9068.
"""

import hashlib
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import jwt
from starlette.requests import HTTPConnection

from manifestry.adapters.kube import apierrors, cluster
from manifestry.core import errors
from manifestry.core.access import identities
from manifestry.core.kube import names
from manifestry_api.access import identity, keysets

CACHE_MAX_SECONDS = 60.0
CACHE_MAX_COUNT = 4096
REFUSED_HEADERS = frozenset({"jwk", "jku", "x5u", "x5c", "crit"})  # keys come from the issuer only
REQUIRED_CLAIMS = ["exp", "iss", "aud", "sub"]

Identify = Callable[[Mapping[str, Any]], identities.Identity]
IsCurrent = Callable[[str], Awaitable[bool]]


def kubernetes_identity(claims: Mapping[str, Any]) -> identities.Identity:
    """Return who a service account token is of: its subject and the groups that Kubernetes gives it."""
    subject = str(claims["sub"])
    return identities.Identity(subject, identities.kubernetes_groups(subject), "kubernetes")


def kubernetes_review(client: cluster.KubeClient, audience: str) -> IsCurrent:
    """Return the question whether the API server still accepts a token for `audience`.

    References: https://kubernetes.io/docs/reference/kubernetes-api/authentication-resources/token-review-v1/
    """

    async def is_current(token: str) -> bool:
        spec = {"token": token, "audiences": [audience]}
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": spec}
        try:
            answer = await client.post_review(names.TOKEN_REVIEWS, body)
        except apierrors.UnavailableError:
            return True
        except apierrors.ApiError as error:
            raise errors.Problem(errors.DEPENDENCY_UNAVAILABLE, "tokens cannot be reviewed") from error
        status = answer.get("status") or {}
        return bool(status.get("authenticated")) and audience in (status.get("audiences") or ())

    return is_current


async def _always(_token: str) -> bool:
    return True


class TokenCache:
    """Remembers verified tokens by their SHA-256, never the tokens, for a minute at most."""

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self._entries: OrderedDict[bytes, tuple[identities.Identity, float]] = OrderedDict()

    def get(self, token: str) -> identities.Identity | None:
        """Return whose token it is when it was verified lately and has not expired."""
        identity_until = self._entries.get(_digest(token))
        if identity_until is None or identity_until[1] <= self._now():
            return None
        return identity_until[0]

    def put(self, token: str, who: identities.Identity, expires: float) -> None:
        """Remember a verified token; the oldest gives way."""
        self._entries[_digest(token)] = (who, min(expires, self._now() + CACHE_MAX_SECONDS))
        while len(self._entries) > CACHE_MAX_COUNT:
            self._entries.popitem(last=False)


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


class JwtAuthenticator:
    """Verifies the tokens of one issuer; a token of another issuer is left to the next authenticator."""

    def __init__(
        self,
        keys: keysets.KeySet,
        *,
        audience: str,
        leeway_seconds: float,
        identify: Identify,
        is_current: IsCurrent = _always,
    ) -> None:
        self._keys = keys
        self._audience = audience
        self._leeway_seconds = leeway_seconds
        self._identify = identify
        self._is_current = is_current
        self._cache = TokenCache()

    async def authenticate(self, connection: HTTPConnection) -> identities.Identity | None:
        """Return the token's subject.

        Raises:
            Problem: `unauthenticated`, or `dependency-unavailable` when the keys were never readable.
        """
        token = identity.bearer_token(connection)
        if token is None:
            return None
        known = self._cache.get(token)
        return known if known is not None else await self._verify(token)

    async def _verify(self, token: str) -> identities.Identity | None:
        header = _header(token)
        issuer = await self._issuer()
        if _unverified_issuer(token) != issuer:
            return None
        claims = self._decode(token, await self._key(header), issuer)
        who = self._identify(claims)
        if not await self._is_current(token):
            raise identity.unauthenticated("the token must not be revoked")
        self._cache.put(token, who, float(claims["exp"]))
        return who

    async def _issuer(self) -> str:
        try:
            return await self._keys.issuer()
        except (apierrors.ApiError, ValueError, KeyError) as error:
            raise errors.Problem(
                errors.DEPENDENCY_UNAVAILABLE, "the token issuer's keys cannot be read"
            ) from error

    async def _key(self, header: Mapping[str, Any]) -> jwt.PyJWK:
        key_id = header.get("kid")
        key = await self._keys.find(key_id) if isinstance(key_id, str) else None
        if key is None:
            raise identity.unauthenticated("the token must be signed by a key of its issuer")
        return key

    def _decode(self, token: str, key: jwt.PyJWK, issuer: str) -> dict[str, Any]:
        try:
            return jwt.decode(
                token,
                key,
                algorithms=keysets.ALGORITHMS,
                audience=self._audience,
                issuer=issuer,
                leeway=self._leeway_seconds,
                options={"require": REQUIRED_CLAIMS},
            )
        except jwt.ExpiredSignatureError as error:
            raise identity.unauthenticated("the token has expired") from error
        except (jwt.InvalidAudienceError, jwt.MissingRequiredClaimError) as error:
            raise identity.unauthenticated(
                f"the token must have `exp` and `sub`, and audience `{self._audience}`"
            ) from error
        except jwt.PyJWTError as error:
            raise identity.unauthenticated("the token is not valid") from error


def _header(token: str) -> Mapping[str, Any]:
    try:
        header = jwt.get_unverified_header(token)
    except jwt.PyJWTError as error:
        raise identity.unauthenticated("the token must be a JWT") from error
    if header.get("alg") not in keysets.ALGORITHMS:
        raise identity.unauthenticated("the token must be signed by an asymmetric algorithm")
    if refused := REFUSED_HEADERS.intersection(header):
        raise identity.unauthenticated(f"the token must not carry the header `{min(refused)}`")
    return header


def _unverified_issuer(token: str) -> object:
    """Return `iss` only to choose the keys; nothing is believed before the signature is."""
    try:
        return jwt.decode(token, options={"verify_signature": False}).get("iss")
    except jwt.PyJWTError as error:
        raise identity.unauthenticated("the token must be a JWT") from error
