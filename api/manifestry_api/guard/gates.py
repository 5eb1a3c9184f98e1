"""The one choke point: authenticate, read the headers, authorize; nothing else lets a request in."""

import functools

from starlette.requests import HTTPConnection

from manifestry.adapters.kube import calls
from manifestry.core.access import headers, identities, permissions
from manifestry.core.kube import names
from manifestry_api.access import identity, tenants
from manifestry_api.guard import deps
from manifestry_api.request import contexts

_RAW = {name: name.lower().encode() for name in headers.REQUIRED}
_SHORT = {name: name.lower().removeprefix("x-") for name in headers.REQUIRED}


class Gatekeeper:
    """Admits callers; what it learns on the way is in the request's context, for the audit record."""

    def __init__(
        self, pipeline: identity.Pipeline, tenant_index: tenants.TenantIndex, grants: tenants.GrantIndex
    ) -> None:
        self._pipeline = pipeline
        self._tenants = tenant_index
        self._grants = grants

    async def admit(self, connection: HTTPConnection, action: permissions.Action) -> deps.Caller:
        """Return the caller.

        Raises:
            Problem: `unauthenticated`, `audit-header-missing`, `bad-request` or `forbidden`.
        """
        context = contexts.of(connection.scope)
        values = header_values(connection)
        context.claimed = {_SHORT[name]: ",".join(texts) for name, texts in values.items()}
        context.identity = await self._pipeline.identify(connection)
        context.claims = headers.parse(values)
        tenant = self._authorize(context.identity, context.claims, action)
        context.namespace = tenant.namespace
        return _caller(context.identity, context.claims, tenant, context)

    def _authorize(
        self, who: identities.Identity, claims: headers.Claims, action: permissions.Action
    ) -> identities.Tenant:
        tenant = self._tenants.find(claims.tenant)
        granted = self._grants.roles(who, tenant.namespace) if tenant else frozenset[permissions.Role]()
        return identities.authorize(identities.Request(who, claims, tenant, granted, action))


def header_values(connection: HTTPConnection) -> dict[str, tuple[str, ...]]:
    """Return every value of the required headers, decoded as UTF-8.

    What is not UTF-8 becomes a surrogate, which is not printable: `headers.parse` refuses it in its turn,
    after the credentials.
    """
    fields = contexts.fields(connection.scope)
    return {
        name: tuple([line.decode("utf-8", "surrogateescape") for line in fields.get(raw, ())])
        for name, raw in _RAW.items()
    }


def _caller(
    who: identities.Identity,
    claims: headers.Claims,
    tenant: identities.Tenant,
    context: contexts.RequestContext,
) -> deps.Caller:
    return deps.Caller(
        subject=who.subject,
        actor=claims.actor,
        tenant=tenant.name,
        namespace=tenant.namespace,
        tenant_uid=tenant.uid,
        roles=claims.roles,
        reason=claims.reason,
        audit_id=context.audit_id,
        traceparent=str(context.trace),
        impersonation=calls.Impersonation(who.subject, _groups(claims.roles)),
    )


@functools.cache
def _groups(roles: frozenset[permissions.Role]) -> tuple[str, ...]:
    return tuple(f"{names.GROUP_PREFIX}{role}" for role in permissions.Role if role in roles)
