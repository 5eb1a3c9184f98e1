"""Cut the power at every point of every operation of the real local store, and hold it to what it said.

The rules of the file systems stand in `tests/faults/filesystems.py`, what must hold in
`tests/faults/oracle.py`, what is done in `tests/faults/scripts.py`. `make soak-store` takes more states, with
new seeds.
"""

import os
import stat
from pathlib import Path

import pytest

from tests.faults import crashruns, scripts, syscalls

LEAST = 10_000


@pytest.mark.parametrize("name", scripts.SCRIPTS)
def test_a_power_cut_takes_nothing_that_was_acknowledged(name: str, tmp_path: Path) -> None:
    with crashruns.folder(tmp_path) as folder:
        log = crashruns.record(scripts.SCRIPTS[name], folder / "run")
        crashruns.outcome(log, folder / "cut").verify()


def test_these_are_ten_thousand_states(tmp_path: Path) -> None:
    with crashruns.folder(tmp_path) as folder:
        logs = {name: crashruns.record(script, folder / name) for name, script in scripts.SCRIPTS.items()}
    counts = {name: sum(1 for _ in crashruns.distinct(log)) for name, log in logs.items()}
    print(sum(counts.values()), counts)
    assert sum(counts.values()) >= LEAST


@pytest.mark.parametrize("forgotten", ["the bytes", "the names"])
def test_a_store_that_forgets_a_sync_is_found_out(forgotten: str, tmp_path: Path) -> None:
    """Without its syncs the store loses bytes: so these tests would find it."""

    def forgets(call: syscalls.Call) -> bool:
        is_folder = call.name == "fsync" and stat.S_ISDIR(os.fstat(call.args[0]).st_mode)
        return call.name in syscalls.SYNCS and is_folder == (forgotten == "the names")

    with crashruns.folder(tmp_path) as folder:
        log = crashruns.record(scripts.upload, folder / "run", forgets)
        assert crashruns.outcome(log, folder / "cut", limit=20).failures
