"""The operator's own health port: /livez, /readyz, /metrics.

Liveness asks only what a restart can mend: the loop turns, watchers are alive, workers make progress. A
backlog or an API server that is away never fails it.
"""

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

import aiohttp
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from manifestry.adapters import clock as clocks
from manifestry.adapters.telemetry import metrics

LAG_INTERVAL_SECONDS = 1.0


@dataclass(frozen=True)
class Check:
    """A row of a health answer."""

    name: str
    ok: bool
    reason: str = ""
    age_seconds: float | None = None


Checks = Callable[[], Sequence[Check]]


class LoopLag:
    """Measures how late the event loop is; a value over a second means something blocks it."""

    def __init__(self, clock: clocks.Clock, process: metrics.ProcessMetrics) -> None:
        self._clock = clock
        self._metrics = process
        self.seconds = 0.0

    async def run(self) -> None:
        """Measure for ever."""
        while True:
            before = self._clock.monotonic()
            await self._clock.sleep(LAG_INTERVAL_SECONDS)
            self.seconds = max(0.0, self._clock.monotonic() - before - LAG_INTERVAL_SECONDS)
            self._metrics.loop_lag_seconds.set(self.seconds)


class WatchContacts:
    """When each watcher last sent a request: kopf hides bookmarks, but must ask anew every few minutes."""

    def __init__(self, clock: clocks.Clock) -> None:
        self._clock = clock
        self._seen: dict[str, float] = {}

    def expect(self, path: str) -> None:
        """Begin to watch over the watcher of a collection's path."""
        self._seen[path] = self._clock.monotonic()

    def ages(self) -> Mapping[str, float]:
        """Return for each path the seconds since the last request."""
        now = self._clock.monotonic()
        return {path: now - seen for path, seen in self._seen.items()}

    def trace_config(self) -> aiohttp.TraceConfig:
        """Return the hook for the session that the watchers use."""
        trace = aiohttp.TraceConfig()
        trace.on_request_start.append(self._touch)
        return trace

    async def _touch(self, session: object, context: object, start: aiohttp.TraceRequestStartParams) -> None:  # noqa: ARG002 - aiohttp's signature
        path = urlsplit(str(start.url)).path
        if path in self._seen:
            self._seen[path] = self._clock.monotonic()


class HealthServer:
    """Serves the probes and the metrics until it is closed.

    Args:
        host: the address to listen on.
        port: the port; 0 = any.
        live: the rows of /livez.
        ready: the rows of /readyz.
        registry: what /metrics shows.
    """

    def __init__(
        self, host: str, port: int, *, live: Checks, ready: Checks, registry: CollectorRegistry
    ) -> None:
        self._host = host
        self._port = port
        self._registry = registry
        application = web.Application()
        application.router.add_get("/livez", _handler(live))
        application.router.add_get("/readyz", _handler(ready))
        application.router.add_get("/metrics", self._metrics)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=1.0, keepalive_timeout=15)

    async def start(self) -> int:
        """Begin to listen; return the port."""
        await self._runner.setup()
        site = web.TCPSite(self._runner, self._host, self._port)
        await site.start()
        return int(self._runner.addresses[0][1])

    async def close(self) -> None:
        """Stop listening."""
        await self._runner.cleanup()

    async def _metrics(self, _: web.Request) -> web.Response:
        body = generate_latest(self._registry)  # in the loop: the gauges read what only it may read
        return _closing(web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST}))


def _handler(checks: Checks) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def answer(_: web.Request) -> web.Response:
        rows = checks()
        status = 200 if all(row.ok for row in rows) else 503
        return _closing(web.Response(status=status, text=_render(rows), content_type="application/json"))

    return answer


def _closing(answer: web.Response) -> web.Response:
    """End the connection: an idle one is a task for whose end kopf would wait at shutdown."""
    answer.force_close()
    return answer


def _render(rows: Sequence[Check]) -> str:
    listed = []
    for row in rows:
        item: dict[str, object] = {"name": row.name, "ok": row.ok, "reason": row.reason}
        if row.age_seconds is not None:
            item["ageSeconds"] = round(row.age_seconds, 1)
        listed.append(item)
    return json.dumps({"ok": all(row.ok for row in rows), "checks": listed})
