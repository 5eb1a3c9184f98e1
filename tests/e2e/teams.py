"""A tenant on the installed product, with callers of each role."""

import uuid
from dataclasses import dataclass
from typing import Any

import urllib3

from tests.controlplane.clusterapi import ClusterApi
from tests.controlplane.tenants import Tenant
from tests.e2e.rest import Rest

NAMESPACE = "manifestry-system"
JOB_TYPES = "manifestry.dev/v1alpha1/jobtypes"
JOBS = "manifestry.dev/v1alpha1/jobs"
ARTIFACTS = "manifestry.dev/v1alpha1/artifacts"
QUOTAS = "manifestry.dev/v1alpha1/tenantquotas"
LEDGERS = "manifestry.dev/v1alpha1/quotaledgers"


KINDS = {JOB_TYPES: "JobType", JOBS: "Job", ARTIFACTS: "Artifact", QUOTAS: "TenantQuota"}


def body(resource: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    """Return a custom resource's body."""
    version = resource.rsplit("/", 1)[0]
    return {"apiVersion": version, "kind": KINDS[resource], "metadata": {"name": name}, "spec": spec}


def facade_url(cluster: ClusterApi) -> str:
    """Return the installed facade's address: its node port on the node's own address."""
    service = cluster.get("v1/services", "manifestry-api", NAMESPACE)
    (port,) = [p["nodePort"] for p in service["spec"]["ports"] if p["name"] == "http"]
    nodes = cluster.list("v1/nodes")
    (address,) = [a["address"] for a in nodes[0]["status"]["addresses"] if a["type"] == "InternalIP"]
    return f"http://{address}:{port}"


@dataclass(frozen=True)
class Team:
    """A tenant with a caller of each role."""

    tenant: Tenant
    cluster: ClusterApi
    facade_url: str
    patient: bool = False

    @property
    def namespace(self) -> str:
        """Return the tenant's namespace."""
        return self.tenant.namespace

    def caller(self, *roles: str, account: str | None = None) -> Rest:
        """Return a REST client of a new service account with these roles, by RoleBindings."""
        account = account or f"sa-{uuid.uuid4().hex[:6]}"
        token = self.cluster.token(self.namespace, account)
        for role in roles:
            self.cluster.create(
                "rbac.authorization.k8s.io/v1/rolebindings",
                {
                    "metadata": {"name": f"{account}-{role}"},
                    "roleRef": {
                        "apiGroup": "rbac.authorization.k8s.io",
                        "kind": "ClusterRole",
                        "name": f"manifestry-{role}",
                    },
                    "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": self.namespace}],
                },
                self.namespace,
            )
        headers = {
            "Authorization": f"Bearer {token}",
            "X-Actor": f"system:serviceaccount:{self.namespace}:{account}",
            "X-Tenant": self.tenant.name,
            "X-Roles": ",".join(roles),
            "X-Reason": "end-to-end test",
        }
        rest = Rest(self.facade_url, headers, patient=self.patient)
        _wait_until_granted(rest)
        return rest

    def limit(self, **limits: int) -> None:
        """Give the tenant a quota for every job type."""
        rows = [{"jobType": "*", **limits}]
        spec = {"tenants": [self.tenant.name], "jobs": rows}
        self.cluster.create(QUOTAS, body(QUOTAS, self.tenant.name, spec))

    def ready(self, job_type: str) -> None:
        """Wait until the ledger of a job type can take reservations."""
        self.cluster.wait_for(
            LEDGERS,
            job_type,
            self.namespace,
            lambda found: bool(found and found.get("status", {}).get("initializedTime")),
        )

    def job(self, name: str, job_type: str = "e2e-ok", **spec: Any) -> dict[str, Any]:
        """Return a Job's body."""
        made = body(JOBS, name, {"jobType": job_type, **spec})
        made["metadata"]["namespace"] = self.namespace
        return made


def _wait_until_granted(rest: Rest) -> None:
    # a RoleBinding reaches the facade by watch, a little after it was created
    retries = urllib3.Retry(total=40, status_forcelist=[403], backoff_factor=0.05, backoff_max=0.5)
    answer = rest.pool.request(
        "GET", f"{rest.base_url}/artifacts?limit=1", headers=rest.headers, retries=retries
    )
    assert answer.status == 200, answer.data
