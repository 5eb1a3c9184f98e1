"""Tasks that a process cannot live without: when one ends, whichever and why ever, the process ends."""

import asyncio
import logging
from collections.abc import Coroutine, Iterable
from typing import Any

_logger = logging.getLogger(__name__)

Task = asyncio.Task[Any]


class Vitals:
    """Starts such tasks, watches over all of them at once, and ends them."""

    def __init__(self) -> None:
        self._tasks: list[Task] = []

    def start(self, name: str, work: Coroutine[Any, Any, Any]) -> Task:
        """Start a task; its name is what the log says when it ends."""
        task = asyncio.create_task(work, name=name)
        self._tasks.append(task)
        return task

    async def race(self, work: Coroutine[Any, Any, Any]) -> bool:
        """Do something that ends; tell whether it did before any of the tasks.

        Raises:
            Exception: whatever `work` raises.
        """
        task = asyncio.create_task(work)
        try:
            await asyncio.wait({task, *self._tasks}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                report([vital for vital in self._tasks if vital.done()])
                return False
            task.result()
            return True
        finally:
            await end(task)

    async def wait(self) -> None:
        """Wait until the first task ends, and say which and why."""
        done, _ = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        report(done)

    async def close(self) -> None:
        """End all tasks."""
        await end(*self._tasks)


def report(done: Iterable[Task]) -> None:
    """Say which tasks have ended, and why."""
    for task in done:
        error = None if task.cancelled() else task.exception()
        _logger.log(
            logging.ERROR if error else logging.INFO,
            "task ended",
            extra={"task": task.get_name(), "error": str(error) if error else ""},
            exc_info=error,
        )


async def end(*tasks: Task, grace_seconds: float = 0.0) -> None:
    """Wait for tasks that were asked to end, cancel those that do not; their errors were reported before."""
    waiting = [task for task in tasks if not task.done()]
    if waiting and grace_seconds:
        _, late = await asyncio.wait(waiting, timeout=grace_seconds)
        waiting = list(late)
    for task in waiting:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
