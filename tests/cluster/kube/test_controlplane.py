"""Prove the harness itself: what the other tests rely on holds."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import jwt
import pytest

from tests.cluster.conftest import MakeBatchJob
from tests.controlplane import binaries, children, kubeconfigs, plugin, pods, webhooks
from tests.controlplane.apirequests import ApiFailure
from tests.controlplane.audit import WriteFilter
from tests.controlplane.clusterapi import ClusterApi, WaitTimeoutError, is_established, poll_until
from tests.controlplane.controlplane import ControlPlane
from tests.controlplane.plugin import MakeControlPlane, MakeTenant, StartFacade
from tests.controlplane.servers import SERVICE_ACCOUNT_ISSUER
from tests.controlplane.tenants import TENANT_LABEL, Tenant

CONFIG_MAPS = "v1/configmaps"
BATCH_JOBS = "batch/v1/jobs"
KINDS = ("artifacts", "jobs", "jobtypes", "quotaledgers", "tenantquotas")


def has_condition(kind: str) -> Any:
    """Return a predicate for `wait_for`: the object has this condition with status True."""

    def check(found: dict[str, Any] | None) -> bool:
        conditions = (found or {}).get("status", {}).get("conditions", [])
        return any(one["type"] == kind and one["status"] == "True" for one in conditions)

    return check


def test_every_crd_is_established_and_served(cluster_api: ClusterApi) -> None:
    for plural in KINDS:
        crd = cluster_api.get("apiextensions.k8s.io/v1/customresourcedefinitions", f"{plural}.manifestry.dev")
        assert is_established(crd)
        assert isinstance(cluster_api.list(f"manifestry.dev/v1alpha1/{plural}"), list)


def test_kubectl_sees_the_tenants_namespace(cluster_api: ClusterApi, tenant: Tenant) -> None:
    shown = cluster_api.kubectl("get", "namespace", "-l", f"{TENANT_LABEL}={tenant.name}", "-o", "name")
    assert shown.stdout.strip() == f"namespace/{tenant.namespace}"


def test_kubectl_applies_from_standard_input_and_reports_failures(
    cluster_api: ClusterApi, tenant: Tenant
) -> None:
    manifest = f"{{apiVersion: v1, kind: ConfigMap, metadata: {{name: a, namespace: {tenant.namespace}}}}}"
    cluster_api.kubectl("apply", "-f", "-", stdin=manifest)
    assert cluster_api.find(CONFIG_MAPS, "a", tenant.namespace)
    with pytest.raises(AssertionError, match="NotFound"):
        cluster_api.kubectl("get", "configmap", "b", "-n", tenant.namespace)
    assert cluster_api.kubectl("get", "configmap", "b", "-n", tenant.namespace, check=False).returncode == 1


def test_service_account_token_is_verified_by_the_published_keys(
    cluster_api: ClusterApi, tenant: Tenant
) -> None:
    token = cluster_api.token(tenant.namespace, "ci")
    keys = jwt.PyJWKSet.from_dict(cluster_api.request("GET", "/openid/v1/jwks"))
    key = keys[jwt.get_unverified_header(token)["kid"]]
    claims = jwt.decode(
        token, key.key, algorithms=["RS256"], audience="manifestry", issuer=SERVICE_ACCOUNT_ISSUER
    )
    assert claims["sub"] == f"system:serviceaccount:{tenant.namespace}:ci"


def test_kubectl_creates_a_token_for_our_audience(cluster_api: ClusterApi, tenant: Tenant) -> None:
    done = cluster_api.kubectl(
        "create", "token", "default", "--audience", "manifestry", "-n", tenant.namespace
    )
    claims = jwt.decode(done.stdout.strip(), options={"verify_signature": False})
    assert claims["aud"] == ["manifestry"]


def test_audit_log_counts_a_users_writes(control_plane: ControlPlane, tenant: Tenant) -> None:
    mark = control_plane.audit_mark()
    body = {"metadata": {"name": "counted"}}
    control_plane.create(CONFIG_MAPS, body, tenant.namespace, query={"dryRun": "All"})
    control_plane.create(CONFIG_MAPS, body, tenant.namespace)
    control_plane.patch(CONFIG_MAPS, "counted", {"data": {"a": "b"}}, tenant.namespace)
    control_plane.get(CONFIG_MAPS, "counted", tenant.namespace)
    wanted = WriteFilter(user="admin", resource="configmaps", namespace=tenant.namespace)
    seen = control_plane.writes(wanted, since=mark)
    assert [(event.verb, event.name, event.code) for event in seen] == [
        ("create", "counted", 201),
        ("patch", "counted", 200),
    ]


def test_audit_log_tells_the_two_kinds_of_jobs_apart(
    control_plane: ControlPlane, tenant: Tenant, batch_job: MakeBatchJob
) -> None:
    mark = control_plane.audit_mark()
    control_plane.create(BATCH_JOBS, batch_job("one", suspend=True), tenant.namespace)
    ours = WriteFilter(resource="jobs.manifestry.dev", verb="create", namespace=tenant.namespace)
    batch = WriteFilter(resource="jobs.batch", verb="create", namespace=tenant.namespace)
    assert len(control_plane.writes(batch, since=mark)) == 1
    assert control_plane.writes(ours, since=mark) == []


def test_a_client_certificate_is_a_user_without_rights(control_plane: ControlPlane, tenant: Tenant) -> None:
    kubeconfig = control_plane.kubeconfig_for("mallory", ["nobodies"])
    who = control_plane.kubectl("auth", "whoami", "-o", "jsonpath={.status.userInfo}", kubeconfig=kubeconfig)
    assert '"username":"mallory"' in who.stdout
    assert '"nobodies"' in who.stdout
    with pytest.raises(AssertionError, match="Forbidden"):
        control_plane.kubectl("get", "secrets", "-n", tenant.namespace, kubeconfig=kubeconfig)


def test_impersonation_is_subject_to_rbac(cluster_api: ClusterApi, tenant: Tenant) -> None:
    with pytest.raises(ApiFailure) as caught:
        cluster_api.as_user("mallory").list("v1/secrets", tenant.namespace)
    assert (caught.value.status, caught.value.reason) == (403, "Forbidden")


@pytest.mark.parametrize(("exit_code", "condition"), [(0, "Complete"), (3, "Failed")])
def test_job_controller_makes_a_pod_and_sees_its_end(
    control_plane: ControlPlane, tenant: Tenant, batch_job: MakeBatchJob, exit_code: int, condition: str
) -> None:
    control_plane.create(BATCH_JOBS, batch_job("work"), tenant.namespace)
    pod = pods.wait_for_pod(control_plane, tenant.namespace, "work")
    finished = pods.finish_pod(control_plane, pod, exit_code)
    assert finished["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"] == exit_code
    job = control_plane.wait_for(BATCH_JOBS, "work", tenant.namespace, has_condition(condition))
    assert job["status"]["succeeded" if exit_code == 0 else "failed"] == 1


def test_suspended_job_has_no_pod_until_it_is_resumed(
    control_plane: ControlPlane, tenant: Tenant, batch_job: MakeBatchJob
) -> None:
    control_plane.create(BATCH_JOBS, batch_job("held", suspend=True), tenant.namespace)
    control_plane.wait_for(BATCH_JOBS, "held", tenant.namespace, has_condition("Suspended"))
    assert pods.pods_of(control_plane, tenant.namespace, "held") == []
    control_plane.patch(BATCH_JOBS, "held", {"spec": {"suspend": False}}, tenant.namespace)
    with pods.Kubelet(control_plane, tenant.namespace):
        control_plane.wait_for(BATCH_JOBS, "held", tenant.namespace, has_condition("Complete"))


def test_finished_job_is_removed_after_its_ttl(
    control_plane: ControlPlane, tenant: Tenant, batch_job: MakeBatchJob
) -> None:
    control_plane.create(BATCH_JOBS, batch_job("brief", ttlSecondsAfterFinished=0), tenant.namespace)
    with pods.Kubelet(control_plane, tenant.namespace):
        control_plane.wait_for(BATCH_JOBS, "brief", tenant.namespace, lambda found: found is None)


def test_garbage_collector_follows_owners_of_our_kinds(
    control_plane: ControlPlane, tenant: Tenant, batch_job: MakeBatchJob
) -> None:
    ledgers = "manifestry.dev/v1alpha1/quotaledgers"
    body = {
        "apiVersion": "manifestry.dev/v1alpha1",
        "kind": "QuotaLedger",
        "metadata": {"name": "owner"},
        "spec": {"jobType": "owner"},
    }
    owner = control_plane.create(ledgers, body, tenant.namespace)
    child = batch_job("owned", suspend=True)
    reference = {"apiVersion": "manifestry.dev/v1alpha1", "kind": "QuotaLedger", "name": "owner"}
    child["metadata"]["ownerReferences"] = [{**reference, "uid": owner["metadata"]["uid"]}]
    control_plane.create(BATCH_JOBS, child, tenant.namespace)
    control_plane.delete(ledgers, "owner", tenant.namespace)
    control_plane.wait_for(BATCH_JOBS, "owned", tenant.namespace, lambda found: found is None)


def test_deleted_namespace_goes_away(cluster_api: ClusterApi, make_tenant: MakeTenant) -> None:
    gone = make_tenant()
    cluster_api.delete("v1/namespaces", gone.namespace)
    cluster_api.wait_for(
        "v1/namespaces", gone.namespace, None, lambda found: found is None, timeout_seconds=40
    )


def test_wait_for_says_what_it_saw(cluster_api: ClusterApi, tenant: Tenant) -> None:
    with pytest.raises(WaitTimeoutError, match=tenant.name):
        cluster_api.wait_for("v1/namespaces", tenant.namespace, None, lambda _: False, timeout_seconds=0.1)


def test_an_unreachable_webhook_refuses_our_jobs_only(
    make_control_plane: MakeControlPlane, make_tenant: MakeTenant, batch_job: MakeBatchJob
) -> None:
    cp = make_control_plane()
    own = make_tenant(cluster=cp)
    webhooks.register_webhook(cp, "https://127.0.0.1:9/admission/jobs", cp.ca_pem)
    job = {
        "apiVersion": "manifestry.dev/v1alpha1",
        "kind": "Job",
        "metadata": {"name": "a"},
        "spec": {"jobType": "none"},
    }

    def is_refused() -> bool:
        try:
            cp.create("manifestry.dev/v1alpha1/jobs", job, own.namespace, query={"dryRun": "All"})
        except ApiFailure as failure:
            return "jobs.manifestry.dev" in failure.message and failure.status == 500
        return False

    poll_until(is_refused, "the webhook is asked")
    assert cp.create(BATCH_JOBS, batch_job("a"), own.namespace)


def test_restarts_and_kills_keep_the_data(make_control_plane: MakeControlPlane) -> None:
    cp = make_control_plane(crds=False)
    cp.create(CONFIG_MAPS, {"metadata": {"name": "kept"}}, "default")
    first = cp.apiserver.pid
    cp.apiserver.restart()
    assert cp.apiserver.pid != first
    assert cp.get(CONFIG_MAPS, "kept", "default")
    cp.etcd.kill()
    cp.apiserver.kill()
    with pytest.raises(ApiFailure) as caught:
        cp.get(CONFIG_MAPS, "kept", "default")
    assert caught.value.status == 0
    cp.etcd.start()
    cp.apiserver.start()
    assert cp.get(CONFIG_MAPS, "kept", "default")


def test_a_paused_apiserver_answers_later(make_control_plane: MakeControlPlane) -> None:
    cp = make_control_plane(crds=False)
    cp.apiserver.pause()
    assert cp.apiserver.running
    with pytest.raises(ApiFailure, match="Unreachable"):
        cp.request("GET", "/readyz", timeout_seconds=0.5)
    cp.apiserver.resume()
    assert cp.request("GET", "/readyz") == "ok"


def test_two_control_planes_do_not_see_each_other(
    control_plane: ControlPlane, make_control_plane: MakeControlPlane, make_tenant: MakeTenant
) -> None:
    other = make_control_plane(crds=False)
    tenant = make_tenant(cluster=other)
    assert other.find("v1/namespaces", tenant.namespace)
    assert control_plane.find("v1/namespaces", tenant.namespace) is None


def test_a_facade_serves_and_its_webhook_is_asked(
    control_plane: ControlPlane, tenant: Tenant, start_facade: StartFacade
) -> None:
    facade = start_facade(control_plane)
    body = {
        "apiVersion": "manifestry.dev/v1alpha1",
        "kind": "Job",
        "metadata": {"name": "a"},
        "spec": {"jobType": "nowhere"},
    }
    with pytest.raises(ApiFailure, match="nowhere") as caught:
        control_plane.create("manifestry.dev/v1alpha1/jobs", body, tenant.namespace)
    assert caught.value.status == 422
    assert facade.stop() == 0


@pytest.mark.parametrize(("ci", "outcome"), [("", pytest.skip.Exception), ("true", pytest.fail.Exception)])
def test_without_its_programs_a_test_is_skipped_but_never_in_ci(
    monkeypatch: pytest.MonkeyPatch, ci: str, outcome: type[BaseException]
) -> None:
    monkeypatch.setenv("CI", ci)
    with pytest.raises(outcome, match=r"needs Go, or a kind node .* for the control-plane-only profile"):
        plugin.refuse(binaries.missing_reason("kb"))


@pytest.mark.parametrize(("context", "is_taken"), [("kind-manifestry", True), ("production", False)])
def test_without_its_programs_only_a_kind_cluster_is_taken(
    control_plane: ControlPlane, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, context: str, is_taken: bool
) -> None:
    access = replace(kubeconfigs.read(control_plane.kubeconfig), context=context)
    kubeconfigs.write(tmp_path / "config", access)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setattr(binaries, "kubectl_argv", lambda: [str(binaries.program("kb")), "kubectl"])
    if not is_taken:
        with pytest.raises(pytest.skip.Exception, match="production"):
            plugin.current_cluster("needs Go", tmp_path)
        return
    cluster = plugin.current_cluster("needs Go", tmp_path)
    assert "kube-system" in cluster.kubectl("get", "ns", "-o", "name").stdout
    cluster.close()


def test_processes_end_with_a_killed_test_process(tmp_path: Path) -> None:
    script = (
        "import sys, time, pathlib\n"
        "from tests.controlplane import children\n"
        "program = children.Program('sleep', ['/bin/sleep', '300'], lambda: True)\n"
        "child = children.Child(program, pathlib.Path(sys.argv[1]))\n"
        "child.start()\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(300)\n"
    )
    argv = [sys.executable, "-c", script, str(tmp_path / "log")]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[3]) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.send_signal(signal.SIGKILL)
        parent.wait(10)
    poll_until(lambda: not _is_alive(pid), f"process {pid} is gone", timeout_seconds=10)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_child_that_ends_at_once_shows_its_log(tmp_path: Path) -> None:
    program = children.Program("liar", ["/bin/sh", "-c", "echo no such luck; exit 7"], lambda: False)
    child = children.Child(program, tmp_path / "log")
    with pytest.raises(children.ChildFailedError, match=r"(?s)exit code 7.*no such luck"):
        child.start()
    child.dispose()


def test_a_child_that_is_never_ready_is_given_up(tmp_path: Path) -> None:
    program = children.Program("idle", ["/bin/sleep", "60"], lambda: False, ready_seconds=0.2)
    child = children.Child(program, tmp_path / "log")
    begun = time.monotonic()
    with pytest.raises(children.ChildFailedError, match="not ready"):
        child.start()
    child.dispose()
    assert not child.running
    assert time.monotonic() - begun < 5
