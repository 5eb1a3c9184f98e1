"""Jobs from REST bodies."""

from typing import Any

import pytest

from manifestry.core import errors
from manifestry.core.jobs import requests
from manifestry.core.kube import names
from manifestry.core.kube.objects import Provenance

PROVENANCE = Provenance("alice", "nightly", "0b6e", "00-aa-bb-01")
NAMESPACE = "tenant-acme"


def job(**body: Any) -> dict[str, Any]:
    return requests.job({"jobType": "render", **body}, NAMESPACE, PROVENANCE)


def refused(kind: errors.ErrorKind, call: Any, *arguments: Any) -> errors.Problem:
    with pytest.raises(errors.Problem) as caught:
        call(*arguments)
    assert caught.value.kind is kind
    return caught.value


def test_a_job_has_lists_where_rest_has_objects() -> None:
    body = job(
        name="r1",
        project="apollo",
        parameters={"frames": 24, "title": "x", "deep": {"a": [1.5, None]}},
        overrides={"env": {"A": "1"}, "args": ["x"], "image": None},
        priority=5,
        desiredState="Suspended",
        backoffLimit=0,
    )
    assert body["metadata"]["name"] == "r1"
    assert body["spec"] == {
        "jobType": "render",
        "project": "apollo",
        "priority": 5,
        "backoffLimit": 0,
        "desiredState": "Suspended",
        "parameters": [
            {"name": "frames", "value": "24"},
            {"name": "title", "value": "x"},
            {"name": "deep", "value": '{"a":[1.5,null]}'},
        ],
        "overrides": {"args": ["x"], "env": [{"name": "A", "value": "1"}]},
    }


def test_a_bare_job_has_nothing_but_its_type() -> None:
    body = job(parameters={}, overrides={})
    assert body["spec"] == {"jobType": "render"}
    assert body["metadata"]["generateName"] == "render-"


def test_a_parameter_that_is_too_long_is_named() -> None:
    problem = refused(errors.VALIDATION_FAILED, lambda: job(parameters={"p": "x" * 4097}))
    assert problem.errors[0].pointer == "/parameters/p"


def test_an_idempotency_key_gives_one_name_per_actor() -> None:
    first = requests.idempotency({"jobType": "render"}, "k", "alice")
    again = requests.idempotency({"jobType": "other"}, "k", "alice")
    other = requests.idempotency({"jobType": "render"}, "k", "bob")
    assert first.name == again.name != other.name
    assert names.is_dns_label(first.name, names.NAME_MAX_LENGTH)
    assert requests.idempotency({"jobType": "render", "name": "mine"}, "k", "alice").name == "mine"


def test_member_order_does_not_matter_to_a_replay() -> None:
    assert requests.body_digest({"a": 1, "b": {"c": 2, "d": 3}}) == requests.body_digest(
        {"b": {"d": 3, "c": 2}, "a": 1}
    )


def test_a_replay_is_known_by_key_and_body() -> None:
    key = requests.idempotency({"jobType": "render"}, "k", "alice")
    made = requests.job({"jobType": "render"}, NAMESPACE, PROVENANCE, key)
    assert made["metadata"]["name"] == key.name
    assert requests.is_replay(made, key)
    changed = requests.idempotency({"jobType": "render", "priority": 1}, "k", "alice")
    refused(errors.VALIDATION_FAILED, requests.is_replay, made, changed)
    refused(errors.ALREADY_EXISTS, requests.is_replay, job(name=key.name), key)
    refused(errors.ALREADY_EXISTS, requests.is_replay, {}, key)


SPEC = {"parameters": [{"name": "frames", "value": "1"}], "overrides": {"env": [{"name": "A", "value": "1"}]}}


@pytest.mark.parametrize(
    ("pointer", "expected"),
    [
        ("", ""),
        ("/spec", ""),
        ("/metadata/name", "/name"),
        ("/spec/inline/data", "/inline/data"),
        ("/spec/parameters/frames", "/parameters/frames"),
        ("/spec/parameters/0/value", "/parameters/frames"),
        ("/spec/parameters/7/value", "/parameters"),
        ("/spec/overrides/env/0/name", "/overrides/env/A"),
        ("/spec/overrides/args/0", "/overrides/args/0"),
        ("/spec/overrides/env", "/overrides/env"),
    ],
)
def test_pointers_lead_into_the_rest_body(pointer: str, expected: str) -> None:
    assert requests.rest_pointer(pointer, SPEC) == expected
