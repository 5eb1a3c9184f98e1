"""Bounded field types shared by the bodies; each refusal says what the field must be."""

import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, WithJsonSchema
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError

from manifestry.core.kube import names, selectors

LABEL_PATTERN = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
PROJECT_PATTERN = r"^[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$"
LABEL_VALUE_PATTERN = r"^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$"
MEDIA_TYPE_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]*/[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]*$"
DIGEST_PATTERN = r"^sha256:[0-9a-f]{64}$"
SAFE_INTEGER_MAX = (1 << 53) - 1  # what every JSON reader keeps exactly


class Body(BaseModel):
    """A request body: camelCase, nothing unknown, nothing converted."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, alias_generator=to_camel)


def must(holds: Callable[[str], bool], message: str) -> AfterValidator:
    """Return the validator that refuses with `must ...` where `holds` is false."""

    def check(value: str) -> str:
        if not holds(value):
            raise PydanticCustomError("must", "{text}", {"text": message})
        return value

    return AfterValidator(check)


def _text(pattern: str, max_length: int, example: str) -> WithJsonSchema:
    schema = {"type": "string", "pattern": pattern, "maxLength": max_length, "examples": [example]}
    return WithJsonSchema(schema)


def _matches(pattern: str, max_length: int) -> Callable[[str], bool]:
    compiled = re.compile(pattern.removeprefix("^").removesuffix("$"))
    return lambda value: len(value) <= max_length and compiled.fullmatch(value) is not None


Name = Annotated[
    str,
    must(
        lambda value: names.is_dns_label(value, names.NAME_MAX_LENGTH),
        f"must be a DNS label (RFC 1123) of at most {names.NAME_MAX_LENGTH} characters: lower-case letters, "
        "digits and '-', beginning and ending with a letter or digit",
    ),
    _text(LABEL_PATTERN, names.NAME_MAX_LENGTH, "report-2026"),
]
JobTypeName = Annotated[
    str,
    must(names.is_dns_label, "must be the name of a JobType: a DNS label of at most 63 characters"),
    _text(LABEL_PATTERN, 63, "render"),
]
Project = Annotated[
    str,
    must(
        _matches(PROJECT_PATTERN, 63),
        "must be like a label value: at most 63 letters, digits, '-', '_' or '.', "
        "beginning and ending with a letter or digit",
    ),
    _text(PROJECT_PATTERN, 63, "apollo"),
]
MediaType = Annotated[
    str,
    must(
        _matches(MEDIA_TYPE_PATTERN, 255),
        "must be a media type such as 'application/json', without parameters (RFC 6838)",
    ),
    _text(MEDIA_TYPE_PATTERN, 255, "application/json"),
]
Digest = Annotated[
    str,
    must(names.is_digest, "must be 'sha256:' and 64 lower-case hexadecimal digits"),
    _text(DIGEST_PATTERN, 71, f"sha256:{'0' * 64}"),
]
FileName = Annotated[
    str,
    must(
        _matches(r"^[^\x00-\x1f\x7f/\\]+$", 255),
        "must have 1 to 255 characters without '/', '\\' or control characters",
    ),
    _text(r"^[^\u0000-\u001f\u007f/\\]+$", 255, "report.pdf"),
]
LabelKey = Annotated[
    str,
    must(
        selectors.is_key,
        "must be a label's key: a name of at most 63 letters, digits, '-', '_' and '.', "
        "with or without a DNS subdomain and '/' before it",
    ),
    WithJsonSchema({"type": "string", "minLength": 1, "maxLength": selectors.KEY_MAX_LENGTH}),
]
LabelValue = Annotated[
    str,
    must(
        selectors.is_value,
        "must be a label's value: empty, or at most 63 letters, digits, '-', '_' and '.', "
        "beginning and ending with a letter or digit",
    ),
    _text(LABEL_VALUE_PATTERN, selectors.VALUE_MAX_LENGTH, "blue"),
]
SizeBytes = Annotated[int, Field(ge=0, le=SAFE_INTEGER_MAX)]


_MEDIA_TYPE = re.compile(MEDIA_TYPE_PATTERN[1:-1])


def safe_media_type(text: str) -> str:
    """Return a media type fit for a header, `application/octet-stream` for anything else."""
    return text if _MEDIA_TYPE.fullmatch(text) else "application/octet-stream"


def essence(content_type: str) -> str:
    """Return `type/subtype` of a Content-Type in lower case, without its parameters."""
    return content_type.partition(";")[0].strip().lower()


def inline_schema(model: type[BaseModel]) -> dict[str, Any]:
    """Return a model's JSON Schema without references, to stand in an OpenAPI request body as it is."""
    schema = model.model_json_schema(by_alias=True)
    definitions = schema.pop("$defs", {})
    return dict(_resolve(schema, definitions))


def _resolve(node: Any, definitions: Mapping[str, Any]) -> Any:
    if isinstance(node, Mapping):
        if "$ref" in node:
            rest = {key: value for key, value in node.items() if key != "$ref"}
            return {**_resolve(definitions[str(node["$ref"]).rpartition("/")[2]], definitions), **rest}
        return {key: _resolve(value, definitions) for key, value in node.items()}
    return [_resolve(value, definitions) for value in node] if isinstance(node, list) else node
