"""Downloads and the storage quota: what comes is charged first, what does not come is given back."""

from dataclasses import replace
from typing import Any

from manifestry.adapters import cluster, fetchqueues
from manifestry.adapters.ledgerbooks import LedgerError
from manifestry.core import artifacts, fetches, sources, storageartifacts, storagequotas
from manifestry.core.artifacts import Observed
from manifestry.core.storagequotas import STEP_BYTES, Wanted
from manifestry.handlers import storagequotas as quotas
from manifestry.handlers.registry import Context

_BUSY = fetches.Failure(
    "StoreUnavailable", "the tenant's storage ledger cannot be changed at present", "soon"
)


def wanted(ctx: Context, observed: Observed, orders: dict[str, fetches.Order]) -> fetchqueues.Wanted:
    """Return what an artifact's downloads may take, by what is known before they begin."""
    metadata, now = observed.body["metadata"], ctx.clock.now()
    known = artifacts.needed_bytes(observed, now) or 0
    account = ctx.storage.books.account(metadata["namespace"]) if ctx.storage is not None else None
    return fetchqueues.Wanted(
        metadata["namespace"],
        metadata["name"],
        metadata["uid"],
        metadata["generation"],
        orders,
        sources.retry_seconds(observed.evidence.created, now),
        known - sum(order.size_bytes or 0 for order in orders.values()),
        0 if account is None else storagequotas.held_bytes(account, _charge_of(observed, known)),
        _Charge(ctx, observed),
    )


class _Charge:
    """See `fetchqueues.Charge`.

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
        limits = storagequotas.UNLIMITED if tenant is None else quotas.limits_of(ctx, tenant.name)
        if ctx.storage is None or not limits.is_set:
            return total_bytes + STEP_BYTES  # then look again: there may be a quota by now
        asked = _charge_of(self._observed, total_bytes, step=not is_whole)
        namespace = self._observed.body["metadata"]["namespace"]
        try:
            grant = await quotas.reserve(ctx, ctx.storage, namespace, asked, limits)
        except (LedgerError, cluster.ApiError) as error:
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
    if storageartifacts.is_stored(observed.body) or not artifacts.is_fetched(observed.body):
        return
    kept = _kept(ctx, observed)
    if kept is None:
        return
    left = _charge_of(kept, artifacts.needed_bytes(kept, now) or 0)
    if storagequotas.trim(account, left, now)[1]:
        await ctx.storage.books.trim(namespace, left)


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
    recorded = storageartifacts.recorded(observed.body)
    return Wanted(metadata["uid"], metadata["name"], size_bytes, step, recorded=recorded)
