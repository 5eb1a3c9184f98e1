"""TenantQuotas: wake the ledgers they govern, say who wins a conflict and whose usage is above a limit."""

from collections.abc import Iterator
from typing import Any

from manifestry.core import bodies, names, quotas, storagecharges
from manifestry.handlers import ledgers, statuses, storagequotas
from manifestry.handlers.quotas import find
from manifestry.handlers.registry import Context

KIND = names.TENANT_QUOTAS.kind
MAX_TENANTS = 256  # the CRD's bounds
MAX_JOB_TYPES = 128
SUMMARY_SECONDS = 300.0  # usage in the status is a convenience; REST and the ledgers are always up to date


async def reconcile(ctx: Context, namespace: str, name: str) -> float | None:  # noqa: ARG001 - cluster-scoped
    """Put a changed limit into force at once, then write the quota's conditions and usage summary."""
    body = await find(ctx, names.TENANT_QUOTAS, name)
    if body is None:
        _wake_all(ctx)
        return None
    if ctx.caches.put(KIND, body) or _is_unseen(body):
        _wake_all(ctx)
    governed = list(_governed(ctx, body))
    wanted = quotas.quota_conditions(
        quotas.conflicts(body, ctx.caches.tenant_quotas.values()), tuple(_above(ctx, governed))
    )
    again = await statuses.write(ctx, names.TENANT_QUOTAS, body, wanted, tenants=_summaries(ctx, governed))
    return SUMMARY_SECONDS if again is None else again


async def resync(ctx: Context) -> None:
    """Look at every quota again: a deleted older one may have ended a conflict."""
    for name in tuple(ctx.caches.tenant_quotas):
        ctx.queue.add((KIND, "", name))


def _wake_all(ctx: Context) -> None:
    for namespace in tuple(ctx.caches.namespaces):
        for job_type in tuple(ctx.caches.job_types):
            ctx.queue.add((ledgers.KIND, namespace, job_type))
        ctx.queue.add((storagequotas.KIND, namespace, storagecharges.LEDGER))


def _is_unseen(body: dict[str, Any]) -> bool:
    seen = bodies.status_of(body).get("observedGeneration")
    return bool(seen != body["metadata"].get("generation"))


def _governed(ctx: Context, body: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield (namespace, tenant) for each tenant whose limits come from this quota."""
    every = tuple(ctx.caches.tenant_quotas.values())
    for namespace in sorted(ctx.caches.namespaces):
        tenant = ctx.caches.tenant(namespace)
        winner = quotas.governing(tenant, every) if tenant else None
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
        if rows:
            found.append({"tenant": tenant, "jobs": rows[:MAX_JOB_TYPES]})
    return found


def _above(ctx: Context, governed: list[tuple[str, str]]) -> Iterator[str]:
    for namespace, tenant in governed:
        for job_type, usage, limits in ledgers.usages(ctx, namespace, tenant):
            if quotas.is_over(usage, limits):
                yield quotas.describe(tenant, job_type, usage, limits)
        over = storagequotas.over_limit(ctx, namespace, tenant)
        if over:
            yield over
