"""Health rows: liveness asks what a restart can mend, readiness who leads and whether repair is recent."""

from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from manifestry.adapters.store.ownership import guards
from manifestry.adapters.telemetry import health, metrics
from manifestry.handlers import probes, shell
from tests.unit.adapters.fakeclock import FakeClock


class World:
    def __init__(self, leadership: Any = None) -> None:
        self.clock = FakeClock()
        self.contacts = health.WatchContacts(self.clock)
        lag = health.LoopLag(self.clock, metrics.ProcessMetrics(CollectorRegistry()))
        self.probes = probes.Probes(self.clock, lag, self.contacts, leadership, 60.0)

    def live(self) -> dict[str, bool]:
        return {row.name: row.ok for row in self.probes.live()}

    def ready(self) -> dict[str, bool]:
        return {row.name: row.ok for row in self.probes.ready()}


def election(holder: str, is_leader: bool = False) -> Any:
    return SimpleNamespace(identity="me", holder=holder, is_leader=is_leader)


def test_a_fresh_process_lives_but_is_not_ready() -> None:
    world = World()
    assert all(world.live().values())
    assert world.ready() == {"leader": True, "watches": False, "resync": False}


@pytest.mark.parametrize(
    ("leadership", "ready"),
    [
        (election("you"), {"leader": True}),
        (election(""), {"leader": False, "watches": False, "resync": False}),
        (election("me", is_leader=True), {"leader": True, "watches": False, "resync": False}),
        (election("me"), {"leader": False, "watches": False, "resync": False}),
    ],
)
def test_a_replica_is_ready_to_stand_by_when_another_leads(leadership: Any, ready: dict[str, bool]) -> None:
    assert World(leadership).ready() == ready


def test_a_leader_is_ready_while_its_repair_is_recent() -> None:
    world = World(election("me", is_leader=True))
    resync: Any = SimpleNamespace(last_success=float("-inf"))
    world.probes.resyncs, world.probes.watching = resync, True
    assert world.ready()["resync"] is False
    resync.last_success = 0.0
    world.clock.seconds = 299.0
    assert all(world.ready().values())
    world.clock.seconds = 301.0
    assert world.ready()["resync"] is False


def test_a_leader_is_not_ready_with_a_store_that_is_not_ours() -> None:
    world = World(election("me", is_leader=True))
    rows = (
        guards.Row("store-ownership", "another's", 1.0),
        guards.Row("store-conformance", "", 1.0),
    )
    guard: Any = SimpleNamespace(rows=lambda: rows)
    world.probes.guard = guard
    assert world.ready()["store-ownership"] is False
    assert world.ready()["store-conformance"] is True


def test_a_silent_watcher_or_stuck_workers_end_the_life() -> None:
    world = World()
    world.contacts.expect("/api/v1/namespaces")
    world.clock.seconds = shell.SILENCE_SECONDS - 1
    assert all(world.live().values())
    world.clock.seconds = shell.SILENCE_SECONDS + 1
    assert world.live()["watchers"] is False
    queue: Any = SimpleNamespace(stuck_seconds=lambda: probes.STUCK_SECONDS + 1)
    world.probes.queue = queue
    assert world.live()["workers"] is False
