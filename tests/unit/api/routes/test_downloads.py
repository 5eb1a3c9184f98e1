"""Payloads on their way out: the tables of RFC 9110 sections 13 and 14, whichever way the bytes take."""

import asyncio
import base64
import contextlib
import email
import email.policy
import hashlib
import io
import os
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from starlette.requests import Request

from manifestry.adapters.store.contract import ports as store_ports
from manifestry.adapters.store.local import payloads
from manifestry.core.artifacts import suspects
from manifestry.core.kube import names
from manifestry_api.guard import deps, shortcuts
from manifestry_api.routes import contents
from manifestry_api.wire import streams, zerocopy
from tests.unit.api.routes.site import NAMESPACE, TENANT_UID, Site, running

DATA = bytes(range(256)) * 40  # 10,240 bytes
DIGEST = f"sha256:{hashlib.sha256(DATA).hexdigest()}"
ETAG = f'"{DIGEST}"'
FIELD = f"sha-256=:{base64.b64encode(hashlib.sha256(DATA).digest()).decode()}:"
PATH = "/artifacts/a/content"
TYPE = {"Content-Type": "application/zip"}
SIZE = len(DATA)


@pytest.fixture(params=["zerocopy", "stream"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Let the bytes take each of the two ways."""
    if request.param == "stream":
        monkeypatch.setattr(zerocopy, "CYCLE_NAMES", frozenset({"nothing has this name"}))
    return str(request.param)


async def stored(site: Site, data: bytes = DATA) -> store_ports.Blob:
    """Make artifact `a` with some bytes."""
    body = {"name": "a", "mediaType": "application/zip", "fileName": "a.zip", "upload": {}}
    assert (await site.call("POST", "/artifacts", body)).status == 202
    put = await site.call("PUT", PATH, data=io.BytesIO(data), headers=TYPE)
    assert put.status == 202
    blob = store_ports.Blob(f"sha256:{hashlib.sha256(data).hexdigest()}", len(data))
    site.make_ready("a", blob, await site.world.ports.store.put(TENANT_UID, b"{}"))
    return blob


def sent_bytes(site: Site, way: str) -> float:
    found = site.world.ports.instruments.registry.get_sample_value("payload_sent_bytes_total", {"way": way})
    return found or 0.0


def path_of(site: Site, blob: store_ports.Blob) -> Path:
    found = site.world.ports.store.local_path(TENANT_UID, blob.digest)
    assert found is not None
    return found


def open_payloads() -> list[str]:
    """Return the stored files that this process has open."""
    found = []
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            found.append(str(descriptor.readlink()))
    return [path for path in found if "/blobs/" in path]


async def left_open() -> list[str]:
    """Return what is still open a moment later: the client has its last byte before the server has closed."""
    for _ in range(100):
        if not open_payloads():
            break
        await asyncio.sleep(0.02)
    return open_payloads()


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


@pytest.mark.parametrize("length", [0, SIZE - 1])
async def test_a_payload_that_has_shrunk_is_an_error_before_the_first_byte(
    site: Site, way: str, length: int
) -> None:
    blob = await stored(site)
    os.truncate(path_of(site, blob), length)
    answer = await site.call("GET", PATH)
    assert (answer.status, answer.json["code"]) == (500, "internal")
    assert "missing or damaged" in answer.json["detail"]
    assert await left_open() == []


async def test_bytes_that_cannot_be_sent_leave_one_note_for_the_operator(site: Site, way: str) -> None:
    blob = await stored(site)
    path_of(site, blob).unlink()
    for _ in range(2):
        assert (await site.call("GET", PATH, role="viewer")).status == 500
    artifact = site.cluster.find(names.ARTIFACTS, "a", NAMESPACE)
    assert artifact is not None
    records = site.world.ports.store.records()
    (note,) = await records.scan(suspects.PREFIX)
    data = await records.read(note.key, limit_bytes=suspects.NOTE_MAX_BYTES)
    assert data is not None
    assert suspects.parse(note.key, data) == (artifact["metadata"]["uid"], NAMESPACE, "a")


async def test_a_manifest_that_cannot_be_sent_leaves_a_note(site: Site) -> None:
    await stored(site)
    await site.world.ports.store.delete(TENANT_UID, f"sha256:{hashlib.sha256(b'{}').hexdigest()}")
    answer = await site.call("GET", "/artifacts/a/manifest", role="viewer")
    assert (answer.status, answer.json["code"]) == (500, "internal")
    assert len(await site.world.ports.store.records().scan(suspects.PREFIX)) == 1


def flip(path: Path, at: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1]))


async def test_a_short_payload_that_passes_through_is_hashed_before_its_first_byte(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zerocopy, "CYCLE_NAMES", frozenset({"nothing has this name"}))
    flip(path_of(site, await stored(site)), 99)
    answer = await site.call("GET", PATH, role="viewer")
    assert (answer.status, answer.json["code"]) == (500, "internal")
    assert len(await site.world.ports.store.records().scan(suspects.PREFIX)) == 1
    part = await site.call("GET", PATH, headers={"Range": "bytes=0-9"})  # of a part there is no digest
    assert (part.status, part.data) == (206, DATA[:10])
    assert "Content-Digest" not in part.headers


async def test_the_last_bytes_that_pass_through_are_sent_only_when_all_hash_to_the_digest(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zerocopy, "CYCLE_NAMES", frozenset({"nothing has this name"}))
    data = os.urandom((3 << 20) + 7)
    blob = await stored(site, data)
    answer = await site.call("GET", PATH)
    assert (answer.status, answer.data) == (200, data)
    flip(path_of(site, blob), 99)
    received = bytearray()

    async def read() -> None:
        async with site.open(PATH) as broken:
            async for chunk in broken.content.iter_any():
                received.extend(chunk)

    with pytest.raises(aiohttp.ClientPayloadError):
        await read()
    assert len(received) <= 3 << 20
    assert len(await site.world.ports.store.records().scan(suspects.PREFIX)) == 1


async def test_a_planted_link_is_not_followed(site: Site, way: str, tmp_path: Path) -> None:
    blob = await stored(site)
    assert (await site.call("GET", PATH)).status == 200  # from now on files are opened without a thread
    path, secret = path_of(site, blob), tmp_path / "secret"
    secret.write_bytes(b"x" * SIZE)
    path.unlink()
    path.symlink_to(secret)
    assert (await site.call("GET", PATH)).status == 500
    path.unlink()
    folder = path.parent
    folder.rename(folder.with_name("moved"))
    (folder.with_name("moved") / path.name).write_bytes(b"x" * SIZE)
    folder.symlink_to(folder.with_name("moved"))
    assert (await site.call("GET", PATH)).status == 500


@pytest.mark.parametrize("error", [store_ports.StoreUnavailableError("the disk is gone"), OSError(5, "i/o")])
async def test_a_disk_that_fails_in_the_middle_breaks_the_connection(
    site: Site, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    await stored(site, os.urandom(3 << 20))
    calls: list[int] = []

    async def load(_payload: Any, offset: int, _count: int) -> None:
        calls.append(offset)
        if offset:
            raise error

    monkeypatch.setattr(payloads.LocalPayload, "load", load)
    with pytest.raises(aiohttp.ClientPayloadError):
        await site.call("GET", PATH)
    assert calls == [0, streams.FIRST_WINDOW_BYTES]
    await asyncio.sleep(0.05)
    assert await left_open() == []


async def test_nothing_is_read_for_a_client_that_has_left(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    data = os.urandom(40 << 20)
    await stored(site, data)
    real, loads, going = payloads.LocalPayload.load, [], asyncio.Event()

    async def load(payload: Any, offset: int, count: int) -> None:
        loads.append(offset)
        if offset:  # the client leaves while the disk is at work
            await going.wait()
        await real(payload, offset, count)

    monkeypatch.setattr(payloads.LocalPayload, "load", load)
    async with site.open(PATH) as answer:
        assert await answer.content.readexactly(1000) == data[:1000]
    await asyncio.sleep(0.05)
    going.set()
    async with asyncio.timeout(5):
        while open_payloads():  # noqa: ASYNC110 - the kernel has no event for it
            await asyncio.sleep(0.01)
    assert len(loads) == 2
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


async def test_a_remote_store_that_fails_in_the_middle_breaks_the_connection(
    site: Site, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await stored(site)

    async def damaged(*_: Any, **__: Any) -> Any:
        yield memoryview(DATA[:100])
        raise store_ports.StoreUnavailableError("the disk is gone")

    async def remote(*_: Any) -> None:
        return None

    monkeypatch.setattr(site.world.ports.store, "stream", damaged)
    monkeypatch.setattr(site.world.ports.store, "open", remote)
    with pytest.raises(aiohttp.ClientPayloadError):
        await site.call("GET", PATH)


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
