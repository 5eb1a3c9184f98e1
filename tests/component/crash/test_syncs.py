"""Let each sync of each operation fail once: what it did not write is lost, and nobody is told again.

The kernel marks the pages of a failed sync clean: later syncs succeed, reads still show the bytes until the
cache is dropped. So after each run the cache is dropped, and what was acknowledged must be on the disk.
"""

import errno
import random
from pathlib import Path

import pytest

from tests.faults import clients, crashruns, filesystems, images, inline, oracle, recorder, syscalls
from tests.faults.filesystems import Rules
from tests.faults.patient import PatientClient
from tests.faults.recorder import Log, Note
from tests.faults.scripts import SCRIPTS, Script

CUTS = 4  # power cuts besides the dropped cache


def run(script: Script, root: Path, number: int) -> tuple[Log, int]:
    """Run a script with one failing sync; return what happened, and how many syncs there were."""
    root.mkdir()
    count = 0

    def fails() -> OSError | None:
        nonlocal count
        count += 1
        return OSError(errno.EIO, "the disk has lost it") if count - 1 == number else None

    seen = recorder.Recorder(root, fails)

    async def work() -> None:
        client = PatientClient(root, seen.note)
        await client.start()
        await script(client)
        await client.close()

    with pytest.MonkeyPatch.context() as patch, syscalls.watched(root, seen):
        clients.small(patch)
        inline.run(work())
    return seen.log, count


def check(log: Log, where: Path) -> list[str]:
    """Return what is wrong when the cache is dropped at the end, or the power cut."""
    *_, (_, disk) = filesystems.replay(log, Rules.ORDERED)
    told = [entry.change.value for entry in log.entries if isinstance(entry.change, Note)][-1]
    wrong = []
    for image in (disk.newest(), *disk.images(random.Random(0), CUTS)):
        with images.materialised(image, where, oracle.AGE_SECONDS):
            try:
                inline.run(oracle.check(where, told, is_slow=False))
            except Exception as error:  # noqa: BLE001 - whatever it says, something is lost
                wrong.append(f"{type(error).__name__}: {error}".split("\n", maxsplit=1)[0])
    return wrong


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_failed_sync_is_never_believed_later(name: str, tmp_path: Path) -> None:
    wrong: list[str] = []
    with crashruns.folder(tmp_path) as folder:
        _, syncs = run(SCRIPTS[name], folder / "clean", -1)
        for number in range(syncs):
            log, _ = run(SCRIPTS[name], folder / str(number), number)
            operation = next(e.operation for e in log.entries if isinstance(e.change, recorder.Lost))
            found = check(log, folder / "cut")
            wrong += [f"sync {number} of {syncs} ({operation}): {each}" for each in found[:1]]
    print(f"{syncs} failed syncs, {syncs * (1 + CUTS)} dropped caches and power cuts at most")
    assert not wrong, "\n".join(wrong)
