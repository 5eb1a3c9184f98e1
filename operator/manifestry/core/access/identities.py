"""From an authenticated name to a caller: tenants, grants, and the checks that bind headers to both.

Grants are RoleBindings in the tenant's namespace to the ClusterRoles `manifestry-<role>`, so one object
administers kubectl and REST alike. The answer for a tenant in which the caller has no role is the same
whether the tenant exists or not.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

from manifestry.core import errors
from manifestry.core.access import headers, permissions
from manifestry.core.kube import names

SERVICE_ACCOUNT_PREFIX = "system:serviceaccount:"
RESERVED_PREFIX = "system:"
_RBAC_GROUP = "rbac.authorization.k8s.io"

Method = Literal["kubernetes", "jwt", "certificate"]
Principal = tuple[str, str]  # ("User" | "Group", name)


@dataclass(frozen=True)
class Identity:
    """Who an authenticator says it is.

    Args:
        subject: never empty.
        groups: as Kubernetes would give them to the same caller.
        method: which kind of credential was checked.
    """

    subject: str
    groups: tuple[str, ...] = ()
    method: Method = "jwt"


@dataclass(frozen=True)
class Tenant:
    """A tenant and its one namespace."""

    name: str
    namespace: str
    uid: str


@dataclass(frozen=True)
class Directory:
    """Every tenant that can be served, and the names that cannot because two namespaces claim them."""

    tenants: Mapping[str, Tenant]
    ambiguous: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Request:
    """All that the binding checks look at."""

    identity: Identity
    claims: headers.Claims
    tenant: Tenant | None
    granted: frozenset[permissions.Role]
    action: permissions.Action


def service_account(subject: str) -> tuple[str, str] | None:
    """Return (namespace, name) of a service account's subject, or None for any other."""
    if not subject.startswith(SERVICE_ACCOUNT_PREFIX):
        return None
    parts = subject.removeprefix(SERVICE_ACCOUNT_PREFIX).split(":")
    well_formed = len(parts) == 2 and all(parts)
    return (parts[0], parts[1]) if well_formed else None


def check_subject(identity: Identity) -> None:
    """Refuse an empty subject, and a reserved one that Kubernetes itself did not vouch for.

    RBAC cannot restrict impersonation by prefix: without this a token of another issuer whose subject is
    `system:masters`-like would become that user at the API server.

    Raises:
        Problem: `unauthenticated`.
    """
    if not identity.subject.strip():
        raise errors.Problem(errors.UNAUTHENTICATED, "the credential must name a subject")
    if not identity.subject.startswith(RESERVED_PREFIX):
        return
    if identity.method != "kubernetes" or service_account(identity.subject) is None:
        raise errors.Problem(
            errors.UNAUTHENTICATED, "a subject that begins with `system:` must be a service account"
        )


def kubernetes_groups(subject: str) -> tuple[str, ...]:
    """Return the groups that the API server gives to a service account."""
    account = service_account(subject)
    if account is None:
        return ()
    return ("system:serviceaccounts", f"system:serviceaccounts:{account[0]}", "system:authenticated")


def directory(namespaces: Iterable[Mapping[str, Any]]) -> Directory:
    """Return the tenants that labelled namespaces make."""
    claimed: dict[str, list[Tenant]] = {}
    for namespace in namespaces:
        metadata = namespace.get("metadata") or {}
        if name := (metadata.get("labels") or {}).get(names.TENANT_LABEL):
            claimed.setdefault(name, []).append(Tenant(name, metadata["name"], metadata["uid"]))
    return Directory(
        {name: tenants[0] for name, tenants in claimed.items() if len(tenants) == 1},
        {
            name: tuple(sorted(tenant.namespace for tenant in tenants))
            for name, tenants in claimed.items()
            if len(tenants) > 1
        },
    )


def grants(role_bindings: Iterable[Mapping[str, Any]]) -> Mapping[Principal, frozenset[permissions.Role]]:
    """Return the roles that the RoleBindings of one namespace give to each principal."""
    found: dict[Principal, set[permissions.Role]] = {}
    for binding in role_bindings:
        role = _role(binding.get("roleRef") or {})
        for subject in binding.get("subjects") or () if role else ():
            if role and (principal := _principal(subject)):
                found.setdefault(principal, set()).add(role)
    return {principal: frozenset(roles) for principal, roles in found.items()}


def granted(
    identity: Identity, table: Mapping[Principal, frozenset[permissions.Role]]
) -> frozenset[permissions.Role]:
    """Return the roles of a caller in the namespace whose grants are `table`."""
    principals: list[Principal] = [("User", identity.subject)]
    principals += [("Group", group) for group in identity.groups]
    return frozenset().union(*(table.get(principal, frozenset()) for principal in principals))


def _role(reference: Mapping[str, Any]) -> permissions.Role | None:
    name = str(reference.get("name", ""))
    if reference.get("kind") != "ClusterRole" or not name.startswith(names.ROLE_PREFIX):
        return None
    text = name.removeprefix(names.ROLE_PREFIX)
    return permissions.Role(text) if text in tuple(permissions.Role) else None


def _principal(subject: Mapping[str, Any]) -> Principal | None:
    kind, name = subject.get("kind"), subject.get("name")
    if kind == "ServiceAccount" and name and subject.get("namespace"):
        return ("User", f"{SERVICE_ACCOUNT_PREFIX}{subject['namespace']}:{name}")
    if kind in {"User", "Group"} and name and subject.get("apiGroup") == _RBAC_GROUP:
        return (kind, str(name))
    return None


def _actor_is_subject(request: Request) -> str | None:
    if request.claims.actor == request.identity.subject:
        return None
    return f"rule `actor-is-subject` must be met: header `{headers.ACTOR}` must be the credential's subject"


def _tenant_is_open(request: Request) -> str | None:
    if request.tenant is not None and request.granted:
        return None
    roles = ", ".join(permissions.Role)
    return (
        f"rule `tenant-member` must be met in tenant `{request.claims.tenant}` by one of the roles: {roles}"
    )


def _roles_are_granted(request: Request) -> str | None:
    wider = request.claims.roles - permissions.covered(request.granted)
    if not wider:
        return None
    held = ", ".join(role for role in permissions.Role if role in request.granted)
    return (
        f"rule `roles-are-granted` must be met: header `{headers.ROLES}` claims {', '.join(sorted(wider))}; "
        f"granted in this tenant: {held}"
    )


def _action_is_allowed(request: Request) -> str | None:
    decision = permissions.decide(request.action, request.claims.roles)
    return decision.message if isinstance(decision, permissions.Denied) else None


CHECKS: tuple[Callable[[Request], str | None], ...] = (
    _actor_is_subject,  # nobody acts in another's name
    _tenant_is_open,  # before roles: says nothing about tenants that are not the caller's
    _roles_are_granted,  # narrowing is fine, widening is not
    _action_is_allowed,  # the access table
)


def authorize(request: Request) -> Tenant:
    """Run the checks in order and return the tenant.

    Raises:
        Problem: `forbidden`; the detail names the rule and the roles that would do.
    """
    for check in CHECKS:
        if (message := check(request)) is not None:
            raise errors.Problem(errors.FORBIDDEN, message)
    return cast("Tenant", request.tenant)  # `_tenant_is_open` has seen it
