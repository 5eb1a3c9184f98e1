"""The floor for new bytes: how much of a volume they leave free, and how often anybody looks."""

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from manifestry.adapters.store.contract import ports
from manifestry.adapters.store.local import room

MIB, GIB = 1 << 20, 1 << 30
BLOCK = 4096


class Volume:
    """Answers `statvfs` for a volume of these sizes, and counts."""

    def __init__(self, total_bytes: int, free_bytes: int, inodes: int = 0, free_inodes: int = 0) -> None:
        self.total_bytes, self.free_bytes = total_bytes, free_bytes
        self.inodes, self.free_inodes = inodes, free_inodes
        self.looks = 0

    def __call__(self, _: Path) -> os.statvfs_result:
        self.looks += 1
        blocks, free = self.total_bytes // BLOCK, self.free_bytes // BLOCK
        counts = (self.inodes, self.free_inodes + 7, self.free_inodes)  # root keeps some for itself
        return os.statvfs_result((BLOCK, BLOCK, blocks, free + 99, free, *counts, 0, 255))


@pytest.fixture
def volume(monkeypatch: pytest.MonkeyPatch) -> Volume:
    found = Volume(100 * GIB, 50 * GIB)
    monkeypatch.setattr(os, "statvfs", found)
    return found


@pytest.mark.parametrize(
    ("total", "floor"),
    [
        (0, 0),
        (24 * MIB, 3 * MIB),  # an eighth of a small volume: it stays of use
        (512 * MIB, 64 * MIB),
        (GIB, 64 * MIB),
        (6400 * MIB, 64 * MIB),
        (100 * GIB, GIB),  # one per cent of a large one
    ],
)
def test_the_floor_grows_with_the_volume(total: int, floor: int, volume: Volume) -> None:
    assert room.floor(total, room.RESERVE_BYTES) == floor
    volume.total_bytes, volume.free_bytes = total, floor
    assert room.Room(Path("/")).look(0) == 0
    with pytest.raises(ports.StoreFullError):
        room.Room(Path("/")).look(1)


def test_a_floor_of_ones_own_is_taken_as_it_is(volume: Volume) -> None:
    volume.total_bytes, volume.free_bytes = 8 * MIB, 6 * MIB
    assert room.Room(Path("/"), 6 * MIB).look(0) == 0
    with pytest.raises(ports.StoreFullError):
        room.Room(Path("/"), 7 * MIB).look(1)


def test_without_a_floor_nobody_looks(volume: Volume) -> None:
    volume.free_bytes = volume.free_inodes = 0
    assert room.Room(Path("/"), 0).look(GIB) == sys.maxsize
    room.Allowance(None).take(GIB)
    assert volume.looks == 0


@pytest.mark.parametrize(
    ("inodes", "free", "is_full"),
    [
        (0, 0, False),  # btrfs, FAT: not counted
        (1_000_000, 10_001, False),
        (1_000_000, 10_000, True),
        (2000, 251, False),  # a small volume again: an eighth
        (2000, 250, True),
        (50_000, 1024, True),
    ],
)
def test_inodes_have_a_floor_too(volume: Volume, inodes: int, free: int, is_full: bool) -> None:
    volume.inodes, volume.free_inodes = inodes, free
    if not is_full:
        assert room.Room(Path("/")).look(1) > 0
        return
    with pytest.raises(ports.StoreFullError):
        room.Room(Path("/")).look(1)


def test_a_long_upload_looks_seldom_while_there_is_much_room(volume: Volume) -> None:
    allowance = room.Allowance(room.Room(Path("/")))
    allowance.take()
    for _ in range(1024):
        allowance.take(MIB)
    assert volume.looks <= 17  # 1 GiB, each 64 MiB


def test_many_writers_at_once_pass_the_floor_by_a_batch_each_at_most(volume: Volume) -> None:
    volume.total_bytes, volume.free_bytes = GIB, 264 * MIB
    writers = [room.Allowance(room.Room(Path("/"))) for _ in range(64)]
    refused = 0
    while refused < len(writers):
        refused = 0
        for each in writers:
            try:
                each.take(MIB)
            except ports.StoreFullError:
                refused += 1
            else:
                volume.free_bytes -= MIB
    assert 60 * MIB < volume.free_bytes <= 65 * MIB


def test_the_store_s_folder_is_made_when_nothing_was_ever_written(tmp_path: Path) -> None:
    missing = tmp_path / "never" / "made"
    assert room.Room(missing).look(1) > 0
    assert missing.is_dir()


def test_a_volume_that_does_not_answer_is_no_full_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Any) -> os.statvfs_result:
        raise OSError(5, "input/output error")

    monkeypatch.setattr(os, "statvfs", refuse)
    with pytest.raises(OSError, match="input/output"):
        room.Room(Path("/")).look(1)
