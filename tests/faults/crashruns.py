"""Record a script, cut it everywhere, and check every state that a power cut may leave."""

import os
import random
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest

from tests.faults import clients, filesystems, images, inline, oracle, recorder, syscalls
from tests.faults.filesystems import Rules, State
from tests.faults.recorder import Log, Note
from tests.faults.scripts import Script
from tests.faults.syscalls import Call

# How many states at each point of a run, at most; a soak takes more of them, with a seed of its own.
LIMIT: Final = int(os.environ.get("MANIFESTRY_CRASH_LIMIT") or 60)
SEED: Final = int(os.environ.get("MANIFESTRY_CRASH_SEED") or 1)
_SHOWN: Final = 3


@dataclass
class Outcome:
    """What came of the states of one run.

    Args:
        counts: by operation, how many states were checked.
        failures: one line for each state that is wrong.
    """

    counts: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    def verify(self) -> None:
        """Fail when a state was wrong, and show the first ones."""
        total, wrong = self.counts.total(), len(self.failures)
        print(f"{total} crash states:", dict(self.counts))
        assert not wrong, f"{wrong} of {total} states are wrong:\n" + "\n".join(self.failures[:_SHOWN])


@contextmanager
def folder(otherwise: Path) -> Iterator[Path]:
    """Give a new folder, in memory if there is such."""
    with tempfile.TemporaryDirectory(dir=images.memory(otherwise), prefix="manifestry-crash-") as made:
        yield Path(made)


def record(script: Script, root: Path, forgets: Callable[[Call], bool] = lambda _: False) -> Log:
    """Run a script on a new store below `root` and return what it did to the files.

    Args:
        script: what to do.
        root: made here.
        forgets: tells which calls are left out.
    """
    root.mkdir()
    seen = recorder.Recorder(root)

    def hook(call: Call) -> Any:
        return None if forgets(call) else seen(call)

    async def run() -> None:
        client = clients.Client(root, seen.note)
        client.begins = seen.begin
        await client.start()
        await script(client)
        await client.close()

    with pytest.MonkeyPatch.context() as patch, syscalls.watched(root, hook):
        clients.small(patch)
        inline.run(run())
    return seen.log


def distinct(log: Log, seed: int = SEED, limit: int = LIMIT) -> Iterator[tuple[Rules, State]]:
    """Yield the states that differ in what is on the disk, or in what was told."""
    seen: set[tuple[int, int]] = set()
    for rules in Rules:
        for state in filesystems.states(log, rules, random.Random(seed), limit):
            key = (state.image.key, id(state.told))
            if key not in seen:
                seen.add(key)
                yield rules, state


def outcome(log: Log, where: Path, limit: int = LIMIT) -> Outcome:
    """Start the product in every state, and return what it did."""
    done = Outcome()
    with pytest.MonkeyPatch.context() as patch:
        clients.small(patch)
        for rules, state in distinct(log, limit=limit):
            done.counts[state.operation] += 1
            with images.materialised(state.image, where, oracle.AGE_SECONDS):
                try:
                    inline.run(oracle.check(where, state.told, is_slow=bool(state.point % 2)))
                except Exception as error:  # noqa: BLE001 - whatever it says, the state is wrong
                    done.failures.append(_describe(rules, state, log, error))
    return done


def _describe(rules: Rules, state: State, log: Log, error: Exception) -> str:
    done = (entry.change for entry in log.entries[: state.point])
    last = [type(each).__name__ + str(tuple(each)[:2]) for each in done if not isinstance(each, Note)]
    files = {path: len(state.image.contents[node]) for path, node in state.image.files.items()}
    what = f"{type(error).__name__}: {error}".split("\n", maxsplit=1)[0]
    where = f"{rules.value}, cut in {state.operation!r} after step {state.point}"
    return f"- {where} ({' '.join(last[-4:])}): {what}\n  on the disk: {files}"
