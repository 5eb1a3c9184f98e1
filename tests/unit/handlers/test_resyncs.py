"""The periodic loop: one part's failure stops no other."""

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

from prometheus_client import CollectorRegistry

from manifestry import settings
from manifestry.adapters.kube import apierrors
from manifestry.adapters.queues import queues
from manifestry.adapters.telemetry import metrics
from manifestry.core.kube import names
from manifestry.handlers import resyncs
from manifestry.handlers.runtime import caches
from tests.unit.adapters.fakeclock import FakeClock


def item(name: str, version: int = 1, namespace: str = "ns", ready: bool = True) -> dict[str, Any]:
    metadata = {"name": name, "namespace": namespace, "resourceVersion": str(version), "generation": 1}
    conditions = [{"type": "Ready", "status": "True" if ready else "False"}]
    return {"metadata": metadata, "status": {"observedGeneration": 1, "conditions": conditions}}


class World:
    def __init__(self, **modules: Any) -> None:
        self.objects: dict[str, list[dict[str, Any]]] = {}
        self.broken: set[str] = set()
        self.added: list[queues.Key] = []
        self.clock, self.caches = FakeClock(), caches.Caches()
        queue = queues.KeyedQueue(clock=self.clock)
        queue.add = lambda key, **_: self.added.append(key)  # type: ignore[method-assign]
        self.ctx: Any
        self.ctx = SimpleNamespace(
            client=self,
            caches=self.caches,
            queue=queue,
            clock=self.clock,
            settings=settings.OperatorSettings(resync_seconds=60),
        )
        self.registry = CollectorRegistry()
        self.loop = resyncs.Resyncs(self.ctx, modules, metrics.ProcessMetrics(self.registry))

    async def pages(self, resource: names.Resource, **_: Any) -> AsyncIterator[list[dict[str, Any]]]:
        for found in (await self.list(resource))[0]:
            yield [found]

    async def list(self, resource: names.Resource, **_: Any) -> tuple[list[dict[str, Any]], str]:
        if resource.kind in self.broken:
            raise apierrors.unavailable("away")
        return self.objects.get(resource.kind, []), "100"


async def test_what_vanished_without_an_event_is_woken() -> None:
    world = World()
    world.caches.put("TenantQuota", item("gone", namespace=""))
    world.objects = {"JobType": [item("new", namespace="")]}
    assert await world.loop.once()
    assert sorted(world.added) == [("JobType", "", "new"), ("TenantQuota", "", "gone")]
    assert list(world.caches.tenant_quotas) == []


async def test_settled_artifacts_are_looked_at_seldom() -> None:
    world = World()
    world.objects = {"Artifact": [item("settled"), item("waiting", ready=False)]}
    await world.loop.once()
    assert ("Artifact", "ns", "settled") in world.added
    for _ in range(resyncs.FULL_EVERY - 1):
        world.added.clear()
        await world.loop.once()
        assert world.added == [("Artifact", "ns", "waiting")]
    await world.loop.once()
    assert ("Artifact", "ns", "settled") in world.added


async def test_one_parts_failure_stops_no_other() -> None:
    called: list[str] = []

    async def broken(_: Any) -> None:
        called.append("broken")
        raise RuntimeError("bug")

    async def fine(_: Any) -> None:
        called.append("fine")

    world = World(First=broken, Second=fine)
    world.broken = {"JobType"}
    assert not await world.loop.once()
    assert called == ["broken", "fine"]
    assert world.loop.last_success == float("-inf")
    failed = {
        part: world.registry.get_sample_value("manifestry_resync_failures_total", {"part": part})
        for part in ("caches", "artifacts", "First", "Second")
    }
    assert failed == {"caches": 1.0, "artifacts": None, "First": 1.0, "Second": None}


async def test_it_runs_at_once_and_then_every_period() -> None:
    called: list[float] = []
    world = World()

    async def note(_: Any) -> None:
        called.append(world.clock.seconds)

    world.loop = resyncs.Resyncs(world.ctx, {"X": note}, metrics.ProcessMetrics(CollectorRegistry()))
    task = asyncio.create_task(world.loop.run())
    await world.clock.advance(121)
    assert called == [0.0, 60.0, 120.0]
    assert world.loop.last_success == 120.0
    task.cancel()
