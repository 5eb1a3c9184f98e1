"""Tenants and grants as the watch caches have them, indexed for one look-up per request."""

import time
from collections.abc import Callable, Mapping
from typing import Any

from manifestry.adapters.kube import watches
from manifestry.core import errors
from manifestry.core.access import identities, permissions
from manifestry.core.kube import names

GRANTS_MAX_AGE_SECONDS = (
    300.0  # without contact for longer, a revoked binding might still let in: fail closed
)


class TenantIndex:
    """Names to namespaces; rebuilt when a namespace has changed."""

    def __init__(self, namespaces: watches.Reflector) -> None:
        self._namespaces = namespaces
        self._directory: identities.Directory | None = None
        namespaces.subscribe(self._forget)

    def _forget(self, _type: str, _namespace: Mapping[str, Any]) -> None:
        self._directory = None

    @property
    def directory(self) -> identities.Directory:
        """Return every tenant, and the ambiguous names."""
        if self._directory is None:
            self._directory = identities.directory(self._namespaces.items.values())
        return self._directory

    def find(self, name: str) -> identities.Tenant | None:
        """Return the tenant, or None when no namespace or more than one claims the name."""
        require_synced(self._namespaces)
        return self.directory.tenants.get(name)

    def of_namespace(self, namespace: str) -> identities.Tenant | None:
        """Return the tenant of a namespace, or None when it has none or an ambiguous one."""
        labels = (self._namespaces.items.get(("", namespace), {}).get("metadata") or {}).get("labels") or {}
        return self.directory.tenants.get(labels.get(names.TENANT_LABEL, ""))


class GrantIndex:
    """Roles by namespace and principal; a namespace is rebuilt when one of its RoleBindings has changed."""

    def __init__(
        self, role_bindings: watches.Reflector, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._role_bindings = role_bindings
        self._monotonic = monotonic
        self._tables: dict[str, Mapping[identities.Principal, frozenset[permissions.Role]]] = {}
        role_bindings.subscribe(self._forget)

    def _forget(self, _type: str, binding: Mapping[str, Any]) -> None:
        self._tables.pop((binding.get("metadata") or {}).get("namespace", ""), None)

    def roles(self, identity: identities.Identity, namespace: str) -> frozenset[permissions.Role]:
        """Return what the caller is granted in `namespace`; empty means nothing.

        Raises:
            Problem: `dependency-unavailable`; grants are not loaded, or not heard of for too long.
        """
        require_synced(self._role_bindings)
        if self._monotonic() - self._role_bindings.last_contact > GRANTS_MAX_AGE_SECONDS:
            raise errors.Problem(errors.DEPENDENCY_UNAVAILABLE, "grants cannot be read at the moment")
        table = self._tables.get(namespace)
        if table is None:
            table = self._tables[namespace] = identities.grants(self._of(namespace))
        return identities.granted(identity, table)

    def _of(self, namespace: str) -> list[Mapping[str, Any]]:
        return list(self._role_bindings.in_namespace(namespace).values())


def name_of(namespaces: watches.Reflector, uid: str) -> str:
    """Return the name of the namespace with a uid, empty for none."""
    found = (body.get("metadata") or {} for body in namespaces.items.values())
    return next((str(meta.get("name", "")) for meta in found if meta.get("uid") == uid), "")


def require_synced(reflector: watches.Reflector) -> None:
    """Refuse while a cache has not been filled for the first time.

    Raises:
        Problem: `dependency-unavailable`.
    """
    if not reflector.synced.is_set():
        raise errors.Problem(errors.DEPENDENCY_UNAVAILABLE, "caches are being filled; try again soon")
