"""From a validated REST body to the Job that the facade creates in the caller's name."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from manifestry.core import errors
from manifestry.core.jobs import parameters as job_parameters
from manifestry.core.kube import names, objects
from manifestry.core.kube.objects import Provenance

PARAMETER_MAX_LENGTH = 4096
JOB_PREFIX = "job-"
_KEY_DIGEST_LENGTH = 16  # 64 bits: no two keys of a tenant meet
_OVERRIDE_FIELDS = ("image", "command", "args", "resources")
_JOB_FIELDS = ("project", "priority", "activeDeadlineSeconds", "backoffLimit", "ttlSecondsAfterFinished")


@dataclass(frozen=True)
class Idempotency:
    """What an `Idempotency-Key` becomes.

    Args:
        name: the Job's name, the same for every replay, whichever facade answers.
        key_digest: of the actor and the key.
        request_digest: of the body, to tell a replay from another request under the same key.
    """

    name: str
    key_digest: str
    request_digest: str

    @property
    def annotation(self) -> str:
        """Return what the Job remembers."""
        return f"{self.key_digest}.{self.request_digest}"


def idempotency(body: Mapping[str, Any], key: str, actor: str) -> Idempotency:
    """Return the deterministic name and the digests; keys of different actors never meet.

    The name comes from the key alone, so that the API server's own uniqueness decides between two replays,
    and the same key with another job type is found out too. A name of the client's own is kept.
    References: draft-ietf-httpapi-idempotency-key-header section 2.
    """
    key_digest = hashlib.sha256(f"{actor}\0{key}".encode()).hexdigest()[:_KEY_DIGEST_LENGTH]
    name = str(body.get("name") or f"{JOB_PREFIX}{key_digest}")
    return Idempotency(name, key_digest, body_digest(body))


def is_replay(existing: Mapping[str, Any], wanted: Idempotency) -> bool:
    """Tell whether the Job that has the name was made by the same request.

    Raises:
        Problem: validation-failed when the key came with another body, already-exists when the name belongs
            to a Job that this key did not make.
    """
    found = ((existing.get("metadata") or {}).get("annotations") or {}).get(names.IDEMPOTENCY_ANNOTATION, "")
    if found == wanted.annotation:
        return True
    if found.partition(".")[0] == wanted.key_digest:
        raise errors.invalid("", "`Idempotency-Key` must not be used again with another request")
    raise errors.already_exists(wanted.name)


def body_digest(body: Mapping[str, Any]) -> str:
    """Return the hex digest that is equal for equal JSON values, whatever their member order."""
    text = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def job(
    body: Mapping[str, Any], namespace: str, provenance: Provenance, key: Idempotency | None = None
) -> dict[str, Any]:
    """Return the Job for a checked `POST /jobs` body.

    Raises:
        Problem: validation-failed for a parameter whose text is too long.
    """
    metadata = objects.metadata(namespace, provenance, body.get("project"))
    metadata |= objects.named(key.name if key else body.get("name"), body["jobType"], JOB_PREFIX)
    if key is not None:
        metadata["annotations"][names.IDEMPOTENCY_ANNOTATION] = key.annotation
    return objects.made(names.JOBS, metadata, _job_spec(body))


def rest_pointer(pointer: str, spec: Mapping[str, Any]) -> str:
    """Return where the REST body has what `pointer` names in the custom resource.

    `spec` and `metadata` are one level in REST, and lists of named values are objects there.
    """
    parts = [part for part in pointer.split("/")[1:] if part not in {"spec", "metadata"}]
    for path in (["parameters"], ["overrides", "env"]):
        if parts[: len(path)] == path and len(parts) > len(path) and parts[len(path)].isdecimal():
            parts = [*path, *_item_name(spec, path, int(parts[len(path)]))]
    return "".join(f"/{part}" for part in parts)


def _item_name(spec: Mapping[str, Any], path: list[str], index: int) -> list[str]:
    found: Any = spec
    for part in path:
        found = found.get(part) or {}
    return [str(found[index]["name"])] if isinstance(found, list) and index < len(found) else []


def _job_spec(body: Mapping[str, Any]) -> dict[str, Any]:
    spec: dict[str, Any] = {"jobType": body["jobType"]}
    spec |= {field: body[field] for field in (*_JOB_FIELDS, "desiredState") if body.get(field) is not None}
    if body.get("parameters"):
        spec["parameters"] = _parameters(body["parameters"])
    overrides = _overrides(body.get("overrides") or {})
    return {**spec, "overrides": overrides} if overrides else spec


def _parameters(wanted: Mapping[str, Any]) -> list[dict[str, str]]:
    found = job_parameters.from_object(wanted)
    for each in found:
        if len(each["value"]) > PARAMETER_MAX_LENGTH:
            name = each["name"]
            raise errors.invalid(
                f"/parameters/{name}", f"`{name}` must not be over {PARAMETER_MAX_LENGTH} characters as text"
            )
    return found


def _overrides(wanted: Mapping[str, Any]) -> dict[str, Any]:
    found = {field: wanted[field] for field in _OVERRIDE_FIELDS if wanted.get(field) is not None}
    if wanted.get("env") is not None:
        found["env"] = [{"name": name, "value": value} for name, value in wanted["env"].items()]
    return found
