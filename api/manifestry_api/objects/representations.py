"""Custom resources as REST shows them: pure, camelCase, absent fields left out.

The models in `views` say the same for the OpenAPI document; a test holds the two together.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from manifestry.core.artifacts import changes, filelists, requests
from manifestry.core.blobs import garbage as collection
from manifestry.core.http import etags
from manifestry.core.jobs import parameters, statuses
from manifestry.core.kube import conditions, names
from manifestry.core.quota import positions
from manifestry.core.quota.storage.retained import Retained

Object = Mapping[str, Any]

AWAITING_UPLOAD, PENDING, READY, FAILED = "awaiting-upload", "pending", "ready", "failed"
_ARTIFACT_FIELDS = (
    "mediaType",
    "artifactType",
    "fileName",
    "annotations",
    "deletionPolicy",
    "subjectRef",
    "derivedFromRefs",
)
_JOB_SPEC_FIELDS = (
    "overrides",
    "activeDeadlineSeconds",
    "backoffLimit",
    "ttlSecondsAfterFinished",
)
_JOB_STATUS_FIELDS = ("podName", "effective", "outputs", "logs")
_JOB_TYPE_FIELDS = (
    "image",
    "command",
    "args",
    "resources",
    "parametersSchema",
    "allowedOverrides",
    "backoffLimit",
    "activeDeadlineSeconds",
    "ttlSecondsAfterFinished",
    "queueName",
)


def artifact_status(body: Object) -> str:
    """Return one word for an Artifact: awaiting-upload, pending, ready or failed."""
    found = _status(body).get("conditions")
    if conditions.is_status(found, "Ready", "True"):
        return READY
    if conditions.is_status(found, "Stalled", "True"):
        return FAILED
    return AWAITING_UPLOAD if requests.awaits_upload(_spec(body)) else PENDING


def is_settled(body: Object) -> bool:
    """Tell whether the operator has come to an end with an Artifact, for now."""
    return artifact_status(body) in {READY, FAILED}


def is_observed(body: Object) -> bool:
    """Tell whether the operator has seen an Artifact's spec as it is now."""
    generation = _metadata(body).get("generation")
    return generation is not None and bool(_status(body).get("observedGeneration") == generation)


def source(body: Object) -> str:
    """Return which source an Artifact has."""
    return next((name for name in requests.SOURCES if name in _spec(body)), "")


def not_ready_reason(body: Object) -> str:
    """Return why an Artifact is not ready, as the end of a sentence; empty when nothing is known."""
    condition = conditions.find(_status(body).get("conditions"), "Ready") or {}
    parts = [str(condition[key]) for key in ("reason", "message") if condition.get(key)]
    return f" ({': '.join(parts)})" if parts else ""


def artifact_summary(body: Object, tenant: str) -> dict[str, Any]:
    """Return an Artifact as lists show it."""
    spec, status = _spec(body), _status(body)
    return _present(
        **_common(body, tenant, artifact_status(body)),
        **{field: spec.get(field) for field in _ARTIFACT_FIELDS},
        labels=changes.labels(body) or None,
        source=source(body),
        digest=(status.get("artifact") or {}).get("digest"),
        sizeBytes=(status.get("artifact") or {}).get("sizeBytes"),
        manifest=_pointer(status.get("manifest")),
        links=artifact_links(_metadata(body).get("name", ""), has_content="files" not in spec),
    )


def artifact(body: Object, tenant: str) -> dict[str, Any]:
    """Return an Artifact in full."""
    status = _status(body)
    return artifact_summary(body, tenant) | _present(
        expected=_present(digest=_spec(body).get("digest"), sizeBytes=_spec(body).get("sizeBytes")) or None,
        storedAt=(status.get("artifact") or {}).get("storedTime"),
        verifiedAt=status.get("lastVerifiedTime"),
        files=_files(body),
        conditions=_conditions(status),
    )


def artifact_links(name: str, *, has_content: bool = True) -> dict[str, str]:
    """Return where an Artifact and its parts are; with `files`, each file has its own content."""
    path = f"/artifacts/{name}"
    content = {"content": f"{path}/content"} if has_content else {}
    return {"self": path, **content, "manifest": f"{path}/manifest"}


def _files(body: Object) -> list[dict[str, Any]] | None:
    wanted, name = filelists.merged(_spec(body)), _metadata(body).get("name", "")
    stored = {each["name"]: each for each in _status(body).get("files") or ()}
    return [
        _present(
            name=each["name"],
            mediaType=each.get("mediaType"),
            source=next((kind for kind in requests.SOURCES if kind in each), ""),
            status=_file_status(body, each),
            digest=stored.get(each["name"], {}).get("digest"),
            sizeBytes=stored.get(each["name"], {}).get("sizeBytes"),
            expected=_present(digest=each.get("digest"), sizeBytes=each.get("sizeBytes")) or None,
            links={"content": f"/artifacts/{name}/files/{each['name']}/content"},
        )
        for each in wanted
    ] or None


def _file_status(body: Object, file: Object) -> str:
    whole = artifact_status(body)
    return PENDING if whole == AWAITING_UPLOAD and not requests.awaits_upload(file) else whole


def job_summary(body: Object, tenant: str) -> dict[str, Any]:
    """Return a Job as lists show it."""
    spec, status = _spec(body), _status(body)
    return _present(
        **_common(body, tenant, statuses.rest_status(body)),
        jobType=spec.get("jobType"),
        priority=spec.get("priority"),
        queuedAt=status.get("queuedTime"),
        startedAt=status.get("startTime"),
        completedAt=status.get("completionTime"),
        attempts=status.get("attempts"),
        exitCode=status.get("exitCode"),
        **_summary_condition(status, "Succeeded"),
        links=job_links(_metadata(body).get("name", "")),
    )


def job(body: Object, tenant: str, job_type: Object | None = None) -> dict[str, Any]:
    """Return a Job in full.

    Args:
        body: the Job.
        tenant: its tenant's name.
        job_type: says of which types the parameters are; without it they are the texts that the pod gets.
    """
    spec, status = _spec(body), _status(body)
    return job_summary(body, tenant) | _present(
        desiredState=spec.get("desiredState", "Active"),
        parameters=_parameters(spec, job_type),
        **{field: spec.get(field) for field in _JOB_SPEC_FIELDS},
        **{field: status.get(field) for field in _JOB_STATUS_FIELDS},
        conditions=_conditions(status),
    )


def job_links(name: str) -> dict[str, str]:
    """Return where a Job, its log and its controls are."""
    path = f"/jobs/{name}"
    verbs = {verb: f"{path}/{verb}" for verb in ("logs", "cancel", "suspend", "resume")}
    return {"self": path, **verbs}


def job_type(body: Object) -> dict[str, Any]:
    """Return a JobType: what may be asked of it; its environment stays with the platform team."""
    name = _metadata(body).get("name", "")
    status = _status(body)
    found = status.get("conditions")
    stalled = conditions.is_status(found, "Stalled", "True")
    return _present(
        id=name,
        status=FAILED if stalled else READY if conditions.is_status(found, "Ready", "True") else PENDING,
        createdAt=_metadata(body).get("creationTimestamp"),
        resourceVersion=_metadata(body).get("resourceVersion"),
        **{field: _spec(body).get(field) for field in _JOB_TYPE_FIELDS},
        conditions=_conditions(status),
        links={"self": f"/job-types/{name}", "quota": f"/quotas/{name}", "queue": f"/quotas/{name}/queue"},
    )


def queue_position(waiting: positions.Waiting) -> dict[str, Any]:
    """Return one waiting Job of a queue."""
    holder = waiting.holder
    return {
        "position": waiting.position,
        "jobId": holder.name,
        "priority": holder.priority,
        "queuedAt": holder.since.isoformat().replace("+00:00", "Z"),
        "links": job_links(holder.name),
    }


def garbage(blob: collection.Blob, verdict: collection.Verdict) -> dict[str, Any]:
    """Return a stored blob, and what the collector will do with it and why."""
    return _present(
        digest=blob.digest,
        sizeBytes=blob.size_bytes,
        modifiedAt=_time(blob.modified),
        verdict=verdict.action,
        reason=verdict.reason,
        message=collection.describe(verdict),
        until=_time(verdict.until) if verdict.until else None,
        referrers=list(verdict.referrers) or None,
    )


def damaged(aside: collection.Blob) -> dict[str, Any]:
    """Return bytes that were set aside, at the time of their last change."""
    return {
        "digest": aside.digest,
        "sizeBytes": aside.size_bytes,
        "since": _time(aside.modified),
        "until": _time(aside.modified + collection.QUARANTINE),
        "reason": "DigestMismatch",
    }


def gone_tenant(uid: str, since: datetime, grace: timedelta) -> dict[str, Any]:
    """Return a tenant whose namespace is gone, and from when on its bytes are garbage."""
    return {"tenantUid": uid, "goneSince": _time(since), "garbageFrom": _time(since + grace)}


def _time(when: datetime) -> str:
    return when.isoformat(timespec="seconds").replace("+00:00", "Z")


def page(items: Sequence[Object], token: str | None) -> dict[str, Any]:
    """Return one page of a list; `continue` is absent on the last one."""
    return _present(**{"items": list(items), "continue": token})


def retained(found: Retained, tenant: str, namespace_uid: str) -> dict[str, Any]:
    """Return what is retained of one deleted artifact."""
    return _present(
        id=found.artifact_uid,
        name=found.name or None,
        tenant=tenant,
        namespaceUid=namespace_uid,
        digests=list(found.digests),
        sizeBytes=found.size_bytes,
        since=_time(found.since),
        damaged=found.is_damaged or None,
    )


def etag(body: Object) -> str:
    """Return an object's strong entity tag: it changes with every write in Kubernetes."""
    return etags.strong(f"{_metadata(body).get('uid', '')}.{_metadata(body).get('resourceVersion', '')}")


def job_etag(body: Object, job_type: Object | None) -> str:
    """Return a Job's strong entity tag: the types of its parameters come from another object."""
    decoded = _parameters(_spec(body), job_type)
    if not decoded:
        return etag(body)
    digest = hashlib.sha256(json.dumps(decoded, sort_keys=True).encode()).hexdigest()[:12]
    return etags.strong(f"{etag(body)[1:-1]}.{digest}")


def is_deleting(body: Object) -> bool:
    """Tell whether the object is being deleted: to REST it is gone already."""
    return bool(_metadata(body).get("deletionTimestamp"))


def _common(body: Object, tenant: str, status: str) -> dict[str, Any]:
    metadata = _metadata(body)
    found = metadata.get("annotations") or {}
    return {
        "id": metadata.get("name"),
        "tenant": tenant,
        "project": _spec(body).get("project"),
        "status": status,
        "createdAt": metadata.get("creationTimestamp"),
        "createdBy": found.get(names.ACTOR_ANNOTATION),
        "resourceVersion": metadata.get("resourceVersion"),
    }


def _parameters(spec: Object, job_type: Object | None) -> dict[str, Any]:
    schema = _spec(job_type or {}).get("parametersSchema")
    if schema is None:
        return {each["name"]: each["value"] for each in spec.get("parameters") or ()}
    return parameters.to_object(spec.get("parameters"), schema)


def _summary_condition(status: Object, kind: str) -> dict[str, Any]:
    condition = conditions.find(status.get("conditions"), kind) or {}
    return {"reason": condition.get("reason"), "message": condition.get("message") or None}


def _conditions(status: Object) -> list[dict[str, Any]]:
    found: Iterable[Any] = status.get("conditions") or ()
    fields = ("type", "status", "reason", "message", "lastTransitionTime")
    return [{field: each.get(field, "") for field in fields} for each in found if isinstance(each, Mapping)]


def _pointer(manifest: Object | None) -> dict[str, Any] | None:
    return {key: manifest[key] for key in ("digest", "sizeBytes") if key in manifest} if manifest else None


def _present(**members: Any) -> dict[str, Any]:
    return {key: value for key, value in members.items() if value is not None}


def _metadata(body: Object) -> Object:
    return body.get("metadata") or {}


def _spec(body: Object) -> Object:
    return body.get("spec") or {}


def _status(body: Object) -> Object:
    return body.get("status") or {}
