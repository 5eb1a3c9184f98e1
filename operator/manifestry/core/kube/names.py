"""Every name that manifestry shares with the cluster: group, kinds, labels, annotations, derived names."""

import re
from dataclasses import dataclass

GROUP = "manifestry.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"

TENANT_LABEL = f"{GROUP}/tenant"
PROJECT_LABEL = f"{GROUP}/project"
JOB_UID_LABEL = f"{GROUP}/job-uid"
JOB_NAME_LABEL = f"{GROUP}/job"
JOB_TYPE_LABEL = f"{GROUP}/job-type"
PROTECTED_LABEL = f"{GROUP}/protected"

TRACEPARENT_ANNOTATION = f"{GROUP}/traceparent"
AUDIT_ID_ANNOTATION = f"{GROUP}/audit-id"
ACTOR_ANNOTATION = f"{GROUP}/actor"
REASON_ANNOTATION = f"{GROUP}/reason"
IDEMPOTENCY_ANNOTATION = f"{GROUP}/idempotency-digest"

FINALIZER = f"{GROUP}/artifact"
ROLE_PREFIX = "manifestry-"  # ClusterRoles manifestry-viewer ...
GROUP_PREFIX = "manifestry:"  # impersonated groups manifestry:viewer ...

NAME_MAX_LENGTH = 52  # batch/v1 labels cap at 63: name + '-' + 8 of uid + a little room
_DNS_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True)
class Resource:
    """One kind of the Kubernetes API.

    References: https://kubernetes.io/docs/reference/using-api/api-concepts/
    """

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        """Return the value of `apiVersion` in a body."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(
        self, namespace: str | None = None, name: str | None = None, subresource: str | None = None
    ) -> str:
        """Return the URL path of the collection or of one object; parts must already be DNS names."""
        root = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        scope = f"/namespaces/{namespace}" if namespace else ""
        tail = "".join(f"/{part}" for part in (name, subresource) if part)
        return f"{root}{scope}/{self.plural}{tail}"


ARTIFACTS = Resource(GROUP, VERSION, "artifacts", "Artifact")
JOBS = Resource(GROUP, VERSION, "jobs", "Job")
JOB_TYPES = Resource(GROUP, VERSION, "jobtypes", "JobType", namespaced=False)
TENANT_QUOTAS = Resource(GROUP, VERSION, "tenantquotas", "TenantQuota", namespaced=False)
QUOTA_LEDGERS = Resource(GROUP, VERSION, "quotaledgers", "QuotaLedger")
BATCH_JOBS = Resource("batch", "v1", "jobs", "Job")
PODS = Resource("", "v1", "pods", "Pod")
NAMESPACES = Resource("", "v1", "namespaces", "Namespace", namespaced=False)
SECRETS = Resource("", "v1", "secrets", "Secret")
CONFIG_MAPS = Resource("", "v1", "configmaps", "ConfigMap")
LEASES = Resource("coordination.k8s.io", "v1", "leases", "Lease")
EVENTS = Resource("events.k8s.io", "v1", "events", "Event")
ROLE_BINDINGS = Resource("rbac.authorization.k8s.io", "v1", "rolebindings", "RoleBinding")
CRDS = Resource(
    "apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", namespaced=False
)
VALIDATING_WEBHOOKS = Resource(
    "admissionregistration.k8s.io",
    "v1",
    "validatingwebhookconfigurations",
    "ValidatingWebhookConfiguration",
    False,
)
TOKEN_REVIEWS = Resource("authentication.k8s.io", "v1", "tokenreviews", "TokenReview", namespaced=False)


def is_dns_label(text: str, max_length: int = 63) -> bool:
    """Tell whether `text` is an RFC 1123 label of at most `max_length` characters."""
    return len(text) <= max_length and _DNS_LABEL.fullmatch(text) is not None


def is_digest(text: str) -> bool:
    """Tell whether `text` is a canonical lower-case `sha256:<hex>` digest."""
    return _DIGEST.fullmatch(text) is not None


def batch_job_name(name: str, uid: str) -> str:
    """Return the batch/v1 Job's name for a Job: deterministic, so that creating twice cannot run twice."""
    return f"{name}-{uid[:8]}"
