"""What an administrator does with a store by hand: see whose it is, adopt it, release it, adopt a tenant."""

import argparse
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from manifestry.adapters.kube import cluster
from manifestry.adapters.store import inventory, stores
from manifestry.adapters.store.contract import ports
from manifestry.adapters.store.ownership import homes, owners, tenants
from manifestry.core.blobs import keys, ownership, tenantrecords
from manifestry.core.blobs.tenantrecords import Seen, TenantRecord
from manifestry.core.kube import names
from manifestry.handlers import process

USER_AGENT = "manifestry-store/0.1.0"
TENANTS_SHOWN = 10_000


class CommandError(Exception):
    """A command cannot be carried out; the message says why, and what would help."""


@dataclass(frozen=True)
class Site:
    """A store and a cluster that are looked at together."""

    client: cluster.KubeClient
    store: ports.Store
    owner: owners.Owner
    grace: timedelta


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Return the command; without one the operator is meant."""
    parser = argparse.ArgumentParser(prog="python -m manifestry", description="Run the operator.")
    areas = parser.add_subparsers(dest="area")
    areas.add_parser("retained", help="what is retained of tenants that are gone; it has a help of its own")
    area = areas.add_parser("store", help="whose the object store is")
    commands = area.add_subparsers(dest="command", required=True)
    commands.add_parser("show", help="say whose the store is, and which tenants have no namespace here")
    adopt = commands.add_parser("adopt", help="make the store this cluster's")
    adopt.add_argument("--from", dest="given", default="", help="whose it is, as `show` says")
    commands.add_parser("release", help="make the store nobody's: the next cluster to start owns it")
    tenant = commands.add_parser("adopt-tenant", help="make a tenant's bytes this cluster's")
    tenant.add_argument("uid", type=keys.parse_uuid, help="the uid of its namespace")
    return parser.parse_args(arguments)


async def run(configuration: process.Configuration, asked: argparse.Namespace) -> dict[str, Any]:
    """Carry a command out; return what to print.

    Raises:
        CommandError: it must not be done.
        StoreError, ApiError: something does not answer.
    """
    async with _site(configuration) as site:
        match asked.command:
            case "adopt":
                await _adopt(site, asked.given)
            case "release":
                await _release(site)
            case "adopt-tenant":
                await _adopt_tenant(site, asked.uid)
            case _:
                pass
        return await show(site)


@asynccontextmanager
async def _site(configuration: process.Configuration) -> AsyncIterator[Site]:
    where, chosen = configuration.cluster, configuration.operator
    client = await cluster.KubeClient.connect(
        kubeconfig=where.kubeconfig or None,
        pool_size=where.kube_pool_size,
        request_timeout_seconds=where.kube_request_timeout_seconds,
        user_agent=USER_AGENT,
    )
    opened = stores.open_store(configuration.store)
    try:
        home = homes.KubeHome(client, where.namespace, chosen.lease_name)
        owner = owners.Owner(opened.records(), home, "administrator")
        yield Site(client, opened, owner, timedelta(seconds=chosen.gc_tenant_grace_seconds))
    finally:
        await opened.close()
        await client.close()


async def _adopt(site: Site, given: str) -> None:
    seen = await site.owner.look()
    problem = ownership.adoption_problem(seen.state, seen.owner, given)
    if problem:
        raise CommandError(problem)
    if seen.state is not ownership.State.OURS and not await site.owner.adopt(seen, datetime.now(UTC)):
        raise CommandError("somebody else has written the owner's record at this moment; look again")


async def _release(site: Site) -> None:
    seen = await site.owner.look()
    if seen.state is not ownership.State.OURS:
        raise CommandError(f"only its owner may release a store: {seen.state.value}")
    await site.owner.release()


async def _adopt_tenant(site: Site, tenant_uid: str) -> None:
    seen = await site.owner.look()
    if seen.state is not ownership.State.OURS:
        raise CommandError(f"the store is not this cluster's: {seen.state.value}")
    records = tenants.TenantRecords(site.store.records())
    known = (await records.find(tenant_uid)).record
    record = TenantRecord(seen.noted.home.cluster_uid, known.namespace if known else "")
    await records.adopt(tenant_uid, record)


async def show(site: Site) -> dict[str, Any]:
    """Return whose the store is, and its tenants without a namespace in this cluster."""
    seen = await site.owner.look()
    record = ownership.parse(seen.found) if seen.found else None
    mine = seen.noted.home.cluster_uid
    return {
        "cluster": mine,
        "owner": seen.owner,
        "state": seen.state.name.capitalize(),
        "message": seen.state.value,
        "leader": record.leader if record else "",
        "renewTime": record.renewed if record else "",
        "goneTenants": [each async for each in _gone(site, mine)],
    }


async def _gone(site: Site, cluster_uid: str) -> AsyncIterator[dict[str, Any]]:
    live = {item["metadata"]["uid"] async for page in site.client.pages(names.NAMESPACES) for item in page}
    stored = await inventory.Inventory(site.store).tenants()
    records, now = tenants.TenantRecords(site.store.records()), datetime.now(UTC)
    for uid in [uid for uid in stored if uid not in live][:TENANTS_SHOWN]:
        found = await records.find(uid)
        fate = tenantrecords.fate(Seen(found.record, False, found.gone_since), cluster_uid, now, site.grace)
        yield row(uid, found, fate, site.grace)


def row(uid: str, found: tenants.Found, fate: tenantrecords.Fate, grace: timedelta) -> dict[str, Any]:
    """Return a tenant without a namespace as it is shown."""
    goes = found.gone_since + grace if found.gone_since and fate in {"waiting", "due"} else None
    return {
        "tenantUid": uid,
        "namespace": found.record.namespace if found.record else "",
        "cluster": found.record.cluster_uid if found.record else "",
        "fate": fate,
        "goneSince": found.gone_since.isoformat(timespec="seconds") if found.gone_since else "",
        "due": goes.isoformat(timespec="seconds") if goes else "",
    }


def render(answer: dict[str, Any]) -> str:
    """Return what is printed."""
    return json.dumps(answer, indent=2)
