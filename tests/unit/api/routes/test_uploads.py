"""Resumable uploads over HTTP: what each request is answered, in every state of a session."""

import asyncio
import hashlib
import os
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest

from manifestry.adapters.store.contract import ports as store_ports
from manifestry.adapters.store.contract import session_ports
from manifestry.core.artifacts import uploads
from manifestry.core.blobs import keys
from manifestry.core.kube import names
from manifestry_api.artifacts import sessions as facade_sessions
from manifestry_api.objects import views
from tests.unit.api.routes.site import NAMESPACE, TENANT_UID, Site, condition
from tests.unit.api.routes.uploading import (
    DATA,
    DIGEST,
    PARTIAL,
    artifact,
    begin,
    field,
    files,
    head,
    patch,
    recorded,
)


async def test_pieces_become_the_payload(site: Site) -> None:
    await artifact(site, digest=DIGEST, sizeBytes=len(DATA))
    path = await begin(site, **{"Upload-Complete": "?0", "Repr-Digest": field(DATA)})
    first = await patch(site, path, 0, DATA[:100])
    assert (first.status, first.headers["Upload-Offset"], first.headers["Upload-Complete"]) == (
        204,
        "100",
        "?0",
    )
    found = await site.call("HEAD", path)
    assert (found.status, found.headers["Upload-Offset"]) == (204, "100")
    assert found.headers["Upload-Length"] == str(len(DATA))
    assert found.headers["Cache-Control"] == "no-store"
    assert "max-size=5368709120" in found.headers["Upload-Limit"]
    last = await patch(site, path, 100, DATA[100:], last=True, Prefer="wait=0")
    assert (last.status, last.json["status"]) == (202, "pending")
    assert (last.headers["Upload-Complete"], last.headers["Upload-Offset"]) == ("?1", str(len(DATA)))
    assert last.headers["Content-Location"] == "/artifacts/a"
    assert recorded(site) == {"digest": DIGEST, "sizeBytes": len(DATA)}
    assert await site.world.ports.store.head(TENANT_UID, DIGEST) == (DIGEST, len(DATA))
    verb, plural, who = site.cluster.writes[-1]
    assert (verb, plural, who.groups) == ("patch", "artifacts", ("manifestry:admin",))


async def test_a_success_that_was_not_heard_of_is_told_again(site: Site) -> None:
    await artifact(site)
    path = await begin(site)
    assert (await patch(site, path, 0, DATA, last=True)).status == 202
    assert await head(site, path) == (204, str(len(DATA)), "?1")
    again = await patch(site, path, len(DATA), b"", last=True)
    assert (again.status, again.headers["Upload-Complete"]) == (202, "?1")
    more = await patch(site, path, 0, DATA, last=True)
    assert (more.status, more.headers["Upload-Offset"]) == (409, str(len(DATA)))
    assert [name for name in files(site) if name.startswith("sessions/")] == []


async def test_an_empty_payload_needs_one_piece(site: Site) -> None:
    await artifact(site)
    path = await begin(site, **{"Upload-Length": "0"})
    assert (await patch(site, path, 0, b"", last=True)).status == 202
    assert recorded(site)["sizeBytes"] == 0


@pytest.mark.parametrize("offset", [0, 99, 101, 10**14])
async def test_a_wrong_offset_is_told_the_right_one(site: Site, offset: int) -> None:
    await artifact(site)
    path = await begin(site)
    await patch(site, path, 0, DATA[:100])
    refused = await patch(site, path, offset, b"more")
    assert (refused.status, refused.json["code"], refused.headers["Upload-Offset"]) == (
        409,
        "conflict",
        "100",
    )
    assert "must be 100" in refused.json["detail"]
    assert await head(site, path) == (204, "100", "?0")


@pytest.mark.parametrize(("offset", "size"), [(101, 0), (50, 51), (101, 1)])
async def test_bytes_outside_of_the_upload_are_416(site: Site, offset: int, size: int) -> None:
    await artifact(site)
    path = await begin(site, **{"Upload-Length": "100"})
    await patch(site, path, 0, DATA[:50])
    refused = await patch(site, path, offset, DATA[:size])
    assert (refused.status, refused.headers["Upload-Offset"]) == (416, "50")
    assert refused.json["code"] == "range-not-satisfiable"


async def chunked(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


async def test_a_chunked_piece_may_not_be_longer_than_the_upload(site: Site) -> None:
    await artifact(site)
    path = await begin(site, **{"Upload-Length": "100"})
    refused = await patch(site, path, 0, chunked(DATA[:60], DATA[60:101]))
    assert (refused.status, refused.json["code"]) == (416, "range-not-satisfiable")
    done = await patch(site, path, 0, chunked(DATA[:60], DATA[60:100]), last=True)
    assert done.status == 202
    assert recorded(site)["sizeBytes"] == 100


async def test_an_upload_is_not_complete_before_its_end(site: Site) -> None:
    await artifact(site)
    path = await begin(site, **{"Upload-Length": "100"})
    for data in (DATA[:99], chunked(DATA[:50], DATA[50:99])):
        refused = await patch(site, path, 0, data, last=True)
        assert (refused.status, refused.json["code"]) == (400, "bad-request")
    assert refused.headers["Upload-Offset"] == "99"
    assert (await patch(site, path, 99, DATA[99:100], last=True)).status == 202


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Upload-Offset": ""}, 400),
        ({"Upload-Offset": "-1"}, 400),
        ({"Upload-Offset": "1.5"}, 400),
        ({"Upload-Complete": "true"}, 400),
        ({"Content-Type": "application/octet-stream"}, 415),
        ({"Content-Encoding": "gzip"}, 415),
        ({"Content-Digest": "sha-256=x"}, 400),
    ],
)
async def test_a_piece_says_what_it_is(site: Site, headers: dict[str, str], status: int) -> None:
    await artifact(site)
    path = await begin(site)
    refused = await patch(site, path, 0, DATA, last=False, **headers)
    assert refused.status == status, refused.data
    if "Content-Type" in headers:
        assert refused.headers["Accept-Patch"] == "application/partial-upload"
    assert await head(site, path) == (204, "0", "?0")


@pytest.mark.parametrize("missing", ["Upload-Offset", "Upload-Complete"])
async def test_offset_and_completeness_must_be_said(site: Site, missing: str) -> None:
    await artifact(site)
    path = await begin(site)
    headers = {**PARTIAL, "Upload-Offset": "0", "Upload-Complete": "?0"}
    del headers[missing]
    refused = await site.call("PATCH", path, data=DATA, headers=headers)
    assert (refused.status, missing in refused.json["detail"]) == (400, True)


@pytest.mark.parametrize(
    ("spec", "headers"),
    [
        ({"digest": DIGEST}, {}),
        ({}, {"Repr-Digest": field(DATA)}),
    ],
)
async def test_other_bytes_than_promised_leave_nothing(
    site: Site, spec: dict[str, Any], headers: dict[str, str]
) -> None:
    await artifact(site, **spec)
    path = await begin(site, **headers)
    refused = await patch(site, path, 0, DATA[:-1] + b"?", last=True)
    assert (refused.status, refused.json["code"]) == (422, "digest-mismatch")
    assert "digest" not in recorded(site)
    assert files(site) == []
    assert (await head(site, path))[0] == 404
    assert (await patch(site, await begin(site), 0, DATA, last=True)).status == 202


async def test_the_digest_may_come_with_the_last_piece(site: Site) -> None:
    await artifact(site)
    path = await begin(site)
    refused = await patch(site, path, 0, DATA, last=True, **{"Repr-Digest": field(b"x")})
    assert (refused.status, refused.json["code"]) == (422, "digest-mismatch")
    path = await begin(site, **{"Repr-Digest": field(DATA)})
    contradicting = await patch(site, path, 0, DATA, last=True, **{"Repr-Digest": field(b"x")})
    assert "must agree" in contradicting.json["detail"]


async def test_a_damaged_piece_is_not_taken(site: Site) -> None:
    await artifact(site)
    path = await begin(site)
    refused = await patch(site, path, 0, DATA, last=False, **{"Content-Digest": field(b"x")})
    assert (refused.status, refused.json["code"]) == (422, "digest-mismatch")
    assert await head(site, path) == (204, "0", "?0")
    assert (await patch(site, path, 0, DATA, last=False, **{"Content-Digest": field(DATA)})).status == 204


async def test_a_damaged_piece_that_was_streamed_is_taken_back(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(facade_sessions, "VERIFIED_MAX_BYTES", 10)
    await artifact(site)
    path = await begin(site)
    assert (await patch(site, path, 0, DATA, last=False, **{"Content-Digest": field(DATA)})).status == 204
    for last in (False, True):
        refused = await patch(site, path, len(DATA), DATA, last=last, **{"Content-Digest": field(b"x")})
        assert (refused.status, refused.json["code"]) == (422, "digest-mismatch")
        assert refused.headers["Upload-Offset"] == str(len(DATA))
        assert await head(site, path) == (204, str(len(DATA)), "?0")
    done = await patch(site, path, len(DATA), b"more", last=True, **{"Content-Digest": field(b"more")})
    assert done.status == 202
    assert recorded(site)["digest"] == f"sha256:{hashlib.sha256(DATA + b'more').hexdigest()}"


async def test_a_damaged_piece_that_cannot_be_taken_back_ends_the_upload(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(facade_sessions, "VERIFIED_MAX_BYTES", 10)

    async def fail(*_: object) -> None:
        raise store_ports.StoreUnavailableError("down")

    await artifact(site)
    path = await begin(site)
    monkeypatch.setattr(site.world.ports.sessions, "cut", fail)
    refused = await patch(site, path, 0, DATA, last=False, **{"Content-Digest": field(b"x")})
    assert refused.status == 503
    assert (await head(site, path))[0] == 404


async def test_a_damaged_piece_of_an_upload_that_is_gone(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facade_sessions, "VERIFIED_MAX_BYTES", 10)
    await artifact(site)
    path, used = await begin(site), site.world.ports.sessions
    cut = used.cut

    async def late(session: uploads.Session, offset: int) -> None:
        await used.abort(session)
        await cut(session, offset)

    monkeypatch.setattr(used, "cut", late)
    refused = await patch(site, path, 0, DATA, last=False, **{"Content-Digest": field(b"x")})
    assert refused.status == 404


async def test_an_upload_that_the_disk_has_lost_says_so(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    await artifact(site)
    path = await begin(site)
    assert (await patch(site, path, 0, DATA)).status == 204

    def fail(_: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as broken:
        broken.setattr(os, "fdatasync", lambda fd: fail(fd) if answered else answered.append(fd))
        broken.setattr(os, "fsync", fail)
        answered: list[int] = []  # the first one is of looking how far it is
        lost = await patch(site, path, len(DATA), b"more")
    assert (lost.status, "begin a new one" in lost.json["detail"]) == (503, True)
    assert (await head(site, path))[0] == 404
    assert (await patch(site, await begin(site), 0, DATA, last=True)).status == 202


async def test_bytes_that_were_damaged_in_the_store_are_sent_again(site: Site) -> None:
    await artifact(site)
    path = await begin(site)
    assert (await patch(site, path, 0, DATA[:100])).status == 204
    assert (await patch(site, path, 100, DATA[100:])).status == 204
    root = site.world.ports.store.local_path(TENANT_UID, DIGEST)
    assert root is not None
    stored = root.parents[6] / keys.upload(path.rpartition("/")[2])
    stored.write_bytes(DATA[:-1] + b"\0")
    refused = await patch(site, path, len(DATA), b"", last=True)
    assert (refused.status, refused.headers["Upload-Offset"]) == (409, "100")
    assert "send them again from 100 on" in refused.json["detail"]
    assert recorded(site) == {}
    assert await head(site, path) == (204, "100", "?0")
    assert (await patch(site, path, 100, DATA[100:], last=True)).status == 202
    assert recorded(site)["digest"] == DIGEST


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
