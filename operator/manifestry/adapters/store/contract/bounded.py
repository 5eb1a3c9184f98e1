"""Many small requests, some at once."""

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any, Final, TypeVar

IN_FLIGHT: Final = 16

T = TypeVar("T")


async def each(calls: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Await calls, `IN_FLIGHT` at once; the first error is raised when all under way have ended."""
    results: list[T] = []
    pending = list(calls)
    for start in range(0, len(pending), IN_FLIGHT):
        answers = await asyncio.gather(*pending[start : start + IN_FLIGHT], return_exceptions=True)
        errors = [answer for answer in answers if isinstance(answer, BaseException)]
        if errors:
            for call in pending[start + IN_FLIGHT :]:
                call.close()
            raise errors[0]
        results += [answer for answer in answers if not isinstance(answer, BaseException)]
    return results
