"""Payloads: in by one PUT, out with ranges and validators."""

import asyncio
import base64
import hashlib
from typing import Any

import aiohttp
import pytest

from manifestry.adapters.store.contract import ports
from manifestry.core.kube import names
from tests.unit.api.routes.site import NAMESPACE, TENANT_UID, Site, condition

DATA = bytes(range(256)) * 40
DIGEST = f"sha256:{hashlib.sha256(DATA).hexdigest()}"
FIELD = f"sha-256=:{base64.b64encode(hashlib.sha256(DATA).digest()).decode()}:"
OTHER_FIELD = f"sha-256=:{base64.b64encode(hashlib.sha256(b'x').digest()).decode()}:"
TYPE = {"Content-Type": "application/zip"}
PATH = "/artifacts/a/content"


async def create(site: Site, **body: Any) -> None:
    made = await site.call(
        "POST", "/artifacts", {"name": "a", "mediaType": "application/zip", "upload": {}, **body}
    )
    assert (made.status, made.json["status"]) == (202, "awaiting-upload")


async def put(site: Site, data: Any = DATA, **headers: str) -> Any:
    return await site.call("PUT", PATH, data=data, headers={**TYPE, **headers})


async def ready(site: Site, **spec: Any) -> None:
    await create(site, **spec)
    assert (await put(site)).status == 202
    manifest = await site.world.ports.store.put(TENANT_UID, b'{"schemaVersion":2}')
    site.make_ready("a", ports.Blob(DIGEST, len(DATA)), manifest)


def recorded(site: Site) -> dict[str, Any]:
    found = site.cluster.find(names.ARTIFACTS, "a", NAMESPACE)
    assert found is not None
    return dict(found["spec"]["upload"])


def is_nothing_stored(site: Site) -> bool:
    root = site.world.ports.store.local_path(TENANT_UID, DIGEST)
    assert root is not None
    found = root.parents[6]
    return not [path for path in found.rglob("*") if path.is_file() and path.stat().st_size]


async def test_an_upload_is_verified_published_and_recorded(site: Site) -> None:
    await create(site, digest=DIGEST, sizeBytes=len(DATA))
    answer = await put(site, **{"Content-Digest": FIELD, "Repr-Digest": FIELD, "Prefer": "wait=0"})
    assert answer.status == 202
    assert answer.json["status"] == "pending"
    assert answer.headers["Preference-Applied"] == "wait=0"
    assert recorded(site) == {"digest": DIGEST, "sizeBytes": len(DATA)}
    assert await site.world.ports.store.head(TENANT_UID, DIGEST) == (DIGEST, len(DATA))
    verb, plural, who = site.cluster.writes[-1]
    assert (verb, plural) == ("patch", "artifacts")
    assert who.groups == ("manifestry:admin",)


@pytest.mark.parametrize(
    ("stored", "headers", "status"),
    [
        (False, {"If-None-Match": "*"}, 202),
        (False, {"If-Match": "*"}, 412),
        (False, {"If-Match": '"x"'}, 412),
        (True, {"If-None-Match": "*"}, 412),
        (True, {"If-None-Match": f'"{DIGEST}"'}, 412),
        (True, {"If-Match": "*"}, 202),
        (True, {"If-Match": f'"{DIGEST}"'}, 202),
        (True, {"If-Match": '"x"'}, 412),
    ],
)
async def test_an_upload_keeps_its_conditions(
    site: Site, stored: bool, headers: dict[str, str], status: int
) -> None:
    await create(site)
    if stored:
        assert (await put(site)).status == 202
    assert (await put(site, **headers)).status == status
    assert (recorded(site) == {}) == (not stored and status == 412)


async def test_the_answer_waits_for_ready(site: Site) -> None:
    await create(site)
    uploading = asyncio.create_task(put(site, Prefer="wait=5"))
    async with asyncio.timeout(5):
        while "digest" not in recorded(site):  # noqa: ASYNC110 - the cluster in memory has no event for it
            await asyncio.sleep(0.01)
    site.make_ready("a", ports.Blob(DIGEST, len(DATA)), ports.Blob(DIGEST, 1))
    answer = await uploading
    assert (answer.status, answer.json["status"], answer.json["digest"]) == (200, "ready", DIGEST)


async def test_the_same_bytes_again_are_fine_and_other_bytes_are_a_conflict(site: Site) -> None:
    await ready(site)
    assert (await put(site)).status == 200
    writes = len(site.cluster.writes)
    answer = await put(site, DATA + b"!")
    assert (answer.status, answer.json["code"]) == (409, "conflict")
    assert len(site.cluster.writes) == writes
    assert recorded(site)["digest"] == DIGEST


async def chunked(*pieces: bytes) -> Any:
    for piece in pieces:
        yield piece


@pytest.mark.parametrize(
    ("spec", "headers", "data", "refusal"),
    [
        ({}, {"Content-Digest": OTHER_FIELD}, DATA, (422, "digest-mismatch")),
        ({}, {"Repr-Digest": OTHER_FIELD}, DATA, (422, "digest-mismatch")),
        ({}, {"Content-Digest": FIELD, "Repr-Digest": OTHER_FIELD}, DATA, (422, "digest-mismatch")),
        ({"digest": DIGEST}, {}, DATA[1:], (422, "digest-mismatch")),
        ({"digest": DIGEST}, {"Content-Digest": OTHER_FIELD}, DATA, (422, "digest-mismatch")),
        ({"sizeBytes": 5}, {}, DATA, (422, "validation-failed")),
        ({"sizeBytes": 5}, {}, None, (422, "validation-failed")),
        ({}, {"Content-Digest": "nonsense"}, DATA, (400, "bad-request")),
        ({}, {"Content-Type": "text/plain"}, DATA, (415, "unsupported-media-type")),
        ({}, {"Content-Encoding": "gzip"}, DATA, (415, "unsupported-media-type")),
        ({}, {"Content-Range": "bytes 0-1/5"}, DATA, (400, "bad-request")),
    ],
)
async def test_an_upload_that_does_not_fit_leaves_nothing(
    site: Site, spec: Any, headers: Any, data: Any, refusal: tuple[int, str]
) -> None:
    await create(site, **spec)
    answer = await put(site, data if data is not None else chunked(DATA), **headers)
    assert (answer.status, answer.json["code"]) == refusal
    assert recorded(site) == {}
    assert is_nothing_stored(site)


async def test_unknown_digest_algorithms_are_ignored_and_types_compare_without_parameters(site: Site) -> None:
    await create(site)
    headers = {"Content-Digest": "md5=:AAAA:", "Content-Type": "Application/ZIP; q=1"}
    assert (await put(site, **headers)).status == 202


async def test_a_client_that_leaves_leaves_nothing(site: Site) -> None:
    await create(site)

    async def half() -> Any:
        yield DATA
        raise OSError("the client falls over")

    with pytest.raises(aiohttp.ClientError):
        await put(site, half())
    async with asyncio.timeout(5):
        while not is_nothing_stored(site):  # noqa: ASYNC110 - a file system has no event
            await asyncio.sleep(0.01)
    assert recorded(site) == {}


async def test_of_two_different_uploads_one_wins(site: Site) -> None:
    await create(site)
    answers = await asyncio.gather(*(put(site, DATA + bytes([number])) for number in range(6)))
    assert sorted(answer.status for answer in answers) == [202, 409, 409, 409, 409, 409]


async def test_a_changed_artifact_is_read_again_before_the_upload_is_recorded(site: Site) -> None:
    await create(site)
    touched: list[int] = []

    def interfere(verb: str, resource: names.Resource, body: Any) -> None:
        if verb == "patch" and len(touched) < 2:
            touched.append(1)
            found = site.cluster.find(names.ARTIFACTS, "a", NAMESPACE)
            assert found is not None
            site.cluster.put(names.ARTIFACTS, {**found, "spec": {**found["spec"], "annotations": {"n": "1"}}})

    site.cluster.before_write = interfere
    assert (await put(site)).status == 202
    assert recorded(site)["digest"] == DIGEST


async def test_only_an_upload_source_takes_bytes(site: Site) -> None:
    await site.call("POST", "/artifacts", {"name": "a", "mediaType": "text/plain", "inline": {"text": "x"}})
    answer = await put(site, **{"Content-Type": "text/plain"})
    assert answer.status == 409
    assert "`inline`" in answer.json["detail"]


async def test_a_failed_upload_artifact_takes_no_bytes(site: Site) -> None:
    await create(site)
    status = {
        "conditions": [
            condition("Ready", "False", "UploadExpired"),
            condition("Stalled", "True", "UploadExpired"),
        ]
    }
    site.cluster.set_status(names.ARTIFACTS, "a", NAMESPACE, status)
    answer = await put(site)
    assert answer.status == 409
    assert "UploadExpired" in answer.json["detail"]


async def test_a_payload_comes_back_byte_for_byte_with_its_headers(site: Site) -> None:
    await ready(site, fileName='naïve "x".zip'.replace('"', "'"))
    answer = await site.call("GET", PATH, role="viewer")
    assert (answer.status, answer.data) == (200, DATA)
    wanted = {
        "ETag": f'"{DIGEST}"',
        "Repr-Digest": FIELD,
        "Content-Length": str(len(DATA)),
        "Content-Type": "application/zip",
        "Accept-Ranges": "bytes",
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "private, no-cache",
        "Content-Security-Policy": "sandbox; default-src 'none'",
    }
    assert {name: answer.headers[name] for name in wanted} == wanted
    assert "filename*=UTF-8''na%C3%AFve" in answer.headers["Content-Disposition"]
    head = await site.call("HEAD", PATH, role="viewer")
    assert head.status == 200
    assert {name: head.headers[name] for name in wanted} == wanted


@pytest.mark.parametrize(
    ("headers", "status", "data"),
    [
        ({"Range": "bytes=0-9"}, 206, DATA[:10]),
        ({"Range": "bytes=-7"}, 206, DATA[-7:]),
        ({"Range": f"bytes={len(DATA) - 1}-"}, 206, DATA[-1:]),
        ({"Range": "bytes=0-9", "If-Range": f'"{DIGEST}"'}, 206, DATA[:10]),
        ({"Range": "bytes=0-9", "If-Range": '"other"'}, 200, DATA),
        ({"Range": "lines=0-9"}, 200, DATA),
        ({"If-None-Match": f'"{DIGEST}"'}, 304, b""),
        ({"If-None-Match": f'"{DIGEST}"', "Range": "bytes=0-9"}, 304, b""),
        ({"If-None-Match": '"other"'}, 200, DATA),
    ],
)
async def test_ranges_and_conditions(site: Site, headers: dict[str, str], status: int, data: bytes) -> None:
    await ready(site)
    answer = await site.call("GET", PATH, headers=headers)
    assert (answer.status, answer.data) == (status, data)
    assert answer.headers["ETag"] == f'"{DIGEST}"'
    if status == 206:
        assert answer.headers["Content-Range"].endswith(f"/{len(DATA)}")
        assert int(answer.headers["Content-Length"]) == len(data)


async def test_a_range_after_the_end_says_the_size(site: Site) -> None:
    await ready(site)
    answer = await site.call("GET", PATH, headers={"Range": f"bytes={len(DATA)}-"})
    assert (answer.status, answer.json["code"]) == (416, "range-not-satisfiable")
    assert answer.headers["Content-Range"] == f"bytes */{len(DATA)}"


async def test_what_is_not_ready_is_a_conflict_that_says_why(site: Site) -> None:
    await create(site)
    for path in (PATH, "/artifacts/a/manifest"):
        answer = await site.call("GET", path)
        assert (answer.status, answer.json["code"]) == (409, "conflict")
        assert "awaiting-upload" in answer.json["detail"]
    assert (await site.call("HEAD", PATH)).status == 409


async def test_missing_bytes_are_an_error_before_the_first_byte(site: Site) -> None:
    await ready(site)
    await site.world.ports.store.delete(TENANT_UID, DIGEST)
    answer = await site.call("GET", PATH)
    assert (answer.status, answer.json["code"]) == (500, "internal")


async def test_the_manifest_is_served_as_it_was_hashed(site: Site) -> None:
    await ready(site)
    answer = await site.call("GET", "/artifacts/a/manifest")
    assert (answer.status, answer.data) == (200, b'{"schemaVersion":2}')
    assert answer.headers["Content-Type"] == "application/vnd.oci.image.manifest.v1+json"
    again = await site.call("GET", "/artifacts/a/manifest", headers={"If-None-Match": answer.headers["ETag"]})
    assert again.status == 304


async def test_an_empty_payload_is_a_payload(site: Site) -> None:
    await create(site)
    assert (await put(site, b"")).status == 202
    empty = ports.Blob(f"sha256:{hashlib.sha256(b'').hexdigest()}", 0)
    site.make_ready("a", empty, empty)
    answer = await site.call("GET", PATH)
    assert (answer.status, answer.data, answer.headers["Content-Length"]) == (200, b"", "0")
    assert (await site.call("GET", PATH, headers={"Range": "bytes=0-"})).status == 416


async def test_another_tenants_payload_is_not_there(site: Site) -> None:
    await ready(site)
    for method, path in (("GET", PATH), ("PUT", PATH), ("HEAD", PATH), ("GET", "/artifacts/a/manifest")):
        answer = await site.call(method, path, headers={"X-Tenant": "other"})
        assert answer.status == 404
