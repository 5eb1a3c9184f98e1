"""Talk to a facade that runs as a process: requests as its users send them, records as it writes them."""

import http.client
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from tests.controlplane.clusterapi import ClusterApi, poll_until
from tests.controlplane.processes import FacadeProcess

_RBAC = "rbac.authorization.k8s.io"


@dataclass
class Reply:
    """An answer with its header names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


def send(
    facade: FacadeProcess,
    method: str,
    path: str,
    headers: Mapping[str, str | None] | None = None,
    body: Any = None,
) -> Reply:
    """Send one request on a connection of its own; a header that is None is left out."""
    url = urlsplit(facade.base_url)
    connection = http.client.HTTPConnection(url.hostname or "", url.port, timeout=20)
    sent = {name: text for name, text in (headers or {}).items() if text is not None}
    data = None if body is None else json.dumps(body).encode()
    if data is not None:
        sent.setdefault("Content-Type", "application/json")
    try:
        connection.request(method, path, data, sent)
        answer = connection.getresponse()
        names = {name.lower(): text for name, text in answer.getheaders()}
        return Reply(answer.status, names, answer.read())
    finally:
        connection.close()


def headers(
    token: str, actor: str, tenant: str, roles: str = "viewer", **changes: str | None
) -> dict[str, str | None]:
    """Return the headers of a good request; `x_reason=None` leaves one out."""
    good: dict[str, str | None] = {
        "Authorization": f"Bearer {token}",
        "X-Actor": actor,
        "X-Tenant": tenant,
        "X-Reason": "a test",
        "X-Roles": roles,
    }
    named = {"-".join(part.capitalize() for part in key.split("_")): text for key, text in changes.items()}
    return {**good, **named}


def bind(cp: ClusterApi, namespace: str, role: str, subject: Mapping[str, str], name: str = "") -> str:
    """Bind a subject to a role in a tenant's namespace and return the binding's name."""
    name = name or f"test-{role}"
    body = {
        "metadata": {"name": name},
        "roleRef": {"apiGroup": _RBAC, "kind": "ClusterRole", "name": f"manifestry-{role}"},
        "subjects": [dict(subject)],
    }
    cp.create(f"{_RBAC}/v1/rolebindings", body, namespace)
    return name


def unbind(cp: ClusterApi, namespace: str, name: str) -> None:
    """Remove a RoleBinding."""
    cp.delete(f"{_RBAC}/v1/rolebindings", name, namespace)


def account(namespace: str, name: str) -> dict[str, str]:
    """Return a service account as the subject of a binding."""
    return {"kind": "ServiceAccount", "namespace": namespace, "name": name}


def until(ask: Callable[[], Reply], status: int, timeout_seconds: float = 5.0) -> Reply:
    """Ask until the answer has `status`; a watch takes a moment."""
    last: list[Reply] = []

    def matches() -> bool:
        last[:] = [ask()]
        return last[0].status == status

    poll_until(matches, f"an answer with {status}", timeout_seconds)
    return last[0]


def records(facade: FacadeProcess) -> list[dict[str, Any]]:
    """Return the audit records that the process has written."""
    lines = facade.log_path.read_text(errors="replace").splitlines()
    found = [json.loads(line) for line in lines if line.startswith('{"kind":"Event"')]
    return [record for record in found if record["apiVersion"] == "audit.k8s.io/v1"]
