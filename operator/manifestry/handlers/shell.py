"""Kopf as the shell: login, list and watch plumbing. Its handlers enqueue keys; the work is done elsewhere.

No handler keeps state in an object (no annotation, no finalizer), waits, or may fail.
References: shared design kopf-and-clients.md, for why and with which figures.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import kopf

from manifestry.adapters.kube import cluster
from manifestry.adapters.telemetry import health
from manifestry.core.kube import names

POOL_SIZE = 32
KOPF_IDENTITY: Any = (
    "manifestry"  # unset, kopf asks for the user's name, which a container's numeric uid has not
)
SERVER_TIMEOUT_SECONDS = 300
CLIENT_TIMEOUT_SECONDS = 310
SILENCE_SECONDS = 480.0  # server timeout, plus inactivity timeout, plus the longest row of retries

Take = Callable[[names.Resource, str | None, Mapping[str, Any]], None]


@dataclass(frozen=True)
class Watched:
    """A kind that is watched in all namespaces, and which of its objects."""

    resource: names.Resource
    label_selector: str = ""


WATCHED = (
    Watched(names.ARTIFACTS),
    Watched(names.JOBS),
    Watched(names.JOB_TYPES),
    Watched(names.TENANT_QUOTAS),
    Watched(names.QUOTA_LEDGERS),
    Watched(names.NAMESPACES, names.TENANT_LABEL),
    Watched(names.BATCH_JOBS, names.JOB_UID_LABEL),
)


def build_settings() -> kopf.OperatorSettings:
    """Return kopf's settings.

    `worker_limit` and `idle_timeout` belong together: a worker keeps its slot while it idles.
    """
    settings = kopf.OperatorSettings()
    settings.scanning.disabled = True
    settings.posting.enabled = False
    settings.peering.standalone = True
    settings.queueing.worker_limit = 64
    settings.queueing.idle_timeout = 0.1
    settings.execution.default_backoff = 5
    settings.networking.request_timeout = 30
    settings.networking.connect_timeout = 10
    settings.networking.error_backoffs = (0.2, 0.5, 1, 2, 5, 10, 20)
    settings.watching.connect_timeout = 10
    settings.watching.server_timeout = SERVER_TIMEOUT_SECONDS
    settings.watching.client_timeout = CLIENT_TIMEOUT_SECONDS
    settings.watching.chunk_size = 500
    # Never used, as no handler keeps state; should one ever do, it must not write under kopf's own name.
    settings.persistence.finalizer = names.FINALIZER
    settings.persistence.progress_storage = kopf.AnnotationsProgressStorage(prefix=names.GROUP, v1=False)
    settings.persistence.diffbase_storage = kopf.AnnotationsDiffBaseStorage(prefix=names.GROUP, v1=False)
    for watched in WATCHED:
        if watched.label_selector:
            resource = watched.resource
            key = (resource.group, resource.version, resource.plural)
            settings.watching.label_selectors[key] = watched.label_selector
    return settings


def build_registry(take: Take, login: Callable[[], kopf.AiohttpSession]) -> kopf.OperatorRegistry:
    """Return the handlers: one for the login, one for each watched kind."""
    registry = kopf.OperatorRegistry()

    async def on_login(**_: Any) -> kopf.AiohttpSession:
        return login()

    kopf.on.login(registry=registry, id="login")(on_login)
    for watched in WATCHED:
        resource = watched.resource
        handler = _event_handler(resource, take)
        handler_id = f"{resource.plural}.{resource.group}"
        kopf.on.event(resource.group, resource.version, resource.plural, registry=registry, id=handler_id)(
            handler
        )
    return registry


def watched_paths(base_url: str) -> list[str]:
    """Return the URL paths of the watched collections; a proxy may serve the API below a path of its own."""
    prefix = urlsplit(base_url).path.rstrip("/")
    return [prefix + watched.resource.path() for watched in WATCHED]


def _event_handler(resource: names.Resource, take: Take) -> Callable[..., Any]:
    async def on_event(event: Mapping[str, Any], **_: Any) -> None:
        take(resource, event["type"], event["object"])

    return on_event


async def run(
    client: cluster.KubeClient,
    take: Take,
    contacts: health.WatchContacts,
    *,
    ready: asyncio.Event,
    stop: asyncio.Event,
) -> None:
    """Watch until `stop`; set `ready` when the watchers begin.

    Kopf ends by itself when a watch fails for good. When it ends it cancels every task that was created in
    this loop after its start, so nothing else may still be needed then.
    """

    def login() -> kopf.AiohttpSession:
        session = client.new_session(POOL_SIZE, [contacts.trace_config()])  # kopf closes it
        return kopf.AiohttpSession(server=client.base_url, aiohttp_session=session)

    for path in watched_paths(client.base_url):
        contacts.expect(path)
    await kopf.operator(
        registry=build_registry(take, login),
        settings=build_settings(),
        lifecycle=kopf.lifecycles.all_at_once,
        clusterwide=True,
        standalone=True,
        identity=KOPF_IDENTITY,
        ready_flag=ready,
        stop_flag=stop,
    )
