"""What a route may use: the ports of the process, and the caller whom the guard has let in.

A route module looks like this; `api_router` makes routes whose guard runs before a byte of the body is read::

    router = deps.api_router(tags=["jobs"])

    @router.get("/jobs/{name}")
    async def get_job(name: str, ports: deps.PortsDep, caller: ReadJobs) -> Response: ...

    ReadJobs = Annotated[deps.Caller, Depends(deps.require(access.Action.JOBS_READ))]
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum
from typing import Annotated, NamedTuple, Protocol, cast

from fastapi import APIRouter, Depends
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response

from manifestry import settings
from manifestry.adapters.kube import calls, cluster, watches
from manifestry.adapters.quota import ledgers, reservations
from manifestry.adapters.store.contract import ports as store_ports
from manifestry.adapters.store.contract import session_ports
from manifestry.adapters.store.ownership import guards
from manifestry.core import errors
from manifestry.core.access import permissions
from manifestry_api.access import tenants
from manifestry_api.guard import limits
from manifestry_api.request import audits, contexts, telemetry

Clock = Callable[[], datetime]


class Caller(NamedTuple):
    """Who acts, for which tenant, why: complete by construction, or the route is never entered.

    Args:
        subject: the authenticated name; equals `actor`.
        tenant: name in `X-Tenant`.
        namespace: the tenant's one namespace.
        tenant_uid: the namespace's uid, the first part of every key in the object store.
        roles: the roles in `X-Roles`, each covered by a grant.
        impersonation: for every write to the Kubernetes API.
    """

    subject: str
    actor: str
    tenant: str
    namespace: str
    tenant_uid: str
    roles: frozenset[permissions.Role]
    reason: str
    audit_id: str
    traceparent: str
    impersonation: calls.Impersonation


@dataclass
class Caches:
    """The watched kinds; reads are answered from here."""

    artifacts: watches.Reflector
    jobs: watches.Reflector
    job_types: watches.Reflector
    tenant_quotas: watches.Reflector
    quota_ledgers: watches.Reflector
    namespaces: watches.Reflector
    role_bindings: watches.Reflector


class Gate(Protocol):
    """Authenticate, read the headers, authorize."""

    async def admit(self, connection: HTTPConnection, action: permissions.Action) -> Caller:
        """Return the caller.

        Raises:
            Problem: unauthenticated, audit-header-missing or forbidden.
        """


def utc_now() -> datetime:
    """Return the time of the process's clock."""
    return datetime.now(UTC)


@dataclass
class Ports:
    """Everything outside of the process, as `create_app` gets it; tests pass their own."""

    client: cluster.KubeClient
    store: store_ports.Store
    sessions: session_ports.Sessions
    reservations: reservations.Reservations
    caches: Caches
    ledgers: ledgers.Ledgers
    settings: settings.ApiSettings
    tenants: tenants.TenantIndex
    quotas: limits.QuotaIndex
    gate: Gate
    audit: audits.AuditSink
    instruments: telemetry.Telemetry
    guard: guards.Guard | None = None  # already around `store` and `sessions`; here for its rows
    namespace: str = "manifestry-system"  # our own: the Lease and the webhook's Secret
    clock: Clock = utc_now
    shutdown: asyncio.Event = field(default_factory=asyncio.Event)


async def get_ports(connection: HTTPConnection) -> Ports:
    """Return the process's ports."""
    return cast("Ports", connection.app.state.ports)


PortsDep = Annotated[Ports, Depends(get_ports)]


@dataclass(frozen=True)
class Requirement:
    """The dependency that `require` makes; the guarded route finds it by its type."""

    action: permissions.Action

    async def __call__(self, request: Request) -> Caller:
        """Return the caller, admitted at most once in a request."""
        context = contexts.of(request.scope)
        if not isinstance(context.caller, Caller):
            ports = await get_ports(request)
            context.action = self.action
            context.caller = await ports.gate.admit(request, self.action)
        return context.caller


def require(action: permissions.Action) -> Requirement:
    """Return the dependency that lets a caller in who may do `action`; use it with `Depends`."""
    return Requirement(action)


def requirements(dependant: Dependant) -> list[Requirement]:
    """Return every requirement among a route's dependencies, however deep."""
    own = [dependant.call] if isinstance(dependant.call, Requirement) else []
    return own + [found for child in dependant.dependencies for found in requirements(child)]


class GuardedRoute(APIRoute):
    """A route that admits its caller before FastAPI reads the body; without an action it does not start."""

    def get_route_handler(self) -> Callable[[Request], Awaitable[Response]]:  # type: ignore[override]
        """Return FastAPI's handler behind the guard."""
        handler = super().get_route_handler()
        found = requirements(self.dependant)
        if len(found) != 1:
            raise TypeError(f"route {self.path} must have exactly one deps.require(action)")

        expects_json = self.body_field is not None

        async def guarded(request: Request) -> Response:
            await found[0](request)
            if expects_json:
                require_json(request)
            return await handler(request)

        return guarded


def require_json(request: Request) -> None:
    """Refuse a body of another media type, before it is read.

    Raises:
        Problem: `unsupported-media-type`.
    """
    headers = request.headers
    if headers.get("content-length", "0") == "0" and "transfer-encoding" not in headers:
        return
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if not (kind.startswith("application/") and kind.endswith(("/json", "+json"))):
        raise errors.Problem(errors.UNSUPPORTED_MEDIA_TYPE, "the body must be JSON: `application/json`")


def api_router(*, tags: list[str | Enum]) -> APIRouter:
    """Return a router all of whose routes are guarded; write full paths in the routes, no prefix."""
    return APIRouter(tags=tags, route_class=GuardedRoute)
