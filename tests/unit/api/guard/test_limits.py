"""The limits follow the TenantQuotas as a real mirror tells of them, and are arranged anew only for cause."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from manifestry.adapters.kube import apierrors, watches, watchevents
from manifestry.core.kube import names
from manifestry.core.quota import quotas
from manifestry.core.quota.quotas import Limits
from manifestry_api.guard import limits


class Kubernetes:
    """TenantQuotas that are listed, and events; `gone` makes the mirror list again."""

    def __init__(self) -> None:
        self.items: dict[str, Any] = {}
        self.versions = itertools.count(1)
        self.events: asyncio.Queue[watchevents.WatchEvent] = asyncio.Queue()

    def put(self, name: str, tenants: list[str], running: int, **more: Any) -> dict[str, Any]:
        """Keep a quota, without a word."""
        metadata = {
            "name": name,
            "resourceVersion": str(next(self.versions)),
            "creationTimestamp": f"2026-{name}",
        }
        spec = {"tenants": tenants, "jobs": [{"jobType": "*", "maxRunning": running, "maxQueued": 0}]}
        self.items[name] = {"metadata": metadata, "spec": spec, **more}
        return dict(self.items[name])

    async def tell(self, kind: str, item: dict[str, Any]) -> None:
        self.events.put_nowait(watchevents.WatchEvent(kind, {**item, "metadata": {**item["metadata"]}}))
        await self.settle()

    async def gone(self) -> None:
        self.events.put_nowait(watchevents.WatchEvent("GONE", {}))
        await self.settle()

    async def settle(self) -> None:
        for _ in range(20):
            await asyncio.sleep(0)

    async def list(self, *_args: Any, **_kwargs: Any) -> tuple[list[Any], str]:
        return [{**item, "metadata": {**item["metadata"]}} for item in self.items.values()], str(
            next(self.versions)
        )

    async def watch(self, *_args: Any, **_kwargs: Any) -> AsyncIterator[watchevents.WatchEvent]:
        while True:
            event = await self.events.get()
            if event.type == "GONE":
                raise apierrors.GoneError(410, "Expired", "too old")
            yield event


@asynccontextmanager
async def followed(kubernetes: Kubernetes) -> AsyncIterator[limits.QuotaIndex]:
    mirror = watches.Reflector(kubernetes, names.TENANT_QUOTAS)  # type: ignore[arg-type]
    index = limits.QuotaIndex(mirror)
    running = asyncio.create_task(mirror.run())
    await mirror.synced.wait()
    yield index
    running.cancel()


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watches, "RECONNECT_SECONDS", 0)


async def test_limits_follow_every_event() -> None:
    kubernetes = Kubernetes()
    kubernetes.put("05", ["acme"], 5)
    async with followed(kubernetes) as index:
        assert index.table.limits("acme", "x") == Limits(5, 0)
        assert index.table.limits("zeta", "x") == quotas.UNLIMITED
        await kubernetes.tell("ADDED", kubernetes.put("06", ["*"], 6))
        assert index.table.limits("zeta", "x") == Limits(6, 0)
        await kubernetes.tell("MODIFIED", kubernetes.put("05", ["acme"], 7))
        assert index.table.limits("acme", "x") == Limits(7, 0)
        await kubernetes.tell("DELETED", kubernetes.put("05", ["acme"], 7))
        assert index.table.limits("acme", "x") == Limits(6, 0)
        await kubernetes.tell("DELETED", kubernetes.put("06", ["*"], 6))
        assert index.table.limits("acme", "x") == quotas.UNLIMITED
        assert index.table.governing("acme") is None


async def test_limits_are_right_after_a_gap_in_which_everything_changed() -> None:
    kubernetes = Kubernetes()
    kubernetes.put("05", ["gone"], 5)
    kubernetes.put("06", ["changed"], 6)
    async with followed(kubernetes) as index:
        assert index.table.limits("changed", "x") == Limits(6, 0)
        del kubernetes.items["05"]
        kubernetes.put("06", ["changed"], 66)
        kubernetes.put("07", ["new"], 7)
        await kubernetes.gone()
        assert index.table.limits("gone", "x") == quotas.UNLIMITED
        assert index.table.limits("changed", "x") == Limits(66, 0)
        assert index.table.limits("new", "x") == Limits(7, 0)


async def test_of_two_quotas_that_name_a_tenant_the_older_holds_until_it_goes_or_lets_go() -> None:
    kubernetes = Kubernetes()
    kubernetes.put("08", ["acme"], 8)
    async with followed(kubernetes) as index:
        assert index.table.limits("acme", "x") == Limits(8, 0)
        await kubernetes.tell("ADDED", kubernetes.put("03", ["acme", "b"], 3))
        governing = index.table.governing("acme")
        assert governing is not None
        assert governing["metadata"]["name"] == "03"
        assert index.table.limits("acme", "x") == Limits(3, 0)
        await kubernetes.tell("MODIFIED", kubernetes.put("03", ["b"], 3))
        assert index.table.limits("acme", "x") == Limits(8, 0)
        await kubernetes.tell("MODIFIED", kubernetes.put("03", ["acme"], 3))
        assert index.table.limits("acme", "x") == Limits(3, 0)
        await kubernetes.tell("DELETED", kubernetes.put("03", ["acme"], 3))
        assert index.table.limits("acme", "x") == Limits(8, 0)


async def test_a_quota_made_anew_under_its_name_has_a_new_age() -> None:
    kubernetes = Kubernetes()
    kubernetes.put("05", ["acme"], 5)
    kubernetes.put("06", ["acme"], 6)
    async with followed(kubernetes) as index:
        assert index.table.limits("acme", "x") == Limits(5, 0)
        kubernetes.put("05", ["acme"], 5)["metadata"]["creationTimestamp"] = "2026-09"
        await kubernetes.gone()
        assert index.table.limits("acme", "x") == Limits(6, 0)


async def test_a_new_status_arranges_nothing_anew() -> None:
    kubernetes = Kubernetes()
    kubernetes.put("05", ["acme"], 5)
    async with followed(kubernetes) as index:
        table = index.table
        await kubernetes.tell("MODIFIED", kubernetes.put("05", ["acme"], 5, status={"tenants": []}))
        assert index.table is table
        await kubernetes.tell("MODIFIED", kubernetes.put("05", ["acme"], 6))
        assert index.table is not table
