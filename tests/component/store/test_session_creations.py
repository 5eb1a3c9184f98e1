"""A disk that hangs while a session begins: nobody was told of it, so nothing may stay of it."""

import asyncio
import itertools
import os
import threading
import uuid
from pathlib import Path

import pytest

from manifestry.adapters import offers
from manifestry.adapters.store.contract import ports, session_ports
from manifestry.adapters.store.local import sessions
from manifestry.core.artifacts import uploads

TENANT = str(uuid.uuid4())
TIMEOUT_SECONDS = 0.3


class HungDisk:
    """Lets the n-th sync wait until the disk goes on."""

    def __init__(self, number: int) -> None:
        self.going_on = threading.Event()
        self._number, self._count, self._sync = number, itertools.count(1), os.fsync
        self.calls = 0

    def fsync(self, fd: int) -> None:
        self.calls = next(self._count)
        if self.calls == self._number:
            self.going_on.wait(20)
        self._sync(fd)


def wanted() -> uploads.Session:
    return uploads.Session(str(uuid.uuid4()), TENANT, "team", "a", "u")


def uploads_in(folder: Path) -> set[str]:
    return {path.name.partition(".")[0] for path in (folder / "uploads").iterdir()}


async def begun(used: sessions.LocalSessions) -> str:
    """Begin a session as soon as the tenant's only slot is free; return its id."""
    async with asyncio.timeout(5):
        while True:
            try:
                return (await used.create(wanted(), limit=1)).session_id
            except session_ports.SessionLimitError:
                await asyncio.sleep(0.01)


async def test_a_session_that_came_too_late_for_its_caller_is_undone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in itertools.count(1):
        folder, disk = tmp_path / str(number), HungDisk(number)
        used = sessions.LocalSessions(folder, timeout_seconds=TIMEOUT_SECONDS)
        monkeypatch.setattr(os, "fsync", disk.fsync)
        try:
            await used.create(wanted(), limit=1)
        except ports.StoreUnavailableError:
            disk.going_on.set()
            again = await begun(used)
            async with asyncio.timeout(5):
                while uploads_in(folder) != {again}:  # noqa: ASYNC110 - nobody tells
                    await asyncio.sleep(0.01)
        else:
            assert disk.calls < number  # one more than there are
            break
        finally:
            await used.close()
    assert number > 4


def test_what_was_offered_is_unmade_by_one_of_both_and_only_when_it_is_not_taken() -> None:
    early, late = offers.Offer[int](), offers.Offer[int]()
    assert early.make(7)
    assert early.leave() == 7
    assert late.leave() is None
    assert not late.make(7)
