"""The facade around in-memory ports: a tenant, its grants, and tokens that are their own subject."""

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from fastapi import FastAPI

from manifestry.adapters.quota import reservations
from manifestry.core.access import identities
from manifestry.settings import ApiSettings
from manifestry_api import app
from manifestry_api.access import identity, tenants
from manifestry_api.guard import deps, gates, limits
from manifestry_api.request import telemetry

NOW = datetime(2026, 5, 4, 3, 2, 1, tzinfo=UTC)
CI = "system:serviceaccount:ns-acme:ci"
Key = tuple[str, str]


class Mirror:
    """A watch cache that tests fill by hand."""

    def __init__(self) -> None:
        self.items: dict[Key, dict[str, Any]] = {}
        self.synced = asyncio.Event()
        self.synced.set()
        self.last_contact = time.monotonic()
        self.failure: str | None = None
        self._callbacks: list[Callable[[str, Mapping[str, Any]], None]] = []

    def in_namespace(self, namespace: str) -> dict[str, dict[str, Any]]:
        return {name: item for (found, name), item in self.items.items() if found == namespace}

    def select(self, keys_of: Callable[[Any], Any], value: Any) -> Iterator[dict[str, Any]]:
        return (item for item in self.items.values() if value in keys_of(item))

    def subscribe(self, callback: Callable[[str, Mapping[str, Any]], None]) -> None:
        self._callbacks.append(callback)

    def put(self, item: dict[str, Any]) -> None:
        metadata = item["metadata"]
        self.items[(metadata.get("namespace", ""), metadata["name"])] = item
        self._notify("MODIFIED", item)

    observe = put

    def remove(self, name: str, namespace: str = "") -> None:
        self._notify("DELETED", self.items.pop((namespace, name)))

    def _notify(self, change: str, item: Mapping[str, Any]) -> None:
        for callback in self._callbacks:
            callback(change, item)


class Records:
    """An audit sink that keeps what it is given."""

    def __init__(self) -> None:
        self.all: list[Mapping[str, Any]] = []

    async def write(self, record: Mapping[str, Any]) -> None:
        self.all.append(record)


class SubjectTokens:
    """Believes that a bearer token is its subject; `expired` is refused."""

    async def authenticate(self, connection: Any) -> identities.Identity | None:
        token = identity.bearer_token(connection)
        if token == "expired":
            raise identity.unauthenticated("the token has expired")
        return (
            identities.Identity(token, identities.kubernetes_groups(token), "kubernetes") if token else None
        )


@dataclass
class World:
    """The application and everything around it."""

    ports: deps.Ports
    app: FastAPI
    records: Records
    namespaces: Mirror
    role_bindings: Mirror
    mirrors: Mapping[str, Mirror] = field(default_factory=dict)

    def add_tenant(self, name: str, namespace: str) -> None:
        labels = {"manifestry.dev/tenant": name}
        self.namespaces.put({"metadata": {"name": namespace, "uid": f"uid-{namespace}", "labels": labels}})

    def grant(self, role: str, namespace: str = "ns-acme", subject: str = CI) -> None:
        body = {
            "metadata": {"name": f"{role}-binding", "namespace": namespace},
            "roleRef": {"kind": "ClusterRole", "name": f"manifestry-{role}"},
            "subjects": [{"kind": "User", "name": subject, "apiGroup": "rbac.authorization.k8s.io"}],
        }
        self.role_bindings.put(body)


def build(**settings: Any) -> World:
    """Return a world with tenant `acme` and nobody granted anything."""
    names = [
        "artifacts", "jobs", "job_types", "tenant_quotas", "quota_ledgers", "namespaces", "role_bindings",
    ]  # fmt: skip
    mirrors: dict[str, Any] = {name: Mirror() for name in names}
    index = tenants.TenantIndex(mirrors["namespaces"])
    grants = tenants.GrantIndex(mirrors["role_bindings"])
    records, unused = Records(), None
    ports = deps.Ports(
        client=unused,  # type: ignore[arg-type]
        store=unused,  # type: ignore[arg-type]
        sessions=unused,  # type: ignore[arg-type]
        reservations=reservations.Reservations(),
        caches=deps.Caches(**mirrors),
        ledgers=unused,  # type: ignore[arg-type]
        settings=ApiSettings(**settings),
        tenants=index,
        quotas=limits.QuotaIndex(mirrors["tenant_quotas"]),
        gate=gates.Gatekeeper(identity.Pipeline([SubjectTokens()]), index, grants),
        audit=records,
        instruments=telemetry.Telemetry(),
        clock=lambda: NOW,
    )
    application = app.create_app(ports.settings, ports)
    made = World(ports, application, records, mirrors["namespaces"], mirrors["role_bindings"], mirrors)
    made.add_tenant("acme", "ns-acme")
    return made


def headers(role: str = "viewer", **changes: str | None) -> dict[str, str]:
    """Return good request headers; a change to None leaves one out (`x_actor` is `X-Actor`)."""
    good = {
        "authorization": f"Bearer {CI}",
        "x-actor": CI,
        "x-tenant": "acme",
        "x-reason": "ticket 42",
        "x-roles": role,
    }
    merged: dict[str, str | None] = {
        **good, **{name.replace("_", "-"): text for name, text in changes.items()},
    }  # fmt: skip
    return {name: text for name, text in merged.items() if text is not None}
