"""The OpenAPI document says everything of every route, and its examples fit its own schemas."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

from manifestry.core import errors
from manifestry.core.access import headers
from tests.unit.api import world

DOCUMENT: dict[str, Any] = world.build().app.openapi()
OPERATIONS = [
    (method, path, operation)
    for path, operations in DOCUMENT["paths"].items()
    for method, operation in operations.items()
]
NAMED = [pytest.param(*each, id=f"{each[0]} {each[1]}") for each in OPERATIONS]
STATUSES = {kind.code: kind.status for kind in errors.TABLE}


def test_the_document_is_valid_and_refers_to_nothing_that_is_not_there() -> None:
    OpenAPIV31SpecValidator(DOCUMENT).validate()
    for reference in set(references(DOCUMENT)):
        node: Any = DOCUMENT
        for part in reference.removeprefix("#/").split("/"):
            node = node[part]


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for value in node.values():
            yield from references(value)
    elif isinstance(node, list):
        for value in node:
            yield from references(value)


def test_operations_have_one_name_each_that_a_generator_can_use() -> None:
    found = [operation["operationId"] for _, _, operation in OPERATIONS]
    assert len(found) == len(set(found))
    assert [each for each in found if not re.fullmatch(r"[a-z][A-Za-z0-9]+", each)] == []
    assert {"createArtifact", "getArtifact", "headArtifact", "putContent", "createJob", "getLog"} <= {*found}


@pytest.mark.parametrize(("method", "path", "operation"), NAMED)
def test_every_operation_is_described(method: str, path: str, operation: dict[str, Any]) -> None:
    assert operation["summary"]
    assert operation["description"]
    assert operation["tags"]
    placed = {each["name"]: each for each in operation["parameters"] if each.get("in") == "path"}
    assert set(placed) == set(re.findall(r"{([^}]*)}", path))
    for parameter in operation["parameters"]:
        assert "$ref" in parameter or parameter.get("description"), parameter
    for parameter in placed.values():
        Draft202012Validator(parameter["schema"]).validate(parameter["example"])


@pytest.mark.parametrize(("method", "path", "operation"), NAMED)
def test_every_answer_is_described(method: str, path: str, operation: dict[str, Any]) -> None:
    for status, answer in operation["responses"].items():
        assert {"Audit-ID", "traceparent"} <= set(answer["headers"]), status
        for media_type, content in answer.get("content", {}).items():
            assert content["schema"], (status, media_type)
        if status in {"429", "503"} and "security" in operation:
            assert "Retry-After" in answer["headers"]
        if status == "401":
            assert "WWW-Authenticate" in answer["headers"]


GUARDED = [each for each in NAMED if "security" in each.values[2]]  # type: ignore[operator]


@pytest.mark.parametrize(("method", "path", "operation"), GUARDED)
def test_every_guarded_operation_has_its_headers_and_typed_refusals(
    method: str, path: str, operation: dict[str, Any]
) -> None:
    wanted = {f"#/components/parameters/{name}" for name in (*headers.REQUIRED, "traceparent")}
    assert wanted <= {each.get("$ref") for each in operation["parameters"]}
    assert {"400", "401", "403", "500", "503"} <= set(operation["responses"])
    assert ("404" in operation["responses"]) == ("{" in path)
    for status, answer in operation["responses"].items():
        if int(status) >= 400:
            content = answer["content"]["application/problem+json"]
            problem = DOCUMENT["components"]["schemas"]["Problem"]
            Draft202012Validator(problem).validate(content["example"])
            assert content["example"]["status"] == int(status) == STATUSES[content["example"]["code"]]


def test_public_operations_ask_for_no_credentials() -> None:
    public = {path for _, path, operation in OPERATIONS if "security" not in operation}
    assert public == {"/livez", "/readyz", "/healthz", "/metrics"}


def test_examples_fit_their_schemas() -> None:
    for method, path, operation in OPERATIONS:
        for content in operation.get("requestBody", {}).get("content", {}).values():
            for example in content["schema"].get("examples", ()):
                Draft202012Validator(content["schema"]).validate(example)
            assert content["schema"] == {"type": "string", "format": "binary"} or content["schema"].get(
                "examples"
            ), (method, path)
