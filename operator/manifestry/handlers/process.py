"""The operator's life: serve health, win the leadership, watch, work, and end in order."""

import asyncio
import logging
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from prometheus_client import REGISTRY

from manifestry import settings
from manifestry.adapters import clock
from manifestry.adapters.fetching import opening as fetching_opening
from manifestry.adapters.kube import cluster, election
from manifestry.adapters.queues import queues
from manifestry.adapters.quota import ledgers, storagebooks
from manifestry.adapters.store.ownership import homes, opening
from manifestry.adapters.telemetry import health, metrics
from manifestry.adapters.webhook import tls as webhook_tls
from manifestry.core.kube import names
from manifestry.handlers import feeds, prerequisites, probes, resyncs, shell
from manifestry.handlers.artifacts import collector, scrubber, suspects, uploads
from manifestry.handlers.artifacts import reconciler as artifact_reconciler
from manifestry.handlers.jobs import reconciler as job_reconciler
from manifestry.handlers.quota import jobtypes, storagequotas, tenantquotas
from manifestry.handlers.quota import ledgers as ledger_handler
from manifestry.handlers.runtime import caches, namespaces, registry, storagestates, vitals

_logger = logging.getLogger(__name__)

HANDLERS: tuple[registry.Handler, ...] = (
    artifact_reconciler,
    job_reconciler,
    ledger_handler,
    storagequotas,
    tenantquotas,
    jobtypes,
    namespaces,
)
USER_AGENT = "manifestry-operator/0.1.0"
DRAIN_SECONDS = 10.0  # for reconciles under way; a pod has 30 s in all
KOPF_STOP_SECONDS = 10.0


@dataclass(frozen=True)
class Configuration:
    """Everything the operator reads from its environment."""

    operator: settings.OperatorSettings
    cluster: settings.ClusterSettings
    store: settings.StoreSettings

    @classmethod
    def from_mapping(cls, env: Mapping[str, str]) -> Self:
        """Read all sections.

        Raises:
            SettingsError: the message lists every bad variable of all sections.
        """
        problems: list[str] = []
        found = []
        for section in (settings.OperatorSettings, settings.ClusterSettings, settings.StoreSettings):
            try:
                found.append(section.from_mapping(env))
            except settings.SettingsError as error:
                problems.append(str(error))
        if problems:
            raise settings.SettingsError("; ".join(problems))
        return cls(*found)  # type: ignore[arg-type]  # one of each, in this order


class Operator:
    """One process.

    Args:
        configuration: what the environment says.
        client: the Kubernetes API; stays the caller's to close.
    """

    def __init__(self, configuration: Configuration, client: cluster.KubeClient) -> None:
        self._configuration = configuration
        self._client = client
        self._clock = clock.SystemClock()
        self._metrics = metrics.ProcessMetrics(REGISTRY)
        self._contacts = health.WatchContacts(self._clock)
        self._leadership = self._candidate()
        self._lag = health.LoopLag(self._clock, self._metrics)
        self._probes = probes.Probes(
            self._clock, self._lag, self._contacts, self._leadership, configuration.operator.resync_seconds
        )
        self._stop = asyncio.Event()
        self._vitals = vitals.Vitals()
        self._collector: uploads.Collector | None = None

    def _candidate(self) -> election.Election | None:
        chosen = self._configuration.operator
        if not chosen.leader_election:
            return None
        namespace = self._configuration.cluster.namespace
        return election.Election(self._client, chosen.lease_name, namespace, identity=chosen.identity)

    async def run(self) -> int:
        """Serve until SIGTERM, SIGINT, or until a part cannot go on.

        Returns:
            The exit code: 0 when asked to end, 1 otherwise; whoever started the process starts it again.
        """
        chosen = self._configuration.operator
        server = health.HealthServer(
            chosen.health_host,
            chosen.health_port,
            live=self._probes.live,
            ready=self._probes.ready,
            registry=REGISTRY,
        )
        port = await server.start()
        _logger.info("operator started", extra={"health_port": port})
        self._catch_signals()
        self._vitals.start("stop", self._stop.wait())
        self._vitals.start("event loop", self._lag.run())
        try:
            await self._lead()
        finally:
            await self._vitals.close()
            await server.close()
            _logger.info("operator ended", extra={"asked": self._stop.is_set()})
        return 0 if self._stop.is_set() else 1

    def _catch_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for each in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(each, self._stop.set)

    async def _lead(self) -> None:
        """Win the leadership, work, and give it up when nothing of ours acts any more."""
        if self._leadership is None:
            await self._prepare()
        elif await self._vitals.race(self._leadership.acquire()):
            self._vitals.start("leadership", self._leadership.renew_forever())
            try:
                await self._prepare()
            finally:
                await self._leadership.release()

    async def _prepare(self) -> None:
        if not await self._vitals.race(prerequisites.wait_for_kinds(self._client, self._clock)):
            return
        self._metrics.leader.set(1)
        known = caches.Caches()
        opened = self._open(known)
        self._collector = uploads.Collector(opened.sessions)
        books = ledgers.Ledgers(self._client)
        ctx = self._context(opened, books, known)
        guarding = None
        try:
            loading = prerequisites.load_caches(ctx.client, known, self._clock)
            if await self._vitals.race(loading) and await self._vitals.race(opened.guard.check()):
                guarding = self._vitals.start("store guard", opened.guard.run())
                books.primed = True
                await self._serve(ctx)
        finally:
            if guarding is not None:
                await vitals.end(guarding)
            if ctx.fetches is not None:
                await ctx.fetches.close()
            if ctx.storage is not None:
                await ctx.storage.books.close()
            await books.close()
            await opened.close()

    def _open(self, known: caches.Caches) -> opening.Opened:
        chosen, where = self._configuration.operator, self._configuration.cluster.namespace
        process = opening.Process(
            homes.KubeHome(self._client, where, chosen.lease_name),
            known.namespace_of,
            self._leadership.identity if self._leadership else chosen.identity,
            leads=True,
        )
        opened = opening.open_guarded(self._configuration.store, process, self._clock)
        self._probes.guard = opened.guard
        return opened

    def _context(
        self, opened: opening.Opened, books: ledgers.Ledgers, known: caches.Caches
    ) -> registry.Context:
        observer = metrics.QueueMetrics(REGISTRY)
        queue = queues.KeyedQueue(clock=self._clock, observer=observer)
        observer.watch(lambda: len(queue), lambda: queue.delayed, queue.oldest_seconds)

        def wake(namespace: str, name: str) -> None:
            queue.add((names.ARTIFACTS.kind, namespace, name))

        return registry.Context(
            client=self._client,
            store=opened.store,
            ledgers=books,
            caches=known,
            queue=queue,
            clock=self._clock,
            settings=self._configuration.operator,
            cluster_settings=self._configuration.cluster,
            fetches=fetching_opening.open_queue(self._configuration.operator, opened.store, wake),
            storage=storagestates.Storage(storagebooks.StorageBooks(self._client, now=self._clock.now)),
            guard=opened.guard,
        )

    async def _serve(self, ctx: registry.Context) -> None:
        """Watch and work until something vital ends; then end the rest, the workers first.

        The workers come before kopf's end, which would cancel them in the middle of their work.
        """
        ready, stop_watching = asyncio.Event(), asyncio.Event()
        take = feeds.Feed(ctx.caches, ctx.queue, ctx.ledgers).take
        working = self._vitals.start(
            "workers", ctx.queue.run(ctx.settings.workers, registry.dispatcher(ctx, HANDLERS))
        )
        watching = self._vitals.start(
            "watches", shell.run(ctx.client, take, self._contacts, ready=ready, stop=stop_watching)
        )
        background: tuple[vitals.Task, ...] = ()
        if await self._vitals.race(ready.wait()):
            self._catch_signals()  # kopf has put its own handlers in their place
            collecting = collector.Collector(ctx)
            background = (
                self._resync(ctx),
                self._vitals.start("collector", collecting.run()),
                self._vitals.start("reaper", collecting.reap()),
                self._vitals.start("scrubber", scrubber.Scrubber(ctx).run()),
                self._vitals.start("suspects", suspects.Suspects(ctx).run()),
            )
            await self._vitals.wait()
        await vitals.end(*background)
        ctx.queue.stop()
        await vitals.end(working, grace_seconds=self._drain_seconds())
        stop_watching.set()
        await vitals.end(watching, grace_seconds=KOPF_STOP_SECONDS)

    def _resync(self, ctx: registry.Context) -> vitals.Task:
        parts = dict(registry.resyncs(HANDLERS))
        if ctx.settings.webhook_enabled:
            keeper = webhook_tls.WebhookKeeper(
                ctx.client, ctx.settings, ctx.cluster_settings.namespace, self._clock
            )
            parts["webhook"] = keeper.resync
        if self._collector is not None:
            parts["uploads"] = self._collector.resync
        loop = resyncs.Resyncs(ctx, parts, self._metrics)
        self._probes.queue, self._probes.resyncs, self._probes.watching = ctx.queue, loop, True
        return self._vitals.start("resync", loop.run())

    def _drain_seconds(self) -> float:
        """Without the leadership nothing may act any longer, not even to finish."""
        lost = self._leadership is not None and not self._leadership.is_leader
        return 0.0 if lost else DRAIN_SECONDS


async def connect(chosen: settings.ClusterSettings) -> cluster.KubeClient:
    """Return a client of the cluster; it is the caller's to close."""
    return await cluster.KubeClient.connect(
        kubeconfig=chosen.kubeconfig or None,
        pool_size=chosen.kube_pool_size,
        request_timeout_seconds=chosen.kube_request_timeout_seconds,
        user_agent=USER_AGENT,
        observer=metrics.ClusterMetrics(REGISTRY).observe,
    )


async def run(configuration: Configuration) -> int:
    """Run an operator as `configuration` says; return its exit code."""
    client = await connect(configuration.cluster)
    try:
        return await Operator(configuration, client).run()
    finally:
        await client.close()
