import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifestry.core.jobs import parameters

FRAMES = {
    "type": "object",
    "properties": {
        "frames": {"type": "integer", "minimum": 1},
        "name": {"type": "string", "pattern": "^[a-z]+$"},
        "ratio": {"type": ["number", "string"]},
        "on": {"type": "boolean"},
        "size": {"$ref": "#/$defs/size"},
        "mode": {"enum": ["1", "2"]},
        "free": {},
        "loop": {"$ref": "#/$defs/loop"},
    },
    "required": ["frames"],
    "additionalProperties": False,
    "$defs": {"size": {"type": "object"}, "loop": {"$ref": "#/$defs/loop"}},
}


def nested(levels: Any) -> Any:
    return {"a": nested(levels - 1)} if levels else {}


def bomb(levels: Any) -> Any:
    """Each definition asks for the one before twice: 2 to the power of `levels` steps."""
    defs: dict[str, Any] = {"d0": {"type": "integer"}}
    for i in range(levels):
        defs[f"d{i + 1}"] = {"allOf": [{"$ref": f"#/$defs/d{i}"}, {"$ref": f"#/$defs/d{i}"}]}
    return {"$defs": defs, "properties": {"x": {"$ref": f"#/$defs/d{levels}"}}}


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        (None, ""),
        (FRAMES, ""),
        ({}, ""),
        ({"$schema": parameters.DIALECT}, ""),
        ([], "must be an object"),
        ({"$schema": "http://json-schema.org/draft-07/schema#"}, "`$schema` must be"),
        ({"type": "array"}, "`type` must be 'object'"),
        ({"properties": {"a": {"type": "nope"}}}, "`$.properties.a.type` is not valid"),
        ({"properties": {"a": {"$ref": "https://example.org/x"}}}, "`$ref` must begin with '#'"),
        ({"properties": {"a": {"$dynamicRef": "other"}}}, "`$dynamicRef` must begin with '#'"),
        ({"properties": {"a": {"$ref": "#/$defs/none"}}}, "must name a part of this schema"),
        ({"patternProperties": {"(a+)+$": {}}}, "`patternProperties` must not be used"),
        ({"properties": {"patternProperties": {"type": "string"}}}, ""),
        ({"properties": {"a": {"pattern": "(?=a)"}}}, "must be an RE2 expression"),
        ({"properties": {"a": {"enum": [{"$ref": "just data"}]}}}, ""),
        ({"allOf": [{"properties": {"a": {"pattern": "("}}}]}, "must be an RE2 expression"),
        (nested(40), "nested deeper"),
        ({"description": "x" * 70_000}, "must not be longer"),
    ],
)
def test_check_schema(schema: Any, said: Any) -> None:
    found = parameters.check_schema(schema)
    assert (said in "; ".join(found)) if said else found == ()


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("frames", "3", 3),
        ("frames", "three", "three"),
        ("name", "3", "3"),
        ("ratio", "0.5", 0.5),
        ("ratio", "true", "true"),
        ("ratio", "null", "null"),
        ("on", "true", True),
        ("size", '{"w":1}', {"w": 1}),
        ("mode", "1", "1"),
        ("free", "[1]", [1]),
        ("free", "plain", "plain"),
        ("free", "NaN", "NaN"),
        ("loop", "1", 1),
        ("unknown", "1", 1),
        ("free", "[" * 4096, "[" * 4096),
    ],
)
def test_a_value_is_json_unless_its_property_is_text(name: Any, text: Any, value: Any) -> None:
    assert parameters.to_object([{"name": name, "value": text}], FRAMES) == {name: value}


@pytest.mark.parametrize("items", [None, "text", 7, [1, {"name": 3}, {}]])
def test_parameters_of_another_shape_are_left_out(items: Any) -> None:
    assert parameters.to_object(items, FRAMES) == {}


@pytest.mark.parametrize(
    ("value", "types"),
    [
        (True, {"boolean"}),
        (1, {"integer", "number"}),
        (1.0, {"integer", "number"}),
        (1.5, {"number"}),
        (None, {"null"}),
        ([], {"array"}),
        ({}, {"object"}),
        ("x", {"string"}),
    ],
)
def test_a_union_with_text_takes_the_json_value_where_it_fits(value: Any, types: Any) -> None:
    schema = {"properties": {"p": {"type": ["string", min(types)]}}}
    text = parameters.encode(value)
    assert parameters.to_object([{"name": "p", "value": text}], schema) == {"p": value}


@pytest.mark.parametrize(
    ("given_", "pointers"),
    [
        ({"frames": 1}, []),
        ({}, ["/spec/parameters"]),
        ({"frames": 0, "name": "A"}, ["/spec/parameters/frames", "/spec/parameters/name"]),
        ({"frames": 1, "x/y": 1}, ["/spec/parameters"]),
        ({"frames": 1, "size": 3}, ["/spec/parameters/size"]),
        ({"frames": 1, "name": 5}, ["/spec/parameters/name"]),
        ({"frames": 1, "loop": 5}, ["/spec/jobType"]),
        ({"frames": 1, "free": [nested(40)]}, ["/spec/parameters"]),
    ],
)
def test_validate_names_the_fields(given_: Any, pointers: Any) -> None:
    assert [error.pointer for error in parameters.validate(given_, FRAMES)] == pointers


def test_without_a_schema_a_type_takes_no_parameters() -> None:
    assert parameters.validate({}, None) == ()
    assert [error.pointer for error in parameters.validate({"a/b": 1}, None)] == ["/spec/parameters/a~1b"]


def test_the_number_of_errors_is_bounded() -> None:
    schema = {"properties": {f"p{i}": {"type": "string"} for i in range(40)}}
    assert len(parameters.validate({f"p{i}": 1 for i in range(40)}, schema)) == parameters.MAX_ERRORS
    assert len(parameters.validate({f"p{i}": 1 for i in range(40)}, None)) == parameters.MAX_ERRORS


def test_messages_are_short() -> None:
    schema = {"properties": {"p": {"type": "integer"}}}
    (error,) = parameters.validate({"p": "x" * 4096}, schema)
    assert len(error.message) < 400


def test_neither_a_pattern_nor_a_web_of_references_can_stall_us() -> None:
    evil = {"properties": {"p": {"type": "string", "pattern": "^(a+)+$"}}}
    started = time.perf_counter()
    assert len(parameters.validate({"p": "a" * 4095 + "!"}, evil)) == 1
    (error,) = parameters.validate({"x": 1}, bomb(40))
    assert "takes too long" in error.message
    assert time.perf_counter() - started < 20


def test_a_schema_that_was_never_checked_is_refused_and_not_fetched() -> None:
    remote = {"properties": {"a": {"$ref": "https://example.org/x"}}}
    assert [error.pointer for error in parameters.validate({"a": 1}, remote)] == ["/spec/jobType"]
    unusable = {"properties": {"a": {"pattern": "(?=x)"}}}
    assert [error.pointer for error in parameters.validate({"a": "x"}, unusable)] == ["/spec/jobType"]


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.from_regex(r"[a-z][a-z0-9]{0,8}", fullmatch=True), JSON, max_size=4))
def test_what_rest_sends_is_what_the_schema_sees(sent: Any) -> None:
    assert parameters.to_object(parameters.from_object(sent), {}) == sent


@given(st.text(max_size=50))
def test_text_stays_text_where_the_schema_says_so(text: Any) -> None:
    schema = {"properties": {"p": {"type": "string"}}}
    assert parameters.to_object(parameters.from_object({"p": text}), schema) == {"p": text}


@pytest.mark.parametrize(
    "text", ["1e999", "-1e999", "[1e400]", "NaN", '"\\ud800"', '{"a":"\\uDC00"}', '{"\\ud800":1}', "[" * 5000]
)
def test_what_no_json_answer_can_hold_stays_text(text: str) -> None:
    assert parameters.decode(text, None) == text


def test_a_pair_of_surrogates_is_a_character() -> None:
    assert parameters.decode('["\\ud83d\\ude00"]', None) == ["\U0001f600"]


@given(st.text(max_size=80) | JSON.map(json.dumps))
def test_any_text_becomes_something_that_an_answer_can_hold(text: str) -> None:
    value = parameters.decode(text, None)
    json.dumps(value, ensure_ascii=False, allow_nan=False).encode("utf-8", "strict")


def test_a_schema_is_checked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    schema = {"type": "object", "properties": {"once-only": {"type": "strin"}}}
    first = parameters.check_schema(schema)
    assert first
    monkeypatch.setattr(parameters, "_schema_faults", lambda _: pytest.fail("checked again"))
    assert parameters.check_schema(dict(schema)) == first


def test_a_number_beyond_every_float_is_an_error_of_the_parameters() -> None:
    schema = {"properties": {"n": {"type": "integer", "multipleOf": 0.5}}}
    (error,) = parameters.validate({"n": 10**400}, schema)
    assert (error.pointer, "out of range" in error.message) == ("/spec/parameters", True)


def test_a_reference_with_an_endless_number_names_nothing() -> None:
    (fault,) = parameters.check_schema({"allOf": [{"$ref": "#/allOf/" + "9" * 5000}]})
    assert "must name a part of this schema" in fault
    assert parameters.check_schema({"allOf": [{"type": "object"}, {"$ref": "#/allOf/0"}]}) == ()


@pytest.mark.parametrize("dialect", [{}, [], None, 7, ["x"]])
def test_a_dialect_that_is_no_text_is_a_fault_of_the_schema(dialect: Any) -> None:
    (fault,) = parameters.check_schema({"$schema": dialect})
    assert "`$schema` must be" in fault
