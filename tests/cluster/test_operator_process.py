"""`python -m manifestry` as a process: election, signals, missing kinds, certificates, a restarted server."""

import base64
import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from manifestry.core.kube import names
from tests.controlplane.audit import WriteFilter
from tests.controlplane.controlplane import ControlPlane
from tests.controlplane.processes import SYSTEM_NAMESPACE, OperatorProcess
from tests.controlplane.tenants import Tenant

StartOperator = Callable[..., OperatorProcess]
LEASE = "manifestry-operator"


def probe(operator: OperatorProcess, path: str) -> tuple[int, dict[str, bool]]:
    """Return the status and the rows of a health answer."""
    try:
        with urllib.request.urlopen(operator.health_url + path, timeout=5) as answer:
            status, body = answer.status, answer.read()
    except urllib.error.HTTPError as error:
        status, body = error.code, error.read()
    return status, {row["name"]: row["ok"] for row in json.loads(body)["checks"]}


def inline_artifact(name: str) -> dict[str, Any]:
    return {
        "apiVersion": names.API_VERSION,
        "kind": "Artifact",
        "metadata": {"name": name},
        "spec": {"mediaType": "text/plain", "inline": {"text": "hello"}},
    }


def is_ready(item: dict[str, Any] | None) -> bool:
    conditions = ((item or {}).get("status") or {}).get("conditions") or ()
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


def holder(control_plane: ControlPlane) -> str:
    lease = control_plane.find(names.LEASES, LEASE, SYSTEM_NAMESPACE) or {"spec": {}}
    return str(lease["spec"].get("holderIdentity") or "")


def test_of_two_operators_one_leads_and_the_other_takes_over(
    make_control_plane: Callable[..., ControlPlane], start_operator: StartOperator, make_tenant: Any
) -> None:
    control_plane = make_control_plane(crds=True)
    first = start_operator(control_plane)
    second = start_operator(control_plane)
    rows = ("leader", "watches", "resync", "store-ownership", "store-conformance")
    assert probe(first, "/readyz") == (200, dict.fromkeys(rows, True))
    assert probe(second, "/readyz") == (200, {"leader": True})
    assert probe(second, "/livez")[0] == 200
    leader = holder(control_plane)
    started = time.monotonic()
    assert first.stop() == 0
    assert time.monotonic() - started < 5
    tenant: Tenant = make_tenant(cluster=control_plane)
    control_plane.create(names.ARTIFACTS, inline_artifact("a"), tenant.namespace)
    control_plane.wait_for(names.ARTIFACTS, "a", tenant.namespace, is_ready, timeout_seconds=15)
    assert holder(control_plane) not in {"", leader}


def test_an_operator_that_loses_its_lease_ends_with_an_error(
    make_control_plane: Callable[..., ControlPlane], start_operator: StartOperator
) -> None:
    control_plane = make_control_plane(crds=True)
    operator = start_operator(control_plane)
    control_plane.patch(names.LEASES, LEASE, {"spec": {"holderIdentity": "usurper"}}, SYSTEM_NAMESPACE)
    deadline = time.monotonic() + 20
    while operator.running and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not operator.running
    assert "leadership lost" in operator.log_tail(40)
    assert holder(control_plane) == "usurper"


def test_an_operator_waits_for_its_kinds_and_then_serves_all_of_them(
    make_control_plane: Callable[..., ControlPlane], start_operator: StartOperator, make_tenant: Any
) -> None:
    control_plane = make_control_plane(crds=False)
    with ThreadPoolExecutor(1) as pool:
        starting = pool.submit(start_operator, control_plane)
        time.sleep(5)
        assert not starting.done()
        control_plane.apply_crds()
        operator = starting.result(timeout=30)
    assert "waiting for kinds to be served" in operator.log_tail(40)
    tenant: Tenant = make_tenant(cluster=control_plane)
    control_plane.create(names.ARTIFACTS, inline_artifact("a"), tenant.namespace)
    control_plane.wait_for(names.ARTIFACTS, "a", tenant.namespace, is_ready, timeout_seconds=15)


def test_without_election_an_operator_outlives_a_short_restart_of_the_api_server(
    make_control_plane: Callable[..., ControlPlane], start_operator: StartOperator, make_tenant: Any
) -> None:
    control_plane = make_control_plane(crds=True)
    operator = start_operator(control_plane, env={"MANIFESTRY_LEADER_ELECTION": "false"})
    tenant: Tenant = make_tenant(cluster=control_plane)
    control_plane.apiserver.kill()
    time.sleep(2)
    assert probe(operator, "/livez")[0] == 200
    control_plane.apiserver.start()
    control_plane.create(names.ARTIFACTS, inline_artifact("after"), tenant.namespace)
    control_plane.wait_for(names.ARTIFACTS, "after", tenant.namespace, is_ready, timeout_seconds=30)
    assert operator.running
    assert operator.stop() == 0


def test_the_webhooks_certificate_is_made_and_its_authority_and_path_are_published(
    make_control_plane: Callable[..., ControlPlane], start_operator: StartOperator
) -> None:
    control_plane = make_control_plane(crds=True)
    hook = {
        "name": "jobs.manifestry.dev",
        "clientConfig": {"service": {"name": "manifestry-api", "namespace": SYSTEM_NAMESPACE}},
        "rules": [
            {"apiGroups": ["x.test"], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["xs"]}
        ],
        "sideEffects": "None",
        "admissionReviewVersions": ["v1"],
    }
    body = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": "manifestry"},
        "webhooks": [hook],
    }
    control_plane.create(names.VALIDATING_WEBHOOKS, body)
    operator = start_operator(
        control_plane,
        env={"MANIFESTRY_WEBHOOK_ENABLED": "true", "MANIFESTRY_RESYNC_SECONDS": "1"},
    )
    secret = control_plane.get(names.SECRETS, "manifestry-webhook-tls", SYSTEM_NAMESPACE)

    def is_published(found: dict[str, Any] | None) -> bool:
        config = found["webhooks"][0]["clientConfig"] if found else {}
        path = config.get("service", {}).get("path", "")
        return bool(config.get("caBundle") == secret["data"]["ca.crt"]) and path.startswith("/validate/")

    assert base64.b64decode(secret["data"]["tls.crt"]).startswith(b"-----BEGIN CERTIFICATE")
    control_plane.wait_for(names.VALIDATING_WEBHOOKS, "manifestry", None, is_published)
    control_plane.patch(names.VALIDATING_WEBHOOKS, "manifestry", {"webhooks": [hook]})
    control_plane.wait_for(names.VALIDATING_WEBHOOKS, "manifestry", None, is_published)
    mark = control_plane.audit_mark()
    time.sleep(3)
    writes = control_plane.writes(WriteFilter(user="manifestry-operator"), since=mark)
    assert {event.resource for event in writes} == {"leases"}
    assert operator.running


@pytest.mark.parametrize(
    ("env", "told"),
    [
        ({"MANIFESTRY_WORKERS": "none"}, "MANIFESTRY_WORKERS"),
        ({"MANIFESTRY_KUBECONFIG": "/nowhere"}, "/nowhere"),
    ],
)
def test_a_bad_configuration_ends_at_once_and_says_what(
    control_plane: ControlPlane, start_operator: StartOperator, env: dict[str, str], told: str
) -> None:
    with pytest.raises(Exception, match=told):
        start_operator(control_plane, env=env)
