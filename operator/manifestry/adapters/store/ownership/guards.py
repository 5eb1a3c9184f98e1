"""Whether this process may write to its store: denied until the store was found to be ours and to work.

A store can be swapped under a running process, so the owner is asked for again and again; the store's habits
are tried once, at the start, as a process has the same settings for its whole life.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from manifestry.adapters import clock as clocks
from manifestry.adapters.kube import apierrors
from manifestry.adapters.store.contract import ports
from manifestry.adapters.store.ownership import owners
from manifestry.core.blobs.ownership import State

PERIOD_SECONDS: Final = 30.0
UNWELL_PERIOD_SECONDS: Final = 5.0
LOOK_SECONDS: Final = 120.0  # one look with all its requests
STALE_SECONDS: Final = 300.0  # what was confirmed is believed so long while nobody answers
LEADERS_PERIOD_SECONDS: Final = 60.0
SWEEP_SECONDS: Final = 3600.0
UNKNOWN: Final = "its owner could not be asked for yet"
NOT_YET: Final = "not looked at yet"

Examine = Callable[[], Awaitable[str]]

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Row:
    """A row of a health answer.

    Args:
        reason: empty when all is well.
        age_seconds: since it was last known; None when it never was.
    """

    name: str
    reason: str
    age_seconds: float | None


class Guard:
    """Says whether a store may be written to.

    Args:
        owner: of the store.
        examine: tries what the store must do; returns what it does wrong.
        clock: time.
        leads: whether this process is the leader, who moves the record on.
    """

    def __init__(
        self,
        owner: owners.Owner,
        examine: Examine,
        clock: clocks.Clock | None = None,
        *,
        leads: bool = False,
    ) -> None:
        self._owner = owner
        self._examine = examine
        self._clock = clock or clocks.SystemClock()
        self._leads = leads
        self._looking = asyncio.Lock()
        self._ownership, self._conformance = NOT_YET, NOT_YET
        self._is_full = False
        self._was_ours = False
        self._cluster_uid = ""
        self._looked = self._confirmed = self._examined = float("-inf")
        self._advanced = self._swept = float("-inf")

    def require(self) -> None:
        """Let new bytes in.

        Raises:
            StoreRefusedError: the store is not known to be ours, or to do what it must.
        """
        wrong = self._conformance if self._examined > float("-inf") else ""
        reason = wrong or self._owner_reason() or self._conformance
        if reason:
            raise ports.StoreRefusedError(f"the object store may not be written to: {reason}")

    def require_owner(self) -> None:
        """Let something of ours be changed or removed; a store that is too full to be tried must be emptied.

        Raises:
            StoreRefusedError: the store is not known to be ours, or does something wrong.
        """
        if self._is_full and not self._owner_reason():
            return
        self.require()

    def _owner_reason(self) -> str:
        if self._ownership:
            return self._ownership
        is_stale = self._clock.monotonic() - self._confirmed > STALE_SECONDS
        return "its owner could not be asked for lately" if is_stale else ""

    @property
    def is_ours(self) -> bool:
        """Tell whether the store is known to be this cluster's."""
        return not self._owner_reason()

    @property
    def cluster_uid(self) -> str:
        """Return our cluster's uid, empty until it is known."""
        return self._cluster_uid

    def rows(self) -> tuple[Row, Row]:
        """Return what readiness shows."""
        now = self._clock.monotonic()
        return (
            Row("store-ownership", self._owner_reason(), _age(now - self._looked)),
            Row("store-conformance", self._conformance, _age(now - self._examined)),
        )

    async def run(self) -> None:
        """Look for ever."""
        while True:
            is_well = await self.check()
            await self._clock.sleep(PERIOD_SECONDS if is_well else UNWELL_PERIOD_SECONDS)

    async def check(self) -> bool:
        """Look once, within a bounded time; tell whether the store may be written to."""
        before = (self._ownership, self._conformance)
        try:
            async with asyncio.timeout(LOOK_SECONDS), self._looking:
                await self._look()
        except (ports.StoreError, apierrors.ApiError, TimeoutError) as error:
            if self._ownership == NOT_YET or self._ownership.startswith(UNKNOWN):
                self._ownership = f"{UNKNOWN} ({type(error).__name__})"
            _logger.warning(
                "the store's owner is not known", extra={"error": f"{type(error).__name__}: {error}"}
            )
        if before != (self._ownership, self._conformance):
            _logger.info(
                "store guard changed",
                extra={"ownership": self._ownership, "conformance": self._conformance},
            )
        return not self._owner_reason() and not self._conformance

    async def _look(self) -> None:
        seen = await self._owner.look()
        self._cluster_uid = seen.noted.home.cluster_uid
        if seen.state is State.ABSENT and self._was_ours:
            self._decide(State.VANISHED)
            return
        if seen.state is State.OURS:
            self._decide(State.OURS)
        if seen.state in {State.OURS, State.ABSENT, State.BLANK}:
            await self._try()
        if self._conformance == "" and seen.state in {State.ABSENT, State.BLANK}:
            seen = await self._owner.claim(seen, self._clock.now())
        self._decide(seen.state, seen.owner)
        if seen.state is State.OURS and self._leads and not self._conformance:
            await self._lead(seen)

    def _decide(self, state: State, owner: str = "") -> None:
        self._looked = self._clock.monotonic()
        self._ownership = state.value
        if state is State.OURS:
            self._was_ours, self._confirmed = True, self._looked
        elif state is State.FOREIGN:
            self._ownership = f"{state.value} ({owner})"

    async def _try(self) -> None:
        """Try the store's habits, until that was possible once."""
        if self._examined > float("-inf"):
            return
        try:
            self._conformance = await self._examine()
        except ports.StoreFullError:
            self._is_full = True
            self._conformance = "the store is too full to be tried"
            return
        self._is_full = False
        self._examined = self._clock.monotonic()

    async def _lead(self, seen: owners.Look) -> None:
        """Move the record on now and then; the next look tells what came of it.

        A full store cannot be moved on, and is ours all the same.
        """
        now = self._clock.monotonic()
        if now - self._advanced >= LEADERS_PERIOD_SECONDS:
            self._advanced = now
            await self._owner.advance(seen, self._clock.now())
        if now - self._swept >= SWEEP_SECONDS:
            self._swept = now
            await self._owner.sweep(self._clock.now())


def _age(seconds: float) -> float | None:
    return None if seconds == float("inf") else seconds
