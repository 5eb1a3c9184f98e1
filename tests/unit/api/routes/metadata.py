"""Artifacts as kubectl would make them, in front of the facade, and a change of one over REST."""

from typing import Any

from manifestry.core.kube import names
from tests.unit.api.routes.site import NAMESPACE, Reply, Site

INLINE = {"mediaType": "text/plain", "inline": {"text": "hello"}}
DIGEST = f"sha256:{'ab' * 32}"
OTHER = f"sha256:{'cd' * 32}"
MERGE = {"Content-Type": "application/merge-patch+json", "Prefer": "respond-async"}
JSON = {"Content-Type": "application/json", "Prefer": "respond-async"}
STALE = '"00.0"'


def artifact(name: str, **changes: Any) -> dict[str, Any]:
    """Return an Artifact as kubectl would make it, observed by the operator."""
    metadata = {"name": name, "namespace": NAMESPACE, "generation": 1, **changes.pop("metadata", {})}
    spec = {**INLINE, **changes}
    return {"metadata": metadata, "spec": spec, "status": {"observedGeneration": 1}}


async def put(site: Site, *bodies: dict[str, Any]) -> None:
    """Store Artifacts and wait until the facade has seen them."""
    for body in bodies:
        made = site.cluster.put(names.ARTIFACTS, body)
    mirror, key = site.world.ports.caches.artifacts, (NAMESPACE, made["metadata"]["name"])
    version = made["metadata"]["resourceVersion"]
    assert await mirror.wait_for(key, lambda found: found["metadata"]["resourceVersion"] == version, 5)


def stored(site: Site, name: str) -> dict[str, Any]:
    found = site.cluster.find(names.ARTIFACTS, name, NAMESPACE)
    assert found is not None
    return found


async def change(site: Site, method: str, body: Any, **headers: str) -> Reply:
    sent = {**(MERGE if method == "PATCH" else JSON), **{k.replace("_", "-"): v for k, v in headers.items()}}
    return await site.call(method, "/artifacts/a", body, role="publisher", headers=sent)
