"""Quotas: what a tenant uses, what it may use, and who is next."""

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import Depends, Query
from starlette.responses import Response

from manifestry.core.access import permissions
from manifestry.core.http import pages
from manifestry.core.kube import names
from manifestry.core.quota import positions
from manifestry.core.quota.storage import charges
from manifestry.core.quota.storage import limits as storage_limits
from manifestry_api.guard import deps
from manifestry_api.objects import answers, listings, lookups, representations, schemas, views

router = deps.api_router(tags=["quotas"])

Reader = Annotated[deps.Caller, Depends(deps.require(permissions.Action.QUOTAS_READ))]


@router.get("/quotas", responses={200: {"model": views.QuotasView}})
async def list_quotas(ports: deps.PortsDep, caller: Reader) -> Response:
    """Show usage and limits of every job type, and of storage."""
    ledgers = ports.caches.quota_ledgers.in_namespace(caller.namespace)
    known = ({name for _, name in ports.caches.job_types.items} | {*ledgers}) - {charges.LEDGER}
    artifacts, limits = listings.of_tenant(ports.caches.artifacts, caller), ports.reservations.limits(caller)
    account = ports.reservations.books.account(caller.namespace) if limits.is_set else None
    storage = storage_limits.storage(artifacts, limits, account)
    items = [_row(ports, caller, name) for name in sorted(known)]
    return answers.json({"tenant": caller.tenant, "items": items, "storage": storage})


@router.get("/quotas/{job_type}", responses={200: {"model": views.JobQuotaView}})
async def get_quota(job_type: str, ports: deps.PortsDep, caller: Reader) -> Response:
    """Show usage and limits of one job type."""
    _require(ports, caller, job_type)
    return answers.json(_row(ports, caller, job_type))


@router.get("/quotas/{job_type}/queue", responses={200: {"model": views.QueuePage}, **answers.EXPIRED})
async def get_queue(
    job_type: str, ports: deps.PortsDep, caller: Reader, query: Annotated[schemas.PageQuery, Query()]
) -> Response:
    """List the waiting jobs of one type in the order in which they will be admitted."""
    _require(ports, caller, job_type)
    ledger = ports.ledgers.snapshot(caller.namespace, job_type)
    waiting = positions.waiting(ledger) if ledger is not None else []
    filters = {"list": "queue", "tenant": caller.tenant, "jobType": job_type}
    asked = pages.Query(query.limit, query.token, filters)
    page = pages.take(waiting, positions.Waiting.key, asked, ports.clock())
    content = representations.page([representations.queue_position(each) for each in page.items], page.token)
    return answers.json({"tenant": caller.tenant, "jobType": job_type, **content})


def _require(ports: deps.Ports, caller: deps.Caller, job_type: str) -> None:
    known = (caller.namespace, job_type) in ports.caches.quota_ledgers.items
    if known and job_type != charges.LEDGER:
        return
    if ("", job_type) not in ports.caches.job_types.items:
        raise lookups.absent(names.JOB_TYPES, job_type)


def _row(ports: deps.Ports, caller: deps.Caller, job_type: str) -> Mapping[str, Any]:
    limits = ports.quotas.table.limits(caller.tenant, job_type)
    ledger = ports.ledgers.snapshot(caller.namespace, job_type)
    row = positions.usage(caller.tenant, job_type, ledger, limits)
    return {**row, "links": {"self": f"/quotas/{job_type}", "queue": f"/quotas/{job_type}/queue"}}
