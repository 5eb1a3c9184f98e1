"""The body of one append: charged to the quota and hashed as it comes; a break ends it, what came stays."""

import hashlib
from collections.abc import AsyncIterator

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from manifestry.adapters import reservations
from manifestry.core import digests, errors


class Payload:
    """An iterator over a request's body that never raises; `broken` says why it ended early.

    Args:
        request: whose body.
        hold: the charge that grows with it.
        offset: how many bytes of the upload are stored already, and charged.
    """

    def __init__(self, request: Request, hold: reservations.Hold, offset: int) -> None:
        self.request = request
        self._hold = hold
        self._end = offset
        self._hash = hashlib.sha256()
        self.broken: errors.Problem | None = None

    @property
    def digest(self) -> str:
        """Return the digest of what has come."""
        return f"{digests.ALGORITHM}:{self._hash.hexdigest()}"

    def __aiter__(self) -> AsyncIterator[bytes]:
        """Return the body's chunks."""
        return self._chunks()

    async def _chunks(self) -> AsyncIterator[bytes]:
        try:
            async for chunk in self.request.stream():
                await self._hold.grow(self._end + len(chunk))
                self._end += len(chunk)
                self._hash.update(chunk)
                yield chunk
        except ClientDisconnect:
            self.broken = errors.Problem(errors.BAD_REQUEST, "the client left before the last byte")
        except HTTPException as error:  # the middleware's bounds of size and time
            kind = errors.PAYLOAD_TOO_LARGE if error.status_code == 413 else errors.BAD_REQUEST
            self.broken = errors.Problem(kind, str(error.detail))
        except errors.Problem as problem:
            self.broken = problem
