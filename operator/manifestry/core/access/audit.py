"""The audit record: one per decision, shaped like audit.k8s.io/v1, so the cluster's own tools read it.

It never holds a body, a header that was not claimed for the record, or a query string.

References: https://kubernetes.io/docs/reference/config-api/apiserver-audit.v1/
"""

import json
from collections.abc import Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from manifestry.core.kube import names

ANONYMOUS = "system:anonymous"
UNAUTHENTICATED_GROUP = "system:unauthenticated"
TEXT_MAX_LENGTH = 1024

Stage = Literal["ResponseStarted", "ResponseComplete"]
_ENCODER = json.JSONEncoder(  # made once: half of the work
    ensure_ascii=True, separators=(",", ":"), check_circular=False
)
_OWN = f"{names.GROUP}/"
_MICRO_TIME_LENGTH = len("2026-05-04T03:02:01.123456")  # without the offset, which is UTC's
_VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
_RESOURCES = {
    "artifacts": "artifacts",
    "manifests": "manifests",
    "uploads": "uploads",
    "garbage": "garbage",
    "damaged": "damaged",
    "jobs": "jobs",
    "job-types": "jobtypes",
    "quotas": "quotaledgers",
    "audit": "audit",
    "lineage": "lineage",
    "sparql": "lineage",
    "retained": "retained",
}


class Event(NamedTuple):
    """A request and what was decided about it.

    Args:
        uri: the URL's path as it came, without the query.
        path: the same, decoded, as the router has seen it.
        subject: the authenticated name; empty when there is none.
        namespace: the tenant's namespace; empty before it is known.
        status: the answer's HTTP status.
        code: the problem's code; empty on success.
        detail: the problem's sentence; empty on success.
        decision: of the access table; empty when the request did not get that far.
        annotations: claimed headers and the action, by their short names.
    """

    audit_id: str
    stage: Stage
    method: str
    uri: str
    path: str
    subject: str
    groups: tuple[str, ...]
    namespace: str
    source_ips: tuple[str, ...]
    user_agent: str
    status: int
    code: str
    detail: str
    received: datetime
    decided: datetime
    decision: Literal["allow", "forbid", ""] = ""
    annotations: Mapping[str, str] = MappingProxyType({})


def record(event: Event) -> dict[str, Any]:
    """Return the record as a JSON object."""
    reference = object_reference(event.path, event.namespace)
    body: dict[str, Any] = {
        "kind": "Event",
        "apiVersion": "audit.k8s.io/v1",
        "level": "Metadata",
        "auditID": event.audit_id,
        "stage": event.stage,
        "requestURI": _bounded(event.uri),
        "verb": verb(event.method, named=bool(reference and "name" in reference)),
        "user": _user(event),
        "sourceIPs": list(event.source_ips),
        "userAgent": _bounded(event.user_agent),
        "responseStatus": _status(event),
        "requestReceivedTimestamp": _micro_time(event.received),
        "stageTimestamp": _micro_time(event.decided),
        "annotations": _annotations(event),
    }
    if reference is not None:
        body["objectRef"] = reference
    return body


def line(body: Mapping[str, Any]) -> str:
    """Return the record as one line; every control character is escaped, so no value can forge a line."""
    return _ENCODER.encode(body)


def verb(method: str, *, named: bool) -> str:
    """Return Kubernetes' verb for an HTTP method on a collection or on a named object."""
    return _VERBS.get(method) or ("get" if named else "list")


def object_reference(path: str, namespace: str) -> dict[str, str] | None:
    """Return what `/artifacts/x/content`-like paths point at, or None for a path of another kind."""
    noun, name, subresource, *_ = [*path.strip("/").split("/", 3), "", ""]
    if noun not in _RESOURCES:
        return None
    reference = {"resource": _RESOURCES[noun]}
    if namespace:
        reference["namespace"] = namespace
    if name:
        reference["name"] = _bounded(name)
    if subresource:
        reference["subresource"] = _bounded(subresource)
    return {**reference, "apiGroup": names.GROUP, "apiVersion": names.VERSION}


def _user(event: Event) -> dict[str, Any]:
    if not event.subject:
        return {"username": ANONYMOUS, "groups": [UNAUTHENTICATED_GROUP]}
    return {"username": event.subject, "groups": list(event.groups)}


def _status(event: Event) -> dict[str, Any]:
    status: dict[str, Any] = {"metadata": {}, "code": event.status}
    if event.code:
        status |= {"status": "Failure", "reason": event.code, "message": _bounded(event.detail)}
    return status


def _annotations(event: Event) -> dict[str, str]:
    found = {"authorization.k8s.io/decision": str(event.decision)} if event.decision else {}
    for key, text in event.annotations.items():
        if text:
            found[_OWN + key] = _bounded(text)
    return found


def _bounded(text: str) -> str:
    return text if len(text) <= TEXT_MAX_LENGTH else text[: TEXT_MAX_LENGTH - 1] + "…"


def _micro_time(moment: datetime) -> str:
    return moment.isoformat("T", "microseconds")[:_MICRO_TIME_LENGTH] + "Z"
