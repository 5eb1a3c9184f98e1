"""Downloads and the storage quota: what comes is charged first, what does not come is given back."""

from dataclasses import replace
from typing import Any

from manifestry.adapters.fetching import queues
from manifestry.adapters.kube import apierrors
from manifestry.adapters.quota.books import LedgerError
from manifestry.adapters.store import inventory
from manifestry.core.artifacts import lives as artifact_lives
from manifestry.core.artifacts import sources, steps
from manifestry.core.artifacts.plans import Observed
from manifestry.core.blobs import garbage
from manifestry.core.fetching import fetches
from manifestry.core.quota.storage import grants
from manifestry.core.quota.storage import limits as storage_limits
from manifestry.core.quota.storage import lives as storage_lives
from manifestry.core.quota.storage.grants import STEP_BYTES, Wanted
from manifestry.handlers.quota import storagequotas as quotas
from manifestry.handlers.runtime.registry import Context

_BUSY = fetches.Failure(
    "StoreUnavailable", "the tenant's storage ledger cannot be changed at present", "soon"
)


def wanted(ctx: Context, observed: Observed, orders: dict[str, fetches.Order]) -> queues.Wanted:
    """Return what an artifact's downloads may take, by what is known before they begin."""
    metadata, now = observed.body["metadata"], ctx.clock.now()
    known = steps.needed_bytes(observed, now) or 0
    account = ctx.storage.books.account(metadata["namespace"]) if ctx.storage is not None else None
    return queues.Wanted(
        metadata["namespace"],
        metadata["name"],
        metadata["uid"],
        metadata["generation"],
        orders,
        sources.retry_seconds(observed.evidence.created, now),
        known - sum(order.size_bytes or 0 for order in orders.values()),
        0 if account is None else grants.held_bytes(account, _charge_of(observed, known)),
        _Charge(ctx, observed),
    )


class _Charge:
    """See `queues.Charge`.

    Args:
        ctx: the operator's ports.
        observed: the artifact as it was when its downloads were looked at.
    """

    def __init__(self, ctx: Context, observed: Observed) -> None:
        self._ctx = ctx
        self._observed = observed

    async def __call__(self, total_bytes: int, *, is_whole: bool) -> int:
        """Charge the artifact as a whole, in steps while it is not known how much comes."""
        ctx, tenant = self._ctx, self._observed.tenant
        limits = storage_limits.UNLIMITED if tenant is None else quotas.limits_of(ctx, tenant.name)
        if ctx.storage is None or not limits.is_set:
            return total_bytes + STEP_BYTES  # then look again: there may be a quota by now
        asked = _charge_of(self._observed, total_bytes, step=not is_whole)
        namespace = self._observed.body["metadata"]["namespace"]
        try:
            grant = await quotas.reserve(ctx, ctx.storage, namespace, asked, limits)
        except (LedgerError, apierrors.ApiError) as error:
            raise fetches.FetchError(_BUSY) from error
        if grant.charge is None:
            raise fetches.NoRoomError(fetches.NoRoom(total_bytes, at_least=not is_whole))
        return grant.size_bytes


async def give_back(ctx: Context, observed: Observed) -> None:
    """Give back what was charged for downloads that have ended without bytes, once the status says so.

    Not before: whoever else is about to store this artifact under that charge must lose the race for its
    status first. Not while a download is under way, which goes on with what is charged; nor when all have
    come: what they leave goes when the artifact is stored. A killed operator's charge is taken over by the
    next one's downloads.

    Args:
        ctx: the operator's ports.
        observed: as the plan was made from it.
    """
    namespace, now = observed.body["metadata"]["namespace"], ctx.clock.now()
    account = ctx.storage.books.account(namespace) if ctx.storage is not None else None
    if ctx.storage is None or account is None:
        return
    if storage_lives.is_stored(observed.body) or not artifact_lives.is_fetched(observed.body):
        return
    kept = _kept(ctx, observed)
    if kept is None:
        return
    left = _charge_of(kept, steps.needed_bytes(kept, now) or 0)
    if grants.trim(account, left, now)[1]:
        await _unpin(ctx, observed)
        await ctx.storage.books.trim(namespace, left)


async def _unpin(ctx: Context, observed: Observed) -> None:
    """Keep nothing whose charge is given back: who was killed between pin and status has left a pin.

    It was never `Ready`, so nothing was promised.
    """
    if observed.tenant is not None and garbage.is_retained(observed.body):
        uid = str(observed.body["metadata"]["uid"])
        await inventory.Inventory(ctx.store).unpin(observed.tenant.uid, uid)


def _kept(ctx: Context, observed: Observed) -> Observed | None:
    """Return the artifact with the downloads that are kept; None when they keep the whole charge."""
    metadata = observed.body["metadata"]
    if observed.is_over_quota:  # none are
        return replace(observed, evidence=replace(observed.evidence, downloads={}))
    outcomes = (observed.evidence.downloads or {}).values()
    if not outcomes:  # they were not looked at: what else is needed has gone meanwhile
        is_held = ctx.fetches is not None and ctx.fetches.holds(metadata["namespace"], metadata["name"])
        return None if is_held else observed
    if any(isinstance(each, fetches.Pending | fetches.NoRoom) for each in outcomes):
        return None
    return None if all(isinstance(each, fetches.Fetched) for each in outcomes) else observed


def _charge_of(observed: Observed, size_bytes: int, *, step: bool = False) -> Wanted:
    metadata: dict[str, Any] = observed.body["metadata"]
    recorded = storage_lives.recorded(observed.body)
    return Wanted(metadata["uid"], metadata["name"], size_bytes, step, recorded=recorded)
