"""What `deletionPolicy: Retain` keeps of deleted artifacts: list it, and give it free."""

from collections.abc import Callable
from typing import Annotated, Final

from fastapi import Depends, Query
from starlette.responses import Response

from manifestry.adapters.kube import apierrors
from manifestry.adapters.store import pins
from manifestry.adapters.store.contract import bounded, record_ports
from manifestry.core import errors
from manifestry.core.access import permissions
from manifestry.core.blobs import garbagekeys
from manifestry.core.blobs import keys as blob_keys
from manifestry.core.http import pages
from manifestry.core.kube import names
from manifestry.core.quota.storage.retained import Retained
from manifestry_api.guard import deps
from manifestry_api.objects import answers, representations, schemas, views

router = deps.api_router(tags=["retained"])

SCANNED: Final = record_ports.LIST_MAX  # pins looked at for one page, whatever the filters leave of them

Reader = Annotated[deps.Caller, Depends(deps.require(permissions.Action.RETAINED_READ))]
Remover = Annotated[deps.Caller, Depends(deps.require(permissions.Action.RETAINED_DELETE))]


@router.get("/retained", responses={200: {"model": views.RetainedPage}, **answers.EXPIRED})
async def list_retained(
    ports: deps.PortsDep, caller: Reader, query: Annotated[schemas.RetainedQuery, Query()]
) -> Response:
    """List what is retained of the tenant's deleted artifacts; a page may be short while there are more."""
    filters = query.model_dump(by_alias=True, exclude={"limit", "token"}, exclude_none=True)
    scope = {"list": "retained", "tenant": caller.tenant_uid}
    asked = pages.Query(query.limit, query.token, {**scope, **filters})
    start = pages.start(asked, ports.clock())
    after = "" if start is None else _uid(start)
    found, last = await _take(ports, caller, _matcher(query), after, query.limit)
    token = pages.token_after((last,), asked, ports.clock()) if last else None
    items = [representations.retained(each, caller.tenant, caller.tenant_uid) for each in found]
    return answers.json(representations.page(items, token))


@router.delete(
    "/retained/{uid}",
    status_code=204,
    response_class=Response,
    responses={
        204: {"description": "Retained no longer; what nothing refers to goes after the grace."},
        **answers.refusal(409, "The artifact exists"),
    },
)
async def delete_retained(uid: str, ports: deps.PortsDep, caller: Remover) -> Response:
    """Retain a deleted artifact's bytes no longer: they go after the grace, if nothing else has them."""
    kept = pins.Pins(ports.store)
    found = await kept.find(caller.tenant_uid, uid) if blob_keys.is_uuid(uid) else None
    if found is None:
        raise errors.Problem(errors.NOT_FOUND, "nothing is retained under this id in this tenant")
    if uid in _living(ports, caller) or await _is_there(ports, caller, found):
        detail = f"the artifact '{found.name}' exists: change its `deletionPolicy`, or delete it first"
        raise errors.Problem(errors.CONFLICT, detail)
    await kept.remove(caller.tenant_uid, uid)
    return Response(status_code=204)


async def _take(
    ports: deps.Ports, caller: deps.Caller, matches: Callable[[Retained], bool], after: str, limit: int
) -> tuple[list[Retained], str]:
    """Return a page, and the id after which the next one begins; an empty one after the last page."""
    kept, living = pins.Pins(ports.store), _living(ports, caller)
    keys = await kept.keys(caller.tenant_uid, after=after, limit=SCANNED)
    uids = {item: garbagekeys.parse_pin(item.key) for item in keys}
    waiting = [item for item, uid in uids.items() if uid is not None and uid not in living]
    found: list[Retained] = []
    for at in range(0, len(waiting), bounded.IN_FLIGHT):
        batch = waiting[at : at + bounded.IN_FLIGHT]
        read = await bounded.each(kept.read(caller.tenant_uid, item) for item in batch)
        found += [each for each in read if each is not None and matches(each)]
        if len(found) > limit:
            return found[:limit], found[limit - 1].artifact_uid
    seen = [uid for uid in uids.values() if uid is not None]
    return found, seen[-1] if len(keys) == SCANNED and seen else ""


def _matcher(query: schemas.RetainedQuery) -> Callable[[Retained], bool]:
    def matches(found: Retained) -> bool:
        is_named = query.name is None or found.name == query.name
        return is_named and (query.digest is None or query.digest in found.digests)

    return matches


def _living(ports: deps.Ports, caller: deps.Caller) -> set[str]:
    """Return the uids of the tenant's artifacts: their pins only wait for their deletion."""
    bodies = ports.caches.artifacts.in_namespace(caller.namespace).values()
    return {str(body["metadata"].get("uid")) for body in bodies}


async def _is_there(ports: deps.Ports, caller: deps.Caller, found: Retained) -> bool:
    """Ask live whether the artifact exists: the watch may not have seen it yet."""
    if not names.is_dns_label(found.name):
        return False
    try:
        body = await ports.client.get(names.ARTIFACTS, found.name, caller.namespace)
    except apierrors.NotFoundError:
        return False
    return bool(body["metadata"].get("uid") == found.artifact_uid)


def _uid(key: pages.Key) -> str:
    match key:
        case (str(uid),) if blob_keys.is_uuid(uid):
            return uid
    raise errors.Problem(errors.BAD_REQUEST, "`continue` must be a token from an earlier answer")
