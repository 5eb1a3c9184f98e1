"""Schedulers that let several actors go on one step at a time, in an order that a test chooses."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any

Choose = Callable[[int], int]


class Turns:
    """Steps of coroutines in one event loop.

    Args:
        choose: given the number of actors that can go on, returns which does.
    """

    def __init__(self, choose: Choose) -> None:
        self._choose = choose
        self._waiting: list[asyncio.Future[None]] = []
        self.steps = 0

    async def step(self) -> None:
        """Wait for the turn; call it before each thing that others can see or change."""
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        await turn

    async def run(self, *actors: Coroutine[Any, Any, Any]) -> list[Any]:
        """Run the actors to their ends; return their results, an error being one."""
        everyone = asyncio.gather(*actors, return_exceptions=True)
        ready: Any = asyncio.get_running_loop()._ready  # type: ignore[attr-defined]
        while not everyone.done():
            await asyncio.sleep(0)
            if self._waiting and not ready:  # whoever can go on without a step has done so
                self.steps += 1
                self._waiting.pop(self._choose(len(self._waiting))).set_result(None)
        return list(everyone.result())


class ThreadTurns:
    """Steps of threads; a thread that is not an actor is never held up."""

    def __init__(self, choose: Choose) -> None:
        self._choose = choose
        self._changed = threading.Condition()
        self._waiting: list[str] = []
        self._live: set[str] = set()
        self._turn = ""
        self.steps = 0

    def step(self) -> None:
        """Wait for the turn."""
        me = threading.current_thread().name
        if me not in self._live:
            return
        with self._changed:
            self._waiting.append(me)
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._turn == me)
            self._turn = ""

    def run(self, *actors: Callable[[], Any]) -> list[Any]:
        """Run the actors to their ends; return their results, an error being one."""
        results: list[Any] = [None] * len(actors)
        names = [f"actor-{number}" for number in range(len(actors))]
        self._live = set(names)

        def act(number: int) -> None:
            try:
                results[number] = actors[number]()
            except Exception as error:  # noqa: BLE001 - it is the result
                results[number] = error
            with self._changed:
                self._live.discard(names[number])
                self._changed.notify_all()

        threads = [threading.Thread(target=act, args=(n,), name=names[n]) for n in range(len(actors))]
        for thread in threads:
            thread.start()
        while self._go_on():
            pass
        for thread in threads:
            thread.join()
        return results

    def _go_on(self) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: not self._turn and len(self._waiting) == len(self._live))
            if not self._live:
                return False
            self.steps += 1
            order = sorted(self._waiting)
            self._turn = order[self._choose(len(order))]
            self._waiting.remove(self._turn)
            self._changed.notify_all()
            return True
