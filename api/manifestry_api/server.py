"""The process: ports made from settings, caches and probes in the background, two servers in front.

One event loop, one place for signals: SIGTERM sets `ports.shutdown` (log followers end by it) and lets both
servers finish what they serve, for `shutdown_seconds` at most.
"""

import asyncio
import contextlib
import logging
import math
import signal
import ssl
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from manifestry.adapters.kube import cluster
from manifestry.adapters.quota import ledgers, reservations, storagebooks
from manifestry.adapters.store.ownership import homes, opening
from manifestry.core.quota.storage import limits as storage_limits
from manifestry.settings import ApiSettings, ClusterSettings, StoreSettings
from manifestry_api import app
from manifestry_api.access import authenticators, identity, tenants
from manifestry_api.guard import deps, gates, limits
from manifestry_api.health import probes
from manifestry_api.objects import caches
from manifestry_api.request import audits, telemetry
from manifestry_api.routes import admission
from manifestry_api.webhook.secrets import WebhookSecrets
from manifestry_api.wire import servers

USER_AGENT = "manifestry-api/0.1.0"
WEBHOOK_SHUTDOWN_SECONDS = 5  # no review takes longer
logger = logging.getLogger(__name__)

Work = Coroutine[Any, Any, None]


@dataclass(frozen=True)
class Config:
    """All settings of the process."""

    api: ApiSettings
    cluster: ClusterSettings
    store: StoreSettings

    @classmethod
    def from_mapping(cls, env: Mapping[str, str]) -> "Config":
        """Read every section.

        Raises:
            SettingsError: a variable is not valid.
        """
        return cls(
            ApiSettings.from_mapping(env), ClusterSettings.from_mapping(env), StoreSettings.from_mapping(env)
        )


@contextlib.asynccontextmanager
async def open_ports(config: Config) -> AsyncIterator[deps.Ports]:
    """Yield the ports, connected; close them at the end."""
    instruments = telemetry.Telemetry(config.api.slow_call_seconds)
    client = await cluster.KubeClient.connect(
        kubeconfig=config.cluster.kubeconfig or None,
        pool_size=config.cluster.kube_pool_size,
        request_timeout_seconds=config.cluster.kube_request_timeout_seconds,
        user_agent=USER_AGENT,
        observer=instruments.observe_kubernetes,
    )
    watched = caches.build(client)
    home = homes.KubeHome(client, config.cluster.namespace, config.api.lease_name)
    opened = opening.open_guarded(
        config.store, opening.Process(home, lambda uid: tenants.name_of(watched.namespaces, uid))
    )
    try:
        yield make_ports(config, client, (watched, opened), instruments)
    finally:
        await opened.close()
        await client.close()
        instruments.provider.shutdown()


def make_ports(
    config: Config,
    client: cluster.KubeClient,
    opened: tuple[deps.Caches, opening.Opened],
    instruments: telemetry.Telemetry,
) -> deps.Ports:
    """Return the ports around a connected client, its caches, and an open store."""
    watched, storage = opened
    index = tenants.TenantIndex(watched.namespaces)
    grants = tenants.GrantIndex(watched.role_bindings)
    found = limits.QuotaIndex(watched.tenant_quotas)
    return deps.Ports(
        client=client,
        store=storage.store,
        sessions=storage.sessions,
        guard=storage.guard,
        caches=watched,
        ledgers=ledgers.Ledgers(client, lambda namespace, name: _seen(watched, namespace, name)),
        reservations=reservations.Reservations(
            storagebooks.StorageBooks(client, lambda namespace, name: _seen(watched, namespace, name)),
            lambda tenant: storage_limits.limits_for(tenant, found.table),
        ),
        settings=config.api,
        tenants=index,
        quotas=found,
        gate=gates.Gatekeeper(
            identity.Pipeline(authenticators.configured(config.api, client)), index, grants
        ),
        audit=audits.LineSink(),
        instruments=instruments,
        namespace=config.cluster.namespace,
    )


def _seen(watched: deps.Caches, namespace: str, name: str) -> Mapping[str, object] | None:
    return watched.quota_ledgers.items.get((namespace, name))


async def serve(config: Config) -> None:
    """Serve until SIGTERM or SIGINT; a background task that fails ends the process at once."""
    async with open_ports(config) as ports:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, ports.shutdown.set)
        api = app.create_app(config.api, ports)
        health: probes.Health = api.state.health
        fronts = [servers.serve(_api_config(config.api, api), ports.shutdown)]
        endless = [health.run(), *_guarding(ports), *(cache.run() for _, cache in caches.each(ports.caches))]
        if config.api.webhook_enabled:
            webhook = WebhookSecrets.of(ports.client, config.api, ports.namespace)
            health.certificate = webhook
            endless += [webhook.certificate.run(), webhook.paths.run()]
            fronts.append(_serve_webhook(config.api, webhook, ports))
        await _run(fronts, endless)


def _guarding(ports: deps.Ports) -> list[Work]:
    return [] if ports.guard is None else [ports.guard.run()]


async def _run(fronts: Sequence[Work], endless: Sequence[Work]) -> None:
    async with asyncio.TaskGroup() as group:
        running = [group.create_task(each) for each in endless]
        await asyncio.gather(*(group.create_task(each) for each in fronts))
        for task in running:
            task.cancel()


async def _serve_webhook(settings: ApiSettings, webhook: WebhookSecrets, ports: deps.Ports) -> None:
    """Listen as soon as there is a certificate; the API serves meanwhile, and /readyz says so."""
    loaded = asyncio.create_task(webhook.certificate.loaded.wait())
    stopped = asyncio.create_task(ports.shutdown.wait())
    await asyncio.wait({loaded, stopped}, return_when=asyncio.FIRST_COMPLETED)
    loaded.cancel()
    stopped.cancel()
    if ports.shutdown.is_set():
        return
    application = admission.create_webhook_app(ports, webhook.paths)
    await servers.serve(_webhook_config(settings, application, webhook.certificate.context), ports.shutdown)


def _api_config(settings: ApiSettings, application: ASGIApp) -> uvicorn.Config:
    grace = math.ceil(settings.shutdown_seconds)
    return servers.configure(application, settings.api_host, settings.api_port, grace)


def _webhook_config(settings: ApiSettings, application: ASGIApp, context: ssl.SSLContext) -> uvicorn.Config:
    config = servers.configure(
        application, settings.api_host, settings.webhook_port, WEBHOOK_SHUTDOWN_SECONDS
    )
    config.ssl_context_factory = lambda _config, _default: context
    return config
