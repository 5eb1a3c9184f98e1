"""Let every system call of every operation fail once, on small real file systems; the client goes on.

What is raised must be typed; nothing is half visible, nothing acknowledged is lost, what was refused can be
done again, and the janitor leaves nothing behind: `tests/faults/oracle.py`.
"""

import os
import shutil
import signal
import time
from collections import Counter
from datetime import timedelta
from pathlib import Path

import pytest

from tests.faults import clients, crashruns, inline, oracle, realdisks, scripts, syscalls
from tests.faults.injections import SHORT, Injection
from tests.faults.patient import PatientClient
from tests.faults.promises import Promises

SCRIPTS = {
    "upload": scripts.upload,
    "session": scripts.resumed,
    "collect": scripts.collected,
    "scrub": scripts.set_aside,
}
# Each call that changes something fails on each file system; the kinds of failure take turns, and change
# places between the two.
SHIFTS = {"ext4": 0, "xfs": 1}


def run(script: scripts.Script, root: Path, hook: Injection) -> Promises:
    """Run a script with a client that goes on after errors; return what it was told."""
    told: list[Promises] = []
    root.mkdir()

    async def work() -> None:
        client = PatientClient(root, told.append)
        await client.start()
        await script(client)
        await client.close()

    with syscalls.watched(root, hook):
        inline.run(work())
    return told[-1]


def age(root: Path) -> None:
    """Make everything old, as the oracle wants it."""
    then = time.time() - oracle.AGE_SECONDS
    for path in root.rglob("*"):
        os.utime(path, (then, then))


@pytest.mark.parametrize("name", SCRIPTS)
@pytest.mark.parametrize("kind", SHIFTS)
def test_a_call_that_fails_loses_nothing(
    kind: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clients.small(monkeypatch)
    wrong: list[str] = []
    done: Counter[str] = Counter()
    with crashruns.folder(tmp_path) as folder, realdisks.mounted(kind, folder) as disk:
        clean = Injection()
        run(SCRIPTS[name], disk / "clean", clean)
        for number, (call, faults) in enumerate(clean.calls):
            if kind == "xfs" and len(faults) == 1:
                continue  # what only looks fails alike on every file system
            picked = {
                faults[(number + SHIFTS[kind]) % len(faults)],
                *(each for each in faults if each == SHORT),
            }
            for fault in picked:
                done[fault] += 1
                root = disk / f"{number}-{fault}"
                try:
                    told = run(SCRIPTS[name], root, Injection(number, fault))
                    age(root)
                    inline.run(oracle.check(root, told, is_slow=False))
                except Exception as error:  # noqa: BLE001 - whatever it says, it is wrong
                    what = f"{type(error).__name__}: {error}".split("\n", maxsplit=1)[0]
                    wrong.append(f"call {number} ({call}, {fault}): {what}")
                shutil.rmtree(root, ignore_errors=True)
    print(f"{done.total()} injected errors in {name} on {kind}: {dict(done)}")
    assert not wrong, f"{len(wrong)} of {done.total()}:\n" + "\n".join(wrong[:20])


@pytest.mark.parametrize("name", SCRIPTS)
def test_signals_disturb_nothing(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """EINTR: a signal every half millisecond, at whatever call."""
    clients.small(monkeypatch)
    heard = 0

    def hear(*_: object) -> None:
        nonlocal heard
        heard += 1

    before = signal.signal(signal.SIGALRM, hear)
    signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
    try:
        told = run(SCRIPTS[name], tmp_path / "run", Injection())
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert heard
    age(tmp_path / "run")
    inline.run(oracle.check(tmp_path / "run", told, is_slow=False))


async def test_what_is_set_aside_outlives_the_next_collection(tmp_path: Path) -> None:
    """A5: however old the bytes were, their week begins when they are set aside."""
    client = clients.Client(tmp_path, lambda _: None)
    await client.start()
    bad = scripts.content("bad", 100)
    await client.upload(bad, "a")
    scripts.age(client)
    client.spoil(bad)
    scripts.age(client)
    await client.scrub()
    client.world.clock.ahead = timedelta()
    await client.collect(is_later=False)
    assert len([item async for item in client.world.inventory.quarantined(client.world.uid)]) == 1
    await client.close()
