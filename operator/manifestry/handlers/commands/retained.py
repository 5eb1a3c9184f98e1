"""`python -m manifestry retained`: what is kept of tenants that are gone, for whoever runs the platform.

Administrators of a tenant have `GET` and `DELETE /retained`. Where the namespace is gone nobody has a role in
it, and an administrator of another tenant must not see it: so it takes access to the operator itself.
"""

import argparse
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, TextIO

from manifestry.adapters.kube import apierrors, cluster
from manifestry.adapters.store import inventory, pins, stores
from manifestry.adapters.store.contract import ports
from manifestry.adapters.store.ownership import homes, owners
from manifestry.core.blobs import keys
from manifestry.core.blobs.ownership import State
from manifestry.core.kube import names
from manifestry.core.quota.storage.retained import Retained
from manifestry.handlers import process

NAME = "retained"
REFUSED_EXIT_CODE = 1


class RefusedError(Exception):
    """The command must not do what was asked."""


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Return what was asked; a wrong command line ends the process with a usage message."""
    parser = argparse.ArgumentParser(prog=f"python -m manifestry {NAME}", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("tenants", help="tenants that are gone and of which something is retained")
    for name, text in (("list", "what is retained of one"), ("remove", "retain it no longer")):
        command = commands.add_parser(name, help=text)
        command.add_argument(
            "--tenant-uid", required=True, type=_uid, help="`metadata.uid` of the namespace that was"
        )
    which = command.add_mutually_exclusive_group(required=True)
    which.add_argument("--id", action="append", default=[], help="of `list`; may be given more than once")
    which.add_argument("--all", action="store_true", help="everything of this tenant")
    return parser.parse_args(arguments)


async def run(asked: argparse.Namespace, configuration: process.Configuration, out: TextIO) -> int:
    """Do what was asked in the cluster and the store of the configuration; return the exit code."""
    client = await process.connect(configuration.cluster)
    opened = stores.open_store(configuration.store)
    try:
        chosen = configuration.operator
        home = homes.KubeHome(client, configuration.cluster.namespace, chosen.lease_name)
        owner = owners.Owner(opened.records(), home, "administrator")
        await Command(client, opened, owner, out).run(asked)
    except (RefusedError, apierrors.ApiError, ports.StoreError) as error:
        _write(out, {"error": str(error)})
        return REFUSED_EXIT_CODE
    finally:
        await opened.close()
        await client.close()
    return 0


class Command:
    """One run.

    Args:
        client: the Kubernetes API, which knows the tenants that exist.
        opened: the store.
        owner: whose the store is.
        out: takes one JSON object a line.
    """

    def __init__(
        self, client: cluster.KubeClient, opened: ports.Store, owner: owners.Owner, out: TextIO
    ) -> None:
        self._client = client
        self._inventory = inventory.Inventory(opened)
        self._pins = pins.Pins(opened)
        self._owner = owner
        self._out = out

    async def run(self, asked: argparse.Namespace) -> None:
        """Do what was asked.

        Raises:
            RefusedError: of a tenant that exists, or in a store of another cluster.
            ApiError, StoreError: one of them does not answer.
        """
        living = await self._living()
        if asked.command == "tenants":
            await self._tenants(living)
            return
        if asked.tenant_uid in living:
            name = living[asked.tenant_uid]
            raise RefusedError(f"the namespace '{name}' exists: use `/retained` as an admin of its tenant")
        async for found in self._retained(asked.tenant_uid):
            if asked.command == "list":
                _write(self._out, _row(asked.tenant_uid, found))
            elif asked.all or found.artifact_uid in asked.id:
                await self._pins.remove(asked.tenant_uid, found.artifact_uid)
                _write(self._out, {"removed": _row(asked.tenant_uid, found)})

    async def _living(self) -> Mapping[str, str]:
        """Return the namespaces by uid; in a store that is not ours every tenant would look gone."""
        seen = await self._owner.look()
        if seen.state is not State.OURS:
            raise RefusedError(f"the store is not this cluster's: {seen.state.value}")
        found: dict[str, str] = {}
        async for page in self._client.pages(names.NAMESPACES):
            found |= {item["metadata"]["uid"]: item["metadata"]["name"] for item in page}
        return found

    async def _tenants(self, living: Mapping[str, str]) -> None:
        for tenant_uid in await self._inventory.tenants():
            if tenant_uid in living:
                continue
            count = size_bytes = 0
            namespaces: set[str] = set()
            async for found in self._retained(tenant_uid):
                count, size_bytes = count + 1, size_bytes + found.size_bytes
                namespaces.add(found.namespace)
            if count:
                row = {"tenantUid": tenant_uid, "namespaces": sorted(namespaces - {""})}
                _write(self._out, {**row, "count": count, "sizeBytes": size_bytes})

    async def _retained(self, tenant_uid: str) -> AsyncIterator[Retained]:
        async for item in self._pins.each(tenant_uid):
            found = await self._pins.read(tenant_uid, item)
            if found is not None:
                yield found


def _uid(text: str) -> str:
    if not keys.is_uuid(text):
        raise argparse.ArgumentTypeError("must be a UUID in lower case")
    return text


def _row(tenant_uid: str, found: Retained) -> dict[str, Any]:
    return {
        "id": found.artifact_uid,
        "name": found.name,
        "namespace": found.namespace,
        "namespaceUid": tenant_uid,
        "digests": list(found.digests),
        "sizeBytes": found.size_bytes,
        "since": found.since.isoformat(),
        "damaged": found.is_damaged,
    }


def _write(out: TextIO, row: Mapping[str, Any]) -> None:
    out.write(json.dumps(row) + "\n")
