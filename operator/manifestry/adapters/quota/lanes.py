"""The callers that wait for one ledger: they share one read, one pass of decisions and one write."""

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

T = TypeVar("T")
L = TypeVar("L")

_BACKOFF_SECONDS = 0.01
_BACKOFF_CAP_SECONDS = 0.25

Decide = Callable[[L], tuple[L, T]]


@dataclass
class Waiter(Generic[L, T]):
    """One caller: its decision, where its answer goes, and what follows from it even if nobody waits."""

    decide: Decide[L, T]
    future: "asyncio.Future[T]"
    then: Callable[[T], None] | None = None


@dataclass
class Lane(Generic[L]):
    """The callers that wait for one ledger, and the task that serves them."""

    waiting: list[Waiter[L, Any]] = field(default_factory=list)
    task: "asyncio.Task[None] | None" = None


Answer = tuple[Waiter[L, Any], Any, Exception | None]


def decide_all(ledger: L, batch: list[Waiter[L, Any]]) -> tuple[L, list[Answer[L]]]:
    """Decide for one after the other, each on what the one before has left."""
    answers: list[Answer[L]] = []
    for waiter in batch:
        try:
            ledger, answer = waiter.decide(ledger)
        except Exception as error:  # noqa: BLE001 - one caller's defect must not fail its batch
            answers.append((waiter, None, error))
        else:
            answers.append((waiter, answer, None))
    return ledger, answers


def answer_all(answers: list[Answer[L]]) -> None:
    """Give every caller that still waits its answer."""
    for waiter, answer, error in answers:
        if error is None and waiter.then is not None:
            waiter.then(answer)
        if waiter.future.done():
            continue
        if error is not None:
            waiter.future.set_exception(error)
        else:
            waiter.future.set_result(answer)


def fail_all(batch: list[Waiter[L, Any]], error: Exception) -> None:
    """Let every caller that still waits fail."""
    for waiter in batch:
        if not waiter.future.done():
            waiter.future.set_exception(error)


def backoff_seconds(attempt: int) -> float:
    """Return a random delay after the n-th lost race, so that callers do not march in step."""
    ceiling: float = min(_BACKOFF_CAP_SECONDS, _BACKOFF_SECONDS * 2**attempt)
    return random.uniform(0, ceiling)  # noqa: S311 - jitter, not a secret
