"""The metrics of the quota and of a job's way, declared in one place."""

from collections.abc import Collection

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram

from manifestry.core.quota import quotas
from manifestry.core.quota.storage import limits as storage_limits
from manifestry.core.quota.storage.charges import Account

_WAIT_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0, 14400.0)
_BY_QUOTA = ("tenant", "job_type")


class QuotaMetrics:
    """The series of one process.

    Args:
        registry: where they are collected; tests pass their own.
    References: docs/operations.md "Watch".
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        limit_labels = (*_BY_QUOTA, "gate")
        self.limit = Gauge(
            "quota_limit", "Limit of a gate (running, queued)", limit_labels, registry=registry
        )
        self.running = Gauge("quota_running", "Jobs that hold a slot", _BY_QUOTA, registry=registry)
        self.queued = Gauge("quota_queued", "Jobs that wait for a slot", _BY_QUOTA, registry=registry)
        self.reserved = Gauge(
            "quota_reserved", "Jobs being created or suspended", _BY_QUOTA, registry=registry
        )
        self.rejections = Counter("quota_rejections", "Jobs refused", ["reason"], registry=registry)
        self.conflicts = Counter("quota_cas_conflicts", "Ledger writes that lost a race", registry=registry)
        self.released = Counter(
            "quota_repair_released", "Holders that repair removed", ["cause"], registry=registry
        )
        self.storage = Gauge(
            "storage_quota_bytes", "Storage of a tenant (stored, of these retained, reserved, limit)",
            ["tenant", "kind"], registry=registry,
        )  # fmt: skip
        self.storage_artifacts = Gauge(
            "storage_quota_artifacts", "Artifacts of a tenant (counted, of these retained, limit)",
            ["tenant", "kind"], registry=registry,
        )  # fmt: skip
        self.queue_wait = Histogram(
            "queue_wait_seconds",
            "Creation to admission",
            ["job_type"],
            registry=registry,
            buckets=_WAIT_BUCKETS,
        )
        self.admit_to_running = Histogram(
            "admit_to_running_seconds",
            "Admission to the first active pod",
            ["job_type"],
            registry=registry,
            buckets=_WAIT_BUCKETS,
        )

    def observe_ledger(self, tenant: str, job_type: str, usage: quotas.Usage, limits: quotas.Limits) -> None:
        """Publish the usage and the limits of one ledger."""
        self.running.labels(tenant, job_type).set(usage.admitted)
        self.queued.labels(tenant, job_type).set(usage.queued)
        self.reserved.labels(tenant, job_type).set(usage.reserved)
        for gate, limit in (("running", limits.max_running), ("queued", limits.max_queued)):
            if limit is None:
                self.limit.remove(tenant, job_type, gate)
            else:
                self.limit.labels(tenant, job_type, gate).set(limit)

    def observe_storage(self, tenant: str, account: Account, limits: storage_limits.Limits) -> None:
        """Publish what a tenant with a storage quota stores."""
        totals = account.totals
        for gauge, rows in (
            (
                self.storage,
                {
                    "stored": totals.committed_bytes,
                    "retained": totals.retained_bytes,
                    "reserved": account.reserved_bytes,
                    "limit": limits.max_bytes,
                },
            ),
            (
                self.storage_artifacts,
                {
                    "counted": account.artifacts,
                    "retained": totals.retained_count,
                    "limit": limits.max_artifacts,
                },
            ),
        ):
            for kind, value in rows.items():
                if value is None:
                    gauge.remove(tenant, kind)
                else:
                    gauge.labels(tenant, kind).set(value)

    def forget_storage(self, tenant: str) -> None:
        """Drop the series of a tenant whose storage is not limited any more."""
        for gauge in (self.storage, self.storage_artifacts):
            gauge.remove_by_labels({"tenant": tenant})

    def retain(self, tenants: Collection[str], job_types: Collection[str]) -> None:
        """Drop the series of tenants and of job types that do not exist any more."""
        for gauge in (self.limit, self.running, self.queued, self.reserved):
            _drop(gauge, "tenant", tenants)
            _drop(gauge, "job_type", job_types)
        for gauge in (self.storage, self.storage_artifacts):
            _drop(gauge, "tenant", tenants)


def _drop(gauge: Gauge, label: str, kept: Collection[str]) -> None:
    found = {sample.labels[label] for metric in gauge.collect() for sample in metric.samples}
    for value in found.difference(kept):
        gauge.remove_by_labels({label: value})


METRICS = QuotaMetrics(REGISTRY)
