"""Bytes that were stored once and are damaged or missing: the same ones heal, by PUT and by a session."""

import asyncio
import os
from typing import Any

import pytest

from manifestry.adapters.quota import reservations
from manifestry.adapters.store.contract import ports
from manifestry.core.kube import names
from tests.unit.api.routes.site import NAMESPACE, TENANT_UID, Site, condition
from tests.unit.api.routes.uploading import DATA, DIGEST, artifact, begin, field, head, patch, recorded


async def lost(site: Site, reason: str, name: str = "a") -> None:
    """Upload, and do what the scrub does with bytes that it finds bad."""
    await artifact(site, name)
    headers = {"Content-Type": "application/zip"}
    done = await site.call("PUT", f"/artifacts/{name}/content", data=DATA, headers=headers)
    assert done.status == 202
    await site.world.ports.store.delete(TENANT_UID, DIGEST)
    say(site, name, reason, "False")


def say(site: Site, name: str, reason: str, status: str) -> None:
    found = site.cluster.find(names.ARTIFACTS, name, NAMESPACE)
    assert found is not None
    conditions = [condition("Ready", status, reason)]
    if status == "False":
        conditions.append(condition("Stalled", "True", reason))
    told = {
        "observedGeneration": found["metadata"].get("generation", 1),
        "artifact": {"digest": DIGEST, "sizeBytes": len(DATA)},
        "manifest": {"digest": DIGEST, "sizeBytes": len(DATA)},
        "conditions": conditions,
    }
    site.cluster.set_status(names.ARTIFACTS, name, NAMESPACE, told)


async def stored(site: Site) -> bytes | None:
    if await site.world.ports.store.head(TENANT_UID, DIGEST) is None:
        return None
    return await site.world.ports.store.read(TENANT_UID, DIGEST, limit_bytes=len(DATA))


@pytest.mark.parametrize("reason", ["Damaged", "Missing"])
async def test_a_session_with_the_same_bytes_heals(site: Site, reason: str) -> None:
    await lost(site, reason)
    path = await begin(site, **{"Upload-Length": str(len(DATA)), "Repr-Digest": field(DATA)})
    assert (await patch(site, path, 0, DATA[:1000])).status == 204
    assert await head(site, path) == (204, "1000", "?0")
    assert await stored(site) is None
    done = await patch(site, path, 1000, DATA[1000:], last=True)
    assert done.status == 202, done.data
    assert await stored(site) == DATA
    assert recorded(site) == {"digest": DIGEST, "sizeBytes": len(DATA)}
    assert await head(site, path) == (204, str(len(DATA)), "?1")


async def test_a_session_with_other_bytes_heals_nothing(site: Site) -> None:
    await lost(site, "Missing")
    path = await begin(site)
    refused = await patch(site, path, 0, DATA[::-1], last=True)
    assert (refused.status, refused.json["code"]) == (422, "digest-mismatch")
    assert await stored(site) is None
    assert (await head(site, path))[0] == 404
    longer = {"Upload-Length": str(len(DATA) + 1)}
    assert (await site.call("POST", "/artifacts/a/uploads", headers=longer)).status == 422
    other = {"Repr-Digest": field(b"other")}
    assert (await site.call("POST", "/artifacts/a/uploads", headers=other)).status == 422
    path = await begin(site)
    assert (await patch(site, path, 0, DATA + b"more", last=True)).status == 416


async def test_the_session_that_brought_the_bytes_cannot_bring_them_again(site: Site) -> None:
    await artifact(site)
    path = await begin(site)
    assert (await patch(site, path, 0, DATA, last=True)).status == 202
    await site.world.ports.store.delete(TENANT_UID, DIGEST)
    say(site, "a", "Missing", "False")
    await asyncio.sleep(0.1)  # until the cache has seen it
    refused = await patch(site, path, len(DATA), b"", last=True)
    assert (refused.status, "begin a new one" in refused.json["detail"]) == (409, True)
    path = await begin(site)
    assert (await patch(site, path, 0, DATA, last=True)).status == 202
    assert await stored(site) == DATA


async def test_a_session_heals_one_file(site: Site) -> None:
    files: list[dict[str, Any]] = [
        {"name": name, "mediaType": "application/zip", "upload": {}} for name in ("one", "two")
    ]
    body = {"name": "m", "mediaType": "application/zip", "files": files}
    assert (await site.call("POST", "/artifacts", body)).status == 202
    headers = {"Content-Type": "application/zip"}
    for name, data in (("one", DATA), ("two", b"second")):
        done = await site.call("PUT", f"/artifacts/m/files/{name}/content", data=data, headers=headers)
        assert done.status == 202
    await site.world.ports.store.delete(TENANT_UID, DIGEST)
    say(site, "m", "Missing", "False")
    made = await site.call("POST", "/artifacts/m/files/one/uploads")
    assert made.status == 201, made.data
    assert (await patch(site, made.headers["Location"], 0, DATA, last=True)).status == 202
    assert await stored(site) == DATA


async def test_a_repair_is_not_charged_once_more(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    await lost(site, "Missing")

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("these bytes are charged already")

    monkeypatch.setattr(reservations.Reservations, "hold", refuse)
    path = await begin(site)
    assert (await patch(site, path, 0, DATA, last=True)).status == 202
    assert await stored(site) == DATA


async def test_a_put_that_repairs_may_not_be_longer_than_what_was_stored(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    await lost(site, "Damaged")
    staged: list[int] = []
    stage = site.world.ports.store.stage

    async def watched(chunks: Any, *, limit_bytes: int) -> ports.Staged:
        staged.append(limit_bytes)
        return await stage(chunks, limit_bytes=limit_bytes)

    monkeypatch.setattr(site.world.ports.store, "stage", watched)
    headers = {"Content-Type": "application/zip"}
    assert (await site.call("PUT", "/artifacts/a/content", data=DATA + b"x", headers=headers)).status in {
        413,
        422,
    }
    assert (await site.call("PUT", "/artifacts/a/content", data=DATA, headers=headers)).status == 202
    assert await stored(site) == DATA
    assert staged == [len(DATA)] * len(staged)


async def test_a_sound_artifact_takes_no_session(site: Site) -> None:
    await lost(site, "Missing")
    await site.world.ports.store.put(TENANT_UID, DATA)
    say(site, "a", "Stored", "True")
    assert (await site.call("POST", "/artifacts/a/uploads")).status == 409


def shorten(site: Site) -> None:
    path = site.world.ports.store.local_path(TENANT_UID, DIGEST)
    assert path is not None
    os.truncate(path, len(DATA) - 1)


def replace(site: Site) -> None:
    path = site.world.ports.store.local_path(TENANT_UID, DIGEST)
    assert path is not None
    path.unlink()
    path.symlink_to("/etc/hostname")


async def unnoticed(site: Site, fault: str) -> None:
    """Upload, and let the bytes be gone, shortened or replaced while the status still says Ready."""
    await lost(site, "Missing")
    say(site, "a", "Stored", "True")
    if fault != "gone":
        await site.world.ports.store.put(TENANT_UID, DATA)
        (shorten if fault == "shorter" else replace)(site)


FAULTS = ["gone", "shorter", "replaced"]


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_put_of_the_same_bytes_heals_what_nobody_has_noticed_yet(site: Site, fault: str) -> None:
    await unnoticed(site, fault)
    headers = {"Content-Type": "application/zip"}
    other = await site.call("PUT", "/artifacts/a/content", data=DATA[::-1], headers=headers)
    assert (other.status, other.json["code"]) == (422, "digest-mismatch")
    done = await site.call("PUT", "/artifacts/a/content", data=DATA, headers=headers)
    assert done.status == 200, done.data
    assert await stored(site) == DATA


async def test_a_session_heals_what_nobody_has_noticed_yet(site: Site) -> None:
    await unnoticed(site, "gone")
    path = await begin(site)
    assert (await patch(site, path, 0, DATA[:9])).status == 204
    assert await head(site, path) == (204, "9", "?0")
    assert (await patch(site, path, 9, DATA[9:], last=True)).status == 200
    assert await stored(site) == DATA
    assert (await patch(site, path, len(DATA), b"", last=True)).status == 200  # it has not heard of it
    assert (await site.call("POST", "/artifacts/a/uploads")).status == 409


async def test_the_same_bytes_are_not_stored_twice(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    await unnoticed(site, "gone")
    await site.world.ports.store.put(TENANT_UID, DATA)
    monkeypatch.delattr(type(site.world.ports.store), "stage")
    headers = {"Content-Type": "application/zip"}
    assert (await site.call("PUT", "/artifacts/a/content", data=DATA, headers=headers)).status == 200
    other = await site.call("PUT", "/artifacts/a/content", data=DATA[::-1], headers=headers)
    assert (other.status, other.json["code"]) == (409, "conflict")
