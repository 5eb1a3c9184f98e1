"""What is retained of deleted artifacts, over HTTP: listed in pages and removed, by administrators only."""

import os
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from manifestry.adapters.store import inventory
from manifestry.core.blobs import garbage, garbagekeys
from manifestry.core.kube import names
from manifestry_api.objects import views
from manifestry_api.routes import retained
from tests.unit.api.routes import site as sites
from tests.unit.api.routes.site import NAMESPACE, TENANT_UID, Site

THEN = 1_750_000_000


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with sites.running(tmp_path) as found:
        yield found


async def pinned(
    site: Site, name: str, data: bytes, *, tenant_uid: str = TENANT_UID, is_old: bool = False
) -> str:
    """Pin bytes as the operator does; return the artifact's uid."""
    digest = (await site.world.ports.store.put(tenant_uid, data)).digest
    uid = str(uuid.uuid4())
    body = {"metadata": {"name": name, "namespace": NAMESPACE, "uid": uid}}
    content = garbage.render_pin(body, [digest], None if is_old else len(data))
    await inventory.Inventory(site.world.ports.store).pin(tenant_uid, uid, content)
    return uid


def live(site: Site, name: str, uid: str) -> None:
    body = {"metadata": {"name": name, "namespace": NAMESPACE, "uid": uid}, "spec": {"mediaType": "a/b"}}
    site.cluster.put(names.ARTIFACTS, body)


async def listed(site: Site, query: str = "") -> list[dict[str, Any]]:
    answer = await site.call("GET", f"/retained{query}")
    assert answer.status == 200, answer.data
    views.RetainedPage.model_validate(answer.json)
    return list(answer.json["items"])


async def test_what_is_retained_of_deleted_artifacts_is_listed(site: Site, tmp_path: Path) -> None:
    gone, old = await pinned(site, "gone", b"12345"), await pinned(site, "old", b"abc", is_old=True)
    path = tmp_path / garbagekeys.pin(TENANT_UID, gone)
    os.utime(path, (THEN, THEN))
    live(site, "lives", await pinned(site, "lives", b"x"))
    await pinned(site, "theirs", b"y", tenant_uid=str(uuid.uuid4()))
    found = {item["name"]: item for item in await listed(site)}
    assert {*found} == {"gone", "old"}
    digest = found["gone"]["digests"][0]
    assert found["gone"] == {
        "id": gone,
        "name": "gone",
        "tenant": "acme",
        "namespaceUid": TENANT_UID,
        "digests": [digest],
        "sizeBytes": 5,
        "since": "2025-06-15T15:06:40Z",
    }
    assert (found["old"]["id"], found["old"]["sizeBytes"]) == (old, 3)
    assert [item["id"] for item in await listed(site, "?name=gone")] == [gone]
    assert [item["id"] for item in await listed(site, f"?digest={digest}")] == [gone]
    assert await listed(site, f"?name=old&digest={digest}") == []


@pytest.mark.parametrize(("limit", "scanned"), [(1, 1000), (3, 1000), (7, 1000), (100, 1000), (100, 2)])
async def test_pages_show_each_once(
    site: Site, monkeypatch: pytest.MonkeyPatch, limit: int, scanned: int
) -> None:
    monkeypatch.setattr(retained, "SCANNED", scanned)
    made = {await pinned(site, f"a{number}", b"%d" % number) for number in range(7)}
    live(site, "lives", await pinned(site, "lives", b"x"))
    seen: list[str] = []
    query = f"?limit={limit}"
    while query:
        page = (await site.call("GET", f"/retained{query}")).json
        assert len(page["items"]) <= limit
        seen += [item["id"] for item in page["items"]]
        query = f"?limit={limit}&continue={page['continue']}" if "continue" in page else ""
    assert seen == sorted(made)


async def test_a_token_must_be_of_this_list_and_of_these_filters(site: Site) -> None:
    for number in range(2):
        await pinned(site, "a", b"%d" % number)
    token = (await site.call("GET", "/retained?limit=1")).json["continue"]
    assert (await site.call("GET", f"/retained?limit=1&name=a&continue={token}")).status == 400
    assert (await site.call("GET", f"/garbage?limit=1&continue={token}")).status == 400


async def test_what_is_removed_is_retained_no_longer_and_only_that(site: Site, tmp_path: Path) -> None:
    gone, other = await pinned(site, "gone", b"1"), await pinned(site, "other", b"2")
    assert (await site.call("DELETE", f"/retained/{gone}")).status == 204
    assert [item["id"] for item in await listed(site)] == [other]
    assert not (tmp_path / garbagekeys.pin(TENANT_UID, gone)).exists()
    assert (await site.call("DELETE", f"/retained/{gone}")).status == 404
    found = {item["digest"]: item["reason"] for item in (await site.call("GET", "/garbage")).json["items"]}
    assert sorted(found.values()) == ["Pinned", "Young"], "the bytes go by the collector, after the grace"


async def test_another_tenants_id_is_not_found(site: Site, tmp_path: Path) -> None:
    theirs = str(uuid.uuid4())
    uid = await pinned(site, "theirs", b"1", tenant_uid=theirs)
    for path in (uid, str(uuid.uuid4()), "x", uid.upper(), "..%2f" + uid):
        answer = await site.call("DELETE", f"/retained/{path}")
        assert (answer.status, answer.json["code"]) == (404, "not-found"), path
    assert (tmp_path / garbagekeys.pin(theirs, uid)).exists()


async def test_the_pin_of_an_artifact_that_exists_stays(site: Site) -> None:
    uid = await pinned(site, "lives", b"1")
    live(site, "lives", uid)
    answer = await site.call("DELETE", f"/retained/{uid}")
    assert (answer.status, answer.json["code"]) == (409, "conflict")
    unseen = await pinned(site, "unseen", b"2")
    body = {"metadata": {"name": "unseen", "namespace": NAMESPACE, "uid": unseen}}
    kind = f"{names.ARTIFACTS.group}/{names.ARTIFACTS.plural}"
    site.cluster.objects.setdefault(kind, {})[NAMESPACE, "unseen"] = body  # no watch has told it
    assert (await site.call("DELETE", f"/retained/{unseen}")).status == 409


async def test_the_bytes_of_one_that_was_made_anew_under_the_name_can_be_removed(site: Site) -> None:
    uid = await pinned(site, "again", b"1")
    live(site, "again", str(uuid.uuid4()))
    assert [item["id"] for item in await listed(site)] == [uid]
    assert (await site.call("DELETE", f"/retained/{uid}")).status == 204


async def test_a_damaged_pin_is_listed_and_can_be_removed(site: Site, tmp_path: Path) -> None:
    uid = str(uuid.uuid4())
    path = tmp_path / garbagekeys.pin(TENANT_UID, uid)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"{")
    (found,) = await listed(site)
    assert (found["id"], found["damaged"], found["digests"], found["sizeBytes"]) == (uid, True, [], 0)
    assert "name" not in found
    assert (await site.call("DELETE", f"/retained/{uid}")).status == 204
    assert not path.exists()


@pytest.mark.parametrize("role", ["viewer", "publisher", "operator"])
async def test_only_an_administrator_may_look_or_remove(site: Site, role: str) -> None:
    uid = await pinned(site, "gone", b"1")
    for method, path in (("GET", "/retained"), ("DELETE", f"/retained/{uid}")):
        assert (await site.call(method, path, role=role)).status == 403
    assert [item["id"] for item in await listed(site)] == [uid]


async def test_a_removal_is_audited_with_what_it_was_about(site: Site) -> None:
    uid = await pinned(site, "gone", b"1")
    await site.call("DELETE", f"/retained/{uid}")
    record = site.world.records.all[-1]
    assert (record["verb"], record["objectRef"]["resource"]) == ("delete", "retained")
    assert record["objectRef"]["name"] == uid
