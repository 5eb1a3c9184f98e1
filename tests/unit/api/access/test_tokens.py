"""Bearer tokens: what is believed, and the attacks that are not."""

import asyncio
import base64
import hashlib
import hmac
import json
import time
from types import SimpleNamespace
from typing import Any

import aiohttp.web
import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from starlette.requests import HTTPConnection

from manifestry.adapters.kube import apierrors
from manifestry.core import errors
from manifestry.core.access import identities
from manifestry_api.access import identity, keysets, tokens

ISSUER, AUDIENCE = "https://kubernetes.default.svc", "manifestry"
KEY = rsa.generate_private_key(65537, 2048)
OTHER = rsa.generate_private_key(65537, 2048)
SUBJECT = "system:serviceaccount:ns-acme:ci"


def public_jwk(key: Any, key_id: str, **more: Any) -> dict[str, Any]:
    algorithm = (
        jwt.algorithms.RSAAlgorithm if isinstance(key, rsa.RSAPrivateKey) else jwt.algorithms.ECAlgorithm
    )
    return {**algorithm.to_jwk(key.public_key(), as_dict=True), "kid": key_id, **more}


def jwks(*keys: dict[str, Any]) -> str:
    return json.dumps({"keys": list(keys)})


class Source:
    """An issuer whose keys the test changes, and that can be away."""

    def __init__(self, *keys: dict[str, Any]) -> None:
        self.keys, self.fetches, self.away = list(keys), 0, False

    async def fetch(self) -> keysets.Keys:
        self.fetches += 1
        if self.away:
            raise apierrors.UnavailableError(503, "ServiceUnavailable", "away")
        return keysets.Keys(ISSUER, keysets.parse_jwks(jwks(*self.keys)))


class Clock:
    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


def claims(**changes: Any) -> dict[str, Any]:
    now = int(time.time())
    good = {"iss": ISSUER, "aud": [AUDIENCE], "sub": SUBJECT, "iat": now, "nbf": now, "exp": now + 600}
    return {name: value for name, value in {**good, **changes}.items() if value is not None}


def token(body: dict[str, Any] | None = None, key: Any = KEY, algorithm: str = "RS256", **header: Any) -> str:
    return jwt.encode(claims() if body is None else body, key, algorithm, headers={"kid": "one", **header})


def connection(*values: str) -> HTTPConnection:
    raw = [(b"authorization", value.encode()) for value in values]
    return HTTPConnection({"type": "http", "headers": raw})


def authenticator(source: Source | None = None, clock: Clock | None = None) -> tokens.JwtAuthenticator:
    found = source or Source(public_jwk(KEY, "one", alg="RS256", use="sig"))
    return tokens.JwtAuthenticator(
        keysets.KeySet(found, clock or Clock()),
        audience=AUDIENCE,
        leeway_seconds=5,
        identify=tokens.kubernetes_identity,
    )


async def verify(text: str, subject: tokens.JwtAuthenticator | None = None) -> identities.Identity | None:
    return await (subject or authenticator()).authenticate(connection(f"Bearer {text}"))


async def test_a_good_token_gives_subject_and_groups() -> None:
    found = await verify(token())
    assert found == identities.Identity(SUBJECT, identities.kubernetes_groups(SUBJECT), "kubernetes")


async def test_no_header_is_left_to_the_next_authenticator() -> None:
    assert await authenticator().authenticate(connection()) is None


async def test_another_issuers_token_is_left_to_the_next_authenticator() -> None:
    assert await verify(token(claims(iss="https://elsewhere.example"))) is None


def unsigned() -> str:
    header = base64.urlsafe_b64encode(b'{"alg":"none","kid":"one"}').rstrip(b"=")
    body = base64.urlsafe_b64encode(json.dumps(claims()).encode()).rstrip(b"=")
    return f"{header.decode()}.{body.decode()}."


def signed_with_public_key() -> str:
    """The HS/RS confusion: HMAC with the published key as the secret."""
    pem = KEY.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    head = base64.urlsafe_b64encode(b'{"alg":"HS256","kid":"one","typ":"JWT"}').rstrip(b"=")
    body = base64.urlsafe_b64encode(json.dumps(claims()).encode()).rstrip(b"=")
    mac = hmac.new(pem, head + b"." + body, hashlib.sha256).digest()
    return (head + b"." + body + b"." + base64.urlsafe_b64encode(mac).rstrip(b"=")).decode()


def tampered() -> str:
    head, _, signature = token().split(".")
    forged = base64.urlsafe_b64encode(json.dumps(claims(sub="system:serviceaccount:a:root")).encode())
    return f"{head}.{forged.rstrip(b'=').decode()}.{signature}"


NOW = int(time.time())
BAD: dict[str, str] = {
    "alg none": unsigned(),
    "hmac with the public key": signed_with_public_key(),
    "tampered claims": tampered(),
    "a foreign key under a known kid": token(key=OTHER),
    "a foreign key embedded": token(key=OTHER, jwk=public_jwk(OTHER, "one")),
    "a good key embedded": token(jwk=public_jwk(KEY, "one")),
    "jku": token(jku="https://evil.example/keys"),
    "x5u": token(x5u="https://evil.example/cert"),
    "x5c": token(x5c=["MIIB"]),
    "crit": token(crit=["exp"]),
    "unknown kid": token(kid="two"),
    "algorithm of another family": token(algorithm="PS256"),
    "no kid": jwt.encode(claims(), KEY, "RS256"),
    "expired": token(claims(exp=NOW - 60)),
    "no exp": token(claims(exp=None)),
    "exp that is no number": token(claims(exp="soon")),
    "not yet valid": token(claims(nbf=NOW + 3600)),
    "no aud": token(claims(aud=None)),
    "another aud": token(claims(aud=["https://kubernetes.default.svc"])),
    "empty aud": token(claims(aud=[])),
    "no sub": token(claims(sub=None)),
    "not a token": "abc",
    "three dots": "...",
    "not base64": "é.é.é",
    "huge": "a" * (identity.TOKEN_MAX_LENGTH + 1),
}


@pytest.mark.parametrize("attack", BAD)
async def test_attacks_are_401(attack: str) -> None:
    with pytest.raises(errors.Problem) as caught:
        await verify(BAD[attack])
    assert caught.value.kind is errors.UNAUTHENTICATED
    assert "WWW-Authenticate" in caught.value.headers
    assert BAD[attack] not in caught.value.detail


@pytest.mark.parametrize(
    "values", [("Bearer a", "Bearer b"), ("Basic x",), ("Bearer",), ("Bearer  ",), ("",)]
)
async def test_malformed_authorization_headers_are_401(values: tuple[str, ...]) -> None:
    with pytest.raises(errors.Problem) as caught:
        await authenticator().authenticate(connection(*values))
    assert caught.value.kind is errors.UNAUTHENTICATED


async def test_a_token_without_issuer_is_nobodys() -> None:
    assert await verify(token(claims(iss=None))) is None


async def test_an_elliptic_key_works_and_its_algorithm_is_the_keys() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    source = Source(public_jwk(key, "one"))
    assert await verify(token(key=key, algorithm="ES256"), authenticator(source)) is not None


async def test_a_rotated_key_is_fetched_once_and_unknown_ones_do_not_hammer_the_issuer() -> None:
    source, clock = Source(public_jwk(KEY, "one")), Clock()
    subject = authenticator(source, clock)
    assert await verify(token(), subject) is not None
    source.keys = [public_jwk(OTHER, "two")]
    rotated = token(key=OTHER, kid="two")
    for _ in range(10):
        with pytest.raises(errors.Problem):
            await verify(rotated, subject)
    assert source.fetches == 1
    clock.seconds += keysets.REFRESH_MIN_SECONDS
    assert await verify(rotated, subject) is not None
    assert source.fetches == 2


async def test_withdrawn_keys_are_forgotten() -> None:
    source, clock = Source(public_jwk(KEY, "one")), Clock()
    subject = authenticator(source, clock)
    await verify(token(), subject)
    source.keys = []
    clock.seconds += keysets.REFRESH_MAX_SECONDS + 1
    with pytest.raises(errors.Problem):
        await verify(token(claims(jti="another")), subject)


async def test_an_issuer_that_is_away_keeps_its_keys_and_without_any_is_503() -> None:
    source, clock = Source(public_jwk(KEY, "one")), Clock()
    subject = authenticator(source, clock)
    source.away = True
    with pytest.raises(errors.Problem) as caught:
        await verify(token(), subject)
    assert caught.value.kind is errors.DEPENDENCY_UNAVAILABLE
    source.away = False
    clock.seconds += keysets.REFRESH_MIN_SECONDS
    assert await verify(token(), subject) is not None
    source.away = True
    clock.seconds += keysets.REFRESH_MAX_SECONDS + 1
    assert await verify(token(claims(jti="another")), subject) is not None


def test_the_cache_keeps_no_token_and_no_entry_beyond_a_minute_or_the_tokens_end() -> None:
    clock = Clock()
    cache = tokens.TokenCache(clock)
    who = identities.Identity("a")
    cache.put("long", who, clock.seconds + 3600)
    cache.put("short", who, clock.seconds + 10)
    assert cache.get("long") is who
    assert "long" not in repr(vars(cache))
    clock.seconds += 10
    assert cache.get("short") is None
    clock.seconds += 50
    assert cache.get("long") is None
    assert cache.get("never seen") is None


def test_the_cache_is_bounded() -> None:
    cache = tokens.TokenCache(Clock())
    for number in range(tokens.CACHE_MAX_COUNT + 10):
        cache.put(str(number), identities.Identity("a"), 2000.0)
    assert cache.get("0") is None
    assert cache.get(str(tokens.CACHE_MAX_COUNT + 9)) is not None


def test_only_asymmetric_signature_keys_of_a_jwks_are_used() -> None:
    secret = {"kty": "oct", "kid": "s", "k": "c2VjcmV0"}
    found = keysets.parse_jwks(
        jwks(
            secret,
            public_jwk(KEY, "one"),
            public_jwk(OTHER, "enc", use="enc"),
            {"kty": "RSA", "kid": "broken"},
            {"kid": "no type"},
            {key: value for key, value in public_jwk(OTHER, "x").items() if key != "kid"},
            public_jwk(KEY, "hs", alg="HS256"),
        )
    )
    assert set(found) == {"one"}


async def test_the_pipeline_asks_in_order_and_refuses_who_nobody_knows() -> None:
    pipeline = identity.Pipeline([authenticator()])
    assert (await pipeline.identify(connection(f"Bearer {token()}"))).subject == SUBJECT
    for headers in ((), (f"Bearer {token(claims(iss='https://elsewhere.example'))}",)):
        with pytest.raises(errors.Problem) as caught:
            await pipeline.identify(connection(*headers))
        assert caught.value.kind is errors.UNAUTHENTICATED


async def test_a_service_account_issuer_cannot_name_a_system_user() -> None:
    pipeline = identity.Pipeline([authenticator()])
    with pytest.raises(errors.Problem) as caught:
        await pipeline.identify(connection(f"Bearer {token(claims(sub='system:admin'))}"))
    assert caught.value.kind is errors.UNAUTHENTICATED


class Reviews:
    """Answers TokenReviews."""

    def __init__(self, answer: Any) -> None:
        self.answer, self.asked = answer, 0

    async def post_review(self, _resource: Any, body: Any) -> Any:
        self.asked += 1
        assert body["spec"]["audiences"] == [AUDIENCE]
        if isinstance(self.answer, Exception):
            raise self.answer
        return {"status": self.answer}


REVIEWED = {"authenticated": True, "audiences": [AUDIENCE]}


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (REVIEWED, None),
        ({"authenticated": False, "error": "the service account is gone"}, errors.UNAUTHENTICATED),
        ({}, errors.UNAUTHENTICATED),
        ({"authenticated": True, "audiences": ["other"]}, errors.UNAUTHENTICATED),
        (apierrors.UnavailableError(503, "ServiceUnavailable", "away"), None),
        (apierrors.ForbiddenError(403, "Forbidden", "RBAC"), errors.DEPENDENCY_UNAVAILABLE),
    ],
)
async def test_a_token_whose_account_is_gone_is_not_believed(answer: Any, expected: Any) -> None:
    reviews = Reviews(answer)
    source = Source(public_jwk(KEY, "one", alg="RS256", use="sig"))
    subject = tokens.JwtAuthenticator(
        keysets.KeySet(source, Clock()),
        audience=AUDIENCE,
        leeway_seconds=5,
        identify=tokens.kubernetes_identity,
        is_current=tokens.kubernetes_review(reviews, AUDIENCE),  # type: ignore[arg-type]
    )
    text = token()
    if expected is None:
        for _ in range(3):
            assert await verify(text, subject)
        assert reviews.asked == 1  # then the minute's cache answers
        return
    with pytest.raises(errors.Problem) as caught:
        await verify(text, subject)
    assert caught.value.kind is expected


async def serve_issuer(accepts: list[str], status: int = 200) -> tuple[aiohttp.web.AppRunner, str]:
    """Serve the two documents as strictly as the API server does."""

    async def document(request: aiohttp.web.Request) -> aiohttp.web.StreamResponse:
        accepts.append(request.headers["Accept"])
        answers = {
            keysets.DISCOVERY_PATH: json.dumps({"issuer": ISSUER, "jwks_uri": "https://evil.example"}),
            keysets.JWKS_PATH: jwks(public_jwk(KEY, "one")),
        }
        answer = aiohttp.web.StreamResponse(status=status)
        await answer.prepare(request)
        text = answers[request.path].encode()
        for part in (text[:30], text[30:]):  # as a TLS record or a packet cuts it
            await answer.write(part)
            await asyncio.sleep(0.02)
        return answer

    app = aiohttp.web.Application()
    app.router.add_get("/{path:.*}", document)
    runner = aiohttp.web.AppRunner(app)
    await runner.setup()
    site = aiohttp.web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    return runner, f"http://127.0.0.1:{runner.addresses[0][1]}"


@pytest.mark.parametrize("status", [200, 403, 0])
async def test_kubernetes_keys_come_from_the_api_server_itself(status: int) -> None:
    accepts: list[str] = []
    runner, url = await serve_issuer(accepts, status or 200)
    if not status:
        await runner.cleanup()
    async with aiohttp.ClientSession(headers={"Accept": "application/json"}) as session:
        source = keysets.KubernetesKeys(SimpleNamespace(session=session, base_url=url))  # type: ignore[arg-type]
        if status == 200:
            keys = await source.fetch()
            assert (keys.issuer, set(keys.by_id)) == (ISSUER, {"one"})
            assert accepts == ["*/*", "*/*"]
        else:
            with pytest.raises(apierrors.ApiError) as caught:
                await source.fetch()
            assert caught.value.status == (status or 503)
    await runner.cleanup()
