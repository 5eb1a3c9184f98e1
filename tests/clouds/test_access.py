"""Where credentials come from: a Secret's values, and what each cloud gives a pod's service account."""

import asyncio
import contextlib
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import jwt
import obstore
import pytest
from aiohttp import web

from manifestry.adapters.store import stores
from manifestry.adapters.store.contract import ports
from manifestry.core.blobs import digests, keys
from manifestry.settings import StoreSettings
from tests.clouds import gcs_access, promises
from tests.clouds.azurite import Azurite, NoNodeError, program
from tests.clouds.conftest import Cloud
from tests.clouds.gcs import Gcs
from tests.component.store import test_payloads
from tests.component.store.test_remote import TENANT
from tests.controlplane.certificates import Authority
from tests.seaweed.server import ACCESS_KEY, SECRET_KEY, S3Server

globals().update(promises.of(test_payloads, "s3"))


@dataclass(frozen=True)
class Trust:
    """A certificate authority that obstore trusts, and a certificate for loopback."""

    ca: Path
    tls: tuple[Path, Path]

    def context(self) -> ssl.SSLContext:
        """Return what a server of https needs."""
        made = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        made.load_cert_chain(*self.tls)
        return made


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Trust:
    folder, made = tmp_path_factory.mktemp("authority"), Authority()
    (folder / "ca.crt").write_bytes(made.certificate_pem)
    issued = made.issue("loopback", ip_addresses=["127.0.0.1"], server=True)
    return Trust(folder / "ca.crt", issued.write(folder, "server"))


@pytest.fixture
def trust(authority: Trust, monkeypatch: pytest.MonkeyPatch) -> Trust:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.ca))
    return authority


@pytest.fixture(scope="module")
def secure_azure(authority: Trust, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Azurite]:
    """Give an Azurite that takes bearer tokens, as it does over https only."""
    try:
        server = Azurite(tmp_path_factory.mktemp("azurite"), program(), tls=authority.tls)
    except NoNodeError as error:
        pytest.skip(str(error))
    try:
        server.start()
        yield server
    finally:
        server.dispose()


@pytest.fixture
def s3(azure: Azurite) -> Azurite:
    """Give what signs links for the address that the settings name; for Cloud Storage see below."""
    return azure


@pytest.fixture
def seaweed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    server = S3Server(tmp_path_factory.mktemp("seaweed"))
    try:
        server.start()
        yield server
    finally:
        server.dispose()


def without_secrets(settings: dict[str, str]) -> StoreSettings:
    """Leave out the keys; the name of an Azure account is none."""
    is_azure = settings["MANIFESTRY_STORE_TYPE"] == "azure"
    names = ("SECRET_ACCESS_KEY",) if is_azure else ("SECRET_ACCESS_KEY", "ACCESS_KEY_ID")
    kept = {name: value for name, value in settings.items() if not name.endswith(names)}
    return StoreSettings.from_mapping(kept | {"MANIFESTRY_STORE_TIMEOUT_SECONDS": "5"})


async def works(used: ports.Store) -> bool:
    blob = await used.put(TENANT, b"by the pod's own identity")
    staged = await used.stage(one(bytes(6 << 20)), limit_bytes=6 << 20)
    await used.publish(TENANT, staged)
    await used.canary()
    await used.look()
    return await used.read(TENANT, blob.digest, limit_bytes=99) == b"by the pod's own identity"


async def one(data: bytes) -> AsyncIterator[bytes]:
    yield data


@contextlib.asynccontextmanager
async def serving(
    trust: Trust, answer: Callable[[web.Request], Awaitable[web.Response]]
) -> AsyncIterator[str]:
    """Serve one answer to any request, on https; give the address."""
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=trust.context()).start()
    try:
        yield f"https://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def test_a_service_account_of_eks_has_its_role(
    seaweed: S3Server, trust: Trust, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """IRSA: the token that EKS mounts is exchanged at the security token service."""
    asked: list[tuple[str, str, str]] = []

    async def token_service(request: web.Request) -> web.Response:
        query = request.query
        asked.append((query["Action"], query["RoleArn"], query["WebIdentityToken"]))
        return web.Response(text=ASSUMED, content_type="text/xml")

    (tmp_path / "token").write_text("token-of-the-pod")
    async with serving(trust, token_service) as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", address)
        monkeypatch.setenv("AWS_ROLE_ARN", ROLE)
        monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(tmp_path / "token"))
        assert await works(stores.open_store(without_secrets(seaweed.settings())))
    assert set(asked) == {("AssumeRoleWithWebIdentity", ROLE, "token-of-the-pod")}


ROLE = "arn:aws:iam::111122223333:role/manifestry"
ASSUMED = f"""<AssumeRoleWithWebIdentityResponse><AssumeRoleWithWebIdentityResult><Credentials>
<AccessKeyId>{ACCESS_KEY}</AccessKeyId><SecretAccessKey>{SECRET_KEY}</SecretAccessKey>
<SessionToken></SessionToken><Expiration>2100-01-01T00:00:00Z</Expiration>
</Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>"""


async def test_a_service_account_of_aks_has_its_identity(
    secure_azure: Azurite, trust: Trust, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workload identity: the token that AKS mounts is exchanged at the authority."""
    asked: list[tuple[str, str]] = []

    async def exchange(request: web.Request) -> web.Response:
        form = await request.post()
        asked.append((str(form["client_id"]), str(form["client_assertion"])))
        return web.json_response({"access_token": storage_token(), "expires_in": 3600})

    (tmp_path / "token").write_text("token-of-the-pod")
    async with serving(trust, exchange) as address:
        monkeypatch.setenv("AZURE_AUTHORITY_HOST", address)
        monkeypatch.setenv("AZURE_TENANT_ID", "tenant")
        monkeypatch.setenv("AZURE_CLIENT_ID", "client")
        monkeypatch.setenv("AZURE_FEDERATED_TOKEN_FILE", str(tmp_path / "token"))
        assert await works(stores.open_store(without_secrets(secure_azure.settings())))
    assert set(asked) == {("client", "token-of-the-pod")}


def storage_token() -> str:
    now = int(time.time())
    claims = {"iss": "https://sts.windows.net/tenant/", "aud": "https://storage.azure.com"}
    return jwt.encode({**claims, "iat": now - 60, "nbf": now - 60, "exp": now + 3600}, "k" * 32)


async def test_a_service_account_of_gke_has_its_identity(gcs: Gcs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workload identity: the metadata server of the node gives tokens."""
    monkeypatch.setenv("GCE_METADATA_HOST", gcs.endpoint.removeprefix("http://"))
    assert await works(stores.open_store(without_secrets(gcs.settings())))


async def test_a_mounted_key_of_a_service_account_is_found(
    gcs: Gcs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "key.json").write_text(gcs.account)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "key.json"))
    assert await works(stores.open_store(without_secrets(gcs.settings())))


async def test_a_wrong_key_is_unavailable_and_never_shown(cloud: Cloud) -> None:
    wrong = "Y2FuYXJ5LXNlY3JldA==" if isinstance(cloud, Azurite) else gcs_access.service_account()
    changed = cloud.settings() | {"MANIFESTRY_STORE_SECRET_ACCESS_KEY": wrong}
    used = stores.open_store(StoreSettings.from_mapping(changed))
    attempts: list[Callable[[], Awaitable[object]]] = [
        used.canary,
        used.look,
        lambda: used.head(TENANT, digests.of(b"")),
    ]
    for attempt in attempts:
        with pytest.raises(ports.StoreUnavailableError) as caught:
            await attempt()
        shown = f"{caught.value!r} {caught.value.__cause__!r}"
        assert "Y2FuYXJ5" not in shown
        assert "PRIVATE KEY" not in shown


async def test_a_link_of_cloud_storage_is_signed_for_its_own_host(gcs: Gcs) -> None:
    settings = StoreSettings.from_mapping(gcs.settings())
    used = stores.open_store(settings)
    blob = await used.put(TENANT, b"payload")
    assert await used.link(TENANT, blob.digest, 60) is None
    key = keys.blob(TENANT, blob.digest)
    url = await obstore.sign_async(gcs.store(), "GET", key, timedelta(seconds=60))
    assert await fetch(url, {"Host": gcs_access.HOST}) == b"payload"
    for other in (url.replace(key[-8:], "00000000"), url):
        with pytest.raises(urllib.error.HTTPError, match="403"):
            await fetch(other, {"Host": gcs_access.HOST} if other != url else {})


async def fetch(url: str, headers: dict[str, str]) -> bytes:
    def fetched() -> bytes:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=10) as answer:
            return bytes(answer.read())

    return await asyncio.to_thread(fetched)
