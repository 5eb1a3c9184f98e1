"""Liveness, readiness, health, metrics, documents."""

import asyncio
import time
from datetime import timedelta
from typing import Any

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator
from opentelemetry.sdk.trace import TracerProvider

from manifestry.adapters.kube import apierrors
from manifestry.adapters.store.contract import ports
from manifestry.adapters.store.ownership import guards
from manifestry.core.access import identities
from manifestry_api.health import checks, probes
from manifestry_api.request import telemetry
from manifestry_api.routes import docs
from tests.unit.api import asgi, world

FRESH = world.NOW.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class Kubernetes:
    """Answers the probes' reads; what is missing is 404."""

    def __init__(self) -> None:
        crds = {f"{kind.plural}.{kind.group}": crd(f"{kind.plural}.{kind.group}") for kind in checks.KINDS}
        self.objects: dict[str, Any] = {
            **crds,
            "manifestry-operator": {"spec": {"holderIdentity": "a", "renewTime": FRESH}},
            "manifestry": {"webhooks": [{"name": "w", "clientConfig": {"caBundle": "eA=="}}]},
        }
        self.slow = False

    async def get(self, _resource: Any, name: str, _namespace: str | None = None) -> Any:
        if self.slow:
            await asyncio.sleep(60)
        if name not in self.objects:
            raise apierrors.NotFoundError(404, "NotFound", name)
        return self.objects[name]

    async def get_raw(self, _path: str) -> bytes:
        return b"ok"


class Bytes:
    def __init__(self) -> None:
        self.fails = False
        self.is_full = False

    async def look(self) -> None:
        if self.fails:
            raise ports.StoreUnavailableError("away")

    async def canary(self) -> None:
        await self.look()
        if self.is_full:
            raise ports.StoreFullError("full")


class Certificate:
    reason = ""


def crd(name: str, established: str = "True", version: str = "v1alpha1") -> dict[str, Any]:
    return {
        "metadata": {"name": name},
        "spec": {"versions": [{"name": version, "served": True}]},
        "status": {"conditions": [{"type": "Established", "status": established}]},
    }


async def healthy() -> tuple[world.World, Kubernetes, Bytes]:
    found, kubernetes, store = world.build(), Kubernetes(), Bytes()
    found.ports.client, found.ports.store = kubernetes, store  # type: ignore[assignment]
    found.app.state.health.certificate = Certificate()
    await look(found)
    return found, kubernetes, store


async def look(found: world.World) -> None:
    for probe in found.app.state.health.probes:
        await probe.look()


async def rows(found: world.World) -> dict[str, dict[str, Any]]:
    answer = await asgi.call(found.app, "GET", "/readyz")
    return {row["name"]: row for row in answer.json()["checks"]}


async def test_all_well_is_200_with_a_row_for_each_check() -> None:
    found, _, _ = await healthy()
    answer = await asgi.call(found.app, "GET", "/readyz")
    assert answer.status == 200, answer.body
    assert [row["name"] for row in answer.json()["checks"]] == [
        "kubernetes-api", "object-store", "object-store-writes", "job-runner", "configuration", "caches",
        "tenants", "webhook-certificate",
    ]  # fmt: skip
    assert all(row["reason"] == "" and row["ageSeconds"] is not None for row in answer.json()["checks"])


class Guard:
    """Of a store that is another cluster's."""

    @staticmethod
    def rows() -> tuple[guards.Row, ...]:
        return (
            guards.Row("store-ownership", "the store belongs to another cluster (x)", 1.0),
            guards.Row("store-conformance", "", 2.0),
        )


async def test_a_store_that_is_not_ours_is_not_ready_and_may_be_left_out() -> None:
    found, _, _ = await healthy()
    found.ports.guard = Guard()  # type: ignore[assignment]
    assert (await asgi.call(found.app, "GET", "/readyz")).status == 503
    said = await rows(found)
    assert said["store-ownership"]["reason"] == "the store belongs to another cluster (x)"
    assert said["store-conformance"]["ok"]
    assert (await asgi.call(found.app, "GET", "/readyz", query=b"exclude=store-ownership")).status == 200


async def test_nothing_examined_yet_is_503_and_still_alive() -> None:
    found = world.build()
    assert (await asgi.call(found.app, "GET", "/readyz")).status == 503
    assert (await asgi.call(found.app, "GET", "/livez")).status == 200
    health = await asgi.call(found.app, "GET", "/healthz")
    assert (health.status, health.json()["status"]) == (200, "degraded")


async def test_each_dependency_fails_its_own_row() -> None:
    found, kubernetes, store = await healthy()
    store.fails = True
    kubernetes.objects["manifestry-operator"]["spec"]["renewTime"] = "2026-05-04T03:00:00.000000Z"
    kubernetes.objects["jobs.manifestry.dev"] = crd("jobs.manifestry.dev", established="False")
    found.mirrors["jobs"].synced.clear()
    found.mirrors["artifacts"].last_contact -= 1000
    found.add_tenant("acme", "ns-second")
    Certificate.reason = "expired"
    try:
        await look(found)
        failed = {name: row["reason"] for name, row in (await rows(found)).items() if not row["ok"]}
    finally:
        Certificate.reason = ""
    assert failed["object-store"] == failed["object-store-writes"] == "StoreUnavailableError"
    assert "121 s ago" in failed["job-runner"]
    assert failed["configuration"] == "jobs.manifestry.dev is not established"
    assert "jobs is not filled yet" in failed["caches"]
    assert "artifacts was last heard of" in failed["caches"]
    assert "1 tenant is claimed by several namespaces" in failed["tenants"]
    assert failed["webhook-certificate"] == "expired"
    assert "kubernetes-api" not in failed


async def test_a_store_that_can_only_be_read_degrades_and_stays_in_the_service() -> None:
    found, kubernetes, store = await healthy()
    store.is_full = True
    await look(found)
    answer = await asgi.call(found.app, "GET", "/readyz")
    assert (answer.status, answer.json()["status"]) == (200, "degraded")
    shown = {row["name"]: (row["ok"], row["reason"]) for row in answer.json()["checks"]}
    assert shown["object-store"] == (True, "")
    assert shown["object-store-writes"] == (False, "StoreFullError")
    health = (await asgi.call(found.app, "GET", "/healthz")).json()
    assert (health["status"], health["objectStore"]) == ("degraded", "degraded")
    del kubernetes.objects["manifestry-operator"]
    await look(found)
    answer = await asgi.call(found.app, "GET", "/readyz")
    assert (answer.status, answer.json()["status"]) == (503, "failed")
    answer = await asgi.call(found.app, "GET", "/readyz", query=b"exclude=job-runner")
    assert (answer.status, answer.json()["status"]) == (200, "degraded")


async def test_a_store_that_cannot_be_read_takes_the_facade_out_of_the_service() -> None:
    found, _, store = await healthy()
    store.fails = True
    await look(found)
    answer = await asgi.call(found.app, "GET", "/readyz", query=b"exclude=job-runner")
    assert (answer.status, answer.json()["status"]) == (503, "failed")


async def test_a_check_can_be_left_out_of_the_verdict_and_not_out_of_the_answer() -> None:
    found, kubernetes, _ = await healthy()
    del kubernetes.objects["manifestry-operator"]
    await look(found)
    assert (await asgi.call(found.app, "GET", "/readyz")).status == 503
    answer = await asgi.call(found.app, "GET", "/readyz", query=b"exclude=job-runner&exclude=tenants")
    assert answer.status == 200
    assert not {row["name"]: row["ok"] for row in answer.json()["checks"]}["job-runner"]


async def test_health_never_waits_for_a_dependency(monkeypatch: pytest.MonkeyPatch) -> None:
    found, kubernetes, _ = await healthy()
    kubernetes.slow = True
    monkeypatch.setattr(probes, "TIMEOUT_SECONDS", 0.05)
    running = asyncio.create_task(found.app.state.health.run())
    async with asyncio.timeout(1):
        await asyncio.sleep(0.2)
        assert (await rows(found))["job-runner"]["reason"] == "no answer within 0 s"
    running.cancel()


async def test_without_the_webhook_neither_its_configuration_nor_its_certificate_matters() -> None:
    found, kubernetes, store = world.build(webhook_enabled=False), Kubernetes(), Bytes()
    del kubernetes.objects["manifestry"]
    found.ports.client, found.ports.store = kubernetes, store  # type: ignore[assignment]
    await look(found)
    assert (await asgi.call(found.app, "GET", "/readyz")).status == 200


def test_a_probe_that_is_stuck_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def never() -> str:
        return ""

    probe = probes.Probe("x", 1.0, never)
    asyncio.run(probe.look())
    assert probe.row().ok
    later = time.monotonic() + 100
    monkeypatch.setattr(time, "monotonic", lambda: later)
    assert probe.row().reason == "the probe itself is stuck"


async def test_what_is_not_well_is_looked_at_more_often(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    reasons = iter(("away", "away", ""))

    async def examine() -> str:
        return next(reasons)

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            raise asyncio.CancelledError

    monkeypatch.setattr(asyncio, "sleep", sleep)
    with pytest.raises(asyncio.CancelledError):
        await probes.Probe("store", 10.0, examine).run()
    assert pauses == [2.0, 2.0, 10.0]


async def test_the_slowest_calls_are_reported_with_counts() -> None:
    found, _, _ = await healthy()
    calls = found.ports.instruments
    for seconds in (0.1, 2.0, 3.0):
        calls.observe_kubernetes("get", "jobs.manifestry.dev", 200, seconds)
    calls.observe_kubernetes("watch", "jobs.manifestry.dev", 200, 300.0)
    report = (await asgi.call(found.app, "GET", "/healthz")).json()["slowCalls"]
    assert report["calls"]["kubernetes-api"] == {"count": 3, "slow": 2}
    assert [call["seconds"] for call in report["slowest"]] == [3.0, 2.0]
    assert report["slowest"][0]["operation"] == "get jobs.manifestry.dev"


async def test_metrics_are_prometheus_text() -> None:
    answer = await asgi.call(world.build().app, "GET", "/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert b"http_server_request_duration_seconds" in answer.body
    assert b"process_cpu_seconds_total" in answer.body


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        ({"holderIdentity": "a", "renewTime": FRESH}, ""),
        ({"holderIdentity": "a", "renewTime": "2026-05-04T03:02:01Z", "leaseDurationSeconds": 15}, ""),
        ({"holderIdentity": "", "renewTime": FRESH}, "no operator holds the lease"),
        ({"renewTime": FRESH}, "no operator holds the lease"),
        ({"holderIdentity": "a"}, "no operator holds the lease"),
        ({"holderIdentity": "a", "renewTime": "yesterday"}, "no operator holds the lease"),
    ],
)
def test_leases(spec: dict[str, Any], problem: str) -> None:
    assert checks.lease_problem({"spec": spec}, world.NOW) == problem


def test_a_lease_is_stale_after_its_duration_and_some_grace() -> None:
    spec = {"holderIdentity": "a", "renewTime": FRESH, "leaseDurationSeconds": 15}
    assert checks.lease_problem({"spec": spec}, world.NOW + timedelta(seconds=20)) == ""
    assert "21 s ago" in checks.lease_problem({"spec": spec}, world.NOW + timedelta(seconds=21))


def test_definitions_and_webhooks() -> None:
    assert checks.crd_problem(crd("a")) == ""
    assert checks.crd_problem(crd("a", version="v1")) == "a does not serve v1alpha1"
    assert checks.crd_problem({"metadata": {"name": "a"}, "spec": {"versions": []}}) == "a is not established"
    assert checks.webhook_problem({}) == "the webhook configuration has no webhooks"
    bare = {"webhooks": [{"name": "w", "clientConfig": {}}]}
    assert checks.webhook_problem(bare) == "webhook w has no caBundle"


@pytest.mark.parametrize(("count", "said"), [(1, "1 tenant is"), (2, "2 tenants are")])
def test_ambiguous_tenants_are_counted_but_not_named_to_everybody(count: int, said: str) -> None:
    assert checks.tenants_row(identities.Directory({}, {})).ok
    claims = {f"secret-{number}": ("ns-one", "ns-two") for number in range(count)}
    row = checks.tenants_row(identities.Directory({}, claims))
    assert not row.ok
    assert row.reason.startswith(said)
    assert "secret" not in row.reason
    assert "ns-" not in row.reason


def test_times_without_a_zone_are_utc() -> None:
    assert checks.parse_time("2026-05-04T03:02:01") == world.NOW


async def test_the_openapi_document_is_valid_and_says_who_may() -> None:
    answer = await asgi.call(world.build().app, "GET", "/openapi.json")
    document = answer.json()
    OpenAPIV31SpecValidator(document).validate()
    assert document["openapi"] == "3.1.0"
    submit = document["paths"]["/jobs"]["post"]
    assert submit["security"] == [{"bearer": []}]
    assert submit["x-manifestry-roles"] == ["operator", "admin"]
    references = {row.get("$ref") for row in submit["parameters"]}
    for name in ("X-Actor", "X-Tenant", "X-Reason", "X-Roles"):
        assert f"#/components/parameters/{name}" in references
    assert "application/problem+json" in submit["responses"]["429"]["content"]
    assert "security" not in document["paths"]["/livez"]["get"]


async def test_the_docs_page_asks_nobody_else_for_anything() -> None:
    app = world.build().app
    answer = await asgi.call(app, "GET", "/docs")
    assert answer.status == 200
    assert (
        b"http" not in answer.body.replace(b"over HTTP", b"").split(b"<p>The machine")[0].split(b"</head>")[0]
    )
    assert b"<script" not in answer.body
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert (await asgi.call(app, "GET", "/docs/style.css")).headers["content-type"].startswith("text/css")


def test_the_docs_page_escapes_what_it_shows() -> None:
    operation = {"summary": "<script>", "description": "</p><img>", "parameters": [{"name": "<b>"}]}
    page = docs.page({"info": {"title": "<t>", "version": "1"}, "paths": {"/<x>": {"get": operation}}})
    assert "<script>" not in page
    assert "<img>" not in page
    assert "<b>" not in page


def test_spans_continue_a_trace_and_are_named_after_the_route() -> None:
    instruments = telemetry.Telemetry(provider=TracerProvider())
    span = instruments.start_span("GET", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
    assert telemetry.place(span).trace_id == "0af7651916cd43dd8448eb211c80319c"
    telemetry.end_span(span, "GET /jobs", {"http.response.status_code": 503})
    assert span.name == "GET /jobs"  # type: ignore[attr-defined]
    assert not span.status.is_ok  # type: ignore[attr-defined]


def test_without_an_exporter_a_span_is_only_its_place_in_the_trace() -> None:
    span = telemetry.Telemetry().start_span("GET", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
    assert not span.is_recording()
    assert telemetry.place(span).trace_id == "0af7651916cd43dd8448eb211c80319c"
    assert telemetry.place(span).span_id != "b7ad6b7169203331"
