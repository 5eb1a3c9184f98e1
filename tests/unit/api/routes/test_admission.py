"""The webhook: reviews in, reviews out, always in time."""

import asyncio
import json
from typing import Any

import pytest

from manifestry.adapters.kube import apierrors
from manifestry.adapters.quota import books
from manifestry.core.access import webhookpaths
from manifestry.core.quota import holders as core_ledgers
from manifestry_api.routes import admission
from manifestry_api.webhook import paths as webhook_paths
from manifestry_api.wire import heads
from tests.unit.api import asgi, world

JOB_TYPE = {"metadata": {"name": "render"}, "spec": {"image": "registry.example/render:1"}}
QUOTA = {
    "metadata": {"name": "q", "creationTimestamp": "2026-01-01T00:00:00Z"},
    "spec": {"tenants": ["acme"], "jobs": [{"jobType": "render", "maxRunning": 1, "maxQueued": 0}]},
}


TOKEN = "0123456789abcdef" * 4
PATH = webhookpaths.path(TOKEN)


class Kubernetes:
    """Answers live reads from a dict by name."""

    def __init__(self) -> None:
        self.objects: dict[str, Any] = {}
        self.error: Exception | None = None

    async def get(self, _resource: Any, name: str, _namespace: str | None = None) -> Any:
        if self.error:
            raise self.error
        if name not in self.objects:
            raise apierrors.NotFoundError(404, "NotFound", name)
        return self.objects[name]


class Ledgers:
    """One ledger in memory."""

    def __init__(self) -> None:
        self.ledger = core_ledgers.build([])
        self.error: Exception | None = None
        self.seconds = 0.0
        self.writes = 0

    async def transact(self, _namespace: str, _job_type: str, decide: Any) -> Any:
        await asyncio.sleep(self.seconds)
        if self.error:
            raise self.error
        after, answer = decide(self.ledger)
        self.writes += after is not self.ledger
        self.ledger = after
        return answer


class Setup:
    def __init__(self) -> None:
        self.world = world.build()
        self.kubernetes, self.ledgers = Kubernetes(), Ledgers()
        self.world.ports.client, self.world.ports.ledgers = self.kubernetes, self.ledgers  # type: ignore[assignment]
        self.world.mirrors["job_types"].put(JOB_TYPE)
        self.world.mirrors["tenant_quotas"].put(QUOTA)
        paths = webhook_paths.PathLoader(self.kubernetes, "path", "ns")  # type: ignore[arg-type]
        tokens = webhookpaths.renew(None, TOKEN, world.NOW)
        paths.take({"data": webhookpaths.render(tokens)})
        self.app = admission.create_webhook_app(self.world.ports, paths)

    async def ask(self, body: Any = None, **request: Any) -> asgi.Answer:
        data = json.dumps(review(**request) if body is None else body).encode()
        return await asgi.call(self.app, "POST", PATH, {}, [data[:10], data[10:]])

    async def response(self, **request: Any) -> dict[str, Any]:
        answer = await self.ask(**request)
        assert answer.status == 200
        found: dict[str, Any] = answer.json()["response"]
        assert found["uid"] == "review-1"
        return found


def review(
    name: str = "a",
    uid: str = "uid-a",
    job_type: str = "render",
    namespace: str = "ns-acme",
    dry_run: bool = False,
) -> dict[str, Any]:
    metadata = {"name": name, "namespace": namespace, "uid": uid}
    return {
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {
            "uid": "review-1",
            "operation": "CREATE",
            "namespace": namespace,
            "dryRun": dry_run,
            "userInfo": {"username": "alice", "groups": ["g1", "g2"]},
            "object": {"metadata": metadata, "spec": {"jobType": job_type}},
        },
    }


async def test_a_free_slot_is_reserved_and_the_next_create_is_over_the_quota() -> None:
    setup = Setup()
    assert (await setup.response())["allowed"]
    assert setup.ledgers.writes == 1
    refused = await setup.response(name="b", uid="uid-b")
    assert not refused["allowed"]
    assert refused["status"]["code"] == 429
    assert "retryAfterSeconds" not in refused["status"]["details"]
    assert 'tenant "acme"' in refused["status"]["message"]


async def test_a_dry_run_answers_the_same_and_writes_nothing() -> None:
    setup = Setup()
    assert (await setup.response(dry_run=True))["allowed"]
    assert setup.ledgers.writes == 0
    await setup.response()
    assert not (await setup.response(name="b", uid="uid-b", dry_run=True))["allowed"]


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        ({"job_type": "absent"}, 422),
        ({"job_type": ""}, 422),
        ({"job_type": "Not/A/Name"}, 422),
        ({"namespace": "kube-system"}, 422),
        ({"name": "taken"}, 409),
    ],
)
async def test_refusals_before_the_ledger_charge_nothing(request_: dict[str, Any], code: int) -> None:
    setup = Setup()
    setup.kubernetes.objects["taken"] = {"metadata": {"name": "taken"}}
    assert (await setup.response(**request_))["status"]["code"] == code
    assert setup.ledgers.writes == 0


async def test_a_job_type_and_a_tenant_of_a_moment_ago_are_read_live() -> None:
    setup = Setup()
    setup.kubernetes.objects["fresh"] = {**JOB_TYPE, "metadata": {"name": "fresh"}}
    labels = {"manifestry.dev/tenant": "new"}
    setup.kubernetes.objects["ns-new"] = {"metadata": {"name": "ns-new", "uid": "u", "labels": labels}}
    assert (await setup.response(job_type="fresh", namespace="ns-new"))["allowed"]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (books.NotReadyError("not initialised"), 503),
        (books.ContentionError("contended"), 503),
        (apierrors.UnavailableError(503, "ServiceUnavailable", "away"), 503),
        (apierrors.ForbiddenError(403, "Forbidden", "RBAC secret"), 500),
        (RuntimeError("secret"), 500),
    ],
)
async def test_every_failure_is_an_answer(error: Exception, code: int) -> None:
    setup = Setup()
    setup.ledgers.error = error
    status = (await setup.response())["status"]
    assert status["code"] == code
    assert "secret" not in status["message"]
    assert (status["details"].get("retryAfterSeconds") == 1) == (code == 503)


@pytest.mark.parametrize("cache", ["namespaces", "job_types", "tenant_quotas"])
async def test_a_cache_that_is_not_filled_is_never_read_as_unlimited(cache: str) -> None:
    setup = Setup()
    setup.world.mirrors[cache].synced.clear()
    assert (await setup.response())["status"]["code"] == 503
    assert setup.ledgers.writes == 0


async def test_a_decision_that_takes_too_long_is_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "DEADLINE_SECONDS", 0.05)
    setup = Setup()
    setup.ledgers.seconds = 5
    assert (await setup.response())["status"]["code"] == 503


@pytest.mark.parametrize(
    "body", [{}, [], "x", {"request": {}}, {"request": {"uid": "u", "operation": "DELETE"}}]
)
async def test_what_is_no_review_is_400(body: Any) -> None:
    assert (await Setup().ask(body)).status == 400


async def test_bodies_that_are_not_json_or_too_large_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    setup = Setup()
    assert (await asgi.call(setup.app, "POST", PATH, {}, [b"{"])).status == 400
    monkeypatch.setattr(admission, "BODY_MAX_BYTES", 10)
    assert (await setup.ask()).status == 413


async def test_nothing_else_is_served_there() -> None:
    setup = Setup()
    assert (await asgi.call(setup.app, "GET", PATH)).status == 405
    assert (await asgi.call(setup.app, "GET", "/jobs")).status == 404


@pytest.mark.parametrize(
    "path", [admission.PATH, "/validate", "/validate/", PATH + "/", PATH.upper(), PATH[:-1], f"//{PATH}", "/"]
)
async def test_a_good_review_at_another_path_is_neither_read_nor_decided(path: str) -> None:
    setup = Setup()
    answer = await asgi.call(setup.app, "POST", path, {}, [json.dumps(review()).encode()])
    assert (answer.status, answer.received_count) == (404, 0)
    assert setup.ledgers.writes == 0
    assert setup.world.ports.instruments.refusals.labels("not-found")._value.get() == 1


@pytest.mark.parametrize("path", [PATH, "/"])
async def test_a_head_that_is_refused_ends_the_connection_at_every_path(path: str) -> None:
    """Where it ends nobody can tell, so nothing after it may be read as a request."""
    problem = heads.problem("1.1", b"/", [(b"host", b"a"), (b"host", b"b")])
    scope: Any = {"type": "http", "method": "POST", "path": path, "headers": [], heads.SCOPE_KEY: problem}
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    await Setup().app(scope, None, send)  # type: ignore[arg-type]
    assert sent[0]["status"] == 400
    assert (b"connection", b"close") in sent[0]["headers"]


async def test_the_path_is_in_no_record_log_or_answer(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    setup, said = Setup(), []
    said.append((await setup.ask()).body)
    setup.ledgers.error = RuntimeError("broken")
    said.append((await setup.ask(name="b", uid="uid-b")).body)
    said.append((await setup.ask({})).body)
    said.append((await asgi.call(setup.app, "GET", PATH)).body)
    said.append((await asgi.call(setup.app, "POST", PATH[:-1])).body)
    logged = " ".join(str(vars(record)) for record in caplog.records)
    assert "the webhook failed" in logged
    assert "webhook called at a path that is not accepted" in logged
    assert len(setup.world.records.all) == 3
    for text in (*map(bytes.decode, said), logged, json.dumps(setup.world.records.all)):
        assert TOKEN[:-1] not in text


async def test_each_decision_leaves_one_record_with_who_asked() -> None:
    setup = Setup()
    await setup.response()
    await setup.response(name="b", uid="uid-b", dry_run=True)
    allowed, refused = setup.world.records.all
    assert allowed["auditID"] == "review-1"
    assert allowed["user"] == {"username": "alice", "groups": ["g1", "g2"]}
    assert (allowed["verb"], allowed["requestURI"]) == ("create", admission.PATH)
    assert allowed["objectRef"]["namespace"] == "ns-acme"
    assert (allowed["objectRef"]["resource"], allowed["objectRef"]["name"]) == ("jobs", "a")
    assert allowed["responseStatus"] == {"metadata": {}, "code": 201}
    assert allowed["annotations"] == {
        "authorization.k8s.io/decision": "allow",
        "manifestry.dev/action": "jobs:admit",
        "manifestry.dev/job-type": "render",
    }
    assert refused["responseStatus"]["code"] == 429
    assert refused["responseStatus"]["reason"] == "TooManyRequests"
    assert refused["annotations"]["authorization.k8s.io/decision"] == "forbid"
    assert refused["annotations"]["manifestry.dev/dry-run"] == "true"


async def test_a_job_of_ours_points_to_the_record_of_its_request() -> None:
    body = review()
    body["request"]["object"]["metadata"]["annotations"] = {"manifestry.dev/audit-id": "a-1"}
    setup = Setup()
    await setup.ask(body)
    assert setup.world.records.all[0]["annotations"]["manifestry.dev/request-audit-id"] == "a-1"


@pytest.mark.parametrize(
    "user",
    [
        None,
        [],
        {},
        {"username": 5, "groups": "g"},
        {"username": "x" * 9999, "groups": ["y" * 9999] * 99},
    ],
)
async def test_a_user_of_any_shape_is_recorded_within_bounds(user: Any) -> None:
    body = review()
    body["request"]["userInfo"] = user
    setup = Setup()
    assert (await setup.ask(body)).status == 200
    assert len(json.dumps(setup.world.records.all[0])) < 80_000


async def test_half_a_surrogate_pair_is_no_review() -> None:
    assert (await Setup().ask(review(namespace="\ud800"))).status == 400


async def test_what_is_no_review_is_recorded_too() -> None:
    setup = Setup()
    await setup.ask({})
    (record,) = setup.world.records.all
    assert record["responseStatus"]["code"] == 400
    assert record["user"]["username"] == "system:anonymous"


async def test_an_audit_log_that_does_not_answer_does_not_keep_the_api_server_waiting(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(admission, "AUDIT_SECONDS", 0.05)
    setup = Setup()

    async def stuck(record: Any) -> None:
        await asyncio.sleep(60)

    setup.world.records.write = stuck  # type: ignore[method-assign]
    assert (await setup.response())["allowed"]
    assert "audit record could not be written" in caplog.text


@pytest.mark.parametrize("namespace", ["..", "../../api/v1/namespaces/kube-system", "a/b", "%2e%2e", "A"])
async def test_a_namespace_that_is_no_name_never_reaches_the_api(namespace: str) -> None:
    setup = Setup()
    setup.kubernetes.error = AssertionError("asked")
    status = (await setup.response(namespace=namespace, name="Not/A/Name", job_type="render"))["status"]
    assert status["code"] == 422


async def test_a_review_that_does_not_come_is_400(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "READ_SECONDS", 0.05)
    sent: list[Any] = []

    async def silent() -> Any:
        await asyncio.sleep(60)

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": PATH, "headers": [], "query_string": b""}
    await Setup().app(scope, silent, send)
    assert sent[0]["status"] == 400
