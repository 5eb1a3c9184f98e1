"""The pieces of resumable uploads over HTTP: where they go, and what is wrong with those not taken."""

import hashlib
import os
from collections.abc import AsyncIterator
from typing import Any

import pytest

from manifestry.adapters.store.contract import ports as store_ports
from manifestry.core.artifacts import uploads
from manifestry.core.blobs import keys
from manifestry_api.artifacts import sessions as facade_sessions
from tests.unit.api.routes.site import TENANT_UID, Site
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
