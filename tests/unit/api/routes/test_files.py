"""Artifacts of several files: created, each uploaded and downloaded for itself."""

import asyncio
from typing import Any

import pytest

from manifestry.core.blobs import digests
from manifestry.core.kube import names
from tests.unit.api.routes.site import NAMESPACE, TENANT_UID, Site, condition

A, B = b"a" * 1000, bytes(range(256))
TYPE = {"Content-Type": "application/zip"}


def file(name: str, **source: Any) -> dict[str, Any]:
    return {"name": name, "mediaType": "application/zip", **(source or {"upload": {}})}


async def create(site: Site, *files: dict[str, Any]) -> Any:
    body = {"name": "a", "mediaType": "application/x-bundle", "files": list(files)}
    return await site.call("POST", "/artifacts", body)


async def put(site: Site, name: str, data: bytes, **headers: str) -> Any:
    return await site.call(
        "PUT", f"/artifacts/a/files/{name}/content", data=data, headers={**TYPE, **headers}
    )


def recorded(site: Site) -> list[dict[str, Any]]:
    found = site.cluster.find(names.ARTIFACTS, "a", NAMESPACE)
    assert found is not None
    uploads = found["spec"].get("fileUploads") or {}
    return [uploads.get(each["name"], {}) for each in found["spec"]["files"]]


async def make_ready(site: Site, **payloads: bytes) -> None:
    files = []
    for name, data in payloads.items():
        blob = await site.world.ports.store.put(TENANT_UID, data)
        files.append({"name": name, "digest": blob.digest, "sizeBytes": blob.size_bytes})
    manifest = await site.world.ports.store.put(TENANT_UID, b'{"schemaVersion":2}')
    found = site.cluster.find(names.ARTIFACTS, "a", NAMESPACE)
    assert found is not None
    status = {
        "observedGeneration": found["metadata"].get("generation", 1),
        "files": files,
        "manifest": {"digest": manifest.digest, "sizeBytes": manifest.size_bytes},
        "conditions": [condition("Ready", "True", "Stored")],
    }
    site.cluster.set_status(names.ARTIFACTS, "a", NAMESPACE, status)


async def test_files_are_listed_with_their_state(site: Site) -> None:
    made = await create(site, file("x", inline={"text": "hi"}), file("y", sizeBytes=5, upload={}))
    assert (made.status, made.json["status"], made.json["source"]) == (202, "awaiting-upload", "files")
    assert made.json["links"] == {"self": "/artifacts/a", "manifest": "/artifacts/a/manifest"}
    link = {"content": "/artifacts/a/files/x/content"}
    first = {
        "name": "x",
        "mediaType": "application/zip",
        "source": "inline",
        "status": "pending",
        "links": link,
    }
    assert made.json["files"][0] == first
    assert (made.json["files"][1]["status"], made.json["files"][1]["expected"]) == (
        "awaiting-upload",
        {"sizeBytes": 5},
    )


async def test_each_file_is_uploaded_and_downloaded(site: Site) -> None:
    await create(site, file("x"), file("y.bin"))
    assert (await put(site, "x", A)).json["status"] == "awaiting-upload"
    assert recorded(site) == [{"digest": digests.of(A), "sizeBytes": len(A)}, {}]
    early = await site.call("GET", "/artifacts/a/files/x/content")
    assert (early.status, early.json["code"]) == (409, "conflict")
    done = await put(
        site, "y.bin", B, **{"Prefer": "wait=0", "Content-Digest": digests.format_field(digests.of(B))}
    )
    assert (done.status, done.json["status"]) == (202, "pending")
    await make_ready(site, x=A, **{"y.bin": B})
    got = await site.call("GET", "/artifacts/a/files/y.bin/content", role="viewer")
    assert (got.status, got.data) == (200, B)
    assert got.headers["ETag"] == f'"{digests.of(B)}"'
    assert got.headers["Content-Type"] == "application/zip"
    assert 'filename="y.bin"' in got.headers["Content-Disposition"]
    part = await site.call("GET", "/artifacts/a/files/x/content", headers={"Range": "bytes=0-9"})
    assert (part.status, part.data) == (206, A[:10])
    same = await site.call(
        "GET", "/artifacts/a/files/x/content", headers={"If-None-Match": f'"{digests.of(A)}"'}
    )
    assert same.status == 304
    head = await site.call("HEAD", "/artifacts/a/files/x/content")
    assert (head.status, head.headers["Content-Length"], head.data) == (200, str(len(A)), b"")
    whole = await site.call("GET", "/artifacts/a/content")
    assert (whole.status, "files" in whole.json["detail"]) == (409, True)
    assert (await site.call("GET", "/artifacts/a/manifest")).data == b'{"schemaVersion":2}'
    shown = (await site.call("GET", "/artifacts/a")).json["files"]
    assert [(each["status"], each["sizeBytes"]) for each in shown] == [("ready", len(A)), ("ready", len(B))]


async def test_files_may_be_uploaded_at_once_and_again(site: Site) -> None:
    labels = [f"f{number}" for number in range(8)]
    await create(site, *(file(label) for label in labels))
    answers = await asyncio.gather(*(put(site, label, label.encode(), Prefer="wait=0") for label in labels))
    assert {answer.status for answer in answers} == {202}
    assert [each["digest"] for each in recorded(site)] == [digests.of(label.encode()) for label in labels]
    assert (await put(site, "f1", b"f1")).status == 202
    assert (await put(site, "f1", b"other")).json["code"] == "conflict"


@pytest.mark.parametrize(
    ("name", "headers", "status"),
    [
        ("absent", {}, 404),
        ("x%2F..%2Fy", {}, 404),
        ("y", {}, 409),
        ("x", {"Content-Type": "text/plain"}, 415),
        ("x", {"Content-Digest": digests.format_field(digests.of(B))}, 422),
        ("z", {}, 422),
    ],
)
async def test_an_upload_that_does_not_fit_is_refused(
    site: Site, name: str, headers: dict[str, str], status: int
) -> None:
    await create(site, file("x"), file("y", inline={"text": "hi"}), file("z", upload={}, sizeBytes=5))
    assert (await put(site, name, A, **headers)).status == status
    assert recorded(site) == [{}, {}, {}]


async def test_an_absent_file_is_not_found_whatever_the_state(site: Site) -> None:
    await create(site, file("x"))
    for path in ("/artifacts/a/files/absent/content", "/artifacts/b/files/x/content"):
        for method in ("GET", "HEAD"):
            assert (await site.call(method, path)).status == 404
    other = await site.call("GET", "/artifacts/a/files/x/content", headers={"X-Tenant": "other"})
    assert other.status in {403, 404}


@pytest.mark.parametrize(
    ("source", "pointer"),
    [
        ({"secretRef": {"name": "s", "key": "k"}}, "/secretRef"),
        ({"url": {"url": "http://a.example/"}}, "/url/url"),
        ({"url": {"url": "https://u:p@a.example/"}}, "/url/url"),
        (
            {"files": [{"name": "x", "mediaType": "a/b", "secretRef": {"name": "s", "key": "k"}}]},
            "/files/0/secretRef",
        ),
        ({"files": []}, "/files"),
        ({"files": [{"name": "../x", "mediaType": "a/b", "upload": {}}]}, "/files/0/name"),
    ],
)
async def test_a_source_that_is_not_served_names_its_field(site: Site, source: Any, pointer: str) -> None:
    answer = await site.call("POST", "/artifacts", {"name": "a", "mediaType": "a/b", **source})
    assert (answer.status, answer.json["errors"][0]["pointer"]) == (422, pointer)
    assert site.cluster.find(names.ARTIFACTS, "a", NAMESPACE) is None


@pytest.mark.parametrize(
    "source",
    [
        {"url": {"url": "https://a.example/x?signature=canary"}},
        {"configMapRef": {"name": "c", "key": "k"}},
        {"object": {"digest": digests.of(A)}},
    ],
)
async def test_other_sources_are_passed_on(site: Site, source: dict[str, Any]) -> None:
    made = await site.call(
        "POST", "/artifacts", {"name": "a", "mediaType": "a/b", **source}, headers={"Prefer": "wait=0"}
    )
    assert (made.status, made.json["status"]) == (202, "pending")
    assert "canary" not in made.data.decode()
    found = site.cluster.find(names.ARTIFACTS, "a", NAMESPACE)
    assert found is not None
    assert found["spec"] == {"mediaType": "a/b", **source}
