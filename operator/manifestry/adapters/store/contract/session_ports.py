"""What every kind of store promises about resumable uploads: their state is in the store, never in a pod.

An offset that a caller has been given is durable: whichever replica is asked next, after whatever restart,
the bytes before it are there. With each piece its digest is kept, as it was received, and sealing compares.
Two that append at one offset do not wait for each other: one wins, the other gets `OffsetError` and stops.
"""

from collections.abc import AsyncGenerator, AsyncIterator
from datetime import datetime
from typing import ClassVar, Final, Protocol

from manifestry.adapters.store.contract.ports import Chunk, Staged, StoreError
from manifestry.core import errors
from manifestry.core.artifacts import uploads

CHUNK_BYTES: Final = 1 << 20  # how large the pieces of a request's body are, at most


class SessionNotFoundError(StoreError):
    """There is no such session, or its bytes are gone."""

    kind = errors.NOT_FOUND


class OffsetError(StoreError):
    """The bytes do not begin where the stored ones end, or no more may come."""

    kind = errors.CONFLICT


class SessionLostError(StoreError):
    """The store has failed in such a way that nobody knows what is left of the upload: it was given up."""

    kind = errors.DEPENDENCY_UNAVAILABLE


class PieceDamagedError(StoreError):
    """The stored bytes are not those that were received; they were removed from `offset` on."""

    kind: ClassVar[errors.ErrorKind] = errors.CONFLICT

    def __init__(self, offset: int) -> None:
        super().__init__("stored bytes were damaged; send them again")
        self.offset = offset


class SessionLimitError(StoreError):
    """The tenant has as many sessions as it may."""

    kind: ClassVar[errors.ErrorKind] = errors.QUOTA_EXCEEDED

    def __init__(self, sessions: int) -> None:
        super().__init__("the tenant has too many unfinished uploads")
        self.sessions = sessions


def check_size(found: int, wanted: int | None) -> None:
    """Refuse to seal fewer or more bytes than whoever completes was told.

    Raises:
        OffsetError: somebody has appended, or damaged bytes were taken away, since.
    """
    if wanted not in {None, found}:
        raise OffsetError("there are not as many bytes as were acknowledged")


class Sessions(Protocol):
    """The resumable uploads in a store. Every method may raise `StoreUnavailableError`, as the store's do."""

    @property
    def piece_bytes(self) -> int:
        """Return how many bytes are held in memory before they are written."""
        ...

    async def create(self, session: uploads.Session, *, limit: int) -> uploads.Session:
        """Begin a session in one of the tenant's free slots.

        Returns:
            The session with its slot.

        Raises:
            SessionLimitError: the tenant has `limit` sessions or more; exact, however many ask at once.
        """
        ...

    async def head(self, session_id: str) -> uploads.State | None:
        """Return how far a session is, with an offset that is durable; None when there is no such session.

        Raises:
            KeyPartError: `session_id` is not a UUID.
        """
        ...

    async def append(
        self, session: uploads.Session, offset: int, chunks: AsyncIterator[Chunk], *, limit_bytes: int
    ) -> int:
        """Store more bytes at the end, and return the new end once they are durable.

        What was taken before an error stays as far as it is durable: `head` tells how much that is.

        Raises:
            OffsetError: `offset` is not the end, or somebody else writes there, or the session is sealed.
            SessionNotFoundError: the session is gone.
            SessionLostError: the store failed, and the session had to be given up.
            TooLargeError: more than `limit_bytes` came.
            StoreFullError: no room.
        """
        ...

    async def cut(self, session: uploads.Session, offset: int) -> None:
        """Remove the bytes from `offset` on, where an append once began; nothing happens without any.

        A bucket cannot move an end back without letting somebody append behind it: there the session goes.

        Raises:
            SessionNotFoundError: the session is gone.
            OffsetError: the session is sealed.
            SessionLostError: the session had to be given up.
        """
        ...

    async def seal(self, session: uploads.Session, *, size_bytes: int | None = None) -> Staged:
        """Hash the bytes and let no more come; the result can be published. Safe to repeat.

        Args:
            session: which.
            size_bytes: how many there must be, as whoever completes was told; None for as many as there are.

        Raises:
            SessionLostError: the store has other bytes than were received, and the session was given up.
            PieceDamagedError: the store has other bytes than were received; the wrong ones are removed.
            SessionNotFoundError: the session is gone.
            OffsetError: somebody appended meanwhile.
        """
        ...

    async def finish(self, session: uploads.Session) -> None:
        """Give the slot and the bytes free after they were published; what the session was stays readable."""
        ...

    async def abort(self, session: uploads.Session) -> None:
        """Remove a session with everything it has; nothing happens when it is gone."""
        ...

    def entries(self) -> AsyncGenerator[uploads.State | uploads.Leftover, None]:
        """Yield every session of every tenant, and what else lies below `uploads/`."""
        ...

    async def remove(self, leftover: uploads.Leftover) -> None:
        """Remove bytes that belong to no session."""
        ...

    async def free_slots(self, before: datetime) -> int:
        """Free the slots last written before `before` whose sessions are gone; return how many."""
        ...

    async def close(self) -> None:
        """Release threads and descriptors."""
        ...
