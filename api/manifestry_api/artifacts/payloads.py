"""The body of one append: charged to the quota and hashed as it comes; a break ends it, what came stays."""

import hashlib
from collections.abc import AsyncIterator

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from manifestry.adapters.quota import reservations
from manifestry.adapters.store.contract import ports
from manifestry.core import errors
from manifestry.core.blobs import digests
from manifestry_api.artifacts import uploads
from manifestry_api.wire import intakes


class Payload:
    """An iterator over a request's body that never raises; `broken` says why it ended early.

    Args:
        request: whose body.
        hold: the charge that grows with it.
        charged: how many bytes of the upload are stored already, and charged.
        digest: what the body must hash to; None if nobody has said, then it is not hashed.
    """

    def __init__(
        self, request: Request, hold: reservations.Hold, charged: int, digest: str | None = None
    ) -> None:
        self._request = request
        self._hold = hold
        self._charged = charged
        self._stated = digest
        self._hash = hashlib.sha256()
        self.broken: errors.Problem | None = None

    @property
    def is_promised(self) -> bool:
        """Tell whether somebody has said what the body must hash to."""
        return self._stated is not None

    def check(self) -> None:
        """Refuse a body that broke off or is not what its digest says.

        Raises:
            Problem: why it ended, or digest-mismatch.
        """
        if self.broken is not None:
            raise self.broken
        found = f"{digests.ALGORITHM}:{self._hash.hexdigest()}"
        if self._stated is not None and not digests.equal(self._stated, found):
            raise uploads.mismatch(f"the piece's digest must be {self._stated}, it is {found}")

    def __aiter__(self) -> AsyncIterator[ports.Chunk]:
        """Return the body's chunks."""
        return self._chunks()

    async def _chunks(self) -> AsyncIterator[ports.Chunk]:
        intakes.want(self._request.scope)
        try:
            async for chunk in self._request.stream():
                self._charged += len(chunk)
                await self._hold.grow(self._charged)
                if self._stated is not None:
                    self._hash.update(chunk)
                yield chunk
        except ClientDisconnect:
            self.broken = errors.Problem(errors.BAD_REQUEST, "the client left before the last byte")
        except HTTPException as error:  # the middleware's bounds of size and time
            kind = errors.PAYLOAD_TOO_LARGE if error.status_code == 413 else errors.BAD_REQUEST
            self.broken = errors.Problem(kind, str(error.detail))
        except errors.Problem as problem:
            self.broken = problem
