"""Who the tenant of a namespace is and which limits hold: asked for by every handler of the quota."""

from typing import Any

from manifestry.adapters.kube import apierrors
from manifestry.core.kube import names
from manifestry.core.quota import holders, quotas
from manifestry.handlers.runtime import caches
from manifestry.handlers.runtime.registry import Context

NOTHING = quotas.Limits(0, 0)  # for a namespace without a tenant: nothing is admitted there


class AmbiguousTenantError(Exception):
    """Two namespaces claim the same tenant; neither is served until one of them is changed."""


async def load(ctx: Context) -> None:
    """Read all quotas, job types and tenants once, before the first decision of this process.

    Events fill the caches one by one; a limit that is not there yet would read as unlimited.
    """
    if ctx.ledgers.primed:
        return
    for resource in caches.CACHED:
        selector = names.TENANT_LABEL if resource == names.NAMESPACES else None
        items, version = await ctx.client.list(resource, label_selector=selector)
        ctx.caches.replace(resource.kind, items, version)
    ctx.ledgers.primed = True


async def tenant_of(ctx: Context, namespace: str) -> str | None:
    """Return the tenant of a namespace, None when its label is missing.

    Raises:
        AmbiguousTenantError: another namespace claims the same tenant.
    """
    if namespace not in ctx.caches.namespaces:  # a Job's event may come before its namespace's
        body = await find(ctx, names.NAMESPACES, namespace)
        if body is None or names.TENANT_LABEL not in (body["metadata"].get("labels") or {}):
            return None
        ctx.caches.put(names.NAMESPACES.kind, body)
    tenant = ctx.caches.tenant(namespace)
    if tenant is None:
        raise AmbiguousTenantError(f"the tenant of namespace '{namespace}' is claimed by another one, too")
    return tenant


def is_leaving(ctx: Context, namespace: str) -> bool:
    """Tell whether a namespace is being deleted: nothing can be created there any more."""
    found = ctx.caches.namespaces.get(namespace)
    return found is not None and bool(found["metadata"].get("deletionTimestamp"))


async def job_type_of(ctx: Context, name: str) -> dict[str, Any] | None:
    """Return a JobType, read live when no event has told of it yet; None when there is none."""
    known = ctx.caches.job_types.get(name)
    if known is not None:
        return dict(known)
    body = await find(ctx, names.JOB_TYPES, name)
    if body is not None:
        ctx.caches.put(names.JOB_TYPES.kind, body)
    return body


def limits_of(ctx: Context, tenant: str | None, job_type: str) -> quotas.Limits:
    """Return the limits that hold now; without a tenant nothing may run."""
    if tenant is None:
        return NOTHING
    return ctx.caches.quota_table.limits(tenant, job_type)


def wake(ctx: Context, namespace: str, admitted: tuple[holders.Holder, ...]) -> None:
    """Ask for a look at Jobs that have just got a slot, before everything else."""
    for holder in admitted:
        ctx.queue.add((names.JOBS.kind, namespace, holder.name), urgent=True)


async def find(
    ctx: Context, resource: names.Resource, name: str, namespace: str | None = None
) -> dict[str, Any] | None:
    """Return an object read live, None when there is none."""
    try:
        return await ctx.client.get(resource, name, namespace)
    except apierrors.NotFoundError:
        return None
