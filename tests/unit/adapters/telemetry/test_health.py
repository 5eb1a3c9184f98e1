"""The health port."""

import asyncio
from collections.abc import AsyncIterator

import aiohttp
import pytest
from prometheus_client import CollectorRegistry

from manifestry.adapters.telemetry import health, metrics
from tests.unit.adapters.fakeclock import FakeClock


class Site:
    def __init__(self) -> None:
        self.live: list[health.Check] = [health.Check("event-loop", ok=True)]
        self.ready: list[health.Check] = []
        self.registry = CollectorRegistry()
        self.url = ""


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    made = Site()
    server = health.HealthServer(
        "127.0.0.1", 0, live=lambda: made.live, ready=lambda: made.ready, registry=made.registry
    )
    made.url = f"http://127.0.0.1:{await server.start()}"
    yield made
    await server.close()


async def get(url: str) -> tuple[int, str, str]:
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        return answer.status, await answer.text(), answer.headers["Connection"]


async def test_one_bad_row_is_a_503_that_says_which(site: Site) -> None:
    site.ready = [
        health.Check("leader", ok=True),
        health.Check("resync", ok=False, reason="r", age_seconds=9.87),
    ]
    status, text, connection = await get(site.url + "/readyz")
    assert status == 503
    assert '"name": "resync", "ok": false, "reason": "r", "ageSeconds": 9.9' in text
    assert connection == "close"
    assert (await get(site.url + "/livez"))[0] == 200


async def test_metrics_are_served(site: Site) -> None:
    calls = metrics.ClusterMetrics(site.registry)
    calls.observe("get", "jobs", 200, 0.1)
    calls.observe("get", "jobs", 0, 0.1)
    queue = metrics.QueueMetrics(site.registry)
    queue.watch(lambda: 3, lambda: 2, lambda: 1.5)
    queue.started("Job", 0.5)
    queue.finished("Job", 0.5, "failed")
    status, text, _ = await get(site.url + "/metrics")
    assert status == 200
    for line in (
        'manifestry_kube_request_duration_seconds_count{code="none",resource="jobs",verb="get"} 1.0',
        "manifestry_queue_depth 3.0",
        "manifestry_queue_oldest_seconds 1.5",
        'manifestry_reconcile_failures_total{kind="Job"} 1.0',
    ):
        assert line in text.splitlines()


async def test_a_watchers_request_is_noticed_and_others_are_not(site: Site) -> None:
    clock = FakeClock()
    contacts = health.WatchContacts(clock)
    contacts.expect("/livez")
    clock.seconds = 100.0
    async with aiohttp.ClientSession(trace_configs=[contacts.trace_config()]) as session:
        await (await session.get(site.url + "/readyz")).release()
        assert contacts.ages() == {"/livez": 100.0}
        await (await session.get(site.url + "/livez?watch=true")).release()
    assert contacts.ages() == {"/livez": 0.0}


async def test_a_late_event_loop_is_measured() -> None:
    clock = FakeClock()
    lag = health.LoopLag(clock, metrics.ProcessMetrics(CollectorRegistry()))
    task = asyncio.create_task(lag.run())
    await clock.advance(1.0)
    assert lag.seconds == 0.0
    clock.seconds += 3.0
    await clock.advance(0.0)
    assert lag.seconds == pytest.approx(2.0)
    task.cancel()
