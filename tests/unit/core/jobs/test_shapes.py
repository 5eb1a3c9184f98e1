"""What a Job must look like before a plan is made of it."""

from typing import Any

import pytest

from manifestry.core.jobs import shapes

GOOD: dict[str, Any] = {
    "jobType": "render",
    "project": "p",
    "parameters": [{"name": "a", "value": "1"}],
    "overrides": {"env": [{"name": "X", "value": "y"}], "args": ["a"], "resources": {"limits": {"cpu": "1"}}},
    "priority": -5,
}
CONDITION = {"type": "Succeeded", "status": "True", "reason": "R", "message": "", "lastTransitionTime": "t"}


def test_a_well_formed_job_has_no_faults() -> None:
    assert shapes.faults({"spec": GOOD}) == ()


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"jobType": 1}, "/spec/jobType"),
        ({"jobType": "No_Label"}, "/spec/jobType"),
        ({"jobType": ["x"]}, "/spec/jobType"),
        ({"project": {}}, "/spec/project"),
        ({"parameters": {}}, "/spec/parameters"),
        ({"parameters": ["x"]}, "/spec/parameters"),
        ({"parameters": [{"name": "a", "value": 1}]}, "/spec/parameters"),
        ({"priority": True}, "/spec/priority"),
        ({"priority": 1 << 40}, "/spec/priority"),
        ({"overrides": []}, "/spec/overrides"),
        ({"overrides": {"command": "sh"}}, "/spec/overrides/command"),
        ({"overrides": {"env": [0]}}, "/spec/overrides/env"),
        ({"overrides": {"resources": {"limits": 3}}}, "/spec/overrides/resources"),
    ],
)
def test_a_wrong_shape_is_named(change: dict[str, Any], pointer: str) -> None:
    assert [fault.pointer for fault in shapes.faults({"spec": {**GOOD, **change}})] == [pointer]


@pytest.mark.parametrize("spec", [None, [], "x", 3])
def test_a_spec_that_is_no_object_is_named(spec: Any) -> None:
    assert [fault.pointer for fault in shapes.faults({"spec": spec})] == ["/spec"]


def test_a_job_type_is_required() -> None:
    assert [fault.pointer for fault in shapes.faults({"spec": {}})] == ["/spec/jobType"]


@pytest.mark.parametrize("job", [{}, {"status": {"tenant": "a", "conditions": [CONDITION], "unknown": 1}}])
def test_a_status_of_the_right_shape_is_left_as_it_is(job: dict[str, Any]) -> None:
    assert shapes.tame(job) is job


@pytest.mark.parametrize("status", [[], "x", 3])
def test_a_status_that_is_no_object_is_as_if_it_were_not_there(status: Any) -> None:
    assert shapes.tame({"status": status}) == {"status": {}}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("conditions", 3),
        ("conditions", [{"type": []}]),
        ("conditions", [{**CONDITION, "lastTransitionTime": None}]),
        ("effective", []),
        ("jobRef", {"name": 1}),
        ("tenant", {}),
        ("exitCode", "7"),
    ],
)
def test_a_status_field_of_another_shape_is_dropped_and_the_rest_kept(field: str, value: Any) -> None:
    assert shapes.tame({"status": {"podName": "p", field: value}}) == {"status": {"podName": "p"}}
