"""Jobs: gather, plan, apply, until nothing is left to do without waiting for the world."""

import logging
from dataclasses import replace
from datetime import datetime
from typing import Any, assert_never

from manifestry.adapters.kube import apierrors
from manifestry.adapters.quota.books import ContentionError
from manifestry.adapters.telemetry import quota_metrics
from manifestry.core.jobs import plans, shapes, statuses, steps
from manifestry.core.jobs import statuses as job_statuses
from manifestry.core.jobs.plans import Observed
from manifestry.core.kube import bodies, conditions, names
from manifestry.core.quota import holders as quota_holders
from manifestry.handlers.jobs import holders as job_holders
from manifestry.handlers.quota.quotas import AmbiguousTenantError, find, job_type_of, load, tenant_of
from manifestry.handlers.runtime.registry import Context

_logger = logging.getLogger(__name__)

KIND = names.JOBS.kind
MAX_PASSES = 8  # claim, create, unsuspend and one more each; a plan that never rests is looked at again later
REFUSED_FOR_GOOD = (400, 413, 422)  # of the wrong shape, too large, invalid
CONFLICT_SECONDS = 0.1  # somebody else has written: read again


async def reconcile(ctx: Context, namespace: str, name: str) -> float | None:
    """Bring one Job closer to what its spec asks for; without effect when it is there already.

    Args:
        ctx: the operator's ports.
        namespace: the Job's namespace.
        name: its name.

    Returns:
        The seconds after which to look again, None when only an event matters.

    Raises:
        ApiError: the API server did not do what was asked; the queue tries again.
    """
    try:
        return await _reconcile(ctx, namespace, name)
    except job_holders.LaterError as later:
        return later.seconds
    except (apierrors.ConflictError, ContentionError):
        return CONFLICT_SECONDS


async def _reconcile(ctx: Context, namespace: str, name: str) -> float | None:
    await load(ctx)
    held = ctx.ledgers.named(namespace, name)  # before the Job: an entry that was claimed had a Job by then
    observed = await _gather(ctx, namespace, name)
    leftovers = await job_holders.clear(ctx, namespace, held, observed)
    if observed is None:
        return leftovers
    for _ in range(MAX_PASSES):
        plan = steps.plan(observed, ctx.clock.now())
        observed = await _apply(ctx, observed, plan)
        if not plan.again:
            return _earlier(plan.after, leftovers)
    return CONFLICT_SECONDS


async def _gather(ctx: Context, namespace: str, name: str) -> Observed | None:
    found = await find(ctx, names.JOBS, name, namespace)
    if found is None:
        return None
    job = shapes.tame(found)
    if faults := shapes.faults(job):
        return Observed(job, malformed="; ".join(error.message for error in faults))
    uid, job_type = job["metadata"]["uid"], bodies.spec_of(job)["jobType"]
    ledger = await ctx.ledgers.lookup(namespace, job_type)
    observed = Observed(
        job,
        job_type=await job_type_of(ctx, job_type),
        holder=ledger.holders.get(uid),
        batch=await find(ctx, names.BATCH_JOBS, names.batch_job_name(name, uid), namespace),
    )
    observed = await _with_tenant(ctx, observed, namespace)
    if not steps.wants_pods(observed, ctx.clock.now()):
        return observed
    return replace(observed, pods=tuple(await job_holders.pods_of(ctx, namespace, uid)))


async def _with_tenant(ctx: Context, observed: Observed, namespace: str) -> Observed:
    """Add the tenant; of a disputed one a Job that has begun or ended goes on with the one it had."""
    try:
        return replace(observed, tenant=await tenant_of(ctx, namespace))
    except AmbiguousTenantError as error:
        if observed.is_started or job_statuses.is_terminal(observed.job):
            return replace(observed, tenant=(observed.job.get("status") or {}).get("tenant"))
        return replace(observed, untenanted=f"waiting: {error}")


async def _apply(ctx: Context, observed: Observed, plan: plans.Plan) -> Observed:
    if plan.status is not None:
        observed = await _write_status(ctx, observed, plan.status)
    for action in plan.actions:
        observed = await _act(ctx, observed, action)
    return observed


async def _act(ctx: Context, observed: Observed, action: plans.Action) -> Observed:
    match action:
        case plans.Claim(job):
            observed = await job_holders.claim(ctx, observed, job)
        case plans.Park(holder):
            observed = await job_holders.park(ctx, observed, holder)
        case plans.Release(wait_for_pods):
            observed = await job_holders.release(ctx, observed, wait_for_pods)
        case plans.CreateBatch(body):
            observed = await _create_batch(ctx, observed, body)
        case plans.Unsuspend(name, uid):
            observed = await _unsuspend(ctx, observed, name, uid)
        case plans.SetDeadline(name, uid, seconds):
            patch = {"metadata": {"uid": uid}, "spec": {"activeDeadlineSeconds": seconds}}
            observed = replace(observed, batch=await _patch_batch(ctx, observed, name, patch))
        case plans.DeleteBatch(name, uid):
            await job_holders.delete_batch(ctx, job_holders.namespace_of(observed), name, uid)
        case plans.SetTtl(name, seconds):
            await _patch_batch(ctx, observed, name, {"spec": {"ttlSecondsAfterFinished": seconds}})
        case other:
            assert_never(other)
    return observed


async def _write_status(ctx: Context, observed: Observed, status: dict[str, Any]) -> Observed:
    before = observed.job.get("status") or {}
    if status == before:
        return observed
    try:
        job = await ctx.client.replace(names.JOBS, {**observed.job, "status": status}, subresource="status")
    except apierrors.NotFoundError as error:  # deleted meanwhile: look again, then its holder is cleared
        raise job_holders.LaterError(CONFLICT_SECONDS) from error
    _measure(observed.job, job, ctx.clock.now())
    return replace(observed, job=job)


async def _create_batch(ctx: Context, observed: Observed, body: dict[str, Any]) -> Observed:
    namespace = job_holders.namespace_of(observed)
    try:
        batch = await ctx.client.create(names.BATCH_JOBS, body, namespace)
    except apierrors.AlreadyExistsError:
        batch = await ctx.client.get(names.BATCH_JOBS, body["metadata"]["name"], namespace)
    except apierrors.ForbiddenError as error:  # a full ResourceQuota, a policy: it may be allowed later
        _logger.warning("batch Job refused for now", extra={"namespace": namespace, "error": error.message})
        return replace(observed, denied=error.message)
    except apierrors.ApiError as error:
        if error.status in REFUSED_FOR_GOOD:
            return replace(observed, refused=error.message)
        await _tell_failure(ctx, observed, error.message)
        raise
    return replace(observed, batch=batch)


async def _tell_failure(ctx: Context, observed: Observed, message: str) -> None:
    """Write down why there is no batch Job yet, unless it was the first attempt: mostly the next succeeds."""
    metadata = observed.job["metadata"]
    if ctx.queue.failures((KIND, metadata["namespace"], metadata["name"])):
        status = steps.plan(replace(observed, denied=message), ctx.clock.now()).status
        if status is not None:
            await _write_status(ctx, observed, status)


async def _patch_batch(ctx: Context, observed: Observed, name: str, patch: dict[str, Any]) -> dict[str, Any]:
    try:
        return await ctx.client.merge_patch(names.BATCH_JOBS, name, patch, job_holders.namespace_of(observed))
    except apierrors.NotFoundError as error:  # gone meanwhile: look again
        raise job_holders.LaterError(CONFLICT_SECONDS) from error


async def _unsuspend(ctx: Context, observed: Observed, name: str, uid: str) -> Observed:
    """Let the pods start.

    The order is what makes a second, paused operator harmless: the batch Job exists, THEN the Job is read
    again (unchanged: neither deleted, cancelled, suspended nor ended), THEN the ledger (still Admitted). Who
    releases reads the Job's end first and the batch Job after, so it sees this batch Job and waits for it.
    """
    namespace = job_holders.namespace_of(observed)
    job = await find(ctx, names.JOBS, str(observed.job["metadata"]["name"]), namespace)
    if job is None or job["metadata"]["resourceVersion"] != observed.job["metadata"]["resourceVersion"]:
        raise job_holders.LaterError(CONFLICT_SECONDS)
    ledger = await ctx.ledgers.read(namespace, job_holders.job_type_name(observed))
    held = ledger.holders.get(observed.uid)
    if held is None or held.state is not quota_holders.State.ADMITTED:
        raise job_holders.LaterError(CONFLICT_SECONDS)
    patch = {"metadata": {"uid": uid}, "spec": {"suspend": False}}
    return replace(observed, batch=await _patch_batch(ctx, observed, name, patch))


def _earlier(first: float | None, second: float | None) -> float | None:
    known = [seconds for seconds in (first, second) if seconds is not None]
    return min(known, default=None)


def _measure(before: steps.Body, after: steps.Body, now: datetime) -> None:
    """Count the two latencies from the objects' own times, so that a restart loses nothing."""
    was, reason = statuses.reason(before), statuses.reason(after)
    job_type = str(bodies.spec_of(after).get("jobType"))
    if reason == "Admitted" != was:
        seconds = _seconds_since(after["metadata"].get("creationTimestamp"), now)
        quota_metrics.METRICS.queue_wait.labels(job_type).observe(seconds)
    if reason == "Running" != was:
        admitted = conditions.find((after.get("status") or {}).get("conditions"), "QuotaReserved") or {}
        seconds = _seconds_since(admitted.get("lastTransitionTime"), now)
        quota_metrics.METRICS.admit_to_running.labels(job_type).observe(seconds)


def _seconds_since(text: Any, now: datetime) -> float:
    """Return the seconds since a time in an object, 0 where it says none."""
    try:
        return max(0.0, (now - datetime.fromisoformat(text)).total_seconds())
    except (TypeError, ValueError):
        return 0.0
