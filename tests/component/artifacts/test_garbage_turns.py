"""Nobody who races is held up for ever, and garbage goes when nobody publishes it."""

import random
import threading
from pathlib import Path

from tests.component.artifacts.test_garbage_races import race_local, race_remote
from tests.component.artifacts.turns import ThreadTurns


def test_garbage_goes_when_nobody_publishes_it(tmp_path: Path) -> None:
    for kinds in (["collect"], ["collect", "collect again"]):
        for seed in range(10):
            rng = random.Random(seed)
            assert race_remote(kinds, rng.randrange)[0] is False
            for full in (False, True):
                root = tmp_path / f"{seed}-{len(kinds)}-{full}"
                assert race_local(kinds, rng.randrange, root, full=full)[0] is False


def test_threads_that_are_no_actors_are_never_held_up() -> None:
    turns = ThreadTurns(lambda _: 0)
    done = threading.Event()

    def step() -> None:
        turns.step()
        done.set()

    threading.Thread(target=step).start()
    assert done.wait(5)
