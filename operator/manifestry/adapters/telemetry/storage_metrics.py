"""What the collector, the scrub and the downloads have done, as metrics."""

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram

_FETCH_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 600.0)


class StorageMetrics:
    """Counters of stored bytes that went, were read back, or were fetched."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.removed = Counter("manifestry_gc_removed_blobs", "Blobs removed as garbage", registry=registry)
        self.removed_bytes = Counter(
            "manifestry_gc_removed_bytes", "Bytes removed as garbage", registry=registry
        )
        self.marked = Counter(
            "manifestry_gc_marked_blobs", "Blobs found without a reference", registry=registry
        )
        self.failures = Counter(
            "manifestry_gc_failures", "Tenants whose garbage could not be collected", registry=registry
        )
        self.success = Gauge(
            "manifestry_gc_success_timestamp_seconds", "End of the last complete run", registry=registry
        )
        self.gone = Gauge(
            "manifestry_gc_gone_tenants",
            "Tenants in the store without a namespace in this cluster, by what becomes of them",
            ["fate"],
            registry=registry,
        )
        self.scrubbed_bytes = Counter(
            "manifestry_scrub_read_bytes", "Bytes read back and hashed", registry=registry
        )
        self.findings = Counter(
            "manifestry_scrub_findings", "Blobs found damaged or missing", ["finding"], registry=registry
        )
        self.scrub_failures = Counter(
            "manifestry_scrub_failures", "Artifacts that could not be read back", registry=registry
        )
        self.fetches = Histogram(
            "manifestry_fetch_duration_seconds",
            "Duration of downloads for `url` sources, by how they ended",
            ["outcome"],
            buckets=_FETCH_BUCKETS,
            registry=registry,
        )
        self.fetched_bytes = Counter(
            "manifestry_fetch_received_bytes",
            "Bytes received for `url` sources, also of downloads that failed",
            registry=registry,
        )


METRICS = StorageMetrics(REGISTRY)
