"""Make a step of each system call that others can see, and let several facades go on one step at a time."""

import asyncio
import fcntl
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from manifestry.adapters.store.contract import holds
from tests.component.artifacts.turns import Choose, ThreadTurns
from tests.faults import inline, syscalls
from tests.faults.syscalls import Call, Kernel


class Turnstile:
    """A hook of `syscalls.watched`: who wants to pass waits for its turn, also who wants a lock.

    Whoever finds a lock taken lets somebody else go on for a step, whoever's turn it would be.

    Args:
        choose: given how many wait for their turn, returns which goes on.
    """

    def __init__(self, choose: Choose) -> None:
        self._choose = choose
        self._blocked: set[str] = set()
        self.turns = ThreadTurns(self._pick)

    def __call__(self, call: Call) -> Any:
        """Wait for the turn and make the call."""
        self.turns.step()
        self._blocked.clear()
        return self._locked(call) if call.name in syscalls.LOCKS else call.go()

    def give_way(self) -> None:
        """Let somebody else go on first, if anybody can."""
        self._blocked.add(threading.current_thread().name)
        self.turns.step()

    def _pick(self, count: int) -> int:
        index, order = self._choose(count), sorted(self.turns._waiting)
        free = [number for number, name in enumerate(order) if name not in self._blocked]
        return index if index in free or not free else free[0]

    def _locked(self, call: Call) -> None:
        fd, how = call.args
        while True:
            try:
                Kernel.flock(fd, how | fcntl.LOCK_NB)
            except BlockingIOError:
                if how & fcntl.LOCK_NB:
                    raise
                self.give_way()
            else:
                return


def interleaved(root: Path, choose: Choose, *actors: Callable[[], Coroutine[Any, Any, Any]]) -> list[Any]:
    """Run actors, each in a loop of its own, and return their results, an error being one.

    Args:
        root: the store's folder; calls on what lies below are steps.
        choose: given how many wait for their turn, returns which goes on.
        actors: what each does.
    """
    turnstile = Turnstile(choose)
    with _pausing(turnstile), syscalls.watched(root, turnstile):
        return turnstile.turns.run(*(_alone(actor) for actor in actors))


def _alone(actor: Callable[[], Coroutine[Any, Any, Any]]) -> Callable[[], Any]:
    return lambda: inline.run(actor())


@contextmanager
def _pausing(turnstile: Turnstile) -> Iterator[None]:
    """Let who waits for a claim to go wait for its turn instead."""

    async def pause(_: float) -> None:
        await asyncio.sleep(0)
        turnstile.give_way()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(holds, "asyncio", SimpleNamespace(sleep=pause))
        yield


class Preempting:
    """Lets the first actor do so many steps, then the second all of its own, then the first the rest.

    Args:
        first: which of the two begins, 0 or 1.
        steps: after how many steps the other one comes.
    """

    def __init__(self, first: int, steps: int) -> None:
        self._first, self._left = first, steps
        self.was_cut_short = False

    def __call__(self, count: int) -> int:
        """Return whose turn it is; with one left there is no choice."""
        if count == 1:
            return 0
        self._left -= 1
        if self._left >= 0:
            return self._first
        self.was_cut_short = True
        return 1 - self._first
