"""Ledgers: give free slots away (T3), and bring them back in line with the Jobs that exist (T5)."""

import asyncio
import logging
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

from manifestry.adapters.kube import apierrors
from manifestry.adapters.quota.books import LedgerError, NotReadyError
from manifestry.adapters.quota.ledgers import World
from manifestry.adapters.telemetry import quota_metrics
from manifestry.core.jobs import batchjobs, lives, shapes, statuses
from manifestry.core.kube import bodies, names
from manifestry.core.quota import holders, ledgers, quotas
from manifestry.handlers.quota.quotas import (
    AmbiguousTenantError,
    is_leaving,
    job_type_of,
    limits_of,
    load,
    tenant_of,
    wake,
)
from manifestry.handlers.runtime.registry import Context

_logger = logging.getLogger(__name__)

KIND = names.QUOTA_LEDGERS.kind
_UNFINISHED_PODS = "status.phase!=Succeeded,status.phase!=Failed"
_NOT_SUCCEEDED = "status.successful=0"  # the one selector batch/v1 has; failed ones are left out here

REPAIR_SECONDS = 120.0  # for one tenant: a slow one must not take the time of all others

Holders = Mapping[str, holders.Holder]


class _Batch(NamedTuple):
    job_name: str | None
    is_running: bool


async def reconcile(ctx: Context, namespace: str, name: str) -> float | None:
    """Admit whoever fits into one ledger; make and fill the ledger first if that has not been done.

    Args:
        ctx: the operator's ports.
        namespace: the tenant's namespace.
        name: the job type.

    Returns:
        None: a change of the ledger, of a quota or of a job type wakes it again.
    """
    await load(ctx)
    try:
        tenant = await tenant_of(ctx, namespace)
    except AmbiguousTenantError:
        return None
    if tenant is None or is_leaving(ctx, namespace) or await job_type_of(ctx, name) is None:
        return None
    if not await _is_ready(ctx, namespace, name):
        await ctx.ledgers.ensure(namespace, name)
        await repair(ctx, namespace, tenant, frozenset({name}))
    _wake_deleted(ctx, namespace, name)
    await _admit(ctx, namespace, name, tenant)
    return None


async def resync(ctx: Context) -> None:
    """Repair every ledger of every tenant and make the missing ones; one tenant's failure stops no other.

    Who has waited longest comes first: should the time not suffice for all, the next run begins with the
    others.

    Raises:
        LedgerError, ApiError: a ledger could not be repaired; readiness must not count this run as a success.
    """
    await load(ctx)
    failed: list[Exception] = []
    begun = ctx.ledgers.repair_begun = {
        namespace: ctx.ledgers.repair_begun.get(namespace, float("-inf"))
        for namespace in ctx.caches.namespaces
    }
    for namespace in sorted(begun, key=lambda each: begun[each]):
        begun[namespace] = ctx.clock.monotonic()
        tenant = ctx.caches.tenant(namespace)
        if tenant is None or is_leaving(ctx, namespace):
            continue
        try:
            async with asyncio.timeout(REPAIR_SECONDS):
                await ensure_all(ctx, namespace, tenant)
        except (LedgerError, apierrors.ApiError, TimeoutError) as error:
            if not is_leaving(ctx, namespace):  # it may have begun to leave meanwhile
                _logger.warning("ledgers not repaired", extra={"namespace": namespace, "error": repr(error)})
                failed.append(error)
    if failed:
        raise LedgerError(f"the ledgers of {len(failed)} namespaces were not repaired") from failed[0]


async def ensure_all(ctx: Context, namespace: str, tenant: str) -> None:
    """Repair the ledgers of a namespace and add one for each JobType that has none there."""
    reports = await repair(ctx, namespace, tenant)
    missing = frozenset(ctx.caches.job_types) - reports.keys()
    for job_type in sorted(missing):
        await ctx.ledgers.ensure(namespace, job_type)
    if missing:
        await repair(ctx, namespace, tenant, missing)
    for job_type in ctx.caches.job_types:
        if _has_work(ctx, namespace, tenant, job_type):
            ctx.queue.add((KIND, namespace, job_type))


async def repair(
    ctx: Context, namespace: str, tenant: str, only: frozenset[str] | None = None
) -> dict[str, holders.Repair]:
    """T5 for one namespace: ledgers first, then Jobs, then one write for each ledger that is wrong."""

    async def observe(held: Holders) -> World:
        return await _observe(ctx, namespace, held)

    reports = await ctx.ledgers.repair(
        namespace, observe, lambda job_type: limits_of(ctx, tenant, job_type), only
    )
    for job_type, report in reports.items():
        for name in (*report.claimed, *report.unplaced):
            ctx.queue.add((names.JOBS.kind, namespace, name))
        if report.released or report.claimed:
            _logger.info(
                "ledger repaired",
                extra={
                    "namespace": namespace,
                    "job_type": job_type,
                    "released": dict(Counter(report.released.values())),
                    "claimed": len(report.claimed),
                },
            )
    return reports


async def _is_ready(ctx: Context, namespace: str, name: str) -> bool:
    known = ctx.ledgers.snapshot(namespace, name)
    if known is not None and known.initialized:
        return True  # the watch told of it, or we wrote it: no need to ask at each event
    try:
        return (await ctx.ledgers.read(namespace, name)).initialized
    except NotReadyError:
        return False


def _wake_deleted(ctx: Context, namespace: str, name: str) -> None:
    """Ask for a look at Jobs that were seen to go before the ledger told of their entry."""
    ledger = ctx.ledgers.snapshot(namespace, name) or holders.Ledger()
    for uid in ctx.caches.deleted_of(ledger.holders.keys()):
        ctx.queue.add((names.JOBS.kind, namespace, ledger.holders[uid].name))


async def _admit(ctx: Context, namespace: str, name: str, tenant: str) -> None:
    limits = limits_of(ctx, tenant, name)
    ledger = ctx.ledgers.snapshot(namespace, name) or holders.Ledger()
    if ledgers.admit(ledger, limits)[1]:
        await ctx.ledgers.transact(
            namespace,
            name,
            lambda ledger: ledgers.admit(ledger, limits),
            lambda admitted: wake(ctx, namespace, admitted),
        )
        ledger = ctx.ledgers.snapshot(namespace, name) or ledger
    quota_metrics.METRICS.observe_ledger(tenant, name, ledger.usage, limits)


def _has_work(ctx: Context, namespace: str, tenant: str, job_type: str) -> bool:
    ledger = ctx.ledgers.snapshot(namespace, job_type)
    if ledger is None:
        return True
    limits = limits_of(ctx, tenant, job_type)
    quota_metrics.METRICS.observe_ledger(tenant, job_type, ledger.usage, limits)
    return bool(ledgers.admit(ledger, limits)[1])


async def _observe(ctx: Context, namespace: str, held: Holders) -> World:
    """List what exists, live; called after the ledgers were read, and that order is what makes T5 right.

    Pages are looked at and let go, and a Job that has ended and holds nothing leaves no trace: a tenant may
    have very many of those. The batch Jobs come after the Jobs: who makes one has a Job that is listed.
    """
    live, woken = await _live_jobs(ctx, namespace, held)
    batches = await _unfinished_batches(ctx, namespace)
    pods = await _unfinished_pods(ctx, namespace)
    for uid, batch in batches.items():
        if uid not in woken and batch.job_name:  # it may have outlived its Job
            ctx.queue.add((names.JOBS.kind, namespace, batch.job_name))
    grouped: dict[str, list[holders.LiveJob]] = defaultdict(list)
    for uid, (job_type, job) in live.items():
        is_running = uid in batches and batches[uid].is_running
        grouped[job_type].append(replace(job, running=True) if is_running else job)
    return World(grouped, pods | batches.keys())


async def _live_jobs(
    ctx: Context, namespace: str, held: Holders
) -> tuple[dict[str, tuple[str, holders.LiveJob]], set[str]]:
    """Return (job type, Job) by uid, and the uids of those that have something to do, which are woken.

    Plainly queued ones are left alone: the ledger wakes them, and there may be very many.
    """
    live: dict[str, tuple[str, holders.LiveJob]] = {}
    woken: set[str] = set()
    async for page in ctx.client.pages(names.JOBS, namespace):
        for body in map(shapes.tame, page):
            uid, job_type = body["metadata"]["uid"], str(bodies.spec_of(body).get("jobType"))
            found = ctx.caches.job_types.get(job_type)
            if not lives.is_resting(body, held.get(uid), is_typed=found is not None):
                woken.add(uid)
                ctx.queue.add((names.JOBS.kind, namespace, body["metadata"]["name"]))
            if uid in held or not statuses.is_terminal(body):
                live[uid] = (job_type, lives.live_job(body, found, None))
    return live, woken


async def _unfinished_batches(ctx: Context, namespace: str) -> dict[str, _Batch]:
    found = {}
    pages = ctx.client.pages(
        names.BATCH_JOBS, namespace, label_selector=names.JOB_UID_LABEL, field_selector=_NOT_SUCCEEDED
    )
    async for page in pages:
        for batch in page:
            uid = batchjobs.job_uid(batch)
            if uid and not batchjobs.is_finished(batch):
                found[uid] = _Batch(batchjobs.job_name(batch), batchjobs.is_running(batch))
    return found


async def _unfinished_pods(ctx: Context, namespace: str) -> frozenset[str]:
    found: set[str] = set()
    pages = ctx.client.pages(
        names.PODS, namespace, label_selector=names.JOB_UID_LABEL, field_selector=_UNFINISHED_PODS
    )
    async for page in pages:
        found |= {uid for pod in page if (uid := batchjobs.job_uid(pod))}
    return frozenset(found)


def usages(ctx: Context, namespace: str, tenant: str) -> list[tuple[str, quotas.Usage, quotas.Limits]]:
    """Return (job type, usage, limits) of the known ledgers of a namespace."""
    found = []
    for job_type in sorted(ctx.caches.job_types):
        ledger = ctx.ledgers.snapshot(namespace, job_type)
        if ledger is not None:
            found.append((job_type, ledger.usage, limits_of(ctx, tenant, job_type)))
    return found
