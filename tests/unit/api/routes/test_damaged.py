"""What the scrub has set aside, over HTTP: in pages, restored when it is sound, for administrators only."""

import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from manifestry.core.blobs import digests, garbagekeys
from manifestry_api.objects import views
from tests.unit.api.routes import site as sites
from tests.unit.api.routes.site import TENANT_UID, Site


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with sites.running(tmp_path) as found:
        yield found


def set_aside(root: Path, data: bytes, content: bytes | None = None, uid: str = TENANT_UID) -> str:
    """Put content where the damaged bytes of a digest are kept."""
    path = root / garbagekeys.quarantine(uid, digests.of(data))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if content is None else content)
    return digests.of(data)


async def test_what_is_set_aside_is_listed_and_said_until_when(site: Site, tmp_path: Path) -> None:
    digest = set_aside(tmp_path, b"ours", b"0urs")
    set_aside(tmp_path, b"theirs", uid=str(uuid.uuid4()))
    answer = await site.call("GET", "/damaged")
    assert answer.status == 200
    views.DamagedPage.model_validate(answer.json)
    (item,) = answer.json["items"]
    assert (item["digest"], item["sizeBytes"], item["reason"]) == (digest, 4, "DigestMismatch")
    assert item["since"] < item["until"]


@pytest.mark.parametrize("limit", [1, 2, 3, 100])
async def test_pages_show_everything_once(site: Site, tmp_path: Path, limit: int) -> None:
    made = {set_aside(tmp_path, b"%d" % number) for number in range(4)}
    old = tmp_path / garbagekeys.old_quarantine(TENANT_UID, digests.of(b"old"))
    old.write_bytes(b"old")
    seen: list[str] = []
    path = f"/damaged?limit={limit}"
    while path:
        page = (await site.call("GET", path)).json
        seen += [item["digest"] for item in page["items"]]
        token = page.get("continue")
        path = f"/damaged?limit={limit}&continue={token}" if token else ""
    assert sorted(seen) == sorted({*made, digests.of(b"old")})


async def test_a_token_of_another_list_is_refused(site: Site, tmp_path: Path) -> None:
    for number in range(2):
        set_aside(tmp_path, b"%d" % number)
        await site.world.ports.store.put(TENANT_UID, b"%d" % number)
    token = (await site.call("GET", "/damaged?limit=1")).json["continue"]
    assert (await site.call("GET", f"/garbage?limit=1&continue={token}")).status == 400
    token = (await site.call("GET", "/garbage?limit=1")).json["continue"]
    assert (await site.call("GET", f"/damaged?limit=1&continue={token}")).status == 400


async def test_sound_bytes_are_restored_and_damaged_ones_are_not(site: Site, tmp_path: Path) -> None:
    sound, damaged = set_aside(tmp_path, b"sound"), set_aside(tmp_path, b"damaged", b"damagee")
    answer = await site.call("POST", f"/damaged/{sound}/restore")
    assert (answer.status, answer.json) == (200, {"digest": sound, "sizeBytes": 5})
    views.RestoredView.model_validate(answer.json)
    stored = site.world.ports.store
    assert await stored.read(TENANT_UID, sound, limit_bytes=9) == b"sound"
    refused = await site.call("POST", f"/damaged/{damaged}/restore")
    assert (refused.status, refused.json["code"]) == (409, "conflict")
    assert await stored.head(TENANT_UID, damaged) is None
    listed = (await site.call("GET", "/damaged")).json["items"]
    assert [item["digest"] for item in listed] == [damaged]


@pytest.mark.parametrize("digest", [digests.of(b"no such"), "sha256:0", "..%2f..%2fx"])
async def test_what_is_not_set_aside_is_not_found(site: Site, digest: str) -> None:
    assert (await site.call("POST", f"/damaged/{digest}/restore")).status == 404


@pytest.mark.parametrize("role", ["viewer", "publisher", "operator"])
async def test_only_an_administrator_may_look_and_restore(site: Site, tmp_path: Path, role: str) -> None:
    digest = set_aside(tmp_path, b"sound")
    assert (await site.call("GET", "/damaged", role=role)).status == 403
    assert (await site.call("POST", f"/damaged/{digest}/restore", role=role)).status == 403
    assert await site.world.ports.store.head(TENANT_UID, digest) is None
