"""Resumable uploads over HTTP: what each request is answered, in every state of a session."""

import asyncio
import hashlib
import os
import uuid
from collections.abc import AsyncIterator

import pytest

from manifestry.adapters.store.contract import ports as store_ports
from manifestry.adapters.store.contract import session_ports
from manifestry.core.blobs import keys
from manifestry.core.kube import names
from manifestry_api.objects import views
from tests.unit.api.routes.site import NAMESPACE, TENANT_UID, Site, condition
from tests.unit.api.routes.uploading import (
    DATA,
    DIGEST,
    PARTIAL,
    artifact,
    begin,
    files,
    head,
    patch,
    recorded,
)


async def test_the_expected_size_is_the_length(site: Site) -> None:
    await artifact(site, sizeBytes=100)
    refused = await site.call("POST", "/artifacts/a/uploads", headers={"Upload-Length": "99"})
    assert (refused.status, refused.json["errors"][0]["pointer"]) == (422, "/sizeBytes")
    path = await begin(site)
    assert (await patch(site, path, 0, DATA[:101], last=True)).status == 416
    assert (await patch(site, path, 0, DATA[:100], last=True)).status == 202


@pytest.mark.parametrize(
    ("headers", "data", "status"),
    [
        ({"Upload-Length": "x"}, None, 400),
        ({"Upload-Length": str(1 << 40)}, None, 413),
        ({"Upload-Complete": "?1"}, None, 400),
        ({"Content-Type": "application/zip"}, b"bytes", 400),
        ({"Repr-Digest": "sha-256=:x:"}, None, 400),
    ],
)
async def test_an_upload_begins_without_bytes(
    site: Site, headers: dict[str, str], data: bytes | None, status: int
) -> None:
    await artifact(site)
    refused = await site.call("POST", "/artifacts/a/uploads", headers=headers, data=data)
    assert refused.status == status, refused.data
    assert files(site) == []


async def test_an_artifact_that_takes_no_upload(site: Site) -> None:
    inline = {"name": "i", "mediaType": "text/plain", "inline": {"text": "x"}}
    await site.call("POST", "/artifacts", inline, headers={"Prefer": "wait=0"})
    assert (await site.call("POST", "/artifacts/i/uploads")).status == 409
    assert (await site.call("POST", "/artifacts/none/uploads")).status == 404
    await artifact(site)
    path = await begin(site)
    put = await site.call(
        "PUT", "/artifacts/a/content", data=DATA, headers={"Content-Type": "application/zip"}
    )
    assert put.status == 202
    again = await site.call("POST", "/artifacts/a/uploads")
    assert (again.status, "payload already" in again.json["detail"]) == (409, True)
    late = await patch(site, path, 0, DATA, last=True)
    assert (late.status, "payload already" in late.json["detail"]) == (409, True)


async def test_an_artifact_that_has_failed_takes_no_more(site: Site) -> None:
    await artifact(site)
    path = await begin(site)
    status = {
        "observedGeneration": 1,
        "conditions": [
            condition(*each, "UploadExpired") for each in (("Ready", "False"), ("Stalled", "True"))
        ],
    }
    site.cluster.set_status(names.ARTIFACTS, "a", NAMESPACE, status)
    async with asyncio.timeout(5):
        while (late := await patch(site, path, 0, b"")).status == 204:  # noqa: ASYNC110 - by watch
            await asyncio.sleep(0.01)
    assert (late.status, "UploadExpired" in late.json["detail"]) == (409, True)


async def test_the_limit_counts_unfinished_uploads_of_the_tenant(site: Site) -> None:
    site.world.ports.settings = site.world.ports.settings.model_copy(update={"max_upload_sessions": 2})
    await artifact(site)
    await artifact(site, "b")
    one, two = await begin(site), await begin(site, "b")
    refused = await site.call("POST", "/artifacts/a/uploads")
    assert (refused.status, refused.json["code"]) == (429, "quota-exceeded")
    assert refused.json["usage"] == {"sessions": 2, "maxSessions": 2}
    assert "Retry-After" in refused.headers
    assert (await site.call("DELETE", one)).status == 204
    three = await begin(site)
    assert (await patch(site, two, 0, DATA, last=True)).status == 202
    await begin(site)
    assert (await head(site, three))[0] == 204


async def test_only_so_many_begin_at_once(site: Site) -> None:
    site.world.ports.settings = site.world.ports.settings.model_copy(update={"max_upload_sessions": 5})
    await artifact(site)
    answers = await asyncio.gather(*(site.call("POST", "/artifacts/a/uploads") for _ in range(20)))
    assert sorted(answer.status for answer in answers) == [201] * 5 + [429] * 15


@pytest.mark.parametrize("uid", ["x", "..", str(uuid.uuid4()), str(uuid.uuid4()).upper(), "%00", "a%2Fb"])
async def test_what_is_no_session_is_404(site: Site, uid: str) -> None:
    for method in ("HEAD", "DELETE", "PATCH"):
        headers = {**PARTIAL, "Upload-Offset": "0", "Upload-Complete": "?0"}
        assert (await site.call(method, f"/uploads/{uid}", headers=headers)).status in {404, 405}


async def test_another_tenants_session_is_404(site: Site) -> None:
    await artifact(site)
    path = await begin(site)
    foreign = await site.world.ports.sessions.head(path.rpartition("/")[2])
    assert foreign is not None
    other = {"X-Tenant": "other"}
    for method in ("HEAD", "DELETE", "PATCH"):
        headers = {**PARTIAL, "Upload-Offset": "0", "Upload-Complete": "?0", **other}
        assert (await site.call(method, path, headers=headers)).status == 404
    assert await head(site, path) == (204, "0", "?0")


async def test_a_viewer_uploads_nothing(site: Site) -> None:
    await artifact(site)
    path = await begin(site)
    for method, where in (
        ("POST", "/artifacts/a/uploads"),
        ("HEAD", path),
        ("PATCH", path),
        ("DELETE", path),
    ):
        refused = await site.call(method, where, role="viewer")
        assert refused.status == 403
    assert await head(site, path) == (204, "0", "?0")


async def test_a_session_ends_with_its_artifact(site: Site) -> None:
    await artifact(site)
    path = await begin(site)
    assert (await site.call("DELETE", "/artifacts/a")).status == 204
    assert (await head(site, path))[0] == 404
    await artifact(site)  # one of the same name is another one
    assert (await head(site, path))[0] == 404
    assert (await patch(site, path, 0, DATA)).status == 404


async def test_what_came_before_the_connection_broke_is_kept(site: Site) -> None:
    await artifact(site)
    path = await begin(site)

    async def breaking() -> AsyncIterator[bytes]:
        yield DATA
        await asyncio.sleep(0.2)
        raise ConnectionResetError

    with pytest.raises(Exception):  # noqa: B017 - whatever the client makes of it
        await patch(site, path, 0, breaking())
    async with asyncio.timeout(5):
        while await head(site, path) == (204, "0", "?0"):  # noqa: ASYNC110 - another connection's task
            await asyncio.sleep(0.01)
    assert await head(site, path) == (204, str(len(DATA)), "?0")
    assert (await patch(site, path, len(DATA), b"!", last=True)).status == 202


async def test_of_many_at_one_offset_one_wins(site: Site) -> None:
    await artifact(site)
    path = await begin(site)
    bodies = [os.urandom(1000 + number) for number in range(8)]
    answers = await asyncio.gather(*(patch(site, path, 0, body) for body in bodies))
    won = [body for body, answer in zip(bodies, answers, strict=True) if answer.status == 204]
    assert sorted(answer.status for answer in answers) == [204] + [409] * 7
    end = str(len(won[0]))
    told = {answer.headers["Upload-Offset"] for answer in answers}
    assert told <= {"0", end}, "what is durable just then, be it nothing yet"
    assert end in told
    assert (await patch(site, path, end, b"", last=True)).status == 202
    assert recorded(site)["digest"] == f"sha256:{hashlib.sha256(won[0]).hexdigest()}"


async def test_a_store_that_is_down_at_the_end_loses_nothing(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    await artifact(site)
    path = await begin(site)

    async def fail(*_: object) -> store_ports.Blob:
        raise store_ports.StoreUnavailableError("down")

    with monkeypatch.context() as broken:
        broken.setattr(site.world.ports.store, "publish", fail)
        refused = await patch(site, path, 0, DATA, last=True)
    assert (refused.status, refused.json["code"]) == (503, "dependency-unavailable")
    assert await head(site, path) == (204, str(len(DATA)), "?0")
    assert (await patch(site, path, len(DATA), b"more")).status == 416
    done = await patch(site, path, len(DATA), b"", last=True)
    assert (done.status, recorded(site)["digest"]) == (202, DIGEST)


async def test_bytes_that_are_gone_need_a_new_upload(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    await artifact(site)
    path = await begin(site)

    async def fail(*_: object) -> store_ports.Blob:
        raise store_ports.BlobNotFoundError("gone")

    with monkeypatch.context() as broken:
        broken.setattr(site.world.ports.store, "publish", fail)
        refused = await patch(site, path, 0, DATA, last=True)
    assert (refused.status, "begin a new one" in refused.json["detail"]) == (409, True)
    assert files(site) == []


async def test_two_uploads_of_one_artifact(site: Site) -> None:
    await artifact(site)
    same, other, slow = await begin(site), await begin(site), await begin(site)
    found = await site.world.ports.sessions.head(slow.rpartition("/")[2])
    assert found is not None
    assert (await patch(site, same, 0, DATA, last=True)).status == 202
    assert (await patch(site, other, 0, b"other", last=True)).status == 409
    assert recorded(site)["digest"] == DIGEST
    assert (await site.call("DELETE", other)).status == 204
    assert keys.upload(slow.rpartition("/")[2]) in files(site)


async def test_a_crash_after_publishing_is_gone_on_from(site: Site) -> None:
    await artifact(site)
    path = await begin(site)
    assert (await patch(site, path, 0, DATA)).status == 204
    ports = site.world.ports
    found = await ports.sessions.head(path.rpartition("/")[2])
    assert found is not None
    staged = await ports.sessions.seal(found.session)
    await ports.store.publish(TENANT_UID, staged)  # and then the process died
    assert await head(site, path) == (204, str(len(DATA)), "?0")
    assert (await patch(site, path, len(DATA), b"", last=True)).status == 202
    assert recorded(site)["digest"] == DIGEST


async def test_a_session_that_goes_under_a_request(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    await artifact(site)
    path = await begin(site)

    async def gone(*_: object, **__: object) -> int:
        raise session_ports.SessionNotFoundError("gone")

    for method in ("append", "seal"):
        with monkeypatch.context() as broken:
            broken.setattr(site.world.ports.sessions, method, gone)
            assert (await patch(site, path, 0, b"", last=True)).status == 404


async def test_each_file_may_be_uploaded_in_pieces(site: Site) -> None:
    files = [
        {"name": "one", "mediaType": "application/zip", "upload": {}, "digest": DIGEST},
        {"name": "two", "mediaType": "text/plain", "upload": {}},
        {"name": "three", "mediaType": "text/plain", "inline": {"text": "x"}},
    ]
    made = await site.call(
        "POST", "/artifacts", {"name": "m", "mediaType": "application/zip", "files": files}
    )
    assert made.status == 202, made.data
    begun = [await site.call("POST", f"/artifacts/m/files/{name}/uploads") for name in ("one", "two")]
    assert [each.json["file"] for each in begun] == ["one", "two"]
    for each, data in zip(begun, (DATA, b"second"), strict=True):
        views.UploadView.model_validate(each.json)
        path = each.headers["Location"]
        assert (await patch(site, path, 0, data[:3])).status == 204
        assert (await patch(site, path, 3, data[3:], last=True)).status == 202
        assert await head(site, path) == (204, str(len(data)), "?1")
    found = site.cluster.find(names.ARTIFACTS, "m", NAMESPACE)
    assert found is not None
    sizes = {name: each["sizeBytes"] for name, each in found["spec"]["fileUploads"].items()}
    assert sizes == {"one": len(DATA), "two": 6}
    assert (await site.call("POST", "/artifacts/m/files/three/uploads")).status == 409
    assert (await site.call("POST", "/artifacts/m/files/four/uploads")).status == 404
    assert (await site.call("POST", "/artifacts/m/uploads")).status == 409
