"""Bytes on their way to the store, charged to a tenant's storage quota before the first one is accepted.

Use::

    upload = Upload(file)              # one for each: any number may run for one artifact
    async with ports.reservations.hold(caller, uid, name, size_bytes, upload=upload) as held:
        async for chunk in chunks:
            total += len(chunk)
            await held.grow(total)     # before the chunk is stored; mostly without any request
        await held.land(blob)          # before the bytes are recorded: now the artifact owns the charge
"""

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Protocol

from manifestry.adapters.kube import apierrors
from manifestry.adapters.quota.books import LedgerError, NotReadyError
from manifestry.adapters.quota.storagebooks import StorageBooks
from manifestry.adapters.store.contract import ports
from manifestry.core import errors
from manifestry.core.quota.storage import charges
from manifestry.core.quota.storage import limits as storage_limits
from manifestry.core.quota.storage.charges import LEASE, Charge
from manifestry.core.quota.storage.grants import Grant, Wanted
from manifestry.core.quota.storage.limits import UNLIMITED, Limits

_logger = logging.getLogger(__name__)

LEASE_SECONDS = LEASE.total_seconds()
FRESH_SHARE = 0.5  # of a lease; what is left outlasts the 34 s of a write to the Kubernetes API
NOT_READY_SECONDS = 3.0  # a quota that is new gets its ledger in this time
NOT_READY_PAUSE_SECONDS = 0.1
RETRY_AFTER_SECONDS = 5


class Tenant(Protocol):
    """Whose quota; `deps.Caller` is one."""

    @property
    def tenant(self) -> str:
        """Return the tenant's name."""

    @property
    def namespace(self) -> str:
        """Return the tenant's namespace."""


@dataclass(frozen=True)
class Owner:
    """A tenant by its names."""

    tenant: str
    namespace: str


@dataclass(frozen=True)
class Upload:
    """One upload: it is charged on its own, whatever else is uploaded for the same artifact.

    Args:
        file: whose bytes; empty for an artifact without `files`.
        token: the same for all requests of one resumable session, nobody else's.
    """

    file: str = ""
    token: str = field(default_factory=lambda: uuid.uuid4().hex)


class Hold:
    """A charge that its owner is using; this one is of a tenant without a limit."""

    async def grow(self, total_bytes: int) -> None:
        """Make sure that `total_bytes` (all so far, not the difference) are charged and the lease is fresh.

        Raises:
            Problem: quota-exceeded with usage, or busy.
        """

    async def land(self, blob: ports.Blob) -> None:
        """Hand the charge over to the artifact, once all bytes are stored; it stays whatever happens then.

        Raises:
            Problem: as `grow`, where the charge was given back meanwhile.
        """

    async def withdraw(self) -> None:
        """Give back what has landed: these bytes will never be the artifact's."""

    def keep(self) -> None:
        """Leave the charge in place whatever happens: the artifact owns it, or bytes stay in a session."""

    async def give_back(self) -> None:
        """Undo the charge, unless it is kept or somebody else has changed it."""


def _unlimited(tenant: str) -> Limits:  # noqa: ARG001 - the shape of `limits_for`
    return UNLIMITED


class Reservations:
    """Charges against the storage quotas; for a tenant without a limit nothing is read or written.

    Args:
        books: the storage ledgers; None where no quota is kept.
        limits_for: the limits of a tenant, as this process knows them.
    """

    def __init__(
        self, books: StorageBooks | None = None, limits_for: Callable[[str], Limits] = _unlimited
    ) -> None:
        self._books = books
        self._limits_for = limits_for

    @property
    def books(self) -> StorageBooks:
        """Return the ledgers; there are some where a tenant has limits."""
        if self._books is None:
            raise RuntimeError("no storage ledgers are kept here")
        return self._books

    def limits(self, tenant: Tenant) -> Limits:
        """Return the limits of a tenant."""
        return UNLIMITED if self._books is None else self._limits_for(tenant.tenant)

    @contextlib.asynccontextmanager
    async def hold(
        self,
        tenant: Tenant,
        artifact_uid: str,
        name: str,
        size_bytes: int | None,
        *,
        upload: Upload | None = None,
        lease_seconds: float = LEASE_SECONDS,
    ) -> AsyncIterator[Hold]:
        """Charge `size_bytes` (None: steps as the stream grows) for an artifact while its bytes come in.

        After an exception the charge is as before, unless `keep` was called. A process that dies leaves the
        charge for `lease_seconds`; each `grow` renews it. A resumable session passes its own expiry as
        `lease_seconds`, and calls `keep` at once: its bytes stay in the store between requests.

        Args:
            tenant: whose quota.
            artifact_uid: the Artifact's uid; empty while it is being created.
            name: the Artifact's name.
            size_bytes: how many bytes come, where it is known.
            upload: which upload; None for what the artifact takes at its creation.
            lease_seconds: how long the charge is good for without being renewed.

        Raises:
            Problem: quota-exceeded with usage, or busy.
        """
        if not self.limits(tenant).is_set:
            yield Hold()
            return
        wanted = Wanted(
            artifact_uid,
            name,
            size_bytes or 0,
            size_bytes is None,
            timedelta(seconds=lease_seconds),
            upload.token if upload else "",
        )
        held = _Charged(self, tenant, wanted, upload.file if upload else "")
        await held.begin()
        try:
            yield held
        except BaseException:
            await asyncio.shield(held.give_back())
            raise

    async def release(self, tenant: Tenant, artifact_uid: str, token: str) -> None:
        """Give the bytes of an abandoned upload back; the artifact itself still counts while it exists.

        Args:
            tenant: whose quota.
            artifact_uid: the Artifact's uid.
            token: the upload's.
        """
        await self.drop(tenant, charges.upload(artifact_uid, token))

    async def drop(self, tenant: Tenant, key: str) -> None:
        """Give a charge back that is not used any more; when that fails, its lease ends it."""
        if not self.limits(tenant).is_set:
            return
        with contextlib.suppress(LedgerError, apierrors.ApiError):
            await self.books.release(tenant.namespace, key)

    async def reserve(self, tenant: Tenant, wanted: Wanted) -> Grant:
        """Charge; wait a little for the ledger of a quota that is new.

        Raises:
            Problem: quota-exceeded with usage, or busy.
            ApiError: the API server refuses or does not answer.
        """
        return await self._granted(
            tenant, lambda limits: self.books.reserve(tenant.namespace, wanted, limits)
        )

    async def land(self, tenant: Tenant, wanted: Wanted, key: str) -> Grant:
        """Turn an upload's charge into that of its stored bytes; see `StorageBooks.land`.

        Raises:
            Problem, ApiError: as `reserve`.
        """
        return await self._granted(
            tenant, lambda limits: self.books.land(tenant.namespace, wanted, key, limits)
        )

    async def _granted(self, tenant: Tenant, ask: Callable[[Limits], Awaitable[Grant]]) -> Grant:
        deadline = time.monotonic() + NOT_READY_SECONDS
        while True:
            limits = self.limits(tenant)
            if not limits.is_set:
                return Grant("Reserved")
            try:
                grant = await ask(limits)
            except NotReadyError as error:
                if time.monotonic() > deadline:
                    raise _busy() from error
                await asyncio.sleep(NOT_READY_PAUSE_SECONDS)
            except LedgerError as error:
                raise _busy() from error
            else:
                return _granted(tenant, grant)


class _Charged(Hold):
    """A charge of a tenant with a limit.

    Args:
        reservations: where to ask for more.
        tenant: whose quota.
        wanted: the first charge; with `step` each later one gets a step, too.
        file: whose bytes they are.
    """

    def __init__(self, reservations: Reservations, tenant: Tenant, wanted: Wanted, file: str) -> None:
        self._reservations = reservations
        self._tenant = tenant
        self._wanted = wanted
        self._file = file
        self._before: Charge | None = None
        self._charge: Charge | None = None
        self._renewed = 0.0
        self._kept = False
        self._landed = ""

    async def begin(self) -> None:
        """Make the first charge."""
        await self._reserve(self._wanted)

    async def grow(self, total_bytes: int) -> None:
        held = self._charge.size_bytes if self._charge is not None else total_bytes
        lease = self._wanted.lease or LEASE
        is_fresh = time.monotonic() - self._renewed < lease.total_seconds() * FRESH_SHARE
        if total_bytes <= held and is_fresh:
            return
        wanted = self._wanted
        more, step = max(total_bytes, wanted.size_bytes), wanted.step and total_bytes > held
        await self._reserve(replace(wanted, size_bytes=more, step=step))

    async def land(self, blob: ports.Blob) -> None:
        wanted = replace(self._wanted, size_bytes=blob.size_bytes, step=False)
        key = charges.landed(wanted.uid, self._file, blob.digest)
        # whether the answer comes or not: the charge may be the artifact's by now
        await asyncio.shield(self._reservations.land(self._tenant, wanted, key))
        self._charge, self._landed = None, key

    async def withdraw(self) -> None:
        if self._landed:
            await self._reservations.drop(self._tenant, self._landed)

    def keep(self) -> None:
        self._kept = True

    async def give_back(self) -> None:
        if self._kept or self._charge is None:
            return
        charge, self._charge = self._charge, None
        try:
            await self._reservations.books.restore(self._tenant.namespace, charge, self._before)
        except (LedgerError, apierrors.ApiError) as error:
            _logger.warning("reservation left to its lease", extra={"error": str(error)})

    async def _reserve(self, wanted: Wanted) -> None:
        started = time.monotonic()
        grant = await self._reservations.reserve(self._tenant, wanted)
        if not _is_same(grant.before, self._charge):  # somebody else's, so not ours to give back
            self._before = grant.before
        self._charge, self._renewed = grant.charge, started


def _is_same(found: Charge | None, ours: Charge | None) -> bool:
    return found is not None and ours is not None and replace(found, unused=None) == ours


def _granted(tenant: Tenant, grant: Grant) -> Grant:
    if grant.reason == "Reserved":
        return grant
    detail = f"quota exceeded: {storage_limits.describe(tenant.tenant, grant.usage)}"
    headers = {"Retry-After": str(RETRY_AFTER_SECONDS)}
    raise errors.Problem(errors.QUOTA_EXCEEDED, detail, usage=grant.usage, headers=headers)


def _busy() -> errors.Problem:
    detail = "the tenant's storage ledger is being changed or made"
    return errors.Problem(errors.BUSY, detail, headers={"Retry-After": "1"})
