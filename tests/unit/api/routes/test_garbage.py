"""The dry run of the collector over HTTP: every blob with a reason, in pages, for administrators only."""

import os
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from manifestry.adapters.store import inventory
from manifestry.adapters.store.ownership import tenants
from manifestry.core.blobs import digests, garbage, garbagekeys, keys
from manifestry.core.blobs.tenantrecords import TenantRecord
from manifestry.core.kube import names
from manifestry_api.objects import views
from tests.unit.api.routes import site as sites
from tests.unit.api.routes.site import NAMESPACE, TENANT_UID, Site


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with sites.running(tmp_path) as found:
        yield found


async def stored(site: Site, tmp_path: Path, data: bytes, age_seconds: float, uid: str = TENANT_UID) -> str:
    """Store bytes that were published so long before the site's time."""
    digest = (await site.world.ports.store.put(uid, data)).digest
    then = site.world.ports.clock().timestamp() - age_seconds
    os.utime(tmp_path / keys.blob(uid, digest), (then, then))
    return digest


def artifact(name: str, namespace: str, digest: str) -> dict[str, Any]:
    return {
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"mediaType": "a/b", "object": {"digest": digest}},
    }


def times(root: Path) -> dict[Path, float]:
    return {path: path.stat().st_mtime for path in root.rglob("*") if path.is_file()}


async def test_every_blob_of_the_tenant_is_explained_and_nothing_is_changed(
    site: Site, tmp_path: Path
) -> None:
    used, pinned, young, loose, marked, expired = [
        await stored(site, tmp_path, b"%d" % n, 60 if n == 2 else 90_000) for n in range(6)
    ]
    await stored(site, tmp_path, b"theirs", 90_000, str(uuid.uuid4()))
    site.cluster.put(names.ARTIFACTS, artifact("report", NAMESPACE, used))
    site.cluster.put(names.ARTIFACTS, artifact("not-ours", "ns-other", loose))
    kept = inventory.Inventory(site.world.ports.store)
    gone = {"metadata": {"name": "gone", "namespace": NAMESPACE, "uid": str(uuid.uuid4())}}
    await kept.pin(TENANT_UID, gone["metadata"]["uid"], garbage.render_pin(gone, [pinned]))
    await kept.mark(TENANT_UID, [marked, expired])
    now = site.world.ports.clock().timestamp()
    for digest, age in ((marked, 60), (expired, 80_000)):
        os.utime(tmp_path / garbagekeys.mark(TENANT_UID, digest), (now - age, now - age))
    before = times(tmp_path)
    answer = await site.call("GET", "/garbage")
    assert answer.status == 200
    views.GarbagePage.model_validate(answer.json)
    said = {item["digest"]: (item["verdict"], item["reason"]) for item in answer.json["items"]}
    assert said == {
        used: ("keep", "Referenced"),
        pinned: ("keep", "Pinned"),
        young: ("keep", "Young"),
        loose: ("mark", "Unreferenced"),
        marked: ("keep", "Marked"),
        expired: ("remove", "Expired"),
    }
    referrers = {item["digest"]: item.get("referrers") for item in answer.json["items"]}
    assert (referrers[used], referrers[pinned], referrers[loose]) == (["report"], ["gone"], None)
    assert times(tmp_path) == before


@pytest.mark.parametrize("limit", [1, 3, 7, 100])
async def test_pages_show_every_blob_once(site: Site, tmp_path: Path, limit: int) -> None:
    made = {await stored(site, tmp_path, b"%d" % number, 90_000) for number in range(7)}
    seen: list[str] = []
    path = f"/garbage?limit={limit}"
    while path:
        page = (await site.call("GET", path)).json
        assert len(page["items"]) <= limit
        seen += [item["digest"] for item in page["items"]]
        path = f"/garbage?limit={limit}&continue={page['continue']}" if "continue" in page else ""
    assert seen == sorted(made)


async def test_bytes_of_an_earlier_namespace_of_this_name_are_listed_and_of_no_other(site: Site) -> None:
    raw = tenants.TenantRecords(site.world.ports.store.records())
    earlier, other = str(uuid.uuid4()), str(uuid.uuid4())
    for uid, namespace in ((earlier, NAMESPACE), (other, "ns-other")):
        await site.world.ports.store.put(uid, b"x")
        await raw.note(uid, TenantRecord("cluster", namespace))
        await raw.miss(uid)
    page = (await site.call("GET", "/garbage")).json
    views.GarbagePage.model_validate(page)
    assert [each["tenantUid"] for each in page["goneTenants"]] == [earlier]
    await raw.keep(earlier)
    assert "goneTenants" not in (await site.call("GET", "/garbage")).json


@pytest.mark.parametrize("role", ["viewer", "publisher", "operator"])
async def test_only_an_administrator_may_look(site: Site, role: str) -> None:
    assert (await site.call("GET", "/garbage", role=role)).status == 403


async def test_a_tenant_without_bytes_has_an_empty_page(site: Site) -> None:
    answer = await site.call("GET", "/garbage")
    assert (answer.status, answer.json["items"], answer.json["graceSeconds"]) == (200, [], 7200.0)


async def test_a_token_of_another_list_is_refused(site: Site, tmp_path: Path) -> None:
    for number in range(2):
        await stored(site, tmp_path, b"%d" % number, 0)
        site.cluster.put(names.ARTIFACTS, artifact(f"a{number}", NAMESPACE, digests.of(b"x")))
    for path in ("/artifacts?limit=1", "/garbage?limit=1"):
        token = (await site.call("GET", path)).json["continue"]
        other = "/garbage" if path.startswith("/artifacts") else "/artifacts"
        assert (await site.call("GET", f"{other}?limit=1&continue={token}")).status == 400


async def test_a_damaged_pin_is_said(site: Site, tmp_path: Path) -> None:
    await stored(site, tmp_path, b"x", 0)
    path = tmp_path / garbagekeys.pin(TENANT_UID, str(uuid.uuid4()))
    path.parent.mkdir(parents=True)
    path.write_bytes(b"{")
    answer = await site.call("GET", "/garbage")
    assert (answer.status, answer.json["code"]) == (500, "internal")
