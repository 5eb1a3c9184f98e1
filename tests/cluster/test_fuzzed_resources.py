"""A malformed custom resource stops nobody else's: every field of every kind, every wrong type of value.

The real definitions refuse most of this. Objects that an older or a laxer definition let through are in etcd
all the same, so here the definitions are the real ones without their schemas.
"""

import copy
import uuid
from collections.abc import Callable, Iterator, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.controlplane.apirequests import ApiFailure
from tests.controlplane.controlplane import ControlPlane
from tests.e2e import teams
from tests.e2e.teams import ARTIFACTS, JOB_TYPES, JOBS

CRDS = Path(__file__).resolve().parents[2] / "crds"
GROUP = "manifestry.dev/v1alpha1"
PER_FIELD = 2
REFUSALS = (400, 409, 422)
HOSTILE: tuple[Any, ...] = (
    0,
    -1,
    "",
    "\u0000\u202e/../../etc",
    [],
    [{}],
    ["x", 1],
    {},
    {"a": {"b": []}},
    1 << 62,
)
BASE: dict[str, dict[str, Any]] = {
    "artifacts": {"mediaType": "text/plain", "inline": {"text": "x"}},
    "jobs": {"jobType": "fine"},
    "jobtypes": {"image": "none.invalid/none"},
    "tenantquotas": {"tenants": ["nobody"], "jobs": [{"jobType": "*", "maxRunning": 1, "maxQueued": 1}]},
    "quotaledgers": {"jobType": "other"},
}
Path_ = tuple[str, ...]


def schema_paths(node: dict[str, Any], path: Path_ = ()) -> Iterator[Path_]:
    """Yield the path of every node below `spec` and `status`; `*` is an item of a list or a map."""
    if path:
        yield path
    for name, child in (node.get("properties") or {}).items():
        yield from schema_paths(child, (*path, name))
    for child in (node.get("items"), node.get("additionalProperties")):
        if isinstance(child, dict):
            yield from schema_paths(child, (*path, "*"))


def put(target: dict[str, Any], path: Sequence[str], value: Any) -> None:
    """Set the value at a path, making what is missing on the way; a list gets one item."""
    here: Any = target
    for index, name in enumerate(path):
        last = index == len(path) - 1
        following: Any = value if last else ([] if path[index + 1] == "*" and not last else {})
        if name == "*":
            if isinstance(here, list):
                here.append(following)
                here = here[-1]
            else:
                here = here.setdefault("k", following)
        elif last or not isinstance(here.get(name), list | dict):
            here[name] = following
            here = here[name]
        else:
            here = here[name]


def definitions() -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Yield (the real definition, the same without a schema)."""
    for file in sorted(CRDS.glob("*.yaml")):
        real = yaml.safe_load(file.read_text())
        lax = copy.deepcopy(real)
        for version in lax["spec"]["versions"]:
            version["schema"] = {
                "openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
            }
            version.pop("selectableFields", None)
        yield real, lax


def bodies(real: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield one object per field and hostile value."""
    plural = real["spec"]["names"]["plural"]
    schema = real["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
    turn = cycle(HOSTILE)
    for part in ("spec", "status"):
        for path in schema_paths(schema[part]):
            for value in islice(turn, PER_FIELD):  # every path gets other ones in turn
                body: dict[str, Any] = {"spec": copy.deepcopy(BASE[plural])}
                put(body, (part, *path), copy.deepcopy(value))
                yield body
    for value in HOSTILE:
        yield {"spec": value}
        yield {"spec": BASE[plural], "status": value}


def send(cp: ControlPlane, plural: str, kind: str, namespace: str | None, body: dict[str, Any]) -> bool:
    """Create one object and write its status; tell whether the API server took it."""
    name = f"f{uuid.uuid4().hex[:12]}"
    body = {"apiVersion": GROUP, "kind": kind, **body}
    body["metadata"] = {
        "name": name,
        "annotations": {"manifestry.dev/traceparent": "\u0000;\n" * 9},
        "labels": {"manifestry.dev/job-uid": "none"},
    }
    try:
        made = cp.create(f"{GROUP}/{plural}", body, namespace)
        if "status" in body:
            cp.replace(f"{GROUP}/{plural}", {**made, "status": body["status"]}, subresource="status")
    except ApiFailure as failure:
        if failure.status not in REFUSALS:
            raise
        return False
    return True


@pytest.mark.timeout(600)
def test_every_field_of_every_kind_fuzzed_stops_nobody_else(
    make_control_plane: Callable[..., ControlPlane],
    make_tenant: Callable[..., Any],
    start_operator: Callable[..., Any],
) -> None:
    cp = make_control_plane(crds=False)
    kinds = []
    for real, lax in definitions():
        cp.create("apiextensions.k8s.io/v1/customresourcedefinitions", lax)
        kinds.append(real)
    for real in kinds:
        cp.wait_for(
            "apiextensions.k8s.io/v1/customresourcedefinitions",
            real["metadata"]["name"],
            None,
            lambda crd: any(
                c["type"] == "Established" and c["status"] == "True"
                for c in (crd or {}).get("status", {}).get("conditions", [])
            ),
        )
    tenant = make_tenant(cluster=cp)
    cp.create(JOB_TYPES, teams.body(JOB_TYPES, "fine", BASE["jobtypes"]))
    operator = start_operator(cp)
    taken = 0
    for real in kinds:
        names = real["spec"]["names"]
        namespace = tenant.namespace if real["spec"]["scope"] == "Namespaced" else None
        taken += sum(send(cp, names["plural"], names["kind"], namespace, body) for body in bodies(real))
    assert taken > 400
    _still_works(cp, tenant.namespace, "before")
    operator.kill()
    operator.start()  # the same objects again, all at once, from a list
    _still_works(cp, tenant.namespace, "after")


def _still_works(cp: ControlPlane, namespace: str, name: str) -> None:
    artifact = teams.body(ARTIFACTS, name, {"mediaType": "text/plain", "inline": {"text": name}})
    cp.create(ARTIFACTS, artifact, namespace)
    cp.wait_for(ARTIFACTS, name, namespace, _condition("Ready", "True"), timeout_seconds=120)
    cp.create(JOBS, teams.body(JOBS, name, {"jobType": "fine"}), namespace)
    cp.wait_for(JOBS, name, namespace, _condition("QuotaReserved", "True"), timeout_seconds=120)


def _condition(kind: str, status: str) -> Callable[[dict[str, Any] | None], bool]:
    def met(body: dict[str, Any] | None) -> bool:
        found = ((body or {}).get("status") or {}).get("conditions") or []
        return any(c["type"] == kind and c["status"] == status for c in found)

    return met
