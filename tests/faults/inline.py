"""An event loop whose threads are its own: what would run in a pool runs at once, so a run is repeatable."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class InlineLoop(asyncio.SelectorEventLoop):
    """Runs what blocks where it is asked for."""

    def run_in_executor(  # type: ignore[override]
        self, executor: object, func: Callable[..., T], *args: Any
    ) -> "asyncio.Future[T]":
        """Call the function now, and return a future that is done."""
        del executor
        done: asyncio.Future[T] = self.create_future()
        try:
            done.set_result(func(*args))
        except StopIteration:
            raise
        except Exception as error:  # noqa: BLE001 - it is the result, as in a pool
            done.set_exception(error)
        return done


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end without any thread."""
    with asyncio.Runner(loop_factory=InlineLoop) as runner:
        return runner.run(work)
