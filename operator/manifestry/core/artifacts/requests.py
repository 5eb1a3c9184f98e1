"""From a validated REST body to the custom resource that the facade creates in the caller's name."""

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from manifestry.core import errors, filelists, names, urls
from manifestry.core import parameters as job_parameters

INLINE_MAX_BYTES = 64 << 10
SOURCES = ("inline", "upload", "object", "url", "configMapRef", "secretRef", "files")
SERVED_SOURCES = ("inline", "upload", "object", "url", "configMapRef", "files")
PARAMETER_MAX_LENGTH = 4096
GENERATED_SUFFIX_LENGTH = 5  # what the API server adds to generateName
ARTIFACT_PREFIX = "artifact-"
JOB_PREFIX = "job-"
_KEY_DIGEST_LENGTH = 16  # 64 bits: no two keys of a tenant meet
_OVERRIDE_FIELDS = ("image", "command", "args", "resources")
_JOB_FIELDS = ("project", "priority", "activeDeadlineSeconds", "backoffLimit", "ttlSecondsAfterFinished")


@dataclass(frozen=True)
class Provenance:
    """Who asked, why, and in which trace: it travels with the object as annotations."""

    actor: str
    reason: str
    audit_id: str
    traceparent: str

    def annotations(self) -> dict[str, str]:
        """Return the annotations, without empty ones."""
        wanted = {
            names.ACTOR_ANNOTATION: self.actor,
            names.REASON_ANNOTATION: self.reason,
            names.AUDIT_ID_ANNOTATION: self.audit_id,
            names.TRACEPARENT_ANNOTATION: self.traceparent,
        }
        return {key: value for key, value in wanted.items() if value}


def artifact(body: Mapping[str, Any], namespace: str, provenance: Provenance) -> dict[str, Any]:
    """Return the Artifact for a checked `POST /artifacts` body (`name` and `labels` are metadata)."""
    spec = {k: v for k, v in body.items() if k not in {"name", "labels"} and v is not None}
    metadata = _metadata(namespace, provenance, body.get("project"))
    if body.get("labels"):
        metadata["labels"] = {**body["labels"], **metadata.get("labels", {})}
    metadata |= _named(body.get("name"), body.get("project"), ARTIFACT_PREFIX)
    return _object(names.ARTIFACTS, metadata, spec)


def uploaded(body: Mapping[str, Any], digest: str, size_bytes: int, file: str = "") -> dict[str, Any]:
    """Return the merge patch that says which bytes were uploaded, if the Artifact is as it was read.

    Args:
        body: the Artifact.
        digest: of the bytes.
        size_bytes: their number.
        file: the name in `spec.files`, empty for an artifact without `files`.
    """
    upload = {"digest": digest, "sizeBytes": size_bytes}
    spec: dict[str, Any] = {"upload": upload}
    if file:
        spec = {"fileUploads": {file: upload}}
    return {"metadata": {"resourceVersion": body["metadata"]["resourceVersion"]}, "spec": spec}


def check_source(body: Mapping[str, Any]) -> str:
    """Return which source a `POST /artifacts` body has, its inline payloads compared with what it promises.

    Raises:
        Problem: none or several sources, one that is not served here, or a payload that does not fit.
    """
    found = _check_source(body, SOURCES, "")
    if found != "files":
        return found
    for field in ("digest", "sizeBytes"):
        if field in body:
            raise errors.invalid(
                f"/{field}", f"`{field}` must not be set together with `files`, but on each file"
            )
    for number, item in enumerate(body["files"]):
        if any(item["name"] == other["name"] for other in body["files"][:number]):
            raise errors.invalid(f"/files/{number}/name", "`name` must not be the name of two files")
        _check_source(item, SOURCES[:-1], f"/files/{number}")
    return found


def awaits_upload(spec: Mapping[str, Any]) -> bool:
    """Tell whether some bytes of an Artifact must still be uploaded."""
    holders = (spec, *filelists.merged(spec))
    return any("upload" in each and not (each["upload"] or {}).get("digest") for each in holders)


def _check_source(holder: Mapping[str, Any], sources: Sequence[str], pointer: str) -> str:
    present = [source for source in sources if source in holder]
    if len(present) != 1:
        listed = ", ".join(f"`{source}`" for source in sources)
        where = f"{pointer}/{present[1]}" if present else pointer
        raise errors.invalid(where, f"exactly one of {listed} must be set")
    source = present[0]
    if source not in SERVED_SOURCES:
        reason = "whoever may read the artifact could read the Secret; use kubectl, and label the Secret"
        raise errors.invalid(f"{pointer}/{source}", f"`{source}` must not be used over REST: {reason}")
    if source == "inline":
        check_expected(holder, inline_bytes(holder["inline"], f"{pointer}/inline"), pointer)
    if source == "url":
        try:
            urls.parse(holder["url"]["url"])
        except urls.UrlError as error:
            raise errors.invalid(f"{pointer}/url/url", str(error)) from None
    return source


def inline_bytes(inline: Mapping[str, Any], pointer: str = "/inline") -> bytes:
    """Return the payload of an `inline` source.

    Raises:
        Problem: validation-failed for bad base64, payload-too-large over INLINE_MAX_BYTES.
    """
    if (inline.get("text") is None) == (inline.get("data") is None):
        raise errors.invalid(pointer, "exactly one of `text` or `data` must be set")
    field = "text" if inline.get("text") is not None else "data"
    data = _decode(str(inline.get(field) or ""), field, f"{pointer}/{field}")
    if len(data) > INLINE_MAX_BYTES:
        message = (
            f"`inline` must not be over {INLINE_MAX_BYTES} bytes, it has {len(data)}; use `upload` instead"
        )
        raise errors.Problem(errors.PAYLOAD_TOO_LARGE, message, (errors.FieldError(pointer, message),))
    return data


def check_expected(body: Mapping[str, Any], data: bytes, pointer: str = "") -> None:
    """Compare `digest` and `sizeBytes` with the payload, before anything is created.

    Raises:
        Problem: digest-mismatch or validation-failed, naming the field.
    """
    if body.get("sizeBytes") is not None and body["sizeBytes"] != len(data):
        raise errors.invalid(
            f"{pointer}/sizeBytes", f"`sizeBytes` must be the payload's size, which is {len(data)} bytes"
        )
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    if body.get("digest") is not None and body["digest"] != digest:
        message = f"`digest` must be the payload's digest, which is {digest}"
        raise errors.Problem(
            errors.DIGEST_MISMATCH, message, (errors.FieldError(f"{pointer}/digest", message),)
        )


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
    raise already_exists(wanted.name)


def already_exists(name: str) -> errors.Problem:
    """Return the problem for a name that is taken."""
    message = f"`name` must not be the name of an existing object, '{name}' is"
    return errors.Problem(errors.ALREADY_EXISTS, message, (errors.FieldError("/name", message),))


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
    metadata = _metadata(namespace, provenance, body.get("project"))
    metadata |= _named(key.name if key else body.get("name"), body["jobType"], JOB_PREFIX)
    if key is not None:
        metadata["annotations"][names.IDEMPOTENCY_ANNOTATION] = key.annotation
    return _object(names.JOBS, metadata, _job_spec(body))


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


def _metadata(namespace: str, provenance: Provenance, project: str | None) -> dict[str, Any]:
    labels = {"labels": {names.PROJECT_LABEL: project}} if project else {}
    return {"namespace": namespace, "annotations": provenance.annotations(), **labels}


def _named(name: str | None, stem: str | None, default: str) -> dict[str, str]:
    if name:
        return {"name": name}
    room = names.NAME_MAX_LENGTH - GENERATED_SUFFIX_LENGTH - 1
    text = (stem or "").lower().replace("_", "-").replace(".", "-")[:room].strip("-")
    return {"generateName": f"{text}-" if names.is_dns_label(text) else default}


def _object(resource: names.Resource, metadata: dict[str, Any], spec: dict[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": resource.api_version,
        "kind": resource.kind,
        "metadata": metadata,
        "spec": spec,
    }


def _decode(text: str, field: str, pointer: str) -> bytes:
    if field == "text":
        return text.encode()
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise errors.invalid(pointer, f"`{field}` must be base64 (RFC 4648 section 4)") from None
