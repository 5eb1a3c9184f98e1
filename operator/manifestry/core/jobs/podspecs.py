"""The batch/v1 Job that runs a Job: made from the JobType, never from what users may write into metadata.

Decisions, each with its reason:
- created with `suspend: true`: a batch Job may only run after the ledger says Admitted (quota-ledger.md T3).
- `backoffLimit` 0 unless asked for: batch/v1's default of 6 runs a failing job seven times.
- `podReplacementPolicy: Failed`: a replacement pod starts when the old one is gone: never two at once.
- no TTL: the operator sets one after it has written the terminal status, else the result could vanish unread.
- `blockOwnerDeletion: false`: `true` would need update on `jobs/finalizers` and let a foreground delete wait.
- labels are ours only; user labels and annotations are not copied, or Argo CD would prune the pods.
- restricted Pod Security, no service-account token unless the JobType names an account.
References: https://kubernetes.io/docs/concepts/security/pod-security-standards/; KEP-3939.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from manifestry.core.jobs import jobtypes, parameters
from manifestry.core.kube import bodies, names, traceparents

CONTAINER = "main"
TMP_VOLUME = "tmp"
_COPIED_TO_POD = ("nodeSelector", "tolerations", "imagePullSecrets")
_COPIED_TO_CONTAINER = ("imagePullPolicy", "workingDir")

Body = Mapping[str, Any]


def build(job: Body, job_type: Body, tenant: str) -> dict[str, Any]:
    """Return the suspended batch Job of a Job.

    Args:
        job: the Job's body; its spec has passed `jobtypes.validate_job`.
        job_type: the JobType's body.
        tenant: the tenant of the Job's namespace.

    Returns:
        A body for `create`; building it twice gives equal bodies, so AlreadyExists is no error.
    """
    metadata = job["metadata"]
    spec, labels = bodies.spec_of(job), _labels(job, tenant)
    return {
        "apiVersion": names.BATCH_JOBS.api_version,
        "kind": names.BATCH_JOBS.kind,
        "metadata": {
            "name": names.batch_job_name(metadata["name"], metadata["uid"]),
            "namespace": metadata["namespace"],
            "labels": labels,
            "ownerReferences": [_owner(metadata)],
        },
        "spec": _job_spec(jobtypes.effective(spec, job_type), _template(job, job_type, tenant, labels)),
    }


def _job_spec(effective: jobtypes.Effective, template: dict[str, Any]) -> dict[str, Any]:
    spec: dict[str, Any] = {
        "suspend": True,
        "parallelism": 1,
        "completions": 1,
        "backoffLimit": effective.backoff_limit,
        "podReplacementPolicy": "Failed",
        "template": template,
    }
    if effective.active_deadline_seconds is not None:
        spec["activeDeadlineSeconds"] = effective.active_deadline_seconds
    return spec


def _owner(metadata: Body) -> dict[str, Any]:
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.JOBS.kind,
        "name": metadata["name"],
        "uid": metadata["uid"],
        "controller": True,
        "blockOwnerDeletion": False,
    }


def _labels(job: Body, tenant: str) -> dict[str, str]:
    spec, metadata = bodies.spec_of(job), job["metadata"]
    labels = {
        names.JOB_UID_LABEL: metadata["uid"],
        names.JOB_NAME_LABEL: metadata["name"],
        names.JOB_TYPE_LABEL: str(spec.get("jobType")),
        names.TENANT_LABEL: tenant,
    }
    project = spec.get("project")
    return {**labels, names.PROJECT_LABEL: project} if isinstance(project, str) and project else labels


def _template(job: Body, job_type: Body, tenant: str, labels: dict[str, str]) -> dict[str, Any]:
    offered = bodies.spec_of(job_type)
    account = offered.get("serviceAccountName")
    pod: dict[str, Any] = {
        "restartPolicy": "Never",
        "enableServiceLinks": False,
        "automountServiceAccountToken": bool(account),
        "securityContext": _pod_security(offered),
        "containers": [_container(job, job_type, tenant)],
        "volumes": [{"name": TMP_VOLUME, "emptyDir": {}}],
    }
    if account:
        pod["serviceAccountName"] = account
    pod.update({field: offered[field] for field in _COPIED_TO_POD if offered.get(field)})
    return {"metadata": {"labels": dict(labels)}, "spec": pod}


def _pod_security(offered: Body) -> dict[str, Any]:
    context: dict[str, Any] = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    for field in ("runAsUser", "runAsGroup"):
        if isinstance(offered.get(field), int):
            context[field] = offered[field]
    return context


def _container(job: Body, job_type: Body, tenant: str) -> dict[str, Any]:
    offered, spec = bodies.spec_of(job_type), bodies.spec_of(job)
    overrides = spec.get("overrides") or {}
    container: dict[str, Any] = {
        "name": CONTAINER,
        "image": jobtypes.effective(spec, job_type).image,
        "env": _env(job, job_type, tenant),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [{"name": TMP_VOLUME, "mountPath": "/tmp"}],  # noqa: S108 - in the pod, not here
    }
    for field in ("command", "args", "resources"):
        chosen = overrides.get(field) or offered.get(field)
        if chosen:
            container[field] = chosen
    container.update({field: offered[field] for field in _COPIED_TO_CONTAINER if offered.get(field)})
    return container


def _env(job: Body, job_type: Body, tenant: str) -> list[dict[str, str]]:
    """Return our variables first, so that the JobType's may refer to them as `$(PARAM_X)`."""
    spec = bodies.spec_of(job)
    variables = dict(_own_env(job, job_type, tenant))
    for source in (bodies.spec_of(job_type), spec.get("overrides") or {}):
        for entry in _variables(source.get("env")):
            if not jobtypes.is_reserved_env(entry["name"]):
                variables[entry["name"]] = str(entry.get("value") or "")
    return [{"name": name, "value": value} for name, value in variables.items()]


def _variables(entries: Any) -> list[Body]:
    """Return the well-formed entries; a JobType's status says what is wrong with the others."""
    found = entries if isinstance(entries, list) else []
    return [entry for entry in found if isinstance(entry, Mapping) and isinstance(entry.get("name"), str)]


def _own_env(job: Body, job_type: Body, tenant: str) -> Iterator[tuple[str, str]]:
    spec, metadata = bodies.spec_of(job), job["metadata"]
    yield "MANIFESTRY_JOB", metadata["name"]
    yield "MANIFESTRY_TENANT", tenant
    yield "MANIFESTRY_PROJECT", str(spec.get("project") or "")
    traced = traceparents.parse(
        str((metadata.get("annotations") or {}).get(names.TRACEPARENT_ANNOTATION) or "")
    )
    if traced is not None:
        yield "TRACEPARENT", str(traced)
    for name, value in jobtypes.parameters_of(spec, job_type).items():
        yield jobtypes.env_name(name), _escape(parameters.encode(value))


def _escape(text: str) -> str:
    """Keep Kubernetes from expanding `$(NAME)` inside a user's value: `$$` becomes one `$` again."""
    return text.replace("$", "$$")
