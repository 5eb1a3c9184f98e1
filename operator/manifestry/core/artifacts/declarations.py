"""An artifact's spec, read without trusting it: payloads with their sources, or one typed refusal."""

import base64
import binascii
import re
from collections.abc import Mapping
from typing import Any, Final, Literal

from manifestry.core.artifacts import filelists
from manifestry.core.artifacts.sources import (
    Inline,
    Object,
    Payload,
    Reference,
    RefusedError,
    Source,
    Upload,
    Url,
)
from manifestry.core.blobs import digests
from manifestry.core.kube import names

INLINE_MAX_BYTES: Final = 64 << 10
FILES_MAX_COUNT: Final = 64
UPLOAD_EXPIRES_SECONDS: Final = 86_400
UPLOAD_EXPIRES_MAX_SECONDS: Final = 2_592_000
KINDS: Final = ("inline", "upload", "object", "url", "configMapRef", "secretRef")
_SUBDOMAIN = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")


def parse(spec: object) -> tuple[Payload, ...]:
    """Return the payloads that a spec asks for; at least one.

    Raises:
        RefusedError: the spec is not one that the CRD's schema lets through, or it is too large.
    """
    spec = _mapping(spec, "spec")
    _text(spec, "mediaType", "spec")
    if "artifactType" in spec:
        _text(spec, "artifactType", "spec")
    if "files" not in spec:
        return (_payload(spec, "", "spec"),)
    files = filelists.merged(spec)
    if not isinstance(spec["files"], list) or not 1 <= len(files) <= FILES_MAX_COUNT:
        raise _invalid(f"`spec.files` must be a list of 1 to {FILES_MAX_COUNT} files")
    payloads = tuple(_file(item, f"spec.files[{number}]") for number, item in enumerate(files))
    if len({payload.name for payload in payloads}) != len(payloads):
        raise _invalid("`spec.files` must not have two files of one name")
    return payloads


def parse_subject(spec: object) -> str:
    """Return the name in `spec.subjectRef`, empty when there is none.

    Raises:
        RefusedError: it is not an Artifact's name.
    """
    spec = _mapping(spec, "spec")
    if "subjectRef" not in spec:
        return ""
    name = _text(_mapping(spec["subjectRef"], "spec.subjectRef"), "name", "spec.subjectRef")
    if not names.is_dns_label(name, names.NAME_MAX_LENGTH):
        raise _invalid("`spec.subjectRef.name` must be a DNS label")
    return name


def _file(item: object, where: str) -> Payload:
    item = _mapping(item, where)
    return _payload(item, _text(item, "name", where), where)


def _payload(holder: Mapping[str, Any], name: str, where: str) -> Payload:
    given = [kind for kind in KINDS if kind in holder]
    if len(given) != 1:
        raise _invalid(f"`{where}` must have exactly one of {', '.join(f'`{kind}`' for kind in KINDS)}")
    source = _source(given[0], _mapping(holder[given[0]], f"{where}.{given[0]}"), f"{where}.{given[0]}")
    return Payload(
        name,
        _text(holder, "mediaType", where),
        source,
        _digest(holder, "digest", where) if "digest" in holder else None,
        _count(holder, "sizeBytes", where) if "sizeBytes" in holder else None,
    )


def _source(kind: str, value: Mapping[str, Any], where: str) -> Source:
    match kind:
        case "inline":
            return Inline(_inline(value, where))
        case "upload":
            return _upload(value, where)
        case "object":
            return Object(_digest(value, "digest", where))
        case "url":
            return Url(_text(value, "url", where))
        case _:
            return _reference("ConfigMap" if kind == "configMapRef" else "Secret", value, where)


def _reference(kind: Literal["ConfigMap", "Secret"], value: Mapping[str, Any], where: str) -> Reference:
    name = _text(value, "name", where)
    if _SUBDOMAIN.fullmatch(name) is None:  # it becomes a part of a URL's path
        raise _invalid(f"`{where}.name` must be a DNS subdomain")
    return Reference(kind, name, _text(value, "key", where))


def _inline(value: Mapping[str, Any], where: str) -> bytes:
    if ("text" in value) == ("data" in value):
        raise _invalid(f"`{where}` must have exactly one of `text` or `data`")
    if "text" in value:
        data = _utf8(_string(value, "text", where), f"{where}.text")
    else:
        data = _base64(_string(value, "data", where), f"{where}.data")
    if len(data) > INLINE_MAX_BYTES:
        raise RefusedError("TooLarge", f"`{where}` must not be more than {INLINE_MAX_BYTES} bytes")
    return data


def _upload(value: Mapping[str, Any], where: str) -> Upload:
    if ("digest" in value) != ("sizeBytes" in value):
        raise _invalid(f"`{where}.digest` and `{where}.sizeBytes` must be set together")
    digest = _digest(value, "digest", where) if "digest" in value else None
    size_bytes = _count(value, "sizeBytes", where) if "sizeBytes" in value else None
    seconds = UPLOAD_EXPIRES_SECONDS
    if "expiresAfterSeconds" in value:
        seconds = min(_count(value, "expiresAfterSeconds", where), UPLOAD_EXPIRES_MAX_SECONDS)
    return Upload(digest, size_bytes, seconds)


def _utf8(text: str, where: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise _invalid(f"`{where}` must be Unicode text") from None


def _base64(text: str, where: str) -> bytes:
    try:  # the API server lets line breaks through, as Go's decoder does
        return base64.b64decode(text.replace("\n", "").replace("\r", ""), validate=True)
    except (binascii.Error, ValueError):
        raise _invalid(f"`{where}` must be base64") from None


def _mapping(value: object, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise _invalid(f"`{where}` must be an object")
    return value


def _string(holder: Mapping[str, Any], name: str, where: str) -> str:
    value = holder.get(name)
    if not isinstance(value, str):
        raise _invalid(f"`{where}.{name}` must be a string")
    return value


def _text(holder: Mapping[str, Any], name: str, where: str) -> str:
    value = _string(holder, name, where)
    if not value:
        raise _invalid(f"`{where}.{name}` must not be empty")
    return value


def _digest(holder: Mapping[str, Any], name: str, where: str) -> str:
    try:
        return digests.parse(holder.get(name))
    except digests.DigestError as error:
        raise _invalid(f"`{where}.{name}`: {error}") from None


def _count(holder: Mapping[str, Any], name: str, where: str) -> int:
    value = holder.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise _invalid(f"`{where}.{name}` must be a whole number, not below 0")
    return value


def _invalid(message: str) -> RefusedError:
    return RefusedError("InvalidSource", message)
