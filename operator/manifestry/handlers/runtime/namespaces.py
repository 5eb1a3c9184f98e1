"""Tenant namespaces: a new, changed or vanished one wakes the ledgers it may concern."""

from manifestry.core.kube import names
from manifestry.core.quota.storage import charges
from manifestry.handlers.runtime import keys
from manifestry.handlers.runtime.registry import Context

KIND = names.NAMESPACES.kind


async def reconcile(ctx: Context, namespace: str, name: str) -> float | None:  # noqa: ARG001 - cluster-scoped
    """Wake the namespace's ledgers, and those of namespaces whose claim on a tenant it may have changed."""
    before, after = ctx.caches.served.get(name), ctx.caches.claim(name)
    if after is None:
        ctx.caches.served.pop(name, None)
    else:
        ctx.caches.served[name] = after
    rivals = ctx.caches.claimants(before) | ctx.caches.claimants(after) if before != after else frozenset()
    for concerned in {name, *rivals}:
        ctx.queue.add((keys.STORAGE_LEDGER, concerned, charges.LEDGER))  # uploads wait for it
        for job_type in tuple(ctx.caches.job_types):
            ctx.queue.add((names.QUOTA_LEDGERS.kind, concerned, job_type))
    return None
