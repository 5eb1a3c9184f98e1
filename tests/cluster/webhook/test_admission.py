"""The admission webhook, called by a real kube-apiserver over TLS: kubectl's door has the same quota."""

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import pytest

from manifestry.core.kube import names
from tests.cluster import facade_requests as facades
from tests.controlplane.apirequests import ApiFailure
from tests.controlplane.audit import WriteFilter
from tests.controlplane.clusterapi import poll_until
from tests.controlplane.controlplane import ControlPlane
from tests.controlplane.plugin import StartFacade
from tests.controlplane.processes import FacadeProcess
from tests.controlplane.tenants import Tenant

LIMIT = 5


@pytest.fixture
def job_type(control_plane: ControlPlane, tenant: Tenant) -> Iterator[str]:
    """Give a job type with a limit of five for this tenant, and its ledger as the operator makes it."""
    name = f"render-{tenant.name}"
    spec = {"image": "registry.example/render:1"}
    control_plane.create(names.JOB_TYPES, {**_kind("JobType"), "metadata": {"name": name}, "spec": spec})
    limits = [{"jobType": name, "maxRunning": 2, "maxQueued": 3}]
    quota = {"tenants": [tenant.name], "jobs": limits}
    control_plane.create(
        names.TENANT_QUOTAS, {**_kind("TenantQuota"), "metadata": {"name": name}, "spec": quota}
    )
    ledger = {**_kind("QuotaLedger"), "metadata": {"name": name}, "spec": {"jobType": name}}
    control_plane.create(names.QUOTA_LEDGERS, ledger, tenant.namespace)
    initialise(control_plane, tenant, name)
    yield name
    control_plane.delete(names.JOB_TYPES, name)
    control_plane.delete(names.TENANT_QUOTAS, name)


def initialise(cp: ControlPlane, tenant: Tenant, name: str) -> None:
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    status = {"status": {"initializedTime": now, "holders": {}}}
    cp.patch(names.QUOTA_LEDGERS, name, status, tenant.namespace, subresource="status")


@pytest.fixture
def facade(control_plane: ControlPlane, start_facade: StartFacade) -> FacadeProcess:
    """Give a facade whose webhook the API server calls."""
    return start_facade(control_plane)


def _kind(kind: str) -> dict[str, str]:
    return {"apiVersion": names.API_VERSION, "kind": kind}


def job(job_type: str, name: str = "", **spec: Any) -> dict[str, Any]:
    metadata = {"name": name} if name else {"generateName": "burst-"}
    return {**_kind("Job"), "metadata": metadata, "spec": {"jobType": job_type, **spec}}


def create(cp: ControlPlane, tenant: Tenant, body: dict[str, Any], *, dry_run: bool = False) -> int:
    """Create a Job and return the status of the answer."""
    query = {"dryRun": "All"} if dry_run else None
    try:
        cp.create(names.JOBS, body, tenant.namespace, query=query)
    except ApiFailure as failure:
        return failure.status
    return 201


def wait_called(cp: ControlPlane, tenant: Tenant) -> None:
    """Wait until the API server asks the webhook."""
    poll_until(lambda: create(cp, tenant, job("absent"), dry_run=True) == 422, "the webhook is called")


def version(cp: ControlPlane, tenant: Tenant, name: str) -> str:
    return str(cp.get(names.QUOTA_LEDGERS, name, tenant.namespace)["metadata"]["resourceVersion"])


def test_fifty_creates_at_a_limit_of_five_accept_exactly_five(
    control_plane: ControlPlane, tenant: Tenant, job_type: str, facade: FacadeProcess
) -> None:
    wait_called(control_plane, tenant)
    with ThreadPoolExecutor(25) as pool:
        statuses = Counter(pool.map(lambda _: create(control_plane, tenant, job(job_type)), range(50)))
    assert statuses == {201: LIMIT, 429: 50 - LIMIT}
    assert len(control_plane.list(names.JOBS, tenant.namespace)) == LIMIT
    ledger = control_plane.get(names.QUOTA_LEDGERS, job_type, tenant.namespace)
    assert len(ledger["status"]["holders"]) == LIMIT

    refused = control_plane.kubectl(
        "create", "-n", tenant.namespace, "-f", "-", stdin=_yaml(job_type, "one-more"), check=False
    )
    assert refused.returncode != 0
    assert f'quota exceeded: tenant "{tenant.name}", job type "{job_type}"' in refused.stderr


def _yaml(job_type: str, name: str) -> str:
    return (
        f"apiVersion: {names.API_VERSION}\nkind: Job\nmetadata: {{name: {name}}}\n"
        f"spec: {{jobType: {job_type}}}\n"
    )


def test_refusals_and_dry_runs_charge_nothing(
    control_plane: ControlPlane, tenant: Tenant, job_type: str, facade: FacadeProcess
) -> None:
    wait_called(control_plane, tenant)
    before = version(control_plane, tenant, job_type)
    assert create(control_plane, tenant, job(job_type, "a"), dry_run=True) == 201
    assert create(control_plane, tenant, job("absent", "a")) == 422
    overriding = job(job_type, "a", overrides={"image": "registry.example/other:1"})
    assert create(control_plane, tenant, overriding) == 422
    assert version(control_plane, tenant, job_type) == before

    assert create(control_plane, tenant, job(job_type, "a")) == 201
    charged = version(control_plane, tenant, job_type)
    assert charged != before
    assert {create(control_plane, tenant, job(job_type, "a")) for _ in range(10)} == {409}
    assert version(control_plane, tenant, job_type) == charged


def test_the_cause_of_a_refusal_is_in_its_details(
    control_plane: ControlPlane, tenant: Tenant, job_type: str, facade: FacadeProcess
) -> None:
    wait_called(control_plane, tenant)
    for number in range(LIMIT):
        assert create(control_plane, tenant, job(job_type, f"j{number}")) == 201
    with pytest.raises(ApiFailure) as caught:
        control_plane.create(names.JOBS, job(job_type, "over"), tenant.namespace)
    causes = {cause["field"]: cause["message"] for cause in caught.value.details["causes"]}
    assert causes["tenant"] == tenant.name
    assert (causes["maxRunning"], causes["maxQueued"]) == ("2", "3")
    assert "retryAfterSeconds" not in caught.value.details


def test_a_ledger_that_is_not_initialised_asks_to_wait(
    control_plane: ControlPlane, tenant: Tenant, job_type: str, facade: FacadeProcess
) -> None:
    wait_called(control_plane, tenant)
    empty = {"status": {"initializedTime": None}}
    control_plane.patch(names.QUOTA_LEDGERS, job_type, empty, tenant.namespace, subresource="status")
    with pytest.raises(ApiFailure) as caught:
        control_plane.create(names.JOBS, job(job_type, "a"), tenant.namespace)
    assert (caught.value.status, caught.value.details["retryAfterSeconds"]) == (503, 1)
    initialise(control_plane, tenant, job_type)
    assert create(control_plane, tenant, job(job_type, "a")) == 201


def test_a_namespace_that_is_no_tenant_takes_no_jobs(
    control_plane: ControlPlane, tenant: Tenant, job_type: str, facade: FacadeProcess
) -> None:
    wait_called(control_plane, tenant)
    with pytest.raises(ApiFailure) as caught:
        control_plane.create(names.JOBS, job(job_type, "a"), "default")
    assert caught.value.status == 422
    assert names.TENANT_LABEL in caught.value.message


def test_a_webhook_that_is_down_fails_our_creates_and_nobody_elses(
    control_plane: ControlPlane, tenant: Tenant, job_type: str, facade: FacadeProcess, batch_job: Any
) -> None:
    wait_called(control_plane, tenant)
    facade.stop()
    assert create(control_plane, tenant, job(job_type, "a")) == 500
    control_plane.create("batch/v1/jobs", batch_job("theirs"), tenant.namespace)


def test_rest_has_the_same_quota_and_writes_in_the_callers_name(
    control_plane: ControlPlane, tenant: Tenant, job_type: str, facade: FacadeProcess
) -> None:
    wait_called(control_plane, tenant)
    actor = f"system:serviceaccount:{tenant.namespace}:ci"
    token = control_plane.token(tenant.namespace, "ci")
    facades.bind(control_plane, tenant.namespace, "operator", facades.account(tenant.namespace, "ci"))
    sent = facades.headers(token, actor, tenant.name, "operator")
    facades.until(lambda: facades.send(facade, "GET", "/job-types", sent), 200)
    mark = control_plane.audit_mark()

    def submit(_number: int) -> facades.Reply:
        return facades.send(facade, "POST", "/jobs", sent, {"jobType": job_type})

    with ThreadPoolExecutor(10) as pool:
        replies = list(pool.map(submit, range(20)))
    assert Counter(reply.status for reply in replies) == {202: LIMIT, 429: 20 - LIMIT}
    refused = next(reply for reply in replies if reply.status == 429)
    problem = refused.json()
    assert problem["code"] == "quota-exceeded"
    assert problem["usage"]["tenant"] == tenant.name
    assert (problem["usage"]["maxRunning"], problem["usage"]["maxQueued"]) == (2, 3)
    assert int(refused.headers["retry-after"]) > 0

    def created() -> bool:
        wanted = WriteFilter(resource="jobs.manifestry.dev", verb="create", code=201)
        writes = control_plane.writes(wanted, since=mark)
        return [write.impersonated for write in writes] == [actor] * LIMIT

    poll_until(created, "the API server's own audit log names the caller")
    made = [record for record in facades.records(facade) if record["verb"] == "create"]
    written = [record for record in made if record["requestURI"] == "/jobs"]
    assert Counter(record["responseStatus"]["code"] for record in written) == {202: LIMIT, 429: 20 - LIMIT}
    assert {record["user"]["username"] for record in written} == {actor}
    reviewed = [record for record in made if record["requestURI"] == "/admission/jobs"]
    ours = [record for record in reviewed if record["user"]["username"] == actor]
    assert Counter(record["responseStatus"]["code"] for record in ours) == {201: LIMIT, 429: 20 - LIMIT}
    of_request = {record["annotations"]["manifestry.dev/request-audit-id"] for record in ours}
    assert of_request == {record["auditID"] for record in written}
    assert "manifestry:operator" in ours[0]["user"]["groups"]
    assert len(reviewed) > len(ours)  # those that came by kubectl's door
