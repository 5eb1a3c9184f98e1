"""A client that is refused now and then, and does what the protocol says: ask, and go on from there."""

import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any, Final, TypeVar

from manifestry.adapters.store.contract import ports
from manifestry.core.artifacts import uploads
from tests.faults.clients import LIMIT_BYTES, Client
from tests.faults.promises import Upload

T = TypeVar("T")
_ATTEMPTS: Final = 3
_AT_ONCE: Final = timedelta(days=-1)


async def again(attempt: Callable[[], Awaitable[T]]) -> T:
    """Do something until it is not refused by a typed error, a few times at most."""
    for _ in range(_ATTEMPTS - 1):
        with contextlib.suppress(ports.StoreError):
            return await attempt()
    return await attempt()


class PatientClient(Client):
    """Goes on after errors of the store; those that are not typed are not suffered."""

    _renewed: dict[str, str]

    def __init__(self, *args: Any) -> None:
        self._renewed = {}
        self._failed: set[str] = set()
        super().__init__(*args)

    async def start(self) -> None:
        """Look at the store until it is ours."""
        with contextlib.suppress(AssertionError):
            await super().start()
        await super().start()

    async def inline(self, data: bytes, name: str) -> None:
        """Apply an artifact until it is ready."""
        await again(lambda: super(PatientClient, self).inline(data, name))

    async def upload(self, data: bytes, name: str, **spec: Any) -> None:
        """Send bytes until they are stored."""
        await again(lambda: super(PatientClient, self).upload(data, name, **spec))

    async def begin(self, data: bytes, name: str, *, says_length: bool = True) -> str:
        """Begin sessions until one is there."""
        return await again(lambda: super(PatientClient, self).begin(data, name, says_length=says_length))

    async def patch(self, session_id: str, count: int, *, broken_after: int | None = None) -> None:
        """Send bytes; when they are refused, ask how many are there, and send what is left of the piece."""
        current = self._current(session_id)
        end = self.promises.uploads[current].offset + count
        try:
            await super().patch(current, count, broken_after=broken_after)
        except ports.StoreError:
            self._failed.add(current)
            await again(lambda: self._go_on(session_id, end))

    async def _go_on(self, session_id: str, end: int) -> None:
        await self.head(session_id)
        current = self._current(session_id)
        left = min(end, LIMIT_BYTES) - self.promises.uploads[current].offset
        if left > 0:
            await super().patch(current, left)

    async def head(self, session_id: str) -> uploads.State:
        """Ask how far a session is; one that the store has given up, and said so, is begun anew."""
        current = self._current(session_id)
        state = await again(lambda: self.sessions.head(current))
        if state is None and current in self._failed:
            upload = self.promises.uploads[current]
            self.promises.uploads[current] = replace(upload, may_be_gone=True)
            self._renewed[session_id] = await self.begin(upload.data, upload.session.artifact_name)
        return await again(lambda: super(PatientClient, self).head(self._current(session_id)))

    async def complete(self, session_id: str) -> None:
        """Complete an upload until it is done."""
        for _ in range(_ATTEMPTS):
            current = self._current(session_id)
            try:
                await super().complete(current)
            except ports.StoreError:
                self._failed.add(current)
                if self._is_recorded(self.promises.uploads[current]):
                    return  # only the tidying up has failed
            else:
                return
        raise AssertionError("an upload cannot be completed")

    def _is_recorded(self, upload: Upload) -> bool:
        return upload.may_be_gone and self.world.ready(upload.session.artifact_name) == ("True", "Stored")

    async def stammer(self, session_id: str) -> None:
        """Seal and publish twice each, as far as it goes."""
        try:
            await super().stammer(self._current(session_id))
        except ports.StoreError:
            self._failed.add(self._current(session_id))

    async def has(self, data: bytes) -> bool:
        """Ask until there is an answer."""
        return await again(lambda: super(PatientClient, self).has(data))

    async def abort(self, session_id: str) -> None:
        """Delete a session until it is gone."""
        await again(lambda: super(PatientClient, self).abort(self._current(session_id)))

    async def sweep(self) -> None:
        """Let the janitor look until it has seen everything."""
        await again(super().sweep)

    async def collect(self, *, is_later: bool = True) -> None:
        """Let the collector run until it has succeeded."""

        async def attempt() -> None:
            await self.world.inventory.reap(_AT_ONCE)  # five minutes later
            await super(PatientClient, self).collect(is_later=is_later)

        await again(attempt)
        await again(lambda: self.world.inventory.reap(_AT_ONCE))

    async def scrub(self) -> None:
        """Let the scrub go round until nothing is in its way."""
        for _ in range(_ATTEMPTS):
            await super().scrub()
            await again(lambda: self.world.inventory.reap(_AT_ONCE))

    def _current(self, session_id: str) -> str:
        return self._renewed.get(session_id, session_id)
