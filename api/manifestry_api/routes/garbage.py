"""Garbage: a dry run of the collector for one tenant, and what the scrub has set aside of it."""

from datetime import timedelta
from typing import Annotated

from fastapi import Depends, Query
from starlette.responses import Response

from manifestry.adapters.store import inventory, quarantines
from manifestry.adapters.store.contract import bounded
from manifestry.adapters.store.contract import ports as contract_ports
from manifestry.adapters.store.ownership import tenants
from manifestry.core import errors
from manifestry.core.access import permissions
from manifestry.core.blobs import garbage, garbagekeys
from manifestry.core.blobs.garbage import Blob, Named, Observed, Verdict
from manifestry.core.http import pages
from manifestry.core.kube import names
from manifestry_api.guard import deps
from manifestry_api.objects import answers, representations, schemas, views

GONE_LOOKED_AT = 100  # tenants without a namespace, two small reads each

router = deps.api_router(tags=["garbage"])

Collector = Annotated[deps.Caller, Depends(deps.require(permissions.Action.GARBAGE_COLLECT))]

_RESTORING: answers.Documented = {
    **answers.refusal(409, "The bytes still do not match their digest"),
    **answers.refusal(507, "There is no room for a copy"),
}


@router.get("/garbage", responses={200: {"model": views.GarbagePage}, **answers.EXPIRED})
async def list_garbage(
    ports: deps.PortsDep, caller: Collector, query: Annotated[schemas.PageQuery, Query()]
) -> Response:
    """Say of every blob of the tenant whether it stays, and why; nothing is marked or removed."""
    asked = pages.Query(query.limit, query.token, {"list": "garbage", "tenant": caller.tenant})
    start = pages.start(asked, ports.clock())
    stored = inventory.Inventory(ports.store)
    after = "" if start is None else _digest(start)
    found = await stored.blobs(caller.tenant_uid, after=after, limit=query.limit + 1)
    blobs = found[: query.limit]
    verdicts = await _explain(ports, caller, stored, blobs)
    items = [representations.garbage(blob, verdict) for blob, verdict in zip(blobs, verdicts, strict=True)]
    more = len(found) > query.limit
    token = pages.token_after((blobs[-1].digest,), asked, ports.clock()) if more else None
    head = {"tenant": caller.tenant, "graceSeconds": ports.settings.gc_grace_seconds}
    if start is None and (gone := await _gone(ports, caller, stored)):
        head["goneTenants"] = gone
    return answers.json({**head, **representations.page(items, token)})


@router.get("/damaged", responses={200: {"model": views.DamagedPage}, **answers.EXPIRED})
async def list_damaged(
    ports: deps.PortsDep, caller: Collector, query: Annotated[schemas.PageQuery, Query()]
) -> Response:
    """List the bytes of the tenant that did not match their digest and were set aside, for a week."""
    asked = pages.Query(query.limit, query.token, {"list": "damaged", "tenant": caller.tenant})
    start = pages.start(asked, ports.clock())
    after = "" if start is None else _key(start, caller.tenant_uid)
    found = await quarantines.Quarantine(ports.store).page(
        caller.tenant_uid, after=after, limit=query.limit + 1
    )
    shown, more = found[: query.limit], len(found) > query.limit
    token = pages.token_after((shown[-1].key,), asked, ports.clock()) if more else None
    items = [representations.damaged(Blob(aside.digest, aside.size_bytes, aside.since)) for aside in shown]
    return answers.json({"tenant": caller.tenant, **representations.page(items, token)})


@router.post("/damaged/{digest}/restore", responses={200: {"model": views.RestoredView}, **_RESTORING})
async def restore_damaged(digest: str, ports: deps.PortsDep, caller: Collector) -> Response:
    """Publish bytes again that were set aside, if they match their digest by now; else they stay there."""
    if not names.is_digest(digest):
        raise errors.Problem(errors.NOT_FOUND, "nothing of this digest is set aside")
    try:
        restored = await quarantines.Quarantine(ports.store).restore(caller.tenant_uid, digest)
    except contract_ports.BlobNotFoundError:
        raise errors.Problem(errors.NOT_FOUND, "nothing of this digest is set aside") from None
    except contract_ports.BlobDamagedError:
        raise errors.Problem(errors.CONFLICT, "the bytes still do not match their digest") from None
    return answers.json({"digest": restored.digest, "sizeBytes": restored.size_bytes})


async def _gone(
    ports: deps.Ports, caller: deps.Caller, stored: inventory.Inventory
) -> list[dict[str, object]]:
    """Look for bytes of earlier namespaces with the name of the caller's: deleted and made anew.

    Of other namespaces a tenant's administrator is told nothing.
    """
    live = {body["metadata"]["uid"] for body in ports.caches.namespaces.items.values()}
    uids = [uid for uid in await stored.tenants() if uid not in live][:GONE_LOOKED_AT]
    records = tenants.TenantRecords(ports.store.records())
    grace = timedelta(seconds=ports.settings.gc_tenant_grace_seconds)
    found = zip(uids, await bounded.each(records.find(uid) for uid in uids), strict=True)
    return [
        representations.gone_tenant(uid, each.gone_since, grace)
        for uid, each in found
        if each.record is not None
        and each.record.namespace == caller.namespace
        and each.gone_since is not None
    ]


async def _explain(
    ports: deps.Ports, caller: deps.Caller, stored: inventory.Inventory, blobs: list[Blob]
) -> list[Verdict]:
    """Look at the Artifacts first and at the pins then, as the collector does."""
    if not blobs:
        return []
    named = Named(frozenset(blob.digest for blob in blobs))
    for body in ports.caches.artifacts.in_namespace(caller.namespace).values():
        named.add(body)
    try:
        async for pin in stored.pins(caller.tenant_uid):
            named.add_pin(pin)
    except garbage.PinError as error:
        raise errors.Problem(errors.INTERNAL, f"{error}; nothing is removed until it is repaired") from None
    now = ports.clock()
    marks = await stored.marks_of(caller.tenant_uid, [blob.digest for blob in blobs])
    grace = timedelta(seconds=ports.settings.gc_grace_seconds)
    return [
        garbage.explain(Observed(blob, named.of(blob.digest), marks.get(blob.digest), now, grace))
        for blob in blobs
    ]


def _digest(key: pages.Key) -> str:
    match key:
        case (str(digest),) if names.is_digest(digest):
            return digest
    raise errors.Problem(errors.BAD_REQUEST, "`continue` must be a token from an earlier answer")


def _key(key: pages.Key, tenant_uid: str) -> str:
    match key:
        case (str(found),) if found.startswith(garbagekeys.damaged(tenant_uid)):
            if garbagekeys.parse_quarantine(found) is not None:
                return found
    raise errors.Problem(errors.BAD_REQUEST, "`continue` must be a token from an earlier answer")
