"""The series of the quotas: one for each tenant and job type that exists, none for what has gone."""

from prometheus_client import CollectorRegistry

from manifestry.adapters.telemetry.quota_metrics import QuotaMetrics
from manifestry.core.quota import quotas
from manifestry.core.quota.storage import limits
from manifestry.core.quota.storage.charges import Account


def series(registry: CollectorRegistry, label: str) -> set[str]:
    samples = [sample for metric in registry.collect() for sample in metric.samples]
    return {sample.labels[label] for sample in samples if label in sample.labels}


def observed() -> tuple[CollectorRegistry, QuotaMetrics]:
    registry = CollectorRegistry()
    metrics = QuotaMetrics(registry)
    for tenant in ("acme", "gone"):
        metrics.observe_storage(tenant, Account(), limits.Limits(10, 1))
        for job_type in ("render", "old"):
            metrics.observe_ledger(tenant, job_type, quotas.Usage(), quotas.Limits(1, 2))
    return registry, metrics


def test_what_does_not_exist_any_more_has_no_series() -> None:
    registry, metrics = observed()
    metrics.retain({"acme", "new"}, {"render"})
    assert (series(registry, "tenant"), series(registry, "job_type")) == ({"acme"}, {"render"})
    kept = {"tenant": "acme", "job_type": "render", "gate": "running"}
    assert registry.get_sample_value("quota_limit", kept) == 1
    assert registry.get_sample_value("storage_quota_bytes", {"tenant": "acme", "kind": "limit"}) == 10
    metrics.retain((), ())
    assert series(registry, "tenant") == set()


def test_who_is_not_limited_any_more_keeps_only_the_usage_of_jobs() -> None:
    registry, metrics = observed()
    metrics.forget_storage("acme")
    metrics.observe_ledger("acme", "render", quotas.Usage(), quotas.Limits(None, None))
    assert registry.get_sample_value("storage_quota_bytes", {"tenant": "acme", "kind": "limit"}) is None
    gates = {"tenant": "acme", "job_type": "render", "gate": "running"}
    assert registry.get_sample_value("quota_limit", gates) is None
    assert registry.get_sample_value("quota_running", {"tenant": "acme", "job_type": "render"}) == 0
