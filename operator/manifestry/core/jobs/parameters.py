"""A Job's parameters against the JobType's JSON Schema, without letting either side spend our time.

A schema comes from the platform team, values from users. Both are bounded: size, depth, steps, number of
errors; patterns run in a linear-time engine, because Python's backtracking one can be stalled by a value.
References: JSON Schema draft 2020-12; CRD JobType `spec.parametersSchema`, Job `spec.parameters`.
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from functools import lru_cache
from typing import Any

import jsonschema
import referencing
import referencing.exceptions
from jsonschema import validators
from pydantic_core import SchemaError, SchemaValidator, ValidationError, core_schema

from manifestry.core.errors import FieldError

MAX_SCHEMA_BYTES = 64 * 1024
MAX_DEPTH = 32
MAX_ERRORS = 16
MAX_STEPS = 20_000  # keywords evaluated for one Job; an honest schema needs some hundred
MAX_MESSAGE_LENGTH = 256
MAX_INDEX_DIGITS = 9
DIALECT = "https://json-schema.org/draft/2020-12/schema"
_UNSAFE = ("patternProperties",)  # jsonschema runs it in Python's own regular expressions
_REFERENCES = ("$ref", "$dynamicRef")
_MAPS_OF_SCHEMAS = ("properties", "$defs", "dependentSchemas", "definitions")
_SURROGATE = "\\ud"
_DATA = ("const", "enum", "default", "examples")

_steps_left: ContextVar[int] = ContextVar("steps_left", default=MAX_STEPS)

Keyword = Callable[[Any, Any, Any, Any], Iterator[jsonschema.ValidationError]]


class _OverBudgetError(Exception):
    """The schema asks for more steps than one Job may cost."""


def check_schema(schema: Any) -> tuple[str, ...]:
    """Return what is wrong with a `parametersSchema`, in sentences; empty means it can be used."""
    if schema is None:
        return ()
    if not isinstance(schema, Mapping):
        return ("`parametersSchema` must be an object",)
    if depth(schema) > MAX_DEPTH:
        return (f"`parametersSchema` must not be nested deeper than {MAX_DEPTH}",)
    text = json.dumps(schema)
    if len(text) > MAX_SCHEMA_BYTES:
        return (f"`parametersSchema` must not be longer than {MAX_SCHEMA_BYTES} bytes",)
    return _faults_of(text)


@lru_cache(maxsize=256)
def _faults_of(text: str) -> tuple[str, ...]:
    """Remember the answer by the schema's text: it is asked for at every Job, and costs milliseconds."""
    return tuple(_schema_faults(json.loads(text)))[:MAX_ERRORS]


def _schema_faults(schema: Mapping[str, Any]) -> Iterator[str]:
    if schema.get("$schema", DIALECT) not in (DIALECT, DIALECT + "#"):  # not a set: it may be no text
        yield f"`$schema` must be '{DIALECT}'"
        return
    if schema.get("type", "object") != "object":
        yield "`type` must be 'object': the parameters are an object"
    errors = jsonschema.Draft202012Validator(jsonschema.Draft202012Validator.META_SCHEMA).iter_errors(schema)
    for error in errors:
        yield f"`{error.json_path}` is not valid: {_short(error.message)}"
    for node in _subschemas(schema):
        yield from _node_faults(node, schema)


def _node_faults(node: Mapping[str, Any], root: Mapping[str, Any]) -> Iterator[str]:
    for keyword in _REFERENCES:
        target = node.get(keyword)
        if isinstance(target, str) and not target.startswith("#"):
            yield f"`{keyword}` must begin with '#': '{_short(target)}' is not in this schema"
        elif isinstance(target, str) and target.startswith("#/") and _local(root, target) is None:
            yield f"`{keyword}` must name a part of this schema: '{_short(target)}' is not there"
    for keyword in _UNSAFE:
        if keyword in node:
            yield f"`{keyword}` must not be used: name each parameter in `properties`"
    pattern = node.get("pattern")
    if isinstance(pattern, str) and _matcher(pattern) is None:
        yield f"`pattern` must be an RE2 expression without look-around: '{_short(pattern)}'"


def _subschemas(node: Any) -> Iterator[Mapping[str, Any]]:
    """Yield each schema object; values of `const`, `enum` and the like are data, property names are names."""
    if isinstance(node, list):
        for item in node:
            yield from _subschemas(item)
    elif isinstance(node, Mapping):
        yield node
        for key, value in node.items():
            if key in _MAPS_OF_SCHEMAS and isinstance(value, Mapping):
                yield from _subschemas(list(value.values()))
            elif key not in _DATA:
                yield from _subschemas(value)


def to_object(items: Any, schema: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the parameters as the JSON object that the schema describes.

    Args:
        items: `spec.parameters`: a list of {name, value}; entries of another shape are left out.
        schema: decides what is text: a value is read as JSON unless its property is a string.
    """
    decoded = {}
    for item in items if isinstance(items, Sequence) and not isinstance(items, str) else ():
        if isinstance(item, Mapping) and isinstance(item.get("name"), str):
            name = item["name"]
            decoded[name] = decode(str(item.get("value", "")), property_types(schema or {}, name))
    return decoded


def from_object(parameters: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return `spec.parameters` for a JSON object: text as it is, anything else as its JSON text."""
    return [{"name": name, "value": encode(value)} for name, value in parameters.items()]


def encode(value: Any) -> str:
    """Return a parameter's text in the custom resource."""
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"), allow_nan=False)


def decode(text: str, types: frozenset[str] | None) -> Any:
    """Return the value of a parameter's text.

    Args:
        text: as it stands in the custom resource.
        types: JSON Schema types of the property; None where the schema does not say.
    """
    if types == frozenset({"string"}):
        return text
    try:
        value = json.loads(text, parse_constant=_refuse_constant, parse_float=_finite)
        if _SURROGATE in text.lower():
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError):  # also UnicodeEncodeError: half of a character is no text
        return text
    return text if types and "string" in types and not _type_of(value) & types else value


def property_types(schema: Mapping[str, Any], name: str) -> frozenset[str] | None:
    """Return the JSON types that a schema allows for a property, None when it does not say."""
    properties = schema.get("properties")
    node = properties.get(name) if isinstance(properties, Mapping) else None
    for _ in range(8):
        if not isinstance(node, Mapping) or not isinstance(node.get("$ref"), str) or "type" in node:
            break
        node = _local(schema, node["$ref"])
    return _declared_types(node) if isinstance(node, Mapping) else None


def _declared_types(node: Mapping[str, Any]) -> frozenset[str] | None:
    declared = node.get("type")
    if isinstance(declared, str):
        return frozenset({declared})
    if isinstance(declared, list):
        return frozenset(item for item in declared if isinstance(item, str))
    values = [node["const"]] if "const" in node else node.get("enum")
    if isinstance(values, list) and values and all(isinstance(value, str) for value in values):
        return frozenset({"string"})
    return None


def validate(parameters: Mapping[str, Any], schema: Mapping[str, Any] | None) -> tuple[FieldError, ...]:
    """Check parameters against a schema that `check_schema` has passed.

    Args:
        parameters: the decoded object.
        schema: None means that there may be no parameters.

    Returns:
        At most MAX_ERRORS errors with pointers below `/spec/parameters`; empty means valid.
    """
    if schema is None:
        return tuple(_no_schema_errors(parameters))[:MAX_ERRORS]
    if any(depth(value) > MAX_DEPTH for value in parameters.values()):
        return (FieldError("/spec/parameters", f"`parameters` must not be nested deeper than {MAX_DEPTH}"),)
    token = _steps_left.set(MAX_STEPS)
    try:
        return tuple(_errors(dict(parameters), schema))
    except _OverBudgetError:
        return (FieldError("/spec/parameters", "`parameters` must be simpler: checking them takes too long"),)
    except ArithmeticError:  # a whole number too large for the float in `multipleOf`
        return (FieldError("/spec/parameters", "`parameters` must not have numbers that are out of range"),)
    except (referencing.exceptions.Unresolvable, RecursionError):
        return (FieldError("/spec/jobType", "`jobType` must have a valid parameters schema"),)
    finally:
        _steps_left.reset(token)


def _no_schema_errors(parameters: Mapping[str, Any]) -> Iterator[FieldError]:
    for name in parameters:
        yield FieldError(
            f"/spec/parameters/{_escape(name)}", f"`{name}` must not be set: the job type takes none"
        )


def _errors(parameters: dict[str, Any], schema: Mapping[str, Any]) -> Iterator[FieldError]:
    validator = _Validator(schema, registry=referencing.Registry())
    for count, error in enumerate(validator.iter_errors(parameters)):
        if count == MAX_ERRORS:
            return
        path = [*error.absolute_path]
        pointer = "".join(f"/{_escape(str(part))}" for part in ("spec", "parameters", *path))
        named = str(path[0]) if path else "parameters"
        yield FieldError(pointer, f"`{named}` must fit the schema: {_short(error.message)}")


def depth(value: Any) -> int:
    """Return how deep lists and objects are nested, counting no further than MAX_DEPTH + 1."""
    level, nodes = 0, [value]
    while level <= MAX_DEPTH and (nodes := [n for n in nodes if isinstance(n, Mapping | list)]):
        level += 1
        nodes = [child for n in nodes for child in (n.values() if isinstance(n, Mapping) else n)]
    return level


def _local(root: Mapping[str, Any], reference: str) -> Any:
    node: Any = root
    for part in reference.removeprefix("#").split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        if isinstance(node, Mapping):
            node = node.get(key)
        elif isinstance(node, list) and _is_index(key) and int(key) < len(node):
            node = node[int(key)]
        else:
            return None
    return node


def _is_index(key: str) -> bool:
    return key.isdecimal() and len(key) < MAX_INDEX_DIGITS  # Python refuses to read very long numbers


def _type_of(value: Any) -> frozenset[str]:
    if isinstance(value, bool):
        return frozenset({"boolean"})
    if isinstance(value, int):
        return frozenset({"integer", "number"})
    if isinstance(value, float):
        return frozenset({"number", "integer"} if value.is_integer() else {"number"})
    if isinstance(value, str):
        return frozenset({"string"})
    return frozenset({"null" if value is None else "array" if isinstance(value, list) else "object"})


def _refuse_constant(text: str) -> None:
    raise ValueError(f"{text} is not JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is out of range")
    return value


def _escape(part: str) -> str:
    return part.replace("~", "~0").replace("/", "~1")


def _short(text: str) -> str:
    return text if len(text) <= MAX_MESSAGE_LENGTH else text[: MAX_MESSAGE_LENGTH - 3] + "..."


@lru_cache(maxsize=256)
def _matcher(pattern: str) -> SchemaValidator | None:
    """Return a linear-time matcher (Rust's regex, by way of pydantic), None for what it cannot express."""
    try:
        return SchemaValidator(core_schema.str_schema(pattern=pattern))
    except SchemaError:
        return None


def _pattern(
    validator: Any,
    pattern: Any,
    instance: Any,
    schema: Any,  # noqa: ARG001 - jsonschema's signature
) -> Iterator[jsonschema.ValidationError]:
    if not validator.is_type(instance, "string"):
        return
    matcher = _matcher(str(pattern))
    try:
        if matcher is None:
            raise referencing.exceptions.Unresolvable(ref=str(pattern))
        matcher.validate_python(instance)
    except ValidationError:
        yield jsonschema.ValidationError(f"{_short(instance)!r} does not match {pattern!r}")


def _counted(keyword: Keyword) -> Keyword:
    """Wrap a keyword so that each evaluation costs a step: a chain of doubling `$ref`s ends early."""

    def run(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[jsonschema.ValidationError]:
        left = _steps_left.get()
        if left <= 0:
            raise _OverBudgetError
        _steps_left.set(left - 1)
        yield from keyword(validator, value, instance, schema) or ()

    return run


_KEYWORDS: Mapping[str, Keyword] = {**jsonschema.Draft202012Validator.VALIDATORS, "pattern": _pattern}
_Validator = validators.extend(  # type: ignore[no-untyped-call]
    jsonschema.Draft202012Validator, {name: _counted(keyword) for name, keyword in _KEYWORDS.items()}
)
