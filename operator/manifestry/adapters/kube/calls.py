"""One request to the Kubernetes API as a value: its path, its query, and whom it is made for."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from manifestry.adapters.kube import transport
from manifestry.core.kube import names

Object = dict[str, Any]
Objects = list[Object]

_DNS_SUBDOMAIN = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")


@dataclass(frozen=True)
class Impersonation:
    """Whom a write is done for.

    Args:
        user: the subject; never empty.
        groups: the groups the write is allowed to use; never empty.
    References: https://kubernetes.io/docs/reference/access-authn-authz/user-impersonation/
    """

    user: str
    groups: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.user or not self.groups or not all(self.groups):
            raise ValueError(
                "`user` and `groups` must not be empty: that would be a call without impersonation"
            )

    def headers(self) -> list[tuple[str, str]]:
        """Return the request headers."""
        return [("Impersonate-User", self.user), *(("Impersonate-Group", group) for group in self.groups)]


def call(
    verb: str,
    method: str,
    resource: names.Resource,
    namespace: str | None,
    name: str | None = None,
    *,
    subresource: str | None = None,
    query: Mapping[str, str] | None = None,
    body: Object | None = None,
    content_type: str = "application/json",
    impersonate: Impersonation | None = None,
) -> transport.Call:
    """Return one request to the API.

    Raises:
        ValueError: `namespace` or `name` is no DNS subdomain, and would lead to another path.
    """
    for part in (namespace, name):
        _check_name(part)
    return transport.Call(
        verb,
        f"{resource.plural}.{resource.group}".rstrip("."),
        method,
        resource.path(namespace, name, subresource),
        query or {},
        body,
        content_type,
        impersonate.headers() if impersonate else (),
    )


def selectors(label_selector: str | None, field_selector: str | None) -> dict[str, str]:
    """Return the query of a list or watch that selects."""
    wanted = {"labelSelector": label_selector, "fieldSelector": field_selector}
    return {key: value for key, value in wanted.items() if value}


def typed(item: Object, resource: names.Resource) -> Object:
    """Put into an item of a list what only the list says."""
    item.setdefault("apiVersion", resource.api_version)
    item.setdefault("kind", resource.kind)
    return item


def _check_name(part: str | None) -> None:
    if part is not None and _DNS_SUBDOMAIN.fullmatch(part) is None:
        raise ValueError("a name in a Kubernetes path must be a DNS subdomain")
