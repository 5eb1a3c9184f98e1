"""A Job's place in its ledger: claim, park, release, and what deleted Jobs have left behind."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from manifestry.adapters.kube import apierrors
from manifestry.adapters.quota.books import NotReadyError
from manifestry.adapters.telemetry import quota_metrics
from manifestry.core.jobs import batchjobs
from manifestry.core.jobs.lives import live_job
from manifestry.core.jobs.plans import Observed
from manifestry.core.kube import names
from manifestry.core.quota import holders, ledgers, quotas
from manifestry.handlers.quota.quotas import limits_of, wake
from manifestry.handlers.runtime.registry import Context

Transition = Callable[[holders.Ledger], tuple[holders.Ledger, holders.Outcome]]


class LaterError(Exception):
    """Something must happen elsewhere before this Job can go on."""

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds)
        self.seconds = seconds


async def claim(ctx: Context, observed: Observed, job: holders.LiveJob) -> Observed:
    """T2 and T3 in one write: enter the queue and, where a slot is free, leave it at once."""
    limits, now = _limits(ctx, observed), ctx.clock.now()

    def decide(ledger: holders.Ledger) -> tuple[holders.Ledger, holders.Outcome]:
        return ledgers.claim(ledger, job, limits, now)

    ledger, outcome = await _transact(ctx, observed, limits, decide)
    if outcome is not holders.Outcome.OVER_LIMIT:
        return replace(observed, holder=ledger.holders.get(job.uid))
    quota_metrics.METRICS.rejections.labels("operator").inc()
    sentence = quotas.describe(observed.tenant or "", job_type_name(observed), ledger.usage, limits)
    return replace(observed, holder=None, over_quota="quota exceeded: " + sentence)


async def park(ctx: Context, observed: Observed, holder: holders.Holder) -> Observed:
    """Give the slot of a suspended Job away, once its pods are gone; its charge stays."""
    await _require_stopped(ctx, observed)
    now = ctx.clock.now()
    ledger, _ = await _transact(
        ctx, observed, _limits(ctx, observed), lambda ledger: ledgers.park(ledger, holder, now)
    )
    return replace(observed, holder=ledger.holders.get(observed.uid))


async def release(ctx: Context, observed: Observed, wait_for_pods: bool) -> Observed:
    """T4: leave the ledger and give the slot to the next in the same write."""
    if wait_for_pods:
        await _require_stopped(ctx, observed)
    await _transact(
        ctx, observed, _limits(ctx, observed), lambda ledger: ledgers.release(ledger, observed.uid)
    )
    return replace(observed, holder=None)


async def _transact(
    ctx: Context, observed: Observed, limits: quotas.Limits, decide: Transition
) -> tuple[holders.Ledger, holders.Outcome]:
    """Change the ledger and, in the same write, give every free slot away."""
    namespace, job_type = namespace_of(observed), job_type_name(observed)

    def fold(ledger: holders.Ledger) -> tuple[holders.Ledger, tuple[holders.Ledger, Any, Any]]:
        ledger, outcome = decide(ledger)
        ledger, admitted = ledgers.admit(ledger, limits)
        return ledger, (ledger, outcome, admitted)

    def wake_others(answer: tuple[Any, Any, tuple[holders.Holder, ...]]) -> None:
        wake(ctx, namespace, tuple(holder for holder in answer[2] if holder.uid != observed.uid))

    try:
        ledger, outcome, _ = await ctx.ledgers.transact(namespace, job_type, fold, wake_others)
    except NotReadyError as error:
        ctx.queue.add((names.QUOTA_LEDGERS.kind, namespace, job_type), urgent=True)
        raise LaterError(batchjobs.pause(_age_seconds(ctx, observed))) from error  # the repair wakes it, too
    return ledger, outcome


def _age_seconds(ctx: Context, observed: Observed) -> float:
    created = live_job(observed.job, None, None).created
    return (ctx.clock.now() - created).total_seconds() if created else 0.0


async def clear(
    ctx: Context, namespace: str, held: list[tuple[str, holders.Holder]], observed: Observed | None
) -> float | None:
    """Release what deleted Jobs of a name hold, once their pods are gone.

    Args:
        ctx: the operator's ports.
        namespace: the Jobs' namespace.
        held: (job type, holder) of the name, from before the Job was read: a Job that was made in between
            must not be taken for one that is gone.
        observed: the Job that has the name now.

    Returns:
        The seconds after which to look again; None when nothing is left. A Reserved entry may belong to a
        Job that is being created; unless that Job was seen to go, it is left until it is old enough.
    """
    kept, after = (observed.uid if observed else None), None
    for job_type, holder in held:
        is_new = ctx.clock.now() - holder.since <= ledgers.RESERVED_GRACE
        may_come = holder.state is holders.State.RESERVED and is_new and not ctx.caches.is_deleted(holder.uid)
        if holder.uid == kept or may_come:
            continue
        wait = await _stop_leftovers(ctx, namespace, holder.uid)
        if wait is None:
            await _release_gone(ctx, namespace, job_type, holder.uid)
        else:
            after = min(wait, after or wait)
    return after


async def _stop_leftovers(ctx: Context, namespace: str, uid: str) -> float | None:
    """Stop what is left of a Job; return the seconds after which to look again, None when nothing is left."""
    batches, _ = await ctx.client.list(names.BATCH_JOBS, namespace, label_selector=_selector(uid))
    left = [batch for batch in batches if not batchjobs.is_finished(batch)]
    for batch in left:
        if not batchjobs.is_deleting(batch):
            await delete_batch(ctx, namespace, batch["metadata"]["name"], batch["metadata"]["uid"])
    pods = [pod for pod in await pods_of(ctx, namespace, uid) if batchjobs.is_pod_unfinished(pod)]
    return batchjobs.patience((*left, *pods), ctx.clock.now()) if left or pods else None


async def _release_gone(ctx: Context, namespace: str, job_type: str, uid: str) -> None:
    limits = limits_of(ctx, ctx.caches.tenant(namespace), job_type)

    def decide(ledger: holders.Ledger) -> tuple[holders.Ledger, tuple[holders.Holder, ...]]:
        return ledgers.admit(ledgers.release(ledger, uid)[0], limits)

    def wake_all(admitted: tuple[holders.Holder, ...]) -> None:
        wake(ctx, namespace, admitted)

    try:
        await ctx.ledgers.transact(namespace, job_type, decide, wake_all)
    except NotReadyError:
        return  # no ledger, nothing to release


async def delete_batch(ctx: Context, namespace: str, name: str, uid: str) -> None:
    """Stop a batch Job; foreground: its object stays until its pods are gone, so its absence says so."""
    try:
        await ctx.client.delete(names.BATCH_JOBS, name, namespace, propagation="Foreground", uid=uid)
    except apierrors.NotFoundError:
        return


async def _require_stopped(ctx: Context, observed: Observed) -> None:
    """Make sure that nothing of a Job runs; asked after its end is written down, as nobody starts it then."""
    wait = await _stop_leftovers(ctx, namespace_of(observed), observed.uid)
    if wait is not None:
        raise LaterError(wait)


async def pods_of(ctx: Context, namespace: str, uid: str) -> list[dict[str, Any]]:
    """Return the pods of a Job, read live."""
    return (await ctx.client.list(names.PODS, namespace, label_selector=_selector(uid)))[0]


def _selector(uid: str) -> str:
    return f"{names.JOB_UID_LABEL}={uid}"


def _limits(ctx: Context, observed: Observed) -> quotas.Limits:
    return limits_of(ctx, observed.tenant, job_type_name(observed))


def namespace_of(observed: Observed) -> str:
    """Return the Job's namespace."""
    return str(observed.job["metadata"]["namespace"])


def job_type_name(observed: Observed) -> str:
    """Return the name of the Job's type, which is its ledger's name, too."""
    return str(observed.spec["jobType"])
