"""What blocks, run in a pool of threads, bounded in time."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

T = TypeVar("T")

# Done whoever still waits for it: a wait that is cancelled takes what has not begun out of the queue, and a
# descriptor, or a staged file, would stay for as long as the process lives.
TIDYING: Final = frozenset({"close", "discard"})


async def run(
    pool: ThreadPoolExecutor, timeout_seconds: float, operation: str, function: Callable[..., T], *args: Any
) -> T:
    """Return what a function returns that is called in one of the threads.

    Args:
        pool: the threads.
        timeout_seconds: how long to wait; what has begun goes on after that.
        operation: what is done; one of TIDYING goes on also when it has not begun.
        function: what blocks.
        args: its arguments.

    Raises:
        TimeoutError: it takes longer.
    """
    begun = asyncio.get_running_loop().run_in_executor(pool, function, *args)
    async with asyncio.timeout(timeout_seconds):
        return await (asyncio.shield(begun) if operation in TIDYING else begun)
