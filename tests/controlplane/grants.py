"""Give a client-certificate user what a service account would have in a real installation."""

from collections.abc import Iterable
from typing import Any

from tests.controlplane.clusterapi import ClusterApi, Object

_RBAC = "rbac.authorization.k8s.io/v1"
_PLURALS = {
    "ClusterRole": "clusterroles",
    "ClusterRoleBinding": "clusterrolebindings",
    "Role": "roles",
    "RoleBinding": "rolebindings",
}


def grant_cluster_admin(cp: ClusterApi, user: str) -> None:
    """Let a user do everything: it proves nothing about the chart's roles."""
    reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"}
    _apply(cp, _binding("ClusterRoleBinding", {"name": f"test-{user}-admin"}, reference, user))


def grant_chart_roles(cp: ClusterApi, user: str, service_account: str, objects: Iterable[Object]) -> None:
    """Apply the chart's roles, and bind to a user those that it binds to a service account.

    Args:
        objects: the rendered chart; what is not RBAC is passed over.
    """
    for found in objects:
        kind = found.get("kind", "")
        if kind in {"ClusterRole", "Role"}:
            _apply(cp, found)
        elif kind in _PLURALS and _binds(found, service_account):
            meta = {**found["metadata"], "name": f"test-{user}-{found['metadata']['name']}"}
            _apply(cp, _binding(kind, meta, found["roleRef"], user))


def _binds(binding: Object, service_account: str) -> bool:
    subjects = binding.get("subjects") or []
    return any(
        subject["kind"] == "ServiceAccount" and subject["name"] == service_account for subject in subjects
    )


def _binding(kind: str, metadata: dict[str, Any], role: dict[str, Any], user: str) -> Object:
    subject = {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}
    return {"apiVersion": _RBAC, "kind": kind, "metadata": metadata, "roleRef": role, "subjects": [subject]}


def _apply(cp: ClusterApi, body: Object) -> None:
    cp.apply(f"{_RBAC}/{_PLURALS[body['kind']]}", body)
