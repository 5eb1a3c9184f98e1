"""Make tenants: one namespace each, with the label that opts it in."""

import uuid
from dataclasses import dataclass

from tests.controlplane.clusterapi import ClusterApi

TENANT_LABEL = "manifestry.dev/tenant"
_NAMESPACES = "v1/namespaces"


@dataclass(frozen=True)
class Tenant:
    """A tenant and its namespace; the two names differ, so that a mix-up fails."""

    name: str
    namespace: str
    uid: str


def make(cluster: ClusterApi, name: str | None = None) -> Tenant:
    """Create a tenant's namespace and wait until pods can be made in it."""
    name = name or f"t{uuid.uuid4().hex[:10]}"
    namespace = f"ns-{name}"
    body = {"metadata": {"name": namespace, "labels": {TENANT_LABEL: name}}}
    created = cluster.create(_NAMESPACES, body)
    # Without it the Job controller fails to make pods and backs off for ten seconds.
    cluster.wait_for("v1/serviceaccounts", "default", namespace, bool)
    return Tenant(name, namespace, created["metadata"]["uid"])


def remove(cluster: ClusterApi, tenant: Tenant) -> None:
    """Delete a tenant's namespace without waiting for the end."""
    cluster.delete(_NAMESPACES, tenant.namespace)
