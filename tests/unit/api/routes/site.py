"""The facade over real HTTP in this process, around a cluster in memory and a store on disk."""

import asyncio
import io
import json
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import aiohttp
import uvicorn
from uvicorn.server import ServerState

from manifestry.adapters.kube import cluster, watches
from manifestry.adapters.quota import ledgers
from manifestry.adapters.store import sessions, stores
from manifestry.adapters.store.contract import ports as store_ports
from manifestry.core.kube import names
from manifestry.settings import StoreSettings
from manifestry_api.guard import limits
from manifestry_api.wire import protocols
from tests.unit.api import world
from tests.unit.api.routes.fakecluster import FakeCluster

NAMESPACE = "ns-acme"
TENANT_UID = str(uuid.UUID(int=7))
RENDER = {
    "metadata": {"name": "render"},
    "spec": {
        "image": "example.org/render:1",
        "env": [{"name": "TOKEN", "value": "canary-secret"}],
        "parametersSchema": {
            "type": "object",
            "properties": {"frames": {"type": "integer", "minimum": 1}, "title": {"type": "string"}},
            "additionalProperties": False,
        },
    },
}


@dataclass
class Reply:
    """A complete answer."""

    status: int
    headers: Mapping[str, str]
    data: bytes
    json: Any


@dataclass
class Site:
    """The running facade.

    Args:
        role: the role that requests claim unless they say otherwise.
    """

    world: world.World
    cluster: FakeCluster
    base_url: str
    session: aiohttp.ClientSession

    async def call(
        self, method: str, path: str, body: Any = None, *, role: str = "admin", **options: Any
    ) -> Reply:
        """Send a request and return the whole answer."""
        headers = {**world.headers(role), **options.pop("headers", {})}
        if body is not None:
            headers.setdefault("Content-Type", "application/json")
            options["data"] = io.BytesIO(json.dumps(body).encode())
        async with self.session.request(method, self.base_url + path, headers=headers, **options) as answer:
            data = await answer.read()
            is_json = "json" in answer.headers.get("Content-Type", "")
            return Reply(
                answer.status, answer.headers, data, await answer.json(content_type=None) if is_json else None
            )

    def open(self, path: str, **headers: str) -> Any:
        """Open a streamed answer."""
        return self.session.get(self.base_url + path, headers={**world.headers("viewer"), **headers})

    def make_ready(self, name: str, blob: store_ports.Blob, manifest: store_ports.Blob) -> None:
        """Do what the operator would."""
        found = self.cluster.find(names.ARTIFACTS, name, NAMESPACE)
        assert found is not None
        status = {
            "observedGeneration": found["metadata"].get("generation", 1),
            "artifact": {
                "digest": blob.digest,
                "sizeBytes": blob.size_bytes,
                "storedTime": "2026-05-04T03:02:01Z",
            },
            "manifest": {"digest": manifest.digest, "sizeBytes": manifest.size_bytes},
            "conditions": [condition("Ready", "True", "Stored")],
        }
        self.cluster.set_status(names.ARTIFACTS, name, NAMESPACE, status)


def condition(kind: str, status: str, reason: str, message: str = "") -> dict[str, str]:
    """Return a condition as the operator writes it."""
    return {
        "type": kind, "status": status, "reason": reason, "message": message,
        "lastTransitionTime": "2026-05-04T03:02:01Z",
    }  # fmt: skip


def pod(name: str, job: Mapping[str, Any], state: str = "running", second: int = 0) -> dict[str, Any]:
    """Return a pod of a job whose container is `waiting`, `running` or `terminated`."""
    return {
        "metadata": {
            "name": name,
            "namespace": NAMESPACE,
            "labels": {names.JOB_UID_LABEL: job["metadata"]["uid"]},
            "creationTimestamp": f"2026-05-04T04:00:{second:02}Z",
        },
        "spec": {"nodeName": "n1", "containers": [{"name": "job"}]},
        "status": {"phase": "Running", "containerStatuses": [{"name": "job", "state": {state: {}}}]},
    }


@asynccontextmanager
async def running(folder: Path, **settings: Any) -> AsyncIterator[Site]:
    """Serve until the test is over."""
    made, fake = world.build(**settings), FakeCluster()
    for namespace, tenant, uid in ((NAMESPACE, "acme", TENANT_UID), ("ns-other", "other", str(uuid.uuid4()))):
        labels = {names.TENANT_LABEL: tenant}
        made.namespaces.put({"metadata": {"name": namespace, "uid": uid, "labels": labels}})
        made.grant("admin", namespace)
    client = cast("cluster.KubeClient", fake)
    ports = made.ports
    ports.client = client
    stored = StoreSettings(store_path=str(folder))
    ports.store = stores.open_store(stored)
    ports.sessions = sessions.open_sessions(stored, ports.store)
    kinds = {
        "artifacts": names.ARTIFACTS, "jobs": names.JOBS, "job_types": names.JOB_TYPES,
        "tenant_quotas": names.TENANT_QUOTAS, "quota_ledgers": names.QUOTA_LEDGERS,
    }  # fmt: skip
    fake.put(names.JOB_TYPES, RENDER)
    mirrors = {field: watches.Reflector(client, resource) for field, resource in kinds.items()}
    for field, mirror in mirrors.items():
        setattr(ports.caches, field, mirror)
    ports.quotas = limits.QuotaIndex(ports.caches.tenant_quotas)
    ports.ledgers = ledgers.Ledgers(
        client, lambda namespace, name: ports.caches.quota_ledgers.items.get((namespace, name))
    )
    tasks = [asyncio.create_task(mirror.run()) for mirror in mirrors.values()]
    for mirror in mirrors.values():
        await mirror.synced.wait()
    try:
        async with _served(made) as base_url, aiohttp.ClientSession() as session:
            yield Site(made, fake, base_url, session)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await ports.sessions.close()
        await ports.store.close()


@asynccontextmanager
async def _served(made: world.World) -> AsyncIterator[str]:
    """Serve with the process's own protocol, without the process: that sleeps 0.1 s at a time."""
    config = uvicorn.Config(made.app, http="httptools", ws="none", lifespan="off", log_config=None)
    config.load()
    state = ServerState()
    loop = asyncio.get_running_loop()
    front = await loop.create_server(
        lambda: protocols.BoundedProtocol(config=config, server_state=state, app_state={}), "127.0.0.1", 0
    )
    try:
        yield f"http://127.0.0.1:{front.sockets[0].getsockname()[1]}"
    finally:
        front.close()
        for connection in list(state.connections):
            connection.shutdown()
        await asyncio.gather(*state.tasks, return_exceptions=True)
