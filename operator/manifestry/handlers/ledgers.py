"""Ledgers: give free slots away (T3), and bring them back in line with the Jobs that exist (T5)."""

import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from manifestry.adapters import cluster, quota_metrics
from manifestry.adapters.ledgers import LedgerError, NotReadyError, World
from manifestry.core import batchjobs, conditions, jobs, jobshapes, jobtypes, ledgers, names, quotas
from manifestry.handlers.quotas import (
    AmbiguousTenantError,
    is_leaving,
    job_type_of,
    limits_of,
    load,
    tenant_of,
    wake,
)
from manifestry.handlers.registry import Context

_logger = logging.getLogger(__name__)

KIND = names.QUOTA_LEDGERS.kind
_UNFINISHED_PODS = "status.phase!=Succeeded,status.phase!=Failed"
_NOT_SUCCEEDED = "status.successful=0"  # the one selector batch/v1 has; failed ones are left out here

Body = Mapping[str, Any]


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

    Raises:
        LedgerError, ApiError: a ledger could not be repaired; readiness must not count this run as a success.
    """
    await load(ctx)
    failed: list[Exception] = []
    for namespace in tuple(ctx.caches.namespaces):
        tenant = ctx.caches.tenant(namespace)
        if tenant is None or is_leaving(ctx, namespace):
            continue
        try:
            await ensure_all(ctx, namespace, tenant)
        except (LedgerError, cluster.ApiError) as error:
            if not is_leaving(ctx, namespace):  # it may have begun to leave meanwhile
                failed.append(error)
    if failed:
        raise failed[0]
    ctx.ledgers.repaired()


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
) -> dict[str, ledgers.Repair]:
    """T5 for one namespace: ledgers first, then Jobs, then one write for each ledger that is wrong."""

    async def observe() -> World:
        return await _observe(ctx, namespace)

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
                    "released": dict(report.released),
                    "claimed": report.claimed,
                },
            )
    return reports


async def _is_ready(ctx: Context, namespace: str, name: str) -> bool:
    try:
        return (await ctx.ledgers.read(namespace, name)).initialized
    except NotReadyError:
        return False


def _wake_deleted(ctx: Context, namespace: str, name: str) -> None:
    """Ask for a look at Jobs that were seen to go before the ledger told of their reservation."""
    ledger = ctx.ledgers.snapshot(namespace, name) or ledgers.Ledger()
    for holder_name, uids in ledger.reserved.items():
        if any(map(ctx.caches.is_deleted, uids)):
            ctx.queue.add((names.JOBS.kind, namespace, holder_name))


async def _admit(ctx: Context, namespace: str, name: str, tenant: str) -> None:
    limits = limits_of(ctx, tenant, name)
    ledger = ctx.ledgers.snapshot(namespace, name) or ledgers.Ledger()
    if ledgers.admit(ledger, limits)[1]:
        admitted = await ctx.ledgers.transact(namespace, name, lambda ledger: ledgers.admit(ledger, limits))
        wake(ctx, namespace, admitted)
        ledger = ctx.ledgers.snapshot(namespace, name) or ledger
    quota_metrics.METRICS.observe_ledger(tenant, name, ledger.usage, limits)


def _has_work(ctx: Context, namespace: str, tenant: str, job_type: str) -> bool:
    ledger = ctx.ledgers.snapshot(namespace, job_type)
    if ledger is None:
        return True
    limits = limits_of(ctx, tenant, job_type)
    quota_metrics.METRICS.observe_ledger(tenant, job_type, ledger.usage, limits)
    return bool(ledgers.admit(ledger, limits)[1])


async def _observe(ctx: Context, namespace: str) -> World:
    """List what exists, live; called after the ledgers were read, and that order is what makes T5 right."""
    listed, _ = await ctx.client.list(names.JOBS, namespace)
    bodies = [jobshapes.tame(body) for body in listed]
    batches, _ = await ctx.client.list(
        names.BATCH_JOBS, namespace, label_selector=names.JOB_UID_LABEL, field_selector=_NOT_SUCCEEDED
    )
    pods, _ = await ctx.client.list(
        names.PODS, namespace, label_selector=names.JOB_UID_LABEL, field_selector=_UNFINISHED_PODS
    )
    left = [batch for batch in batches if not batchjobs.is_finished(batch)]
    by_uid = {batchjobs.job_uid(batch): batch for batch in left}
    _wake_jobs(ctx, namespace, bodies, left)
    grouped: dict[str, list[ledgers.LiveJob]] = defaultdict(list)
    for body in bodies:
        name = str(jobtypes.spec_of(body).get("jobType"))
        batch = by_uid.get(body["metadata"]["uid"])
        grouped[name].append(jobs.live_job(body, ctx.caches.job_types.get(name), batch))
    return World(grouped, frozenset(uid for uid in map(batchjobs.job_uid, (*left, *pods)) if uid))


def _wake_jobs(ctx: Context, namespace: str, bodies: Iterable[Body], batches: Iterable[Body]) -> None:
    """Ask for a look at every Job that is under way, and at those whose batch Job outlived them.

    Plainly queued ones are left alone: the ledger wakes them, and there may be very many.
    """
    waiting = {body["metadata"]["uid"] for body in bodies if _is_resting(body)}
    for body in bodies:
        if body["metadata"]["uid"] not in waiting:
            ctx.queue.add((names.JOBS.kind, namespace, body["metadata"]["name"]))
    looked_at = {body["metadata"]["uid"] for body in bodies} - waiting
    for batch in batches:
        name = batchjobs.job_name(batch)
        if name and batchjobs.job_uid(batch) not in looked_at:
            ctx.queue.add((names.JOBS.kind, namespace, name))


def _is_resting(job: Body) -> bool:
    """Tell whether a Job has nothing to do by itself: it has ended, or it waits for a slot."""
    status = job.get("status") or {}
    if status.get("observedGeneration") != job["metadata"].get("generation"):
        return False
    if jobs.is_terminal(job):
        return True
    summary = conditions.find(status.get("conditions"), "Succeeded") or {}
    return summary.get("reason") in {"Queued", "Suspended"}


def usages(ctx: Context, namespace: str, tenant: str) -> list[tuple[str, quotas.Usage, quotas.Limits]]:
    """Return (job type, usage, limits) of the known ledgers of a namespace."""
    found = []
    for job_type in sorted(ctx.caches.job_types):
        ledger = ctx.ledgers.snapshot(namespace, job_type)
        if ledger is not None:
            found.append((job_type, ledger.usage, limits_of(ctx, tenant, job_type)))
    return found
