"""From a validated REST body to the Artifact that the facade creates in the caller's name."""

import base64
import binascii
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from manifestry.core import errors
from manifestry.core.artifacts import filelists
from manifestry.core.fetching import urls
from manifestry.core.kube import names, objects
from manifestry.core.kube.objects import Provenance

INLINE_MAX_BYTES = 64 << 10
SOURCES = ("inline", "upload", "object", "url", "configMapRef", "secretRef", "files")
SERVED_SOURCES = ("inline", "upload", "object", "url", "configMapRef", "files")
ARTIFACT_PREFIX = "artifact-"


def artifact(body: Mapping[str, Any], namespace: str, provenance: Provenance) -> dict[str, Any]:
    """Return the Artifact for a checked `POST /artifacts` body (`name` and `labels` are metadata)."""
    spec = {k: v for k, v in body.items() if k not in {"name", "labels"} and v is not None}
    metadata = objects.metadata(namespace, provenance, body.get("project"))
    if body.get("labels"):
        metadata["labels"] = {**body["labels"], **metadata.get("labels", {})}
    metadata |= objects.named(body.get("name"), body.get("project"), ARTIFACT_PREFIX)
    return objects.made(names.ARTIFACTS, metadata, spec)


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


def _decode(text: str, field: str, pointer: str) -> bytes:
    if field == "text":
        return text.encode()
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise errors.invalid(pointer, f"`{field}` must be base64 (RFC 4648 section 4)") from None
