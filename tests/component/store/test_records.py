"""Small records beside the blobs: made at once or not at all, replaced by one only; whose the store is."""

import asyncio
import errno
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from manifestry.adapters.store import stores
from manifestry.adapters.store.contract import ports
from manifestry.adapters.store.ownership import owners as ownership_owners
from manifestry.core.blobs import garbagekeys
from manifestry.settings import StoreSettings
from tests.component.artifacts.garbageworld import Cluster
from tests.seaweed.server import S3Server

MINE, OTHER = "this-cluster", "another-cluster"
LATER = timedelta(hours=1)
# Dies where a file has its name and may not have its bytes yet: at the first write or link.
KILLED = """
import asyncio, os, signal, sys
from manifestry.adapters.store import stores
from manifestry.adapters.store.ownership import homes, owners
from manifestry.core.blobs import ownership
from manifestry.settings import StoreSettings
from datetime import datetime, UTC

class Home:
    async def look(self):
        return homes.Noted(ownership.Home("this-cluster"))

async def own(records):
    owner = owners.Owner(records, Home())
    return (await owner.claim(await owner.look(), datetime.now(UTC))).owner

at = int(sys.argv[1])
def killing(call):
    def killed(*args, **options):
        global at
        at -= 1
        if at == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*args, **options)
    return killed
for name in ("write", "fsync", "link", "unlink", "rename"):
    setattr(os, name, killing(getattr(os, name)))
used = stores.open_store(StoreSettings.from_mapping(os.environ))
owner = asyncio.run(own(used.records()))
os._exit(0 if owner == "this-cluster" else 1)
"""


async def own(used: ports.Store, uid: str, now: datetime) -> str:
    """Claim a store for a cluster if it is nobody's; return whose it is."""
    owner = ownership_owners.Owner(used.records(), Cluster(uid))
    return (await owner.claim(await owner.look(), now)).owner


@pytest.fixture(params=["local", "s3"])
async def used(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[ports.Store]:
    settings = {"MANIFESTRY_STORE_PATH": str(tmp_path)}
    if request.param == "s3":
        server: S3Server = request.getfixturevalue("s3")
        settings = server.settings() | {"MANIFESTRY_STORE_PREFIX": f"records-{uuid.uuid4()}"}
    opened = stores.open_store(StoreSettings.from_mapping(settings))
    yield opened
    await opened.close()


@pytest.mark.parametrize("call", range(1, 12))
def test_an_owner_that_is_killed_anywhere_leaves_a_store_that_can_be_owned(tmp_path: Path, call: int) -> None:
    settings = {"MANIFESTRY_STORE_PATH": str(tmp_path)}
    environment = {**os.environ, **settings}
    child = subprocess.run([sys.executable, "-c", KILLED, str(call)], env=environment, check=False)
    assert child.returncode in {0, -signal.SIGKILL}
    opened = stores.open_store(StoreSettings.from_mapping(settings))
    assert asyncio.run(own(opened, MINE, datetime.now(UTC))) == MINE


async def test_an_owner_is_the_first_one_for_ever(used: ports.Store) -> None:
    now = datetime.now(UTC)
    assert [await own(used, each, now + LATER) for each in (MINE, OTHER, MINE)] == [MINE] * 3


@pytest.mark.parametrize(
    "record", [b"", bytes(64), b'{"version": 1, "clust', b'{"version": 1, "clusterUid": "']
)
async def test_a_record_that_was_cut_off_before_its_owner_is_healed_when_it_is_old(
    used: ports.Store, record: bytes
) -> None:
    now = datetime.now(UTC)
    await used.records().write(garbagekeys.OWNER, record)
    assert await own(used, MINE, now) == "", "somebody may be writing it"
    owners = await asyncio.gather(*(own(used, each, now + LATER) for each in (MINE, OTHER)))
    assert len({*owners} & {MINE, OTHER}) == 1
    owner = await own(used, MINE, now + LATER)
    assert owner in owners
    assert await own(used, OTHER, now + LATER) == owner


@pytest.mark.parametrize("record", [b"{}", b"kept by hand", b'{"version": 1, "clusterUid": "this-clu'])
async def test_a_record_that_may_name_somebody_is_left_alone(used: ports.Store, record: bytes) -> None:
    await used.records().write(garbagekeys.OWNER, record)
    assert await own(used, MINE, datetime.now(UTC) + LATER) == ""
    assert await used.records().read(garbagekeys.OWNER, limit_bytes=4096) == record


async def test_of_many_that_replace_a_record_one_succeeds(used: ports.Store) -> None:
    records = used.records()
    assert not await records.replace("gc/owner.json", b"", b"mine"), "there is none"
    await records.write("gc/owner.json", b"old")
    assert not await records.replace("gc/owner.json", b"other", b"mine")
    wanted = [f"owner-{number}".encode() for number in range(12)]
    done = await asyncio.gather(*(records.replace("gc/owner.json", b"old", each) for each in wanted))
    winners = [each for each, won in zip(wanted, done, strict=True) if won]
    assert len(winners) == 1
    assert await records.read("gc/owner.json", limit_bytes=100) == winners[0]


async def test_of_many_that_create_a_record_one_succeeds_and_leaves_nothing_else(used: ports.Store) -> None:
    records = used.records()
    wanted = [f"owner-{number}".encode() for number in range(12)]
    made = await asyncio.gather(*(records.create("gc/owner.json", each) for each in wanted))
    winners = [each for each, item in zip(wanted, made, strict=True) if item is not None]
    assert len(winners) == 1
    assert await records.read("gc/owner.json", limit_bytes=100) == winners[0]
    assert await records.scan("uploads/") == []


async def test_a_file_system_without_links_serves_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", no_links)
    opened = stores.open_store(StoreSettings(store_path=str(tmp_path)))
    records = opened.records()
    assert await records.create("gc/owner.json", b"mine") is not None
    assert await records.create("gc/owner.json", b"other") is None
    assert await records.read("gc/owner.json", limit_bytes=100) == b"mine"
    await opened.close()
