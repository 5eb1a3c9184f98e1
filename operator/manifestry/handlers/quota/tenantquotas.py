"""TenantQuotas: wake the ledgers they govern, say who wins a conflict and whose usage is above a limit."""

from collections.abc import Iterable, Iterator
from typing import Any

from manifestry.adapters.telemetry import quota_metrics
from manifestry.core.kube import bodies, conditions, names
from manifestry.core.quota import quotas
from manifestry.core.quota.storage import charges
from manifestry.handlers.quota import ledgers, storagequotas
from manifestry.handlers.quota.quotas import find
from manifestry.handlers.runtime import statuses
from manifestry.handlers.runtime.registry import Context

KIND = names.TENANT_QUOTAS.kind
MAX_TENANTS = 256  # the CRD's bounds
MAX_JOB_TYPES = 128
SUMMARY_SECONDS = 60.0  # usage in the status is a convenience; REST and the ledgers are always up to date


async def reconcile(ctx: Context, namespace: str, name: str) -> float | None:  # noqa: ARG001 - cluster-scoped
    """Put a changed limit into force at once, then write the quota's conditions and usage summary."""
    body = await find(ctx, names.TENANT_QUOTAS, name)
    if body is None:
        ctx.caches.summarised.pop(name, None)
        _wake_all(ctx)
        _forget_gone(ctx)
        return None
    if ctx.caches.put(KIND, body) or _is_unseen(body):
        _wake_all(ctx)
    governed = list(_governed(ctx, body))
    wanted = quotas.quota_conditions(ctx.caches.quota_table.conflicts(body), tuple(_above(ctx, governed)))
    due = ctx.caches.summarised.get(name, float("-inf")) + SUMMARY_SECONDS - ctx.clock.monotonic()
    if due > 0 and not _has_news(body, wanted):
        return due
    ctx.caches.summarised[name] = ctx.clock.monotonic()
    rows = _summaries(ctx, governed)
    again = await statuses.write(ctx, names.TENANT_QUOTAS, body, wanted, tenants=rows, storage=_total(rows))
    return SUMMARY_SECONDS if again is None else again


def _has_news(body: dict[str, Any], wanted: Iterable[conditions.Condition]) -> bool:
    """Tell whether more than numbers has changed.

    Each write of ours wakes us again, and on a busy tenant the numbers are different each time.
    """
    current = bodies.status_of(body).get("conditions")
    return _is_unseen(body) or not all(
        conditions.is_status(current, each.type, each.status) for each in wanted
    )


async def resync(ctx: Context) -> None:
    """Look at every quota again: a deleted older one may have ended a conflict."""
    _forget_gone(ctx)
    for name in tuple(ctx.caches.tenant_quotas):
        ctx.queue.add((KIND, "", name))


def _forget_gone(ctx: Context) -> None:
    """Drop the metrics of tenants and job types that are gone; the others are told by their ledgers."""
    claims = {ctx.caches.claim(namespace) for namespace in ctx.caches.namespaces}
    tenants = {claim for claim in claims if claim is not None}
    quota_metrics.METRICS.retain(tenants, ctx.caches.job_types.keys())


def _wake_all(ctx: Context) -> None:
    for namespace in tuple(ctx.caches.namespaces):
        for job_type in tuple(ctx.caches.job_types):
            ctx.queue.add((ledgers.KIND, namespace, job_type))
        ctx.queue.add((storagequotas.KIND, namespace, charges.LEDGER))


def _is_unseen(body: dict[str, Any]) -> bool:
    seen = bodies.status_of(body).get("observedGeneration")
    return bool(seen != body["metadata"].get("generation"))


def _governed(ctx: Context, body: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield (namespace, tenant) for each tenant whose limits come from this quota."""
    for namespace in sorted(ctx.caches.namespaces):
        tenant = ctx.caches.tenant(namespace)
        winner = ctx.caches.quota_table.governing(tenant) if tenant else None
        if tenant and winner is not None and winner["metadata"]["name"] == body["metadata"]["name"]:
            yield namespace, tenant


def _summaries(ctx: Context, governed: list[tuple[str, str]]) -> list[dict[str, Any]]:
    found = []
    for namespace, tenant in governed[:MAX_TENANTS]:
        rows = [
            {"jobType": job_type, "running": usage.admitted, "queued": usage.waiting}
            for job_type, usage, _ in ledgers.usages(ctx, namespace, tenant)
            if usage.held
        ]
        stored = storagequotas.summary(ctx, namespace, tenant)
        if rows or stored is not None:
            usage = {"jobs": rows[:MAX_JOB_TYPES]} if rows else {}
            found.append({"tenant": tenant, **usage, **({"storage": stored} if stored is not None else {})})
    return found


def _total(rows: list[dict[str, Any]]) -> dict[str, int] | None:
    """Return what the tenants store together; None where it is counted for none of them."""
    stored = [row["storage"] for row in rows if "storage" in row]
    keys = dict.fromkeys(key for each in stored for key in each)  # `retainedBytes` is not in all of them
    return {key: sum(each.get(key, 0) for each in stored) for key in keys} if stored else None


def _above(ctx: Context, governed: list[tuple[str, str]]) -> Iterator[str]:
    for namespace, tenant in governed:
        for job_type, usage, limits in ledgers.usages(ctx, namespace, tenant):
            if quotas.is_over(usage, limits):
                yield quotas.describe(tenant, job_type, usage, limits)
        over = storagequotas.over_limit(ctx, namespace, tenant)
        if over:
            yield over
