"""Every CEL rule says what it asks for, where, and why, and no transition rule is evaded by unsetting."""

import re

import pytest

from tests.unit.crds import schemas
from tests.unit.crds.test_rules import ALL_RULES, KINDS, Json


@pytest.mark.parametrize(("kind", "path", "rule"), ALL_RULES)
def test_every_rule_has_message_reason_and_place(kind: str, path: str, rule: Json) -> None:
    message = rule["message"]
    assert rule["reason"] in {"FieldValueInvalid", "FieldValueForbidden"}
    assert re.search(r"\bmust\b|is immutable", message)
    assert "`" in message or message.startswith("the choice of source")
    assert not message.endswith(".")
    assert len(message) < 200
    if where := rule.get("fieldPath"):
        assert re.fullmatch(r"(\.[a-zA-Z]+)+", where)
        node = next(n for n in schemas.walk(schemas.root(KINDS[kind])) if n.path == path)
        assert where.split(".")[1] in node.schema["properties"]
        assert f"{where.rsplit('.', 1)[1]}`" in message


@pytest.mark.parametrize(("kind", "path", "rule"), [row for row in ALL_RULES if "oldSelf" in row[2]["rule"]])
def test_every_transition_rule_says_immutable_and_keeps_the_value_to_itself(
    kind: str, path: str, rule: Json
) -> None:
    # Flux recreates an object with `force: true` only where the text says so.
    assert "is immutable" in rule["message"] or rule["message"] == "`retryGeneration` must not decrease"
    # An Invalid error would quote the value, which may be a payload.
    assert rule["reason"] == "FieldValueForbidden"


@pytest.mark.parametrize(("kind", "path", "rule"), [row for row in ALL_RULES if "oldSelf" in row[2]["rule"]])
def test_a_transition_rule_cannot_be_evaded_by_unsetting_the_field(kind: str, path: str, rule: Json) -> None:
    if rule["rule"] != "self == oldSelf":
        return
    parent, _, name = path.rpartition(".")
    nodes = {node.path: node.schema for node in schemas.walk(schemas.root(KINDS[kind]))}
    holder = nodes[parent]
    guarded = any(f"has(self.{name}) == has(oldSelf.{name})" in r["rule"] for _, r in _rules_at(kind, parent))
    assert name in holder.get("required", []) or guarded


def _rules_at(kind: str, path: str) -> list[tuple[str, Json]]:
    return [row for row in schemas.rules(KINDS[kind]) if row[0] == path]


def test_what_a_job_may_change_is_exactly_this() -> None:
    spec = schemas.root(KINDS["Job"])["properties"]["spec"]
    fixed = {r["fieldPath"][1:] for _, r in _rules_at("Job", ".spec") if "is immutable" in r["message"]}
    mutable = set(spec["properties"]) - (fixed - {"desiredState"}) - {"jobType"}
    assert mutable == {
        "desiredState",
        "priority",
        "activeDeadlineSeconds",
        "ttlSecondsAfterFinished",
        "retryGeneration",
    }
