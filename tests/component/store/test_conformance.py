"""Stores are tried before they are trusted: a folder, SeaweedFS, servers that break S3's promises."""

import asyncio
import contextlib
import errno
import fcntl
import os
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from manifestry.adapters.store import stores
from manifestry.adapters.store.contract import ports, session_ports
from manifestry.adapters.store.ownership import opening
from manifestry.core.artifacts import uploads
from manifestry.settings import StoreSettings
from tests.component.artifacts.garbageworld import Cluster, World, opened
from tests.faults import carelesss3
from tests.faults.carelesss3 import ALL, CREATE, EXPIRY, REPLACE, CarelessS3


@pytest.fixture(params=["local", "s3"])
async def ours(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    async with opened(request, tmp_path) as made:
        yield made


async def test_a_good_store_passes_and_nothing_is_left(ours: World) -> None:
    assert [await ours.raw.examine(removals=each) for each in (False, True)] == ["", ""]
    assert ours.keys("canary/") == []
    assert [row.reason for row in ours.guard.rows()] == ["", ""]


@pytest.mark.parametrize(
    ("kept", "wrong"),
    [
        (ALL, ""),
        (ALL - {CREATE}, "it ignores If-None-Match: *"),
        (ALL - {REPLACE}, "it ignores If-Match"),
        (ALL - {EXPIRY}, "it ignores X-Amz-Expires or the like"),
    ],
)
async def test_a_server_that_breaks_a_promise_is_not_written_to(kept: frozenset[str], wrong: str) -> None:
    with CarelessS3(kept) as server:
        settings = StoreSettings.from_mapping(server.settings())
        process = opening.Process(Cluster(), lambda _: "team", leads=True)
        found = opening.open_guarded(settings, process)
        is_well = await found.guard.check()
        rows = {row.name: row.reason for row in found.guard.rows()}
        assert wrong in rows["store-conformance"]
        if wrong:
            assert not is_well
            with pytest.raises(ports.StoreRefusedError, match=wrong[-20:].replace("*", r"\*")):
                await found.store.put(str(uuid.uuid4()), b"x")
            assert not any("owner" in key for key in server.objects.found), "it is not even claimed"
        else:
            assert (is_well, rows["store-ownership"]) == (True, "")
        assert not any("canary" in key for key in server.objects.found)
        await found.close()


async def test_two_appends_at_one_offset_are_never_both_acknowledged() -> None:
    """What a server that ignores conditions did before it was refused."""

    async def chunks(data: bytes) -> AsyncIterator[bytes]:
        yield data

    with CarelessS3(carelesss3.ALL - {CREATE}) as server:
        settings = StoreSettings.from_mapping(server.settings())
        found = opening.open_guarded(settings, opening.Process(Cluster(), lambda _: "team"))
        await found.guard.check()
        partial: session_ports.Sessions = found.sessions
        session = uploads.Session(str(uuid.uuid4()), str(uuid.uuid4()), "team", "a", str(uuid.uuid4()))
        answers = await asyncio.gather(
            *(partial.append(session, 0, chunks(each), limit_bytes=1) for each in (b"1", b"2")),
            return_exceptions=True,
        )
        assert [type(each) for each in answers] == [ports.StoreRefusedError] * 2
        await found.close()


def _no_lock(*_: object) -> None:
    """A file system that says yes to every lock."""


def _no_exclusion(path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
    return _OPEN(path, flags & ~os.O_EXCL, mode, dir_fd=dir_fd)


def _copying_rename(source: str, target: str, *, src_dir_fd: int, dst_dir_fd: int) -> None:
    """Leave the old name."""
    os.unlink(target, dir_fd=dst_dir_fd)
    os.link(source, target, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)


def _link_over(source: str, target: str, **where: Any) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(target, dir_fd=where["dst_dir_fd"])
    _LINK(source, target, **where)


_OPEN, _LINK = os.open, os.link


HABITS = {
    "flock": (fcntl, "flock", _no_lock),
    "O_EXCL": (os, "open", _no_exclusion),
    "rename": (os, "rename", _copying_rename),
    "link": (os, "link", _link_over),
}


@pytest.mark.parametrize("wrong", HABITS)
async def test_a_volume_with_a_bad_habit_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    process = opening.Process(Cluster(), lambda _: "team")
    found = opening.open_guarded(StoreSettings(store_path=str(tmp_path)), process)
    with monkeypatch.context() as patch:
        patch.setattr(*HABITS[wrong])
        assert not await found.guard.check()
    assert f"({wrong})" in found.guard.rows()[1].reason
    with pytest.raises(ports.StoreRefusedError):
        await found.store.put(str(uuid.uuid4()), b"x")
    assert await found.store.records().scan("") == []
    await found.close()


async def test_a_volume_without_links_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", no_links)
    used = stores.open_store(StoreSettings(store_path=str(tmp_path)))
    assert await used.examine(removals=True) == ""
    await used.close()


async def test_a_store_that_is_too_full_to_be_tried_may_be_emptied_and_not_filled(
    ours: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    blob = await ours.upload(b"there")
    fresh = World(ours.raw, ours.behind, ours.home)

    async def full(*, removals: bool) -> str:
        raise ports.StoreFullError("the object store is full")

    monkeypatch.setattr(ours.raw, "examine", full)
    assert not await fresh.guard.check()
    with pytest.raises(ports.StoreRefusedError, match="too full"):
        await fresh.store.put(ours.uid, b"x")
    await fresh.store.delete(ours.uid, blob.digest)
    assert await fresh.store.head(ours.uid, blob.digest) is None
    monkeypatch.undo()
    assert await fresh.guard.check()
