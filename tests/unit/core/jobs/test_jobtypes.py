from typing import Any

import pytest

from manifestry.core.jobs import jobtypes
from manifestry.core.kube import bodies

SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "additionalProperties": False}


def job_type(**spec: Any) -> Any:
    return {"metadata": {"name": "render"}, "spec": {"image": "base:1", **spec}}


OPEN = job_type(allowedOverrides=["Image", "Command", "Args", "Env", "Resources", "BackoffLimit", "Priority"])


@pytest.mark.parametrize(
    ("why", "spec", "kind", "pointers"),
    [
        ("nothing asked for", {}, job_type(), []),
        (
            "parameters fit",
            {"parameters": [{"name": "n", "value": "1"}]},
            job_type(parametersSchema=SCHEMA),
            [],
        ),
        (
            "a parameter does not fit",
            {"parameters": [{"name": "n", "value": "x"}]},
            job_type(parametersSchema=SCHEMA),
            ["/spec/parameters/n"],
        ),
        ("no schema", {"parameters": [{"name": "n", "value": "1"}]}, job_type(), ["/spec/parameters/n"]),
        (
            "two names, one variable",
            {"parameters": [{"name": "a-b", "value": "1"}, {"name": "a.b", "value": "1"}]},
            job_type(parametersSchema={}),
            ["/spec/parameters/a.b"],
        ),
        ("inputs", {"inputs": [{"name": "x"}]}, job_type(), ["/spec/inputs"]),
        ("outputs", {"outputs": [{"name": "x"}]}, job_type(), ["/spec/outputs"]),
        ("empty inputs are none", {"inputs": [], "outputs": []}, job_type(), []),
        (
            "an override without permission",
            {"overrides": {"image": "x"}},
            job_type(),
            ["/spec/overrides/image"],
        ),
        ("with permission", {"overrides": {"image": "x", "args": ["a"], "command": ["c"]}}, OPEN, []),
        (
            "a reserved variable",
            {"overrides": {"env": [{"name": "OK"}, {"name": "PARAM_X"}, {"name": "TRACEPARENT"}, 3]}},
            OPEN,
            ["/spec/overrides/env/1/name", "/spec/overrides/env/2/name"],
        ),
        ("overrides of another shape", {"overrides": "no"}, OPEN, []),
        ("more retries than the default", {"backoffLimit": 1}, job_type(), ["/spec/backoffLimit"]),
        ("fewer retries", {"backoffLimit": 1}, job_type(backoffLimit=3), []),
        ("more retries, allowed", {"backoffLimit": 9}, OPEN, []),
        ("any deadline where the type has none", {"activeDeadlineSeconds": 9}, job_type(), []),
        (
            "a longer deadline",
            {"activeDeadlineSeconds": 9},
            job_type(activeDeadlineSeconds=5),
            ["/spec/activeDeadlineSeconds"],
        ),
        ("a raised priority", {"priority": 1}, job_type(), ["/spec/priority"]),
        ("a lowered priority", {"priority": -1}, job_type(), []),
        ("an invalid type", {}, job_type(parametersSchema={"type": "array"}), ["/spec/jobType"]),
        ("no spec", None, job_type(), ["/spec"]),
        ("a type of another shape", {}, {"spec": 3}, []),
    ],
)
def test_validate_job(why: Any, spec: Any, kind: Any, pointers: Any) -> None:
    assert [error.pointer for error in jobtypes.validate_job(spec, kind)] == pointers, why


def test_the_number_of_errors_is_bounded() -> None:
    spec = {"parameters": [{"name": f"n{i}", "value": "1"} for i in range(60)], "inputs": [1]}
    assert len(jobtypes.validate_job(spec, job_type())) == jobtypes.MAX_ERRORS


def test_what_is_not_served_is_told_from_what_is_wrong() -> None:
    assert jobtypes.is_unsupported(jobtypes.validate_job({"inputs": [1]}, job_type()))
    assert not jobtypes.is_unsupported(jobtypes.validate_job({"backoffLimit": 9}, job_type()))


@pytest.mark.parametrize(
    ("spec", "kind", "expected"),
    [
        ({}, job_type(), {"image": "base:1", "backoffLimit": 0}),
        (
            {"overrides": {"image": "mine"}, "backoffLimit": 1, "ttlSecondsAfterFinished": 0},
            job_type(backoffLimit=3, activeDeadlineSeconds=60, ttlSecondsAfterFinished=9),
            {"image": "mine", "backoffLimit": 1, "activeDeadlineSeconds": 60, "ttlSecondsAfterFinished": 0},
        ),
    ],
)
def test_effective(spec: Any, kind: Any, expected: Any) -> None:
    assert jobtypes.effective(spec, kind).to_status() == expected


@pytest.mark.parametrize(
    ("spec", "kind", "expected"),
    [
        ({}, OPEN, 0),
        ({"priority": 9}, OPEN, 9),
        ({"priority": 9}, job_type(), 0),
        ({"priority": -9}, job_type(), -9),
        ({"priority": 9}, None, 0),
        ({"priority": "high"}, OPEN, 0),
    ],
)
def test_priority_is_clamped_because_it_can_be_edited_later(spec: Any, kind: Any, expected: Any) -> None:
    assert jobtypes.priority(spec, kind) == expected


def test_conditions_say_what_is_wrong_with_a_schema() -> None:
    (good,) = jobtypes.type_conditions(job_type())
    assert (good.type, good.status, good.reason) == ("Ready", "True", "Valid")
    bad = jobtypes.type_conditions(job_type(parametersSchema={"type": "array"}))
    assert [(c.type, c.status, c.reason) for c in bad] == [
        ("Ready", "False", "InvalidParametersSchema"),
        ("Stalled", "True", "InvalidParametersSchema"),
    ]


@pytest.mark.parametrize("body", [None, {}, {"spec": None}, {"spec": []}])
def test_spec_of_another_shape_is_empty(body: Any) -> None:
    assert bodies.spec_of(body) == {}


def test_env_name() -> None:
    assert jobtypes.env_name("frames-per.second") == "PARAM_FRAMES_PER_SECOND"


@pytest.mark.parametrize(
    ("why", "wanted", "kind", "current", "expected"),
    [
        ("not asked for", None, job_type(activeDeadlineSeconds=5), 60, 60),
        ("not asked for, none", None, job_type(activeDeadlineSeconds=5), None, None),
        ("lowered", 5, job_type(activeDeadlineSeconds=60), 60, 5),
        ("a first one", 90, job_type(activeDeadlineSeconds=60), None, 90),
        ("raised to the type's", 90, job_type(activeDeadlineSeconds=60), 30, 60),
        ("raised, the type was lowered since", 90, job_type(activeDeadlineSeconds=5), 60, 60),
        ("raised, the type has none", 90, job_type(), 30, 90),
        (
            "raised, allowed",
            90,
            job_type(activeDeadlineSeconds=60, allowedOverrides=["ActiveDeadlineSeconds"]),
            60,
            90,
        ),
        ("raised, the type is gone", 90, None, 30, 30),
        ("nonsense", 0, job_type(), 30, 30),
        ("no number", "9", job_type(), 30, 30),
    ],
)
def test_a_deadline_is_lowered_freely_and_raised_as_allowed(
    why: str, wanted: Any, kind: Any, current: int | None, expected: int | None
) -> None:
    assert jobtypes.deadline({"activeDeadlineSeconds": wanted}, kind, current) == expected, why
