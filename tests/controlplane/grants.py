"""Give the operator's and the facade's users the rights that the chart gives their service accounts."""

import functools
import subprocess
from collections.abc import Sequence

import yaml

from tests.controlplane import binaries
from tests.controlplane.clusterapi import ClusterApi, Object

_API = "rbac.authorization.k8s.io"
# Roles before the bindings that name them.
_PLURALS = {
    "ClusterRole": "clusterroles",
    "Role": "roles",
    "ClusterRoleBinding": "clusterrolebindings",
    "RoleBinding": "rolebindings",
}
_CHART = binaries.ROOT / "charts" / "manifestry"
_RENDER_SECONDS = 60.0


@functools.cache
def chart_objects(namespace: str, *values: str) -> Sequence[Object]:
    """Return what the chart renders with its own values, and with those in `values` (`a.b=c`).

    Raises:
        NoProgramError, BuildError: there is no helm.
    """
    argv = [str(binaries.program("helm")), "template", "manifestry", str(_CHART), "--namespace", namespace]
    argv += [f"--set={value}" for value in values]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=_RENDER_SECONDS, check=True)
    return [found for found in yaml.safe_load_all(done.stdout) if found]


def grant_chart_roles(cp: ClusterApi, user: str, namespace: str) -> None:
    """Install the chart's roles and bindings; what a service account named `user` may do, the user may."""
    for kind, plural in _PLURALS.items():
        for found in chart_objects(namespace):
            if found["kind"] == kind:
                cp.apply(f"{_API}/v1/{plural}", _with_user(found, user))


def grant_cluster_admin(cp: ClusterApi, user: str, namespace: str) -> None:
    """Let a user do everything: proves nothing about the chart's roles, and needs no helm."""
    binding = {
        "apiVersion": f"{_API}/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": f"test-{user}-admin"},
        "roleRef": {"apiGroup": _API, "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [_subject(user)],
    }
    cp.apply(f"{_API}/v1/clusterrolebindings", binding)


def _with_user(found: Object, user: str) -> Object:
    subjects = found.get("subjects") or []
    if not any(subject["kind"] == "ServiceAccount" and subject["name"] == user for subject in subjects):
        return found
    # A binding of its own: applying the chart's again for the next user must not take this one's rights.
    meta = {**found["metadata"], "name": f"{found['metadata']['name']}-{user}"}
    return {**found, "metadata": meta, "subjects": [_subject(user)]}


def _subject(user: str) -> Object:
    return {"apiGroup": _API, "kind": "User", "name": user}
