"""The bounds and naming rules of the API conventions as ordered checks `(node) -> finding | None`."""

import re
from collections.abc import Callable, Iterator

from tests.unit.crds.schemas import Json, Node, walk

SAFE_INTEGER = 2**53
# Contract decisions that a naming rule would otherwise flag.
TIME_NAMES = frozenset({"since"})
PRESERVED = frozenset({".spec.parametersSchema"})
# The server refuses a description on `metadata`, its own stands in `kubectl explain`.
UNDESCRIBED = frozenset({".metadata"})
FORBIDDEN = (
    *(
        "$ref",
        "nullable",
        "oneOf",
        "anyOf",
        "allOf",
        "not",
        "patternProperties",
        "uniqueItems",
        "definitions",
    ),
    *("dependencies", "x-kubernetes-int-or-string", "x-kubernetes-embedded-resource"),
)

Check = Callable[[Node], str | None]


def has_description(node: Node) -> str | None:
    if node.path in UNDESCRIBED:
        return None
    text = node.schema.get("description", "")
    return None if len(text) > 10 and text.endswith(".") else "must have a description that is a sentence"


def has_structural_type(node: Node) -> str | None:
    known = {"object", "array", "string", "integer"}
    return None if node.schema.get("type") in known else "must be an object, array, string or integer"


def has_no_forbidden_keyword(node: Node) -> str | None:
    found = [word for word in FORBIDDEN if word in node.schema]
    return f"must not use {found}" if found else None


def string_is_bounded(node: Node) -> str | None:
    bad = node.schema.get("type") == "string" and "maxLength" not in node.schema
    return "string must have maxLength" if bad else None


def integer_is_bounded(node: Node) -> str | None:
    s = node.schema
    if s.get("type") != "integer":
        return None
    if s.get("format") not in {"int32", "int64"} or "minimum" not in s or "maximum" not in s:
        return "integer must have format, minimum and maximum"
    limit = 2**31 if s["format"] == "int32" else SAFE_INTEGER
    return None if -limit <= s["minimum"] <= s["maximum"] < limit else "integer must fit its format and 2^53"


def list_is_bounded(node: Node) -> str | None:
    s = node.schema
    if s.get("type") != "array":
        return None
    if "maxItems" not in s or s.get("x-kubernetes-list-type") not in {"atomic", "set", "map"}:
        return "array must have maxItems and x-kubernetes-list-type"
    return None


def list_of_objects_has_keys(node: Node) -> str | None:
    s = node.schema
    if s.get("type") != "array" or s["items"].get("type") != "object" or node.name == "tolerations":
        return None
    keys = s.get("x-kubernetes-list-map-keys", [])
    bad = not keys or not set(keys) <= set(s["items"].get("required", []))
    return "list of objects must be a list-map whose keys are required" if bad else None


def map_is_bounded(node: Node) -> str | None:
    s = node.schema
    if s.get("type") != "object" or "properties" in s or node.path in UNDESCRIBED:
        return None
    preserved = s.get("x-kubernetes-preserve-unknown-fields") and node.path in PRESERVED
    bad = "maxProperties" not in s or not (preserved or isinstance(s.get("additionalProperties"), dict))
    return "map must have maxProperties and a schema for its values" if bad else None


def preserves_nothing(node: Node) -> str | None:
    bad = "x-kubernetes-preserve-unknown-fields" in node.schema and node.path not in PRESERVED
    return "must not preserve unknown fields" if bad else None


def has_no_default(node: Node) -> str | None:
    bad = "default" in node.schema and node.path != ".status"
    return "must not have a default" if bad else None


def enum_is_camel_case(node: Node) -> str | None:
    values = node.schema.get("enum")
    if values is None:
        return None
    if not all(re.fullmatch(r"[A-Z][A-Za-z]*", value) for value in values):
        return "enum values must be CamelCase"
    text = node.schema.get("description", "")
    return None if re.search(r"Treat an(y| )", text) else "enum must say what an unknown value means"


def field_name_is_camel_case(node: Node) -> str | None:
    ok = not node.name or re.fullmatch(r"[a-z][A-Za-z0-9]*", node.name)
    return None if ok else "field name must be camelCase"


def time_is_named_time(node: Node) -> str | None:
    is_time = node.schema.get("format") == "date-time"
    named = node.name.endswith("Time") or node.name in TIME_NAMES
    return None if is_time == named else "a date-time must be named ...Time, and nothing else may be"


def name_carries_unit(node: Node) -> str | None:
    bad = re.search(
        r"(Timestamp|Duration|Timeout|Deadline|Period|TTL|Interval|Minutes|Size|Kb|Mb)$", node.name
    )
    return "name must carry its unit: ...Seconds, ...Bytes, ...Time" if bad else None


def number_of_seconds_or_bytes_is_integer(node: Node) -> str | None:
    bad = re.search(r"(Seconds|Bytes)$", node.name) and node.schema.get("type") != "integer"
    return "...Seconds and ...Bytes must be integers" if bad else None


def reference_stays_in_namespace(node: Node) -> str | None:
    s = node.schema
    target = s.get("items", s) if node.name.endswith("Refs") else s
    if not re.search(r"Refs?$", node.name) or node.path.endswith("[]"):
        return None
    ok = {"name"} <= set(target.get("properties", {})) <= {"name", "key", "uid"}
    return None if ok else "a reference must have a name, and no namespace"


def has_no_phase(node: Node) -> str | None:
    return "must have conditions instead" if node.path in {".status.phase", ".status.state"} else None


CHECKS: tuple[Check, ...] = (
    has_description,
    has_structural_type,
    has_no_forbidden_keyword,
    string_is_bounded,
    integer_is_bounded,
    list_is_bounded,
    list_of_objects_has_keys,
    map_is_bounded,
    preserves_nothing,
    has_no_default,
    enum_is_camel_case,
    field_name_is_camel_case,
    time_is_named_time,
    name_carries_unit,
    number_of_seconds_or_bytes_is_integer,
    reference_stays_in_namespace,
    has_no_phase,
)


def findings(schema: Json) -> Iterator[str]:
    """Yield one line for every check that a node of `schema` fails."""
    for node in walk(schema):
        for check in CHECKS:
            if finding := check(node):
                yield f"{node.path or '.'}: {finding}"
