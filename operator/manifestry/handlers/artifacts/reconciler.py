"""Artifacts: gather what the spec points to, plan, publish the bytes, write the status once."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, assert_never

from manifestry.adapters.kube import apierrors
from manifestry.adapters.store import inventory
from manifestry.adapters.store.contract import ports
from manifestry.core.artifacts import lives, manifests, sources, steps
from manifestry.core.artifacts.plans import (
    Action,
    DropFetched,
    DropPin,
    Lookups,
    Observed,
    Plan,
    PublishStaged,
    PutBlob,
    PutPin,
    Tenant,
)
from manifestry.core.artifacts.sources import Evidence, Reference
from manifestry.core.kube import names
from manifestry.handlers.artifacts import fetchcharges
from manifestry.handlers.quota import storagequotas
from manifestry.handlers.runtime.registry import Context

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
    await _settle_departed(ctx, namespace, name)
    body = await _find(ctx, names.ARTIFACTS, namespace, name)
    wanted = steps.lookups(body) if body is not None else None
    if body is None:
        storagequotas.gone(ctx, namespace, name)
    else:
        await storagequotas.settle(ctx, body, body)
    if body is None or wanted is None:
        _forget(ctx, namespace, name)
        return None
    observed = Observed(body, await _tenant(ctx, namespace))
    try:
        observed = await _gather(ctx, observed, wanted)
        plan = steps.plan(observed, ctx.clock.now())
        await _apply(ctx, body, plan)
        settled: Observed | None = observed
    except (ports.StoreUnavailableError, ports.StoreFullError, ports.BlobDamagedError) as error:
        plan, settled = steps.unavailable(observed, str(error), ctx.clock.now()), None
    return await _write_status(ctx, body, plan, settled)


async def _gather(ctx: Context, observed: Observed, wanted: Lookups) -> Observed:
    if observed.tenant is None:
        return observed
    body, namespace = observed.body, observed.body["metadata"]["namespace"]
    evidence = Evidence(
        await _sizes(ctx, observed.tenant, wanted.digests),
        {reference: await _content(ctx, namespace, reference) for reference in wanted.references},
        lives.created(body),
    )
    found = Observed(body, observed.tenant, evidence, await _subject(ctx, namespace, wanted.subject))
    found = await storagequotas.charge(ctx, found)
    if found.is_over_quota:
        return found
    fetched = _fetch(ctx, found)
    charged = await storagequotas.charge(ctx, fetched) if fetched.evidence.downloads else fetched
    if charged.is_over_quota or steps.short_of_room(charged):
        _forget(ctx, namespace, body["metadata"]["name"])  # the size is remembered, the bytes would take room
    return charged


def _fetch(ctx: Context, observed: Observed) -> Observed:
    """Ask how far the downloads are; they run beside the reconciles and wake the Artifact at their end."""
    if ctx.fetches is None:
        return replace(observed, evidence=replace(observed.evidence, downloads=None))
    orders = steps.orders(observed, ctx.clock.now())
    if not orders:
        return observed
    wanted = fetchcharges.wanted(ctx, observed, orders)
    return replace(observed, evidence=replace(observed.evidence, downloads=ctx.fetches.look(wanted)))


def _forget(ctx: Context, namespace: str, name: str) -> None:
    if ctx.fetches is not None:
        ctx.fetches.forget(namespace, name)


async def _settle_departed(ctx: Context, namespace: str, name: str) -> None:
    """Do what the last policy of deleted Artifacts asks for, before a count may take them for gone.

    Raises:
        StoreError: it stays to be done.
    """
    for action in ctx.caches.departed(namespace, name):
        match action:
            case PutPin():
                await _pin(ctx, action)
            case DropPin(tenant_uid, artifact_uid):
                await inventory.Inventory(ctx.store).unpin(tenant_uid, artifact_uid)
        ctx.caches.settle_departed(namespace, name, action)


async def _apply(ctx: Context, body: Body, plan: Plan) -> None:
    for action in plan.actions:
        if isinstance(action, PutPin) and not await _is_as_read(ctx, body):
            return  # deleted meanwhile, and counted as gone: what is pinned now would not be charged
        await _act(ctx, body, action)


async def _pin(ctx: Context, wanted: PutPin) -> None:
    try:
        await inventory.Inventory(ctx.store).pin(wanted.tenant_uid, wanted.artifact_uid, wanted.content)
    finally:  # what has failed may have been done all the same
        if ctx.storage is not None:
            ctx.storage.retained.note(wanted.tenant_uid)


async def _is_as_read(ctx: Context, body: Body) -> bool:
    metadata = body["metadata"]
    found = await _find(ctx, names.ARTIFACTS, metadata["namespace"], metadata["name"])
    return found is not None and all(
        found["metadata"].get(key) == metadata.get(key) for key in ("uid", "resourceVersion")
    )


async def _act(ctx: Context, body: Body, action: Action) -> None:
    match action:
        case PutBlob(tenant_uid, _, data):
            await ctx.store.put(tenant_uid, data)
        case PublishStaged(tenant_uid, upload_id, digest, size_bytes):
            try:
                await ctx.store.publish(tenant_uid, ports.Staged(upload_id, digest, size_bytes))
            except ports.BlobNotFoundError:  # collected meanwhile: the next look fetches once more
                _forget(ctx, body["metadata"]["namespace"], body["metadata"]["name"])
                raise
        case PutPin():
            await _pin(ctx, action)
        case DropPin(tenant_uid, artifact_uid):
            await inventory.Inventory(ctx.store).unpin(tenant_uid, artifact_uid)
        case DropFetched():
            _forget(ctx, body["metadata"]["namespace"], body["metadata"]["name"])
        case other:
            assert_never(other)


async def _write_status(ctx: Context, body: Body, plan: Plan, observed: Observed | None) -> float | None:
    """Write what the plan says; then give back what `observed` (None: unknown) does not need."""
    if plan.status is not None:
        written = {**body, "status": plan.status}
        try:
            await ctx.client.replace(names.ARTIFACTS, written, subresource="status")
        except apierrors.NotFoundError:
            return None
        except apierrors.ConflictError:
            return CONFLICT_RETRY_SECONDS
        await storagequotas.settle(ctx, body, written)
    if observed is not None:
        await fetchcharges.give_back(ctx, observed)
    return plan.again_seconds


async def _tenant(ctx: Context, namespace: str) -> Tenant | None:
    if namespace not in ctx.caches.namespaces:  # the Artifact's event may have come before the namespace's
        found = await _find(ctx, names.NAMESPACES, None, namespace)
        if found is not None and names.TENANT_LABEL in (found["metadata"].get("labels") or {}):
            ctx.caches.put(names.NAMESPACES.kind, found)
    name, uid = ctx.caches.tenant(namespace), ctx.caches.tenant_uid(namespace)
    return Tenant(name, uid) if name and uid else None


async def _sizes(ctx: Context, tenant: Tenant, digests: Iterable[str]) -> dict[str, int | None]:
    blobs = {digest: await ctx.store.confirm(tenant.uid, digest) for digest in digests}
    return {digest: None if blob is None else blob.size_bytes for digest, blob in blobs.items()}


async def _content(ctx: Context, namespace: str, reference: Reference) -> bytes | sources.Absent:
    try:
        body = await _find(ctx, _RESOURCES[reference.kind], namespace, reference.name)
    except apierrors.ForbiddenError:
        return sources.Absent.FORBIDDEN
    return sources.content(reference, body)


async def _subject(ctx: Context, namespace: str, name: str) -> manifests.Descriptor | None:
    body = await _find(ctx, names.ARTIFACTS, namespace, name) if name else None
    return None if body is None else lives.manifest_of(body)


async def _find(
    ctx: Context, resource: names.Resource, namespace: str | None, name: str
) -> dict[str, Any] | None:
    try:
        return await ctx.client.get(resource, name, namespace)
    except apierrors.NotFoundError:
        return None
