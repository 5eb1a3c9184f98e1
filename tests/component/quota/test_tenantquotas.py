"""What a TenantQuota's status and the metrics say of what its tenants store, and when they fall silent."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from manifestry.adapters.telemetry import quota_metrics
from manifestry.core.quota import quotas
from manifestry.core.quota.storage.charges import LEDGER
from manifestry.handlers.quota import storagequotas, tenantquotas
from tests.component.quota.test_storage import NAMESPACE, Api, World, opened


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with opened(Api(), tmp_path) as found:
        yield found


async def summary(world: World) -> Any:
    """Reconcile the TenantQuota after its pause; return its status and its version."""
    world.seconds += tenantquotas.SUMMARY_SECONDS
    await tenantquotas.reconcile(world.ctx, "", "q")
    body = world.api.objects["TenantQuota", "q"]
    return body["status"], body["metadata"]["resourceVersion"]


async def test_a_quotas_status_says_what_its_tenants_store_and_is_written_on_a_change_only(
    world: World,
) -> None:
    world.limit(maxBytes=10)
    assert (await summary(world))[0]["tenants"] == []
    world.artifact("a", inline={"text": "hello"})
    world.artifact("b", upload={})
    assert await world.reconcile("a") == ("True", "Stored")
    await world.reconcile("b")
    status, version = await summary(world)
    stored = {"usedBytes": 5, "artifacts": 2}
    assert (status["tenants"], status["storage"]) == ([{"tenant": "acme", "storage": stored}], stored)
    assert (await summary(world))[1] == version
    world.limit()
    await world.ledger()
    assert "storage" not in (await summary(world))[0]


def tenants_with_series() -> set[str]:
    metrics = quota_metrics.METRICS
    gauges = (metrics.storage, metrics.storage_artifacts, metrics.running, metrics.limit)
    samples = [sample for gauge in gauges for metric in gauge.collect() for sample in metric.samples]
    return {sample.labels["tenant"] for sample in samples}


@pytest.mark.parametrize("ending", ["the quota goes", "the next resync"])
async def test_a_tenant_that_is_gone_has_no_metrics(world: World, ending: str) -> None:
    world.limit(maxBytes=10)
    world.artifact("a", inline={"text": "hello"})
    await world.reconcile("a")
    quota_metrics.METRICS.observe_ledger("acme", "render", quotas.Usage(), quotas.Limits(1, 2))
    assert "acme" in tenants_with_series()
    world.ctx.caches.drop("Namespace", NAMESPACE)
    if ending == "the quota goes":
        del world.api.objects["TenantQuota", "q"]
        await tenantquotas.reconcile(world.ctx, "", "q")
    else:
        await tenantquotas.resync(world.ctx)
    assert "acme" not in tenants_with_series()


async def test_a_tenant_whose_quota_is_gone_has_no_metrics_of_its_storage(world: World) -> None:
    world.limit(maxBytes=10)
    world.artifact("a", inline={"text": "hello"})
    await world.reconcile("a")
    await world.ledger()
    await storagequotas.resync(world.ctx)
    assert quota_metrics.METRICS.storage.labels("acme", "limit")._value.get() == 10
    del world.api.objects["TenantQuota", "q"], world.api.objects["QuotaLedger", LEDGER]
    world.ctx.caches.drop("TenantQuota", "q")
    await world.ledger()
    assert "acme" not in {
        sample.labels["tenant"]
        for metric in quota_metrics.METRICS.storage.collect()
        for sample in metric.samples
    }
