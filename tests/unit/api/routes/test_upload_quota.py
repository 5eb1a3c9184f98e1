"""Uploads over HTTP under a storage quota: charged before the first byte, given back when they fail."""

import asyncio
import copy
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from manifestry.adapters.kube import apierrors
from manifestry.adapters.quota import reservations
from manifestry.adapters.quota.storagebooks import StorageBooks
from manifestry.adapters.store.contract import ports
from manifestry.core import errors
from manifestry.core.quota.storage.limits import Limits
from manifestry_api.artifacts import session_states
from tests.unit.api.routes.site import NAMESPACE, Site
from tests.unit.api.routes.uploading import DATA, DIGEST, artifact, begin, files, patch, recorded


class Charges(reservations.Reservations):
    """A quota of 100 bytes that writes down what it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[Any, ...]] = []

    @asynccontextmanager
    async def hold(
        self,
        tenant: Any,
        artifact_uid: str,
        name: str,
        size_bytes: int | None,
        *,
        upload: reservations.Upload | None = None,
        lease_seconds: float = reservations.LEASE_SECONDS,
    ) -> AsyncIterator["Charge"]:
        assert (tenant.tenant, bool(artifact_uid), upload is not None) == ("acme", True, True)
        self.seen.append(("hold", name, size_bytes, lease_seconds))
        charge = Charge(self.seen)
        await charge.grow(size_bytes or 0)
        try:
            yield charge
        except BaseException:
            self.seen.append(("kept" if charge.kept else "undone",))
            raise

    async def release(self, tenant: Any, artifact_uid: str, token: str) -> None:
        assert (tenant.tenant, bool(artifact_uid)) == ("acme", True)
        self.seen.append(("release", token))


class Charge(reservations.Hold):
    def __init__(self, seen: list[tuple[Any, ...]]) -> None:
        self.seen, self.kept = seen, False

    async def grow(self, total_bytes: int) -> None:
        if total_bytes > 100:
            raise errors.Problem(errors.QUOTA_EXCEEDED, "the quota is used up", usage={"maxBytes": 100})
        self.seen.append(("grow", total_bytes))

    async def land(self, blob: ports.Blob) -> None:
        await self.grow(blob.size_bytes)
        self.seen.append(("land", blob.size_bytes))

    async def withdraw(self) -> None:
        self.seen.append(("withdraw",))

    def keep(self) -> None:
        self.kept = True


@pytest.fixture
def charges(site: Site) -> Charges:
    made = Charges()
    site.world.ports.reservations = made
    return made


async def test_the_quota_is_charged_before_the_first_byte(site: Site, charges: Charges) -> None:
    await artifact(site)
    refused = await site.call("POST", "/artifacts/a/uploads", headers={"Upload-Length": "101"})
    assert (refused.status, refused.json["usage"]) == (429, {"maxBytes": 100})
    assert files(site) == []
    charges.seen.clear()
    path = await begin(site, **{"Upload-Length": "100"})
    day = site.world.ports.settings.upload_expiry_seconds
    assert charges.seen == [("hold", "a", 100, day), ("grow", 100)]
    assert (await site.call("DELETE", path)).status == 204
    assert charges.seen[-1] == ("release", path.rpartition("/")[2])


async def test_the_quota_grows_with_a_stream_of_unknown_length(site: Site, charges: Charges) -> None:
    await artifact(site)
    path = await begin(site)
    assert (await patch(site, path, 0, DATA[:60])).status == 204
    charges.seen.clear()
    refused = await patch(site, path, 60, DATA[:41])
    assert (refused.status, refused.json["code"], refused.headers["Upload-Offset"]) == (
        429,
        "quota-exceeded",
        "60",
    )
    assert charges.seen[-1] == ("kept",)
    assert (await patch(site, path, 60, DATA[60:100], last=True)).status == 202
    assert charges.seen[-2:] == [("grow", 100), ("land", 100)]
    assert not [each for each in charges.seen if each[0] == "release"]


async def test_a_session_too_many_is_not_charged(site: Site, charges: Charges) -> None:
    site.world.ports.settings = site.world.ports.settings.model_copy(update={"max_upload_sessions": 1})
    await artifact(site)
    await begin(site)
    assert (await site.call("POST", "/artifacts/a/uploads")).json["usage"]["sessions"] == 1
    assert charges.seen[-1] == ("undone",)


async def test_wrong_bytes_are_given_back(site: Site, charges: Charges) -> None:
    await artifact(site, digest=DIGEST)
    path = await begin(site)
    assert (await patch(site, path, 0, b"x", last=True)).status == 422
    assert ("release", path.rpartition("/")[2]) in charges.seen


async def test_bytes_that_come_too_late_are_withdrawn(site: Site, charges: Charges) -> None:
    await artifact(site)
    first, second = await begin(site), await begin(site)
    assert (await patch(site, second, 0, b"oth")).status == 204
    find = session_states.find

    async def before_the_other(*args: Any) -> session_states.Found:
        found = await find(*args)
        patched.undo()
        assert (await patch(site, first, 0, b"first", last=True)).status == 202
        return found

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(session_states, "find", before_the_other)
        refused = await patch(site, second, 3, b"er", last=True)
    assert refused.status == 409
    assert charges.seen[-3:] == [("land", 5), ("withdraw",), ("kept",)]
    assert recorded(site)["sizeBytes"] == 5


@dataclass
class Ledger:
    """The API server's calls for one ledger, with compare-and-swap."""

    body: dict[str, Any] = field(default_factory=dict)
    most: int = 0

    async def get(self, *_: Any) -> dict[str, Any]:
        await asyncio.sleep(0)
        if not self.body:
            raise apierrors.NotFoundError(404, "NotFound", "not found")
        return copy.deepcopy(self.body)

    async def create(self, _: Any, body: dict[str, Any], *__: Any) -> dict[str, Any]:
        self.body = {**body, "metadata": {**body["metadata"], "resourceVersion": "1", "generation": 1}}
        return copy.deepcopy(self.body)

    async def replace(self, _: Any, body: dict[str, Any], **__: Any) -> dict[str, Any]:
        await asyncio.sleep(0)
        old = self.body["metadata"]["resourceVersion"]
        if body["metadata"]["resourceVersion"] != old:
            raise apierrors.ConflictError(409, "Conflict", "modified")
        self.body = {**body, "metadata": {**self.body["metadata"], "resourceVersion": str(int(old) + 1)}}
        self.most = max(self.most, self.used)
        return copy.deepcopy(self.body)

    async def reaches(self, size_bytes: int) -> None:
        """Wait until so much is charged."""
        async with asyncio.timeout(10):
            while self.used < size_bytes:  # noqa: ASYNC110 - nobody tells of it
                await asyncio.sleep(0.01)

    @property
    def used(self) -> int:
        return sum(each.get("sizeBytes", 0) for each in self.body["status"]["holders"].values())


@pytest.fixture
async def ledger(site: Site) -> AsyncIterator[Ledger]:
    """Limit the tenant to 100 bytes, with the real reservations."""
    found = Ledger()
    books = StorageBooks(cast("Any", found))

    async def observe() -> tuple[Any, ...]:
        return ()

    await books.recount(NAMESPACE, observe)
    site.world.ports.reservations = reservations.Reservations(books, lambda _: Limits(100))
    yield found
    await books.close()


async def slowly(data: bytes, go: asyncio.Event) -> AsyncIterator[bytes]:
    yield data[:1]
    await go.wait()
    yield data[1:]


@pytest.mark.parametrize("length", [None, 40])
async def test_uploads_at_once_of_one_artifact_never_take_more_than_the_quota(
    site: Site, ledger: Ledger, length: int | None
) -> None:
    wanted: list[dict[str, Any]] = [
        {"name": name, "mediaType": "a/b", "upload": {}} for name in ("one", "two", "three")
    ]
    made = await site.call("POST", "/artifacts", {"name": "m", "mediaType": "a/b", "files": wanted})
    assert made.status == 202
    go, headers = asyncio.Event(), {"Content-Type": "a/b"}
    headers |= {} if length is None else {"Content-Length": str(length)}
    puts = [
        asyncio.create_task(
            site.call(
                "PUT", f"/artifacts/m/files/{name}/content", data=slowly(b"x" * 40, go), headers=headers
            )
        )
        for name in ("one", "two", "three")
    ]
    await ledger.reaches(80 if length else 3)
    go.set()
    statuses = sorted([(await each).status for each in puts])
    assert statuses == [202, 202, 429]
    assert (ledger.used, ledger.most <= 100) == (80, True)


async def test_rivals_for_one_payload_are_charged_each_and_the_loser_gives_back(
    site: Site, ledger: Ledger
) -> None:
    await artifact(site)
    go, headers = asyncio.Event(), {"Content-Type": "application/zip", "Content-Length": "40"}
    puts = [
        asyncio.create_task(site.call("PUT", "/artifacts/a/content", data=slowly(data, go), headers=headers))
        for data in (b"x" * 40, b"y" * 40, b"z" * 40)
    ]
    await ledger.reaches(80)
    go.set()
    statuses = sorted([(await each).status for each in puts])
    assert statuses == [202, 409, 429]
    assert ledger.used == 40


async def test_a_session_and_its_repetitions_are_one_charge(site: Site, ledger: Ledger) -> None:
    await artifact(site)
    path = await begin(site, **{"Upload-Length": "60"})
    for offset in range(0, 60, 20):
        assert (await patch(site, path, offset, DATA[offset : offset + 20])).status == 204
        assert ledger.used == 60
    over = await site.call("POST", "/artifacts/a/uploads", headers={"Upload-Length": "41"})
    assert (over.status, over.json["usage"]["reservedBytes"]) == (429, 60)
    assert (await patch(site, path, 60, b"", last=True)).status == 202
    assert ledger.used == 60
