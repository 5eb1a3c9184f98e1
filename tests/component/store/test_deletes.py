"""Removals with an end: what a server of S3 takes of them, and what a server may answer."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import obstore
import pytest
from aiohttp import web
from pydantic import SecretStr

from manifestry.adapters.store import inventory
from manifestry.adapters.store.contract import bounded, claim_ports, ports
from manifestry.adapters.store.remote import buckets
from manifestry.adapters.store.remote import claims as remote_claims
from manifestry.adapters.store.remote import deletes as remote_deletes
from manifestry.core.blobs import garbagekeys
from manifestry.settings import StoreSettings
from tests.seaweed.server import S3Server


def settings_of(server: S3Server, **more: str) -> StoreSettings:
    return StoreSettings.from_mapping(
        server.settings() | {f"MANIFESTRY_STORE_{k}": v for k, v in more.items()}
    )


@pytest.fixture
async def deletes(s3: S3Server) -> AsyncIterator[remote_deletes.Deletes]:
    settings = settings_of(s3, PREFIX=f"a b/ü-{uuid.uuid4()}")
    made = remote_deletes.Deletes(buckets.bucket(settings), settings)
    yield made
    await made.close()


async def test_a_removal_does_nothing_after_its_end(
    deletes: remote_deletes.Deletes, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = [f"tenants/{number}" for number in range(3)]
    for key in keys:
        await obstore.put_async(deletes._bucket, key, b"acknowledged")
    good = await deletes.sign(keys[:1], 60)
    late = await deletes.sign(keys[1:2], 1)
    assert good is not None
    assert late is not None
    await asyncio.sleep(2.1)
    assert not await deletes.send(late[0])
    assert await deletes.send(good[0])
    assert await deletes.send(good[0]), "what is gone is gone"
    found = [each["path"] for page in obstore.list(deletes._bucket, "tenants/") for each in page]
    assert found == keys[1:]


async def test_a_removal_of_another_key_is_refused(
    deletes: remote_deletes.Deletes, monkeypatch: pytest.MonkeyPatch
) -> None:
    await obstore.put_async(deletes._bucket, "tenants/b", b"theirs")
    (url,) = await deletes.sign(["tenants/a"], 60) or [""]
    assert not await deletes.send(url.replace("tenants/a", "tenants/b"))
    assert (await obstore.head_async(deletes._bucket, "tenants/b"))["size"] == 6


class Answering:
    """A server of plain http that answers whatever a test says."""

    def __init__(self) -> None:
        self.statuses: list[int | None] = []
        self.asked = 0
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> str:
        app = web.Application()
        app.router.add_route("*", "/{tail:.*}", self._answer)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        return f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def __aexit__(self, *_: object) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    async def _answer(self, request: web.Request) -> web.Response:
        self.asked += 1
        status = self.statuses.pop(0)
        if status is None:
            assert request.transport is not None
            request.transport.abort()
        return web.Response(status=status or 200, headers={"Location": "http://127.0.0.1:1/"})


def elsewhere(url: str, **more: Any) -> StoreSettings:
    return StoreSettings(
        **{
            "store_type": "s3",
            "store_bucket": "bucket",
            "store_endpoint": url,
            "store_access_key_id": SecretStr("id"),
            "store_secret_access_key": SecretStr("canary-secret"),
            "store_allow_http": True,
            "store_timeout_seconds": 1.0,
            **more,
        }
    )


@pytest.mark.parametrize(
    ("status", "done"), [(200, True), (204, True), (404, True), (400, False), (403, False)]
)
async def test_an_answer_says_whether_it_is_done(status: int, done: bool) -> None:
    server = Answering()
    async with server as url:
        server.statuses = [status]
        made = remote_deletes.Deletes(buckets.bucket(elsewhere(url)), elsewhere(url))
        assert await made.send((await made.sign(["k"], 60) or [""])[0]) is done
        await made.close()


@pytest.mark.parametrize("status", [None, 500, 503, 307, 429])
async def test_without_a_clear_answer_nothing_is_sent_again(status: int | None) -> None:
    server = Answering()
    async with server as url:
        server.statuses = [204, status, 204]
        made = remote_deletes.Deletes(buckets.bucket(elsewhere(url)), elsewhere(url))
        (signed,) = await made.sign(["k"], 60) or [""]
        assert await made.send(signed)
        with pytest.raises(ports.StoreUnavailableError) as caught:
            await made.send(signed)
        assert server.asked == 2
        assert "Signature" not in f"{caught.value!r} {caught.value.__cause__!r}"
        await made.close()


async def test_a_signature_that_is_early_by_a_little_is_sent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """To Azure, whose signatures begin at a second of our clock."""
    monkeypatch.setattr(remote_deletes, "EARLY_PAUSE_SECONDS", 0.01)
    server = Answering()
    async with server as url:
        server.statuses = [403, 403, 204, 403]
        chosen = elsewhere(url, store_type="azure", store_secret_access_key=SecretStr("a2V5"))
        made = remote_deletes.Deletes(buckets.bucket(chosen), chosen)
        (signed,) = await made.sign(["k"], 60) or [""]
        assert await made.send(signed)
        assert server.asked == 3
        monkeypatch.setattr(remote_deletes, "AHEAD_AZURE", timedelta())
        assert not await made.send(signed)
        await made.close()


async def test_a_secret_is_never_sent_to_another_host_or_in_the_clear(
    caplog: pytest.LogCaptureFixture,
) -> None:
    made = buckets.bucket(elsewhere("http://127.0.0.1:1"))
    for wrong in (
        elsewhere("http://other.example.com"),
        elsewhere("http://127.0.0.1:1", store_allow_http=False),
        elsewhere(""),
    ):
        assert await remote_deletes.Deletes(made, wrong).sign(["k"], 60) is None
    assert "removals from the object store have no end" in caplog.text


async def test_who_cannot_sign_removes_as_long_as_its_own_clock_lets_it(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_of(s3, PREFIX=f"unsigned-{uuid.uuid4()}")
    used = buckets.connect(settings)

    async def cannot(*_: object) -> None:
        return None

    monkeypatch.setattr(remote_deletes.Deletes, "sign", cannot)
    tenant = str(uuid.uuid4())
    first, second = await used.put(tenant, b"first"), await used.put(tenant, b"second")
    everything = timedelta(seconds=-5)

    async def nobody(_: frozenset[str]) -> tuple[str, ...]:
        return ()

    found = inventory.Inventory(used)
    assert len((await found.remove(tenant, [first.digest], nobody, everything)).removed) == 1
    monkeypatch.setattr(claim_ports, "CLAIM_SECONDS", 3.0)

    async def slowly(_: frozenset[str]) -> tuple[str, ...]:
        await asyncio.sleep(3.1)
        return ()

    done = await found.remove(tenant, [second.digest], slowly, everything)
    assert (done.removed, done.late) == ([], [second.digest])
    assert await used.head(tenant, second.digest) is not None
    monkeypatch.setattr(claim_ports, "CLAIM_SECONDS", 60.0)
    assert await found.reap() == 0
    assert await found.reap(everything) == 1
    await used.close()


async def test_claims_are_signed_some_at_once_and_none_for_too_long(s3: S3Server) -> None:
    used = buckets.connect(settings_of(s3, PREFIX=f"signed-{uuid.uuid4()}"))
    claims, tenant = used.claims(), str(uuid.uuid4())
    made = await bounded.each(claims.make(tenant, f"sha256:{number:064x}") for number in range(20))
    assert await claims.make(tenant, f"sha256:{3:064x}") is None
    fenced = await claims.fence([claim for claim in made if claim is not None])
    assert [claim.digest for claim in fenced] == [f"sha256:{number:064x}" for number in range(20)]
    for claim in fenced:
        assert garbagekeys.claim(tenant, claim.digest) in claim.signed[1]
        assert "Signature" not in repr(claim)
    await bounded.each(claims.release(claim) for claim in fenced)
    assert await claims.reap(timedelta(seconds=-5)) == 0
    await used.close()


async def test_a_clock_that_is_ahead_by_too_much_removes_nothing_and_leaves_no_claim(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    used = buckets.connect(settings_of(s3, PREFIX=f"ahead-{uuid.uuid4()}"))
    tenant = str(uuid.uuid4())
    blob = await used.put(tenant, b"bytes")
    monkeypatch.setattr(remote_claims, "_now", lambda: datetime.now(UTC) + timedelta(seconds=125))

    async def nobody(_: frozenset[str]) -> tuple[str, ...]:
        return ()

    found = inventory.Inventory(used)
    seen = await found.blob(tenant, blob.digest)
    assert seen is not None
    for _ in range(2):
        with pytest.raises(ports.StoreUnavailableError, match="clock is behind"):
            await found.remove(tenant, [blob.digest], nobody, timedelta(seconds=-5))
        with pytest.raises(ports.StoreUnavailableError, match="clock is behind"):
            await found.quarantine(tenant, seen)
    assert await used.head(tenant, blob.digest) is not None
    assert await found.reap(timedelta(seconds=-5)) == 0
    assert await used.claims().make(tenant, blob.digest) is not None
    assert await found.reap(timedelta(seconds=-5)) == 1
    assert await found.reap(timedelta(seconds=-5)) == 0
    await used.close()
