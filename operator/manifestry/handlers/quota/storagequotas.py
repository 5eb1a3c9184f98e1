"""Storage quotas: charge artifacts before their bytes are stored, count what is stored, wake who waits."""

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from manifestry.adapters.kube import apierrors
from manifestry.adapters.quota.books import LedgerError, NotReadyError
from manifestry.adapters.store.contract import ports
from manifestry.adapters.telemetry import quota_metrics
from manifestry.core.artifacts import steps
from manifestry.core.artifacts.plans import Observed
from manifestry.core.kube import conditions, names
from manifestry.core.quota.storage import grants, lives
from manifestry.core.quota.storage import limits as storage_limits
from manifestry.core.quota.storage.charges import LEDGER
from manifestry.core.quota.storage.grants import Grant, Wanted
from manifestry.core.quota.storage.limits import Limits
from manifestry.core.quota.storage.lives import Live
from manifestry.handlers.quota.quotas import AmbiguousTenantError, is_leaving, load, tenant_of
from manifestry.handlers.runtime import keys
from manifestry.handlers.runtime.registry import Context
from manifestry.handlers.runtime.storagestates import Storage

_logger = logging.getLogger(__name__)

KIND = keys.STORAGE_LEDGER
COUNT_SHARE = 10.0  # counting may take a tenth of the time, however many artifacts are deleted
COUNT_PAUSE_SECONDS = 0.5

Body = Mapping[str, Any]


async def reconcile(ctx: Context, namespace: str, name: str) -> float | None:  # noqa: ARG001 - one per namespace
    """Make, count or remove one tenant's ledger as its limits ask for, and wake who has room now.

    Returns:
        The seconds after which to count once more, when artifacts are deleted faster than that is done.
    """
    storage = ctx.storage
    if storage is None:
        return None
    await load(ctx)
    try:
        tenant = await tenant_of(ctx, namespace)
    except AmbiguousTenantError:
        return None
    if tenant is None or is_leaving(ctx, namespace):
        return None
    limits, again = limits_of(ctx, tenant), None
    if limits.is_set:
        again = await _count(ctx, storage, namespace)
    else:
        await _lift(ctx, storage, namespace)
    if limits.is_set and namespace in storage.waiting:
        await storage.books.exists(namespace)  # the facade may have given something back: read it anew
    for waiting in storage.wakeable(namespace, limits):
        ctx.queue.add((names.ARTIFACTS.kind, namespace, waiting))
    return again


async def resync(ctx: Context) -> None:
    """Count every limited tenant's artifacts, remove the ledgers of the others, give back what nobody uses.

    Raises:
        LedgerError, ApiError, StoreError: one could not be counted; readiness must not count this run as a
            success.
    """
    if ctx.storage is None:
        return
    await load(ctx)
    storage, failed = ctx.storage, []
    ledgers, _ = await ctx.client.list(names.QUOTA_LEDGERS, field_selector=f"metadata.name={LEDGER}")
    kept = {body["metadata"]["namespace"] for body in ledgers}
    for namespace in tuple(ctx.caches.namespaces):
        tenant = ctx.caches.tenant(namespace)
        if tenant is None or is_leaving(ctx, namespace):
            continue
        try:
            if limits_of(ctx, tenant).is_set:
                await recount(ctx, storage, namespace)
                ctx.queue.add((KIND, namespace, LEDGER))
            elif namespace in kept:
                await _lift(ctx, storage, namespace)
        except (LedgerError, apierrors.ApiError, ports.StoreError) as error:
            if not is_leaving(ctx, namespace):
                failed.append(error)
    if failed:
        raise failed[0]


async def charge(ctx: Context, observed: Observed) -> Observed:
    """Return the artifact with its condition QuotaReserved: charged, waiting for room, or too large.

    Raises:
        LedgerError, ApiError: nothing is known; the queue tries again.
    """
    storage, tenant = ctx.storage, observed.tenant
    if storage is None or tenant is None:
        return observed
    await load(ctx)
    metadata, limits = observed.body["metadata"], limits_of(ctx, tenant.name)
    namespace, name = metadata["namespace"], metadata["name"]
    if not limits.is_set:
        storage.forget(namespace, name)
        await _lift(ctx, storage, namespace)
        return observed
    size_bytes = steps.needed_bytes(observed, ctx.clock.now())
    if size_bytes is None:
        return observed
    if lives.is_stored(observed.body):
        return replace(observed, quota=grants.condition("Reserved", size_bytes, limits))
    wanted = _wanted(storage, observed, size_bytes)
    grant = await reserve(ctx, storage, namespace, wanted, limits)
    if grant.charge is None:
        storage.wait(namespace, wanted)
    else:
        storage.forget(namespace, name)
        storage.relied[namespace, name] = grant.charge
    found = grants.condition(grant.reason, wanted.size_bytes, limits, at_least=wanted.step)
    return replace(observed, quota=found)


def _wanted(storage: Storage, observed: Observed, size_bytes: int) -> Wanted:
    """Return the charge of an artifact; what it was found to need when it was refused is remembered."""
    metadata = observed.body["metadata"]
    namespace, name, uid = metadata["namespace"], metadata["name"], metadata["uid"]
    step = any(each.at_least for each in steps.short_of_room(observed))
    remembered = storage.remembered(namespace, name, uid)
    if remembered > size_bytes:
        size_bytes, step = remembered, storage.waiting[namespace][name].step
    return Wanted(uid, name, size_bytes, step, recorded=lives.recorded(observed.body))


async def settle(ctx: Context, before: Body, after: Body) -> None:
    """Turn the charge of an artifact that is stored into a part of the totals.

    Args:
        ctx: the operator's ports.
        before: the Artifact as it was read.
        after: the Artifact as it was written.
    """
    storage = ctx.storage
    if storage is None or not lives.is_stored(after):
        return
    namespace, uid = after["metadata"]["namespace"], after["metadata"]["uid"]
    recorded = lives.recorded(after)
    account = storage.books.account(namespace)
    if lives.is_stored(before):  # it may have been counted, and only a count can tell
        if account is not None and not recorded.union({uid}).isdisjoint(account.charges):
            count_soon(ctx, namespace)
        return
    charge = storage.relied.pop((namespace, after["metadata"]["name"]), None)
    try:
        size_bytes = lives.stored_bytes(after)
        done = charge is not None and await storage.books.commit(namespace, charge, size_bytes, recorded)
    except NotReadyError:
        done = False
    if not done:
        count_soon(ctx, namespace)


def count_soon(ctx: Context, namespace: str) -> None:
    """Ask for a count: an artifact has gone, or was stored without a charge."""
    if ctx.storage is None:
        return
    if _is_limited(ctx, namespace):
        ctx.storage.stale.add(namespace)
        ctx.queue.add((KIND, namespace, LEDGER))


def gone(ctx: Context, namespace: str, name: str) -> None:
    """Note that an artifact does not exist any more."""
    if ctx.storage is not None:
        ctx.storage.forget(namespace, name)
        count_soon(ctx, namespace)


def over_limit(ctx: Context, namespace: str, tenant: str) -> str:
    """Return what a tenant stores when that is above its limits, else nothing."""
    account = ctx.storage.books.account(namespace) if ctx.storage is not None else None
    limits = limits_of(ctx, tenant)
    if account is None or not storage_limits.is_over(account, limits):
        return ""
    return storage_limits.describe(tenant, storage_limits.usage(account, limits))


def summary(ctx: Context, namespace: str, tenant: str) -> dict[str, int] | None:
    """Return what a tenant stores as the status of its TenantQuota shows it; None where it is not counted."""
    account = ctx.storage.books.account(namespace) if ctx.storage is not None else None
    if account is None or not account.initialized or not limits_of(ctx, tenant).is_set:
        return None
    found = {"usedBytes": account.totals.committed_bytes, "artifacts": account.artifacts}
    retained = account.totals.retained_bytes
    return {**found, "retainedBytes": retained} if account.totals.retained_count else found


def limits_of(ctx: Context, tenant: str) -> Limits:
    """Return the limits that hold now."""
    return storage_limits.limits_for(tenant, ctx.caches.quota_table)


async def recount(ctx: Context, storage: Storage, namespace: str) -> None:
    """Count a tenant's artifacts, the retained ones too; give back what was found unused, in two steps.

    Raises:
        StoreError: nobody can say what is retained; what was counted stays counted until then.
    """
    started, is_new = ctx.clock.monotonic(), not _is_ready(storage, namespace)
    storage.free.discard(namespace)
    storage.stale.discard(namespace)
    seen: list[Body] = []

    async def observe() -> list[Live]:
        seen[:], _ = await ctx.client.list(names.ARTIFACTS, namespace)
        tenant_uid = ctx.caches.tenant_uid(namespace)
        retained = await storage.retained.of(ctx.store, tenant_uid) if tenant_uid is not None else []
        return lives.with_retained(map(lives.live, seen), retained)

    try:
        found = await storage.books.recount(namespace, observe)
        if found.marked:
            found = await storage.books.recount(namespace, observe)
    except (LedgerError, apierrors.ApiError, ports.StoreError):
        storage.stale.add(namespace)
        raise
    ended = ctx.clock.monotonic()
    storage.not_before[namespace] = ended + max(COUNT_PAUSE_SECONDS, COUNT_SHARE * (ended - started))
    _observe(ctx, storage, namespace)
    if found.released:
        _logger.info("storage ledger repaired", extra={"namespace": namespace, **_causes(found.released)})
    if is_new:  # those under way have no charge yet
        for body in seen:
            if conditions.kstatus(body) == "InProgress":
                ctx.queue.add((names.ARTIFACTS.kind, namespace, body["metadata"]["name"]))


def _observe(ctx: Context, storage: Storage, namespace: str) -> None:
    tenant, account = ctx.caches.tenant(namespace), storage.books.account(namespace)
    if tenant is not None and account is not None:
        quota_metrics.METRICS.observe_storage(tenant, account, limits_of(ctx, tenant))


async def _count(ctx: Context, storage: Storage, namespace: str) -> float | None:
    if _is_ready(storage, namespace) or await _is_live(storage, namespace):
        if namespace not in storage.stale:
            return None
        wait = storage.not_before.get(namespace, 0.0) - ctx.clock.monotonic()
        if wait > 0:
            return wait
    await recount(ctx, storage, namespace)
    return None


async def _lift(ctx: Context, storage: Storage, namespace: str) -> None:
    """Without a limit nothing is counted, so a ledger from before must not be trusted later."""
    if namespace in storage.free:
        return
    if await storage.books.exists(namespace):
        await storage.books.remove(namespace)
    tenant = ctx.caches.tenant(namespace)
    if tenant is not None:
        quota_metrics.METRICS.forget_storage(tenant)
    storage.free.add(namespace)


async def reserve(ctx: Context, storage: Storage, namespace: str, wanted: Wanted, limits: Limits) -> Grant:
    """Charge; make the ledger first where there is none.

    Raises:
        LedgerError, ApiError: nothing is known.
    """
    storage.free.discard(namespace)
    try:
        return await storage.books.reserve(namespace, wanted, limits)
    except NotReadyError:
        await recount(ctx, storage, namespace)
        return await storage.books.reserve(namespace, wanted, limits)


def _is_limited(ctx: Context, namespace: str) -> bool:
    tenant = ctx.caches.tenant(namespace)
    return tenant is not None and limits_of(ctx, tenant).is_set


def _is_ready(storage: Storage, namespace: str) -> bool:
    account = storage.books.account(namespace)
    return account is not None and account.initialized


async def _is_live(storage: Storage, namespace: str) -> bool:
    return await storage.books.exists(namespace) and _is_ready(storage, namespace)


def _causes(released: Mapping[str, str]) -> dict[str, int]:
    causes = list(released.values())
    return {cause: causes.count(cause) for cause in set(causes)}
