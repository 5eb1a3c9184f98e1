"""Payloads on their way out: the tables of RFC 9110 sections 13 and 14, whichever way the bytes take."""

import asyncio
import email
import email.policy
import os
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request

from manifestry.core.kube import names
from manifestry_api.guard import deps, shortcuts
from manifestry_api.routes import contents
from manifestry_api.wire import streams
from tests.unit.api.routes import downloading
from tests.unit.api.routes.downloading import (
    DATA,
    DIGEST,
    ETAG,
    FIELD,
    PATH,
    SIZE,
    left_open,
    sent_bytes,
    stored,
)
from tests.unit.api.routes.site import NAMESPACE, TENANT_UID, Site, running


@pytest.fixture(params=downloading.WAYS)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Let the bytes take each of the two ways."""
    return downloading.take(request.param, monkeypatch)


# RFC 9110 section 14: the header, and the parts (first, last) in the answer; None is the whole payload
RANGES = [
    ("bytes=0-0", [(0, 0)]),
    ("bytes=0-499", [(0, 499)]),
    ("bytes=500-", [(500, SIZE - 1)]),
    ("bytes=-500", [(SIZE - 500, SIZE - 1)]),
    ("bytes=-99999", [(0, SIZE - 1)]),  # a suffix longer than the payload is all of it
    (f"bytes={SIZE - 1}-", [(SIZE - 1, SIZE - 1)]),
    ("bytes=10000-99999", [(10000, SIZE - 1)]),  # the end is cut
    ("BYTES=5-6", [(5, 6)]),  # range units are case-insensitive
    ("bytes= 5-6 ,", [(5, 6)]),  # empty list elements are none
    ("bytes=0-0,-1", [(0, 0), (SIZE - 1, SIZE - 1)]),
    ("bytes=0-9, 500-509, 9000-9009", [(0, 9), (500, 509), (9000, 9009)]),
    ("bytes=9000-9009,0-9", [(9000, 9009), (0, 9)]),  # the request's order
    ("bytes=0-9,5-20", [(0, 20)]),  # overlapping: one part, and then no multipart
    ("bytes=0-9,10-19", [(0, 19)]),
    ("bytes=0-9,60-69", [(0, 69)]),  # a gap shorter than a frame
    ("bytes=500-600,5-6,550-700,0-1", [(500, 700), (0, 6)]),
    ("bytes=5-6,99999-", [(5, 6)]),  # what cannot be satisfied is left out
    ("bytes=" + ",".join(f"{n * 500}-{n * 500}" for n in range(16)), [(n * 500, n * 500) for n in range(16)]),
    ("bytes=" + ",".join(f"{n * 500}-{n * 500}" for n in range(17)), None),  # too many are ignored
    ("bytes=" + "0-," * 100, None),
    ("lines=0-1", None),  # another unit is ignored
    ("bytes=5-1", None),  # what is not valid is ignored
    ("bytes=a-b", None),
    ("bytes", None),
    ("bytes=", None),
    ("bytes=--5", None),
    ("bytes=0-1;5-6", None),
    ("bytes=99999-", "none"),
    ("bytes=-0", "none"),
    ("bytes=99999-,-0", "none"),
]


@pytest.mark.parametrize(("header", "parts"), RANGES)
async def test_ranges(site: Site, way: str, header: str, parts: Any) -> None:
    await stored(site)
    answer = await site.call("GET", PATH, role="viewer", headers={"Range": header})
    if parts == "none":
        assert (answer.status, answer.json["code"]) == (416, "range-not-satisfiable")
        assert answer.headers["Content-Range"] == f"bytes */{SIZE}"
        return
    assert answer.headers["ETag"] == ETAG
    assert answer.headers["Repr-Digest"] == FIELD  # of the whole payload, in each of these
    assert answer.headers["Accept-Ranges"] == "bytes"
    assert int(answer.headers["Content-Length"]) == len(answer.data)
    assert read(answer) == [(first, DATA[first : last + 1]) for first, last in parts or [(0, SIZE - 1)]]
    assert answer.status == (206 if parts else 200)
    assert ("Content-Digest" in answer.headers) is (parts is None)
    assert await left_open() == []
    wanted = sum(last - first + 1 for first, last in parts) if parts else SIZE
    assert sent_bytes(site, way) == wanted
    assert sent_bytes(site, "stream" if way == "zerocopy" else "zerocopy") == 0


def read(answer: Any) -> list[tuple[int, bytes]]:
    """Return the offset and the bytes of each part of an answer."""
    kind = answer.headers["Content-Type"]
    if not kind.startswith("multipart/"):
        assert kind == "application/zip"
        return [(offset(answer.headers.get("Content-Range", "bytes 0-/")), answer.data)]
    assert "Content-Range" not in answer.headers
    message = email.message_from_bytes(
        f"Content-Type: {kind}\r\n\r\n".encode() + answer.data, policy=email.policy.HTTP
    )
    parts = list(message.iter_parts())
    assert len(parts) > 1
    assert {part["Content-Type"] for part in parts} == {"application/zip"}
    boundary = b"--" + message.get_boundary().encode()  # type: ignore[union-attr]
    bodies = [
        piece.split(b"\r\n\r\n", 1)[1].removesuffix(b"\r\n") for piece in answer.data.split(boundary)[1:-1]
    ]
    return [(offset(part["Content-Range"]), body) for part, body in zip(parts, bodies, strict=True)]


def offset(content_range: str) -> int:
    return int(content_range.removeprefix("bytes ").partition("-")[0])


NOW, OTHER, WEAK = ETAG, '"sha256:other"', f"W/{ETAG}"
DATE = "Mon, 23 Nov 2026 10:00:00 GMT"
CONDITIONS = [  # RFC 9110 section 13: headers, and the status of a GET; HEAD has the same, but never 206
    ({}, 200),
    ({"If-Match": NOW}, 200),
    ({"If-Match": "*"}, 200),
    ({"If-Match": f"{OTHER}, {NOW}"}, 200),
    ({"If-Match": OTHER}, 412),
    ({"If-Match": WEAK}, 412),  # compares strongly
    ({"If-None-Match": NOW}, 304),
    ({"If-None-Match": WEAK}, 304),  # compares weakly
    ({"If-None-Match": "*"}, 304),
    ({"If-None-Match": f"{OTHER}, {NOW}"}, 304),
    ({"If-None-Match": OTHER}, 200),
    ({"If-Match": NOW, "If-None-Match": NOW}, 304),  # section 13.2.2: If-Match is first
    ({"If-Match": OTHER, "If-None-Match": NOW}, 412),
    ({"If-Modified-Since": DATE}, 200),  # payloads have no dates
    ({"If-Unmodified-Since": DATE}, 200),
    ({"If-None-Match": OTHER, "If-Modified-Since": DATE}, 200),
    ({"Range": "bytes=0-9", "If-Range": NOW}, 206),
    ({"Range": "bytes=0-9", "If-Range": OTHER}, 200),
    ({"Range": "bytes=0-9", "If-Range": WEAK}, 200),  # compares strongly
    ({"Range": "bytes=0-9", "If-Range": DATE}, 200),
    ({"If-Range": OTHER}, 200),  # means nothing without Range
    ({"Range": "bytes=99999-", "If-Range": OTHER}, 200),  # the Range is not looked at
    ({"Range": "bytes=99999-", "If-Range": NOW}, 416),
    ({"Range": "bytes=0-9", "If-Match": NOW}, 206),
    ({"Range": "bytes=0-9", "If-Match": OTHER}, 412),
    ({"Range": "bytes=0-9", "If-None-Match": NOW}, 304),
    ({"Range": "bytes=99999-", "If-None-Match": NOW}, 304),
    ({"Range": "bytes=0-9", "If-None-Match": OTHER, "If-Range": NOW}, 206),
]


@pytest.mark.parametrize(("headers", "status"), CONDITIONS)
async def test_conditions(site: Site, headers: dict[str, str], status: int) -> None:
    await stored(site)
    answer = await site.call("GET", PATH, headers=headers)
    head = await site.call("HEAD", PATH, headers=headers)
    assert answer.status == status
    assert head.status == (200 if status in {206, 416} else status)
    assert head.data == b""
    if status < 400:
        assert answer.headers["ETag"] == head.headers["ETag"] == ETAG
    if status == 304:
        assert answer.data == b""
        assert answer.headers["Vary"] == "Authorization, X-Tenant"
    if head.status == 200:  # as if it were a GET without Range
        assert head.headers["Content-Length"] == str(SIZE)
        assert head.headers["Content-Digest"] == FIELD
    if status == 412:
        assert answer.json["code"] == "precondition-failed"


async def test_a_large_payload_comes_whole_in_windows(
    site: Site, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "WINDOW_BYTES", 1 << 21)
    data = os.urandom(7 * (1 << 20) + 5)
    await stored(site, data)
    answers = await asyncio.gather(*(site.call("GET", PATH, role="viewer") for _ in range(4)))
    assert all(answer.data == data for answer in answers)
    assert sent_bytes(site, way) == 4 * len(data)
    part = await site.call("GET", PATH, headers={"Range": "bytes=1000000-5000000"})
    assert part.data == data[1_000_000:5_000_001]


async def test_an_empty_payload(site: Site, way: str) -> None:
    await stored(site, b"")
    answer = await site.call("GET", PATH)
    assert (answer.status, answer.data, answer.headers["Content-Length"]) == (200, b"", "0")
    for header in ("bytes=0-", "bytes=-1", "bytes=0-0,5-6"):
        assert (await site.call("GET", PATH, headers={"Range": header})).status == 416


async def test_the_same_bytes_of_two_artifacts_have_their_own_names_and_types(site: Site, way: str) -> None:
    blob = await stored(site)
    body = {"name": "b", "mediaType": "text/plain", "fileName": "b.txt", "upload": {}}
    assert (await site.call("POST", "/artifacts", body)).status == 202
    site.make_ready("b", blob, await site.world.ports.store.put(TENANT_UID, b"{}"))
    wanted = {"a": ("application/zip", "a.zip"), "b": ("text/plain", "b.txt")}
    for name in "abab":
        for method in ("GET", "HEAD"):
            answer = await site.call(method, f"/artifacts/{name}/content", role="viewer")
            kind, file_name = wanted[name]
            assert answer.headers["Content-Type"] == kind
            assert answer.headers["Content-Disposition"] == f'attachment; filename="{file_name}"'
            assert answer.headers["Content-Length"] == str(SIZE)
    assert await left_open() == []


async def test_each_download_leaves_one_audit_record(site: Site, way: str) -> None:
    await stored(site)
    site.world.records.all.clear()
    for headers in ({}, {"Range": "bytes=0-1"}, {"Range": "bytes=99999-"}, {"If-None-Match": ETAG}):
        await site.call("GET", PATH, role="viewer", headers=headers)
    records = site.world.records.all
    assert [record["responseStatus"]["code"] for record in records] == [200, 206, 416, 304]
    assert {record["objectRef"]["subresource"] for record in records} == {"content"}
    assert {record["annotations"]["authorization.k8s.io/decision"] for record in records} == {"allow"}
    assert records[0]["stage"] == "ResponseComplete"


@pytest.mark.parametrize("wanted", [True, False])
async def test_a_redirect_leads_to_the_store_when_it_is_wanted(tmp_path: Path, wanted: bool) -> None:
    async with running(tmp_path, wait_seconds=0.05, download_redirect=wanted) as site:
        await stored(site)

        async def link(_tenant: str, digest: str, seconds: float) -> str:
            assert (digest, seconds) == (DIGEST, 300)
            return "https://bucket.example/x?sig=1"

        site.world.ports.store.link = link  # type: ignore[method-assign,assignment]
        expected = 307 if wanted else 200
        answer = await site.call("GET", PATH, allow_redirects=False)
        assert answer.status == expected
        part = await site.call("GET", PATH, headers={"Range": "bytes=0-1"}, allow_redirects=False)
        assert part.status == (307 if wanted else 206)
        if wanted:
            assert answer.headers["Location"] == "https://bucket.example/x?sig=1"
            assert answer.headers["Cache-Control"] == "no-store"
            assert answer.headers["Referrer-Policy"] == "no-referrer"
            assert answer.data == b""
            assert sent_bytes(site, "zerocopy") == 0
        assert (await site.call("HEAD", PATH, allow_redirects=False)).status == 200
        assert (await site.call("GET", PATH, headers={"If-None-Match": ETAG})).status == 304
        assert (await site.call("GET", PATH, headers={"Range": "bytes=99999-"})).status == 416


async def test_a_local_store_has_no_links(tmp_path: Path) -> None:
    async with running(tmp_path, wait_seconds=0.05, download_redirect=True) as site:
        await stored(site)
        assert (await site.call("GET", PATH)).data == DATA


async def test_the_short_way_answers_as_the_long_one(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    await stored(site)
    own = {"audit-id", "traceparent", "date"}
    requests: list[tuple[str, str, dict[str, str]]] = [
        ("GET", PATH, {}),
        ("HEAD", PATH, {}),
        ("GET", "/artifacts/absent/content", {}),
        ("GET", "/artifacts/A%2Fb/content", {}),
        ("GET", "/artifacts//content", {}),
        ("GET", PATH, {"X-Tenant": "other"}),
        ("GET", PATH, {"X-Roles": "nobody"}),
        ("GET", PATH, {"X-Reason": ""}),
        ("GET", PATH, {"Authorization": "Bearer expired"}),
        ("POST", PATH, {}),
        ("DELETE", PATH, {}),
        ("GET", PATH + "/", {}),
    ]

    async def answers() -> list[tuple[int, dict[str, str], bytes]]:
        found = []
        for method, path, headers in requests:
            got = await site.call(method, path, headers=headers)
            kept = {name.lower(): text for name, text in got.headers.items() if name.lower() not in own}
            found.append((got.status, kept, b"" if got.status >= 400 else got.data))
        return found

    short = await answers()
    monkeypatch.setattr(shortcuts.Shortcut, "match", lambda _self, _scope: None)
    assert await answers() == short
    assert [status for status, _, _ in short] == [200, 200, 404, 404, 404, 404, 403, 401, 401, 405, 405, 404]


def test_a_route_with_other_parameters_has_no_shortcut() -> None:
    router = deps.api_router(tags=["x"])

    @router.get("/x/{name}")
    async def route(
        name: str, q: str, request: Request, ports: deps.PortsDep, caller: contents.Reader
    ) -> None: ...

    with pytest.raises(TypeError, match="cannot have a shortcut"):
        list(shortcuts.of(router, (route,)))


async def test_an_artifact_that_is_being_deleted_is_gone(site: Site) -> None:
    await stored(site)
    found = site.cluster.find(names.ARTIFACTS, "a", NAMESPACE)
    assert found is not None
    metadata = {**found["metadata"], "deletionTimestamp": "2026-05-04T03:02:01Z"}
    site.cluster.put(names.ARTIFACTS, {**found, "metadata": metadata})
    async with asyncio.timeout(5):
        while (await site.call("GET", PATH)).status != 404:  # noqa: ASYNC110 - by watch, in its time
            await asyncio.sleep(0.01)
