"""Removals with an end on Azure, by key and by identity, and on Cloud Storage; who their sender trusts."""

import asyncio
import urllib.error
import urllib.request
import uuid
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import obstore
import pytest
from aiohttp import web
from obstore.exceptions import BaseError
from pydantic import SecretStr

from manifestry.adapters.store.contract import ports
from manifestry.adapters.store.remote import buckets
from manifestry.adapters.store.remote import deletes as remote_deletes
from manifestry.settings import StoreSettings
from tests.clouds import gcs_access
from tests.clouds.azurite import Azurite
from tests.clouds.gcs import Gcs
from tests.clouds.test_access import (  # noqa: F401 - fixtures
    Trust,
    authority,
    secure_azure,
    serving,
    storage_token,
    trust,
)


@pytest.fixture
def settings(request: pytest.FixtureRequest) -> StoreSettings:
    server: Azurite = request.getfixturevalue(request.param)
    prefix = {"MANIFESTRY_STORE_PREFIX": f"deletes/{uuid.uuid4()}"}
    return StoreSettings.from_mapping(server.settings() | prefix)


@pytest.fixture
async def deletes(
    settings: StoreSettings, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[remote_deletes.Deletes]:
    monkeypatch.setattr(remote_deletes, "AHEAD_AZURE", timedelta())
    made = remote_deletes.Deletes(buckets.bucket(settings), settings)
    yield made
    await made.close()


async def ends(deletes: remote_deletes.Deletes) -> None:
    """One removal is sent after its end, another in time."""
    for key in ("a", "b"):
        await obstore.put_async(deletes._bucket, key, b"acknowledged")
    late, good = await deletes.sign(["a"], 1), await deletes.sign(["b"], 60)
    assert late
    assert good
    await asyncio.sleep(2.1)
    assert not await deletes.send(late[0])
    assert await deletes.send(good[0])
    assert await deletes.send(good[0]), "what is gone is gone"
    found = [each["path"] for page in obstore.list(deletes._bucket) for each in page]
    assert found == ["a"]


@pytest.mark.parametrize("settings", ["azure"], indirect=True)
async def test_a_removal_does_nothing_after_its_end(deletes: remote_deletes.Deletes) -> None:
    await ends(deletes)


@pytest.mark.parametrize("settings", ["secure_azure"], indirect=True)
async def test_it_goes_over_tls_by_the_trust_of_the_store(
    settings: StoreSettings,
    trust: Trust,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(remote_deletes, "AHEAD_AZURE", timedelta())
    made = remote_deletes.Deletes(buckets.bucket(settings), settings)
    await ends(made)
    await made.close()
    monkeypatch.delenv("SSL_CERT_FILE")
    stranger = remote_deletes.Deletes(buckets.bucket(settings), settings)
    (url,) = await made.sign(["a"], 60) or [""]
    with pytest.raises(ports.StoreUnavailableError) as caught:
        await stranger.send(url)
    assert "Certificate" in repr(caught.value.__cause__)
    await stranger.close()


KEY_OF_THE_IDENTITY = """<?xml version="1.0" encoding="utf-8"?><UserDelegationKey><SignedOid>oid</SignedOid>
<SignedTid>tid</SignedTid><SignedStart>2026-01-01T00:00:00Z</SignedStart>
<SignedExpiry>2100-01-01T00:00:00Z</SignedExpiry><SignedService>b</SignedService>
<SignedVersion>2023-11-03</SignedVersion><Value>a2V5</Value></UserDelegationKey>"""


@pytest.mark.parametrize("status", [200, 403, 500])
async def test_an_identity_of_azure_signs_many_with_one_key(
    trust: Trust,  # noqa: F811 - the fixture
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    status: int,
) -> None:
    """The service hands out a key to the identity, if it has the right; Azurite does not know how."""
    asked: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        asked.append(request.query.get("comp", "token"))
        if asked[-1] == "token":
            return web.json_response({"access_token": storage_token(), "expires_in": 3600})
        return web.Response(status=status, text=KEY_OF_THE_IDENTITY, content_type="application/xml")

    (tmp_path / "token").write_text("token-of-the-pod")
    async with serving(trust, answer) as address:
        monkeypatch.setenv("AZURE_AUTHORITY_HOST", address)
        monkeypatch.setenv("AZURE_TENANT_ID", "tenant")
        monkeypatch.setenv("AZURE_CLIENT_ID", "client")
        monkeypatch.setenv("AZURE_FEDERATED_TOKEN_FILE", str(tmp_path / "token"))
        chosen = StoreSettings(
            store_type="azure",
            store_bucket="container",
            store_endpoint=f"{address}/account",
            store_access_key_id=SecretStr("account"),
            store_timeout_seconds=2,
        )
        made = remote_deletes.Deletes(buckets.bucket(chosen), chosen)
        if status == 500:
            with pytest.raises(BaseError):
                await made.sign(["k"], 60)
            return
        urls = await made.sign([f"k{number}" for number in range(32)], 60)
    assert asked == ["token", "userdelegationkey"]
    if status == 403:
        assert urls is None
        return
    assert urls is not None
    assert len(urls) == 32
    assert all("skoid=oid" in url and "sp=d" in url for url in urls)


@pytest.mark.parametrize("seconds", [1, 60])
async def test_cloud_storage_refuses_what_comes_after_its_end(gcs: Gcs, seconds: int) -> None:
    client, key = gcs.store(), f"deletes/{uuid.uuid4()}"
    await obstore.put_async(client, key, b"acknowledged")
    url = await obstore.sign_async(client, "DELETE", key, timedelta(seconds=seconds))
    await asyncio.sleep(2.1)
    # Signed for Google's own host, whatever host it leads to.
    request = urllib.request.Request(url, method="DELETE", headers={"Host": gcs_access.HOST})
    if seconds == 1:
        with pytest.raises(urllib.error.HTTPError, match="400"):
            await asyncio.to_thread(urllib.request.urlopen, request, timeout=10)
        assert (await obstore.head_async(client, key))["size"] == len(b"acknowledged")
        return
    with await asyncio.to_thread(urllib.request.urlopen, request, timeout=10) as answer:
        assert answer.status == 204
    with pytest.raises(FileNotFoundError):
        await obstore.head_async(client, key)
