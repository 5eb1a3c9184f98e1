"""Artifacts: gather what the spec points to, plan, publish the bytes, write the status once."""

from collections.abc import Iterable, Mapping
from typing import Any, assert_never

from manifestry.adapters import cluster, store
from manifestry.core import artifacts, manifests, names, sources
from manifestry.core.artifacts import Lookups, Observed, Plan, PutBlob, Tenant
from manifestry.core.sources import Evidence, Reference
from manifestry.handlers.registry import Context

KIND = names.ARTIFACTS.kind
CONFLICT_RETRY_SECONDS = 0.2  # somebody else has written: read again
_RESOURCES = {"ConfigMap": names.CONFIG_MAPS, "Secret": names.SECRETS}

Body = Mapping[str, Any]


async def reconcile(ctx: Context, namespace: str, name: str) -> float | None:
    """Bring one Artifact closer to Ready; without effect when it is there already.

    Args:
        ctx: the operator's ports.
        namespace: the Artifact's namespace.
        name: its name.

    Returns:
        The seconds after which to look again, None when only a change of the object matters.

    Raises:
        ApiError: the API server did not do what was asked; the queue tries again.
    """
    body = await _find(ctx, names.ARTIFACTS, namespace, name)
    wanted = artifacts.lookups(body) if body is not None else None
    if body is None or wanted is None:
        return None
    observed = Observed(body, await _tenant(ctx, namespace))
    try:
        observed = await _gather(ctx, observed, wanted)
        plan = artifacts.plan(observed, ctx.clock.now())
        await _apply(ctx, plan)
    except (store.StoreUnavailableError, store.StoreFullError, store.BlobDamagedError) as error:
        plan = artifacts.unavailable(observed, str(error), ctx.clock.now())
    return await _write_status(ctx, body, plan)


async def _gather(ctx: Context, observed: Observed, wanted: Lookups) -> Observed:
    if observed.tenant is None:
        return observed
    body, namespace = observed.body, observed.body["metadata"]["namespace"]
    evidence = Evidence(
        await _sizes(ctx, observed.tenant, wanted.digests),
        {reference: await _content(ctx, namespace, reference) for reference in wanted.references},
        artifacts.created(body),
    )
    return Observed(body, observed.tenant, evidence, await _subject(ctx, namespace, wanted.subject))


async def _apply(ctx: Context, plan: Plan) -> None:
    for action in plan.actions:
        match action:
            case PutBlob(tenant_uid, _, data):
                await ctx.store.put(tenant_uid, data)
            case other:
                assert_never(other)


async def _write_status(ctx: Context, body: Body, plan: Plan) -> float | None:
    if plan.status is None:
        return plan.again_seconds
    try:
        await ctx.client.replace(names.ARTIFACTS, {**body, "status": plan.status}, subresource="status")
    except cluster.NotFoundError:
        return None
    except cluster.ConflictError:
        return CONFLICT_RETRY_SECONDS
    return plan.again_seconds


async def _tenant(ctx: Context, namespace: str) -> Tenant | None:
    if namespace not in ctx.caches.namespaces:  # the Artifact's event may have come before the namespace's
        found = await _find(ctx, names.NAMESPACES, None, namespace)
        if found is not None and names.TENANT_LABEL in (found["metadata"].get("labels") or {}):
            ctx.caches.put(names.NAMESPACES.kind, found)
    name, uid = ctx.caches.tenant(namespace), ctx.caches.tenant_uid(namespace)
    return Tenant(name, uid) if name and uid else None


async def _sizes(ctx: Context, tenant: Tenant, digests: Iterable[str]) -> dict[str, int | None]:
    blobs = {digest: await ctx.store.head(tenant.uid, digest) for digest in digests}
    return {digest: None if blob is None else blob.size_bytes for digest, blob in blobs.items()}


async def _content(ctx: Context, namespace: str, reference: Reference) -> bytes | sources.Absent:
    try:
        body = await _find(ctx, _RESOURCES[reference.kind], namespace, reference.name)
    except cluster.ForbiddenError:
        return sources.Absent.FORBIDDEN
    return sources.content(reference, body)


async def _subject(ctx: Context, namespace: str, name: str) -> manifests.Descriptor | None:
    body = await _find(ctx, names.ARTIFACTS, namespace, name) if name else None
    return None if body is None else artifacts.manifest_of(body)


async def _find(
    ctx: Context, resource: names.Resource, namespace: str | None, name: str
) -> dict[str, Any] | None:
    try:
        return await ctx.client.get(resource, name, namespace)
    except cluster.NotFoundError:
        return None
