"""The webhook's port answers the API server alone: a real one, that finds the facade by its Service."""

import base64
import http.client
import json
import ssl
import subprocess
import threading
import uuid
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from manifestry.core.access import webhookpaths
from manifestry.core.kube import names
from tests.cluster import facade_requests as facades
from tests.controlplane import binaries, grants, ports, processes
from tests.controlplane.certificates import Authority
from tests.controlplane.clusterapi import poll_until
from tests.controlplane.controlplane import ControlPlane
from tests.controlplane.plugin import MakeControlPlane, MakeTenant, StartFacade, StartOperator
from tests.controlplane.processes import SYSTEM_NAMESPACE, FacadeProcess, OperatorProcess
from tests.controlplane.tenants import Tenant

JOB_TYPE = "render"
OLD_PATH = "/admission/jobs"
SECRET = processes.WEBHOOK_PATH_SECRET
CONFIGURATION = (names.VALIDATING_WEBHOOKS, "manifestry")


@dataclass
class Installation:
    """The chart's webhook, with an operator that keeps it and a facade that serves it."""

    cp: ControlPlane
    tenant: Tenant
    operator: OperatorProcess
    facade: FacadeProcess
    port: int

    def post(self, path: str, body: Any) -> tuple[int, bytes]:
        """Send a request to the webhook's port, as whoever reaches it can."""
        authority = self.cp.get(names.SECRETS, processes.WEBHOOK_SECRET, SYSTEM_NAMESPACE)["data"]["ca.crt"]
        context = ssl.create_default_context(cadata=base64.b64decode(authority).decode())
        context.check_hostname = False  # it is the Service's, which only the API server can resolve
        connection = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=10, context=context)
        try:
            connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def published(self) -> str:
        return path_of(self.cp)

    def tokens(self) -> tuple[str, ...]:
        return webhookpaths.accepted(self.cp.get(names.SECRETS, SECRET, SYSTEM_NAMESPACE))

    def age(self, seconds: float) -> None:
        """Make the current token older."""
        made = (datetime.now(UTC) - timedelta(seconds=seconds)).isoformat()
        data = {"made": base64.b64encode(made.encode()).decode()}
        self.cp.patch(names.SECRETS, SECRET, {"data": data}, SYSTEM_NAMESPACE)

    def rotate(self) -> None:
        """Let the operator make a new path and publish it."""
        before = self.tokens()[0]
        self.age(webhookpaths.LIFETIME.total_seconds())
        poll_until(lambda: self.tokens()[0] != before, "a new token")
        assert self.published() == webhookpaths.path(before)
        self.age(webhookpaths.KNOWN_AFTER.total_seconds())
        poll_until(lambda: self.published() == webhookpaths.path(self.tokens()[0]), "it is published")

    def log(self) -> str:
        return self.facade.log_path.read_text(errors="replace")

    def holders(self) -> dict[str, Any]:
        ledger = self.cp.get(names.QUOTA_LEDGERS, JOB_TYPE, self.tenant.namespace)
        return dict(ledger["status"].get("holders") or {})


def path_of(cp: ControlPlane) -> str:
    return str(cp.get(*CONFIGURATION)["webhooks"][0]["clientConfig"]["service"].get("path") or "")


def chart(kind: str, *values: str) -> dict[str, Any]:
    (found,) = [each for each in grants.chart_objects(SYSTEM_NAMESPACE, *values) if each["kind"] == kind]
    return json.loads(json.dumps(found))  # type: ignore[no-any-return]


def create(cp: ControlPlane, tenant: Tenant, name: str) -> subprocess.CompletedProcess[str]:
    """Create a Job as everybody does."""
    job = (
        f"apiVersion: {names.API_VERSION}\nkind: Job\nmetadata: {{name: {name}}}\nspec: {{jobType: render}}\n"
    )
    return cp.kubectl("create", "-n", tenant.namespace, "-f", "-", stdin=job, check=False)


@pytest.fixture
def installation(
    make_control_plane: MakeControlPlane,
    make_tenant: MakeTenant,
    start_operator: StartOperator,
    start_facade: StartFacade,
) -> Installation:
    """Give what `helm install` gives, where the Service's name leads to this machine."""
    cp, port = make_control_plane(), ports.free_port()
    tenant = make_tenant(cluster=cp)
    processes.ensure_namespace(cp, SYSTEM_NAMESPACE)
    service = {
        "metadata": {"name": "manifestry-api"},
        "spec": {"type": "ExternalName", "externalName": "localhost"},
    }
    cp.create("v1/services", service, SYSTEM_NAMESPACE)
    webhook = chart("ValidatingWebhookConfiguration")
    webhook["webhooks"][0]["clientConfig"]["service"]["port"] = port
    cp.create(names.VALIDATING_WEBHOOKS, webhook)
    kind = {"apiVersion": names.API_VERSION, "kind": "JobType", "metadata": {"name": JOB_TYPE}}
    cp.create(names.JOB_TYPES, {**kind, "spec": {"image": "registry.example/render:1"}})
    limits = {"tenants": [tenant.name], "jobs": [{"jobType": JOB_TYPE, "maxRunning": 0, "maxQueued": 500}]}
    quota = {
        "apiVersion": names.API_VERSION,
        "kind": "TenantQuota",
        "metadata": {"name": "q"},
        "spec": limits,
    }
    cp.create(names.TENANT_QUOTAS, quota)

    def refused() -> bool:
        return "failed calling webhook" in create(cp, tenant, "early").stderr

    poll_until(refused, "before anybody has written path and authority, every Job is refused")

    env = {"MANIFESTRY_WEBHOOK_ENABLED": "true", "MANIFESTRY_RESYNC_SECONDS": "1"}
    operator = start_operator(cp, env)
    poll_until(lambda: path_of(cp).startswith("/validate/"), "the path is published")
    facade = start_facade(cp, {"MANIFESTRY_WEBHOOK_PORT": str(port)}, register=False)
    poll_until(lambda: create(cp, tenant, f"first-{uuid.uuid4().hex[:8]}").returncode == 0, "Jobs are let in")
    return Installation(cp, tenant, operator, facade, port)


def review(tenant: Tenant) -> dict[str, Any]:
    """Return a review like those of the API server, for a Job that nobody creates."""
    metadata = {"name": "forged", "namespace": tenant.namespace, "uid": str(uuid.uuid4())}
    asked = {
        "uid": str(uuid.uuid4()),
        "operation": "CREATE",
        "namespace": tenant.namespace,
        "userInfo": {"username": "mallory"},
        "object": {"metadata": metadata, "spec": {"jobType": JOB_TYPE}},
    }
    return {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": asked}


def test_a_review_that_anybody_sends_is_refused_and_holds_nothing(installation: Installation) -> None:
    forged, path = review(installation.tenant), installation.published()
    wrong = webhookpaths.path("0" * 64)
    for other in (OLD_PATH, wrong, "/", "/validate/", path + "/", f"{wrong}/../../{path}", path[:-1]):
        assert installation.post(other, forged) == (404, b"not found")
    assert "forged" not in installation.log()
    assert forged["request"]["object"]["metadata"]["uid"] not in json.dumps(installation.holders())

    status, answer = installation.post(path, forged)  # it was a good one: only the path was missing
    assert (status, json.loads(answer)["response"]["allowed"]) == (200, True)
    assert forged["request"]["object"]["metadata"]["uid"] in json.dumps(installation.holders())


def test_the_path_is_changed_while_jobs_are_created_and_nobody_notices(installation: Installation) -> None:
    cp, tenant = installation.cp, installation.tenant
    job = {"apiVersion": names.API_VERSION, "kind": "Job", "spec": {"jobType": JOB_TYPE}}
    stop, outcomes = threading.Event(), Counter[str]()

    def submit() -> None:
        while not stop.wait(0.05):
            try:
                cp.create(names.JOBS, {**job, "metadata": {"generateName": "j-"}}, tenant.namespace)
                outcomes["created"] += 1
            except Exception as error:  # noqa: BLE001 - counted below
                outcomes[str(error)] += 1

    submitter = threading.Thread(target=submit)
    submitter.start()
    seen = {*installation.tokens()}
    try:
        first = installation.published()
        for _ in range(3):
            installation.rotate()
            seen |= {*installation.tokens()}
    finally:
        stop.set()
        submitter.join()
    assert outcomes.keys() == {"created"}
    assert outcomes["created"] > 20
    assert len(seen) == 4
    poll_until(lambda: installation.post(first, {})[0] == 404, "the first path leads nowhere")
    assert installation.post(installation.published(), {})[0] == 400  # in, and no review

    said = installation.log() + installation.operator.log_path.read_text(errors="replace")
    said += str(facades.send(installation.facade, "GET", "/metrics").body)
    said += str(facades.send(installation.facade, "GET", "/readyz").body)
    assert '"requestURI":"/admission/jobs"' in said
    assert "webhook path renewed" in said
    assert not [token for token in seen if token in said]


def test_a_path_that_the_api_server_gives_away_is_soon_worth_nothing(installation: Installation) -> None:
    """What kubectl is told when the webhook is away has the whole URL in it: hence so many new paths."""
    installation.facade.stop()
    told = create(installation.cp, installation.tenant, "late").stderr
    path = installation.published()
    assert f"{path}?timeout=" in told
    installation.facade.start()
    assert installation.post(path, {})[0] == 400
    installation.rotate()
    installation.rotate()
    poll_until(lambda: installation.post(path, review(installation.tenant))[0] == 404, "it leads nowhere")

    path = installation.published()
    installation.cp.delete(
        names.SECRETS, SECRET, SYSTEM_NAMESPACE
    )  # what an administrator does who is in a hurry
    poll_until(lambda: installation.post(path, {})[0] == 404, "this one, too")
    poll_until(
        lambda: create(installation.cp, installation.tenant, "after").returncode == 0, "Jobs are let in"
    )


def test_no_way_of_applying_the_chart_takes_path_or_authority_away(
    make_control_plane: MakeControlPlane, tmp_path: Path
) -> None:
    cp = make_control_plane(crds=False)

    def helm(*values: str) -> None:
        chart_folder = str(binaries.ROOT / "charts" / "manifestry")
        argv = [str(binaries.program("helm")), "upgrade", "--install", "manifestry", chart_folder]
        argv += ["-n", SYSTEM_NAMESPACE, "--create-namespace", *(f"--set={value}" for value in values)]
        env = {"KUBECONFIG": str(cp.kubeconfig), "HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
        done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr

    def patch(path: str, authority: bytes) -> None:
        (hook,) = cp.get(*CONFIGURATION)["webhooks"]
        hook["clientConfig"]["caBundle"] = base64.b64encode(authority).decode()
        hook["clientConfig"]["service"]["path"] = path
        cp.patch(*CONFIGURATION, {"webhooks": [hook]})

    def seconds(expected: int) -> dict[str, Any]:
        (hook,) = cp.get(*CONFIGURATION)["webhooks"]
        assert hook["timeoutSeconds"] == expected
        return dict(hook["clientConfig"])

    helm()
    assert "path" not in seconds(5)["service"]
    patch("/validate/secret", Authority().certificate_pem)
    kept = seconds(5)
    helm("webhook.timeoutSeconds=6")
    assert seconds(6) == kept

    body = json.dumps(chart("ValidatingWebhookConfiguration", "webhook.timeoutSeconds=7"))
    cp.kubectl("apply", "-f", "-", stdin=body)
    assert seconds(7) == kept
    body = json.dumps(chart("ValidatingWebhookConfiguration", "webhook.timeoutSeconds=8"))
    cp.kubectl(
        "apply",
        "--server-side",
        "--force-conflicts",
        "--field-manager=argocd-controller",
        "-f",
        "-",
        stdin=body,
    )
    assert seconds(8) == kept
    assert not cp.kubectl("diff", "--server-side", "--force-conflicts", "-f", "-", stdin=body).stdout
