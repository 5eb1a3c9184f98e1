"""Garbage: a dry run of the collector for one tenant; it explains every stored blob and changes nothing."""

from datetime import timedelta
from typing import Annotated

from fastapi import Depends, Query
from starlette.responses import Response

from manifestry.adapters.store import inventory
from manifestry.core import errors
from manifestry.core.access import permissions
from manifestry.core.blobs import garbage
from manifestry.core.blobs.garbage import Blob, Named, Observed, Verdict
from manifestry.core.http import pages
from manifestry.core.kube import names
from manifestry_api.guard import deps
from manifestry_api.objects import answers, representations, schemas, views

router = deps.api_router(tags=["garbage"])

Collector = Annotated[deps.Caller, Depends(deps.require(permissions.Action.GARBAGE_COLLECT))]


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
    verdicts = await _explain(ports, caller, stored, blobs, after)
    items = [representations.garbage(blob, verdict) for blob, verdict in zip(blobs, verdicts, strict=True)]
    more = len(found) > query.limit
    token = pages.token_after((blobs[-1].digest,), asked, ports.clock()) if more else None
    head = {"tenant": caller.tenant, "graceSeconds": ports.settings.gc_grace_seconds}
    return answers.json({**head, **representations.page(items, token)})


async def _explain(
    ports: deps.Ports, caller: deps.Caller, stored: inventory.Inventory, blobs: list[Blob], after: str
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
    upto, now = blobs[-1].digest, ports.clock()
    marks = {m.digest: m.since async for m in stored.marks(caller.tenant_uid, after=after, upto=upto)}
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
