"""Metadata over REST: preconditions, deletion while in use, filters, manifests by digest, parameters."""

import asyncio
from typing import Any

import pytest

from manifestry.adapters.store.contract import ports
from manifestry.core.kube import names
from manifestry_api.objects import views
from tests.unit.api import world
from tests.unit.api.routes.metadata import DIGEST, JSON, MERGE, OTHER, STALE, artifact, change, put
from tests.unit.api.routes.site import NAMESPACE, TENANT_UID, Site, condition


async def test_what_is_not_there_is_404_whatever_the_conditions(site: Site) -> None:
    for method in ("GET", "HEAD", "DELETE"):
        answer = await site.call(method, "/artifacts/a", headers={"If-Match": STALE, "If-None-Match": "*"})
        assert answer.status == 404
    for method in ("PATCH", "PUT"):
        assert (await change(site, method, {}, If_Match="*")).status == 404


# RFC 9110 section 13. C is the current tag, W the same one weak, O another; None means the header is absent.
CONDITIONS = [
    (None, None, 200, "ok"),
    ("C", None, 200, "ok"),
    ("*", None, 200, "ok"),
    ("O, C", None, 200, "ok"),
    ("O", None, 412, 412),
    ("W", None, 412, 412),
    ("", None, 412, 412),
    ("junk", None, 412, 412),
    (None, "C", 304, 412),
    (None, "W", 304, 412),
    (None, "*", 304, 412),
    (None, "O, W", 304, 412),
    (None, "O", 200, "ok"),
    (None, "", 200, "ok"),
    ("C", "O", 200, "ok"),
    ("C", "C", 304, 412),
    ("O", "C", 412, 412),
    ("O", "O", 412, 412),
]


@pytest.mark.parametrize("kind", ["artifacts", "jobs"])
@pytest.mark.parametrize("row", CONDITIONS)
async def test_conditional_requests(
    site: Site, kind: str, row: tuple[str | None, str | None, int, int | str]
) -> None:
    if_match, if_none_match, read, write = row
    await put(site, artifact("a"))
    await site.call("POST", "/jobs", {"name": "a", "jobType": "render", "parameters": {"frames": 1}})
    path = f"/{kind}/a"
    current = (await site.call("GET", path)).headers["ETag"]
    forms = {"C": current, "W": f"W/{current}", "O": '"other"'}

    def tags(text: str) -> str:
        return ", ".join(forms.get(part, part) for part in text.split(", "))

    given = {"If-Match": if_match, "If-None-Match": if_none_match}
    headers = {name: tags(text) for name, text in given.items() if text is not None}
    dated = {**headers, "If-Modified-Since": "Mon, 04 May 2099 03:02:01 GMT"}
    for method, sent in (("GET", headers), ("HEAD", headers), ("GET", dated)):
        answer = await site.call(method, path, headers=sent)
        assert answer.status == read
        if read != 412:
            assert answer.headers["ETag"] == current
        if method == "HEAD" or read == 304:
            assert answer.data == b""
    if kind == "artifacts":
        for method in ("PATCH", "PUT"):
            media_type = (MERGE if method == "PATCH" else JSON)["Content-Type"]
            answer = await site.call(method, path, {}, headers={**headers, "Content-Type": media_type})
            assert answer.status == (200 if write == "ok" else write)
    else:
        answer = await site.call("POST", f"{path}/suspend", headers=headers)
        assert answer.status == (202 if write == "ok" else write)
        if write == "ok":
            return
    since = {**headers, "If-Unmodified-Since": "Mon, 04 May 1998 03:02:01 GMT"}
    deleted = await site.call("DELETE", path, headers=since)
    assert deleted.status == ({"artifacts": 204, "jobs": 202}[kind] if write == "ok" else write)


async def test_lines_of_a_header_are_one_list(site: Site) -> None:
    await put(site, artifact("a"))
    current = (await site.call("GET", "/artifacts/a")).headers["ETag"]
    for name, status in (("If-Match", 200), ("If-None-Match", 304)):
        headers = [*world.headers("viewer").items(), (name, STALE), (name, current)]
        async with site.session.get(site.base_url + "/artifacts/a", headers=headers) as answer:
            assert answer.status == status


async def test_an_artifact_in_use_is_not_deleted(site: Site) -> None:
    await put(site, artifact("a"), artifact("b"))
    for number in range(5):
        inputs = [{"name": "x", "artifactRef": {"name": "a"}, "path": "/x"}]
        body = {
            "metadata": {"name": f"j{number}", "namespace": NAMESPACE},
            "spec": {"jobType": "render", "inputs": inputs},
        }
        site.cluster.put(names.JOBS, body)
    jobs = site.world.ports.caches.jobs
    assert await jobs.wait_for((NAMESPACE, "j4"), lambda _: True, 5)
    answer = await site.call("DELETE", "/artifacts/a", headers={"If-Match": STALE})
    assert (answer.status, answer.json["code"]) == (409, "conflict")
    assert "'j0', 'j1', 'j2' and 2 more" in answer.json["detail"]
    assert (await site.call("DELETE", "/artifacts/b")).status == 204
    for number in range(4):
        status = {"conditions": [condition("Succeeded", "False" if number % 2 else "True", "X")]}
        site.cluster.set_status(names.JOBS, f"j{number}", NAMESPACE, status)
    site.cluster.remove(names.JOBS, "j4", NAMESPACE)
    async with asyncio.timeout(5):
        while (NAMESPACE, "j4") in jobs.items:  # noqa: ASYNC110 - deletions have no waiter
            await asyncio.sleep(0.01)
    assert (await site.call("DELETE", "/artifacts/a")).status == 204


async def listed(site: Site, query: str, path: str = "/artifacts") -> list[str]:
    answer = await site.call("GET", f"{path}?{query}", role="viewer")
    assert answer.status == 200, answer.json
    return sorted(each["id"] for each in answer.json["items"])


async def test_filters(site: Site) -> None:
    def at(hour: int, **labels: str) -> dict[str, Any]:
        return {"creationTimestamp": f"2026-05-04T{hour:02}:00:00Z", "labels": labels}

    files = {"files": [{"name": "f", "digest": OTHER, "sizeBytes": 1}]}
    await put(
        site,
        artifact("one", project="p", metadata=at(1, tier="web", env="prod")),
        artifact("two", project="q", mediaType="a/b", metadata=at(2, tier="db")),
        {**artifact("three", metadata=at(3)), "status": {"artifact": {"digest": DIGEST, "sizeBytes": 1}}},
        {**artifact("four", metadata=at(4)), "status": files},
    )
    for query, wanted in {
        "project=p": ["one"], "mediaType=a/b": ["two"], "name=three": ["three"], "name=..%2Fthree": [],
        f"digest={DIGEST}": ["three"], f"digest={OTHER}": ["four"],
        "labelSelector=tier": ["one", "two"], "labelSelector=tier%3Dweb": ["one"],
        "labelSelector=tier!=web": ["four", "three", "two"], "labelSelector=!tier": ["four", "three"],
        "labelSelector=tier in (web,db),env notin (prod)": ["two"],
        "labelSelector=": ["four", "one", "three", "two"],
        "createdAfter=2026-05-04T02:00:00Z": ["four", "three"],
        "createdAfter=2026-05-04T01:59:59.999Z": ["four", "three", "two"],
        "createdAfter=2026-05-04T05:00:00%2B02:00": ["four"],
        "labelSelector=tier&project=q&createdAfter=2026-05-04T01:00:00Z&mediaType=a/b&name=two": ["two"],
    }.items():  # fmt: skip
        assert await listed(site, query) == wanted, query


async def test_jobs_have_the_common_filters(site: Site) -> None:
    for name in ("a", "b"):
        await site.call("POST", "/jobs", {"name": name, "jobType": "render", "project": name})
    selector = f"labelSelector={names.PROJECT_LABEL}%3Da"
    assert await listed(site, "name=a", "/jobs") == await listed(site, "project=a", "/jobs") == ["a"]
    assert await listed(site, selector, "/jobs") == ["a"]
    assert await listed(site, "createdAfter=2026-05-04T03:02:00Z", "/jobs") == ["b"]
    assert await listed(site, "createdAfter=2099-05-04T03:02:00Z", "/jobs") == []


@pytest.mark.parametrize(
    ("query", "status", "where"),
    [
        ("labelSelector=a b", 400, "labelSelector"),
        ("labelSelector=(", 400, "labelSelector"),
        ("labelSelector=" + "a" * 1025, 422, "labelSelector"),
        ("createdAfter=yesterday", 422, "createdAfter"),
        ("createdAfter=5", 422, "createdAfter"),
        ("createdAfter=2026-05-04", 422, "createdAfter"),
        ("createdAfter=2026-05-04T00:00:00", 422, "createdAfter"),
        ("createdAfter=2026-05-04T00:00:00+02:00", 422, "createdAfter"),
        ("createdAfter=2026-13-04T00:00:00Z", 422, "createdAfter"),
        ("continue=nonsense", 400, "continue"),
        ("limit=0", 422, "limit"),
        ("bogus=1", 422, "bogus"),
    ],
)
@pytest.mark.parametrize("path", ["/artifacts", "/jobs"])
async def test_a_bad_filter_names_its_parameter(
    site: Site, path: str, query: str, status: int, where: str
) -> None:
    answer = await site.call("GET", f"{path}?{query}")
    assert answer.status == status, answer.json
    assert answer.json["errors"][0]["parameter"] == where


async def test_a_manifest_is_found_by_its_digest_for_as_long_as_an_artifact_has_it(site: Site) -> None:
    manifest = await site.world.ports.store.put(TENANT_UID, b'{"schemaVersion":2}')
    loose = await site.world.ports.store.put(TENANT_UID, b"nobody points here")
    await put(site, artifact("a"))
    path = f"/manifests/{manifest.digest}"
    assert (await site.call("GET", path)).status == 404
    site.make_ready("a", ports.Blob(DIGEST, 5), manifest)
    found = site.world.ports.caches.artifacts
    assert await found.wait_for((NAMESPACE, "a"), lambda body: "manifest" in body["status"], 5)
    answer = await site.call("GET", path, role="viewer")
    assert (answer.status, answer.data) == (200, b'{"schemaVersion":2}')
    assert answer.headers["Content-Type"] == "application/vnd.oci.image.manifest.v1+json"
    assert answer.headers["ETag"] == f'"{manifest.digest}"'
    assert answer.headers["Repr-Digest"].startswith("sha-256=:")
    assert (await site.call("GET", path, headers={"If-None-Match": answer.headers["ETag"]})).status == 304
    assert (await site.call("GET", path, headers={"If-Match": STALE})).status == 412
    for absent in (loose.digest, DIGEST, "sha256:..", "..%2F..", manifest.digest.upper()):
        assert (await site.call("GET", f"/manifests/{absent}")).status == 404
    assert (await site.call("GET", path, headers={"X-Tenant": "other"})).status == 404
    assert (await site.call("DELETE", "/artifacts/a")).status == 204
    assert (await site.call("GET", path)).status == 404


async def test_parameters_come_back_as_they_were_sent(site: Site) -> None:
    sent = {"frames": 24, "title": "24"}
    made = await site.call("POST", "/jobs", {"name": "j", "jobType": "render", "parameters": sent})
    assert made.json["parameters"] == sent
    read = await site.call("GET", "/jobs/j")
    assert read.json["parameters"] == sent
    views.JobView.model_validate(read.json)
    site.cluster.remove(names.JOB_TYPES, "render", "")
    async with asyncio.timeout(5):
        while site.world.ports.caches.job_types.items:  # noqa: ASYNC110 - deletions have no waiter
            await asyncio.sleep(0.01)
    again = await site.call("GET", "/jobs/j", headers={"If-None-Match": read.headers["ETag"]})
    assert (again.status, again.json["parameters"]) == (200, {"frames": "24", "title": "24"})
