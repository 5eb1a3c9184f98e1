"""Health and life of the facade's process against a real API server."""

import base64
import http.client
import ssl
import time
import urllib.error
import urllib.request
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from tests.cluster import facade_requests as facades
from tests.controlplane import grants
from tests.controlplane.certificates import Authority
from tests.controlplane.clusterapi import ClusterApi, poll_until
from tests.controlplane.controlplane import ControlPlane
from tests.controlplane.plugin import MakeControlPlane, StartFacade
from tests.controlplane.processes import SYSTEM_NAMESPACE, FacadeProcess

LEASES = "coordination.k8s.io/v1/leases"


def rows(facade: FacadeProcess) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in facades.send(facade, "GET", "/readyz").json()["checks"]}


def hold_lease(cp: ClusterApi) -> None:
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    spec = {"holderIdentity": "test", "leaseDurationSeconds": 15, "renewTime": now}
    body = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "spec": spec}
    cp.apply(LEASES, {**body, "metadata": {"name": "manifestry-operator", "namespace": SYSTEM_NAMESPACE}})


def test_readiness_has_a_row_for_each_dependency_and_follows_it(
    make_control_plane: MakeControlPlane, start_facade: StartFacade
) -> None:
    cp = make_control_plane()
    facade = start_facade(cp)
    assert facades.send(facade, "GET", "/readyz").status == 503
    poll_until(lambda: rows(facade)["object-store-writes"]["ok"], "a write is tried", 10)
    assert {name for name, row in rows(facade).items() if not row["ok"]} == {"job-runner"}

    hold_lease(cp)
    poll_until(lambda: rows(facade)["job-runner"]["ok"], "the lease is seen", 10)

    health = facades.send(facade, "GET", "/healthz")
    assert health.status == 200
    assert health.json()["slowCalls"]["calls"]["kubernetes-api"]["count"] > 0
    assert b"http_server_request_duration_seconds_bucket" in facades.send(facade, "GET", "/metrics").body

    cp.apiserver.pause()
    try:
        poll_until(lambda: not rows(facade)["kubernetes-api"]["ok"], "the API server is missed", 20)
        began = time.monotonic()
        assert facades.send(facade, "GET", "/livez").status == 200
        assert facades.send(facade, "GET", "/healthz").json()["database"] == "degraded"
        assert facades.send(facade, "GET", "/readyz").status == 503
        assert time.monotonic() - began < 1
    finally:
        cp.apiserver.resume()
    poll_until(lambda: rows(facade)["kubernetes-api"]["ok"], "the API server is back", 20)


def pair(authority: Authority) -> dict[str, Any]:
    issued = authority.issue("api", ip_addresses=["127.0.0.1"], server=True)
    material = {"tls.crt": issued.certificate_pem, "tls.key": issued.key_pem}
    return {"data": {name: base64.b64encode(pem).decode() for name, pem in material.items()}}


def trusts(facade: FacadeProcess, authority: Authority) -> bool:
    """Tell whether the webhook now shows a certificate of `authority`."""
    context = ssl.create_default_context(cadata=authority.certificate_pem.decode())
    request = urllib.request.Request(facade.webhook_url, data=b"{}", method="POST")
    try:
        urllib.request.urlopen(request, context=context, timeout=5).close()
    except urllib.error.HTTPError as refusal:
        refusal.close()
        return refusal.code == 400
    except OSError:
        return False
    return False


def test_the_api_serves_without_a_certificate_and_the_webhook_follows_the_secret(
    control_plane: ControlPlane, start_facade: StartFacade
) -> None:
    secret = {"MANIFESTRY_WEBHOOK_SECRET": "late-tls"}
    # The chart's roles only allow the Secret that the chart names.
    facade = start_facade(control_plane, secret, grant=grants.grant_cluster_admin, wait=False)
    poll_until(lambda: _answers(facade), "the API serves", 30)
    assert not rows(facade)["webhook-certificate"]["ok"]
    first, second = Authority("first"), Authority("second")
    assert not trusts(facade, first)
    control_plane.create("v1/secrets", {"metadata": {"name": "late-tls"}, **pair(first)}, SYSTEM_NAMESPACE)
    try:
        poll_until(lambda: trusts(facade, first), "the webhook serves", 10)
        poll_until(lambda: rows(facade)["webhook-certificate"]["ok"], "readiness says so", 10)
        control_plane.patch("v1/secrets", "late-tls", pair(second), SYSTEM_NAMESPACE)
        poll_until(lambda: trusts(facade, second), "the new certificate is shown", 10)
        assert not trusts(facade, first)
        broken = {"data": {"tls.key": base64.b64encode(b"not a key").decode()}}
        control_plane.patch("v1/secrets", "late-tls", broken, SYSTEM_NAMESPACE)
        poll_until(lambda: not rows(facade)["webhook-certificate"]["ok"], "readiness says so", 10)
        assert trusts(facade, second)
    finally:
        control_plane.delete("v1/secrets", "late-tls", SYSTEM_NAMESPACE)


def _answers(facade: FacadeProcess) -> bool:
    try:
        return facades.send(facade, "GET", "/livez").status == 200
    except OSError:
        return False


def test_sigterm_ends_the_process_in_order_with_a_connection_open(
    control_plane: ControlPlane, start_facade: StartFacade
) -> None:
    facade = start_facade(control_plane)
    url = urlsplit(facade.base_url)
    idle = http.client.HTTPConnection(url.hostname or "", url.port, timeout=5)
    idle.request("GET", "/livez")
    idle.getresponse().read()
    began = time.monotonic()
    assert facade.stop() == 0
    assert time.monotonic() - began < 5
    idle.close()
    log = facade.log_path.read_text()
    assert "Traceback" not in log
    assert "never retrieved" not in log


def test_documents_are_served_without_credentials(
    control_plane: ControlPlane, start_facade: StartFacade
) -> None:
    facade = start_facade(control_plane)
    document = facades.send(facade, "GET", "/openapi.json").json()
    assert document["openapi"] == "3.1.0"
    assert (
        facades.send(facade, "GET", "/docs")
        .headers["content-security-policy"]
        .startswith("default-src 'none'")
    )
    assert facades.records(facade) == []
