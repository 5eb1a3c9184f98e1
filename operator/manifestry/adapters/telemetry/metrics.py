"""The operator process's own metrics: API calls, work queue, leadership, resync, health."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_CALL_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_WORK_BUCKETS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0, 300.0)


class ClusterMetrics:
    """Calls of the Kubernetes API, one observation an attempt; pass `observe` to KubeClient.connect."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._seconds = Histogram(
            "manifestry_kube_request_duration_seconds",
            "Duration of calls of the Kubernetes API, retries counted singly",
            ["verb", "resource", "code"],
            buckets=_CALL_BUCKETS,
            registry=registry,
        )

    def observe(self, verb: str, resource: str, status: int, seconds: float) -> None:
        """Count an attempt; status 0 = no answer. For watches and logs: the time until the answer began."""
        self._seconds.labels(verb, resource, str(status) if status else "none").observe(seconds)


class QueueMetrics:
    """A KeyedQueue's observer, and gauges that read the queue when they are asked."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._waited = Histogram(
            "manifestry_queue_wait_seconds",
            "Time a key waited for a worker",
            ["kind"],
            buckets=_WORK_BUCKETS,
            registry=registry,
        )
        self._worked = Histogram(
            "manifestry_reconcile_duration_seconds",
            "Duration of a reconcile",
            ["kind", "outcome"],
            buckets=_WORK_BUCKETS,
            registry=registry,
        )
        self._failed = Counter(
            "manifestry_reconcile_failures",
            "Reconciles that will be tried again",
            ["kind"],
            registry=registry,
        )

    def started(self, kind: str, waited_seconds: float) -> None:
        """Observe a key's waiting time."""
        self._waited.labels(kind).observe(waited_seconds)

    def finished(self, kind: str, seconds: float, outcome: str) -> None:
        """Observe a reconcile."""
        self._worked.labels(kind, outcome).observe(seconds)
        if outcome == "failed":
            self._failed.labels(kind).inc()

    def watch(
        self, depth: Callable[[], float], delayed: Callable[[], float], oldest: Callable[[], float]
    ) -> None:
        """Publish a queue's depth, its keys with a delay, and the age of its oldest key in seconds."""
        rows = (
            ("manifestry_queue_depth", "Keys that wait for a worker", depth),
            ("manifestry_queue_delayed", "Keys that wait for their time", delayed),
            ("manifestry_queue_oldest_seconds", "Age of the key that waits longest", oldest),
        )
        for name, text, read in rows:
            Gauge(name, text, registry=self._registry).set_function(read)


class ProcessMetrics:
    """Leadership, resync and event loop."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.leader = Gauge("manifestry_leader", "1 while this process leads", registry=registry)
        self.resync_seconds = Histogram(
            "manifestry_resync_duration_seconds",
            "Duration of a full resync",
            buckets=_WORK_BUCKETS,
            registry=registry,
        )
        self.resync_failures = Counter(
            "manifestry_resync_failures", "Parts of a resync that failed", ["part"], registry=registry
        )
        self.resync_success = Gauge(
            "manifestry_resync_success_timestamp_seconds",
            "End of the last complete resync",
            registry=registry,
        )
        self.loop_lag_seconds = Gauge(
            "manifestry_event_loop_lag_seconds", "Last measured lateness of the event loop", registry=registry
        )
