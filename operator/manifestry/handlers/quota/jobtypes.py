"""JobTypes: say whether they can be used, and see to a ledger for each tenant."""

from manifestry.core.jobs import jobtypes
from manifestry.core.kube import names
from manifestry.handlers.quota import ledgers
from manifestry.handlers.quota.quotas import find
from manifestry.handlers.runtime import statuses
from manifestry.handlers.runtime.registry import Context

KIND = names.JOB_TYPES.kind


async def reconcile(ctx: Context, namespace: str, name: str) -> float | None:  # noqa: ARG001 - cluster-scoped
    """Write a JobType's conditions and wake those of its ledgers that are not known yet, which makes them."""
    body = await find(ctx, names.JOB_TYPES, name)
    if body is None:
        return None
    ctx.caches.put(KIND, body)
    for tenant_namespace in tuple(ctx.caches.namespaces):
        if ctx.ledgers.snapshot(tenant_namespace, name) is None:
            ctx.queue.add((ledgers.KIND, tenant_namespace, name))
    return await statuses.write(ctx, names.JOB_TYPES, body, jobtypes.type_conditions(body))
