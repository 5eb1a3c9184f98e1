from datetime import UTC, datetime
from typing import Any

import pytest

from manifestry.core import errors
from manifestry.core.jobs import admission
from manifestry.core.jobs.admission import Facts, Request
from manifestry.core.quota import holders, quotas
from manifestry.core.quota.quotas import Limits

NOW = datetime(2026, 1, 1, tzinfo=UTC)
TYPE = {"metadata": {"name": "render"}, "spec": {"image": "x"}}
FACTS = Facts("acme", TYPE, exists=False)
REQUEST = Request("r1", "u1", "job", "team-acme", dry_run=False, spec={"jobType": "render"})


def review(**changes: Any) -> Any:
    request = {
        "uid": "r1",
        "operation": "CREATE",
        "namespace": "team-acme",
        "name": "",
        "object": {"metadata": {"name": "job", "uid": "u1"}, "spec": {"jobType": "render"}},
    }
    return {"request": {**request, **changes}}


def held(count: Any, state: Any = holders.State.QUEUED) -> Any:
    entries = [holders.Holder(f"h{i}", f"h{i}", state, NOW) for i in range(count)]
    return holders.build(entries)


def test_a_review_is_read() -> None:
    assert admission.parse_review(review()) == REQUEST
    assert admission.parse_review(review(dryRun=True)).dry_run
    named = admission.parse_review(review(object={"metadata": {"uid": "u"}, "spec": 3}, name="n"))
    assert (named.name, named.job_type) == ("n", "")


@pytest.mark.parametrize(
    "body",
    [
        None,
        {},
        {"request": {}},
        review(operation="UPDATE"),
        review(object=None),
        review(object={}),
        review(object={"metadata": {"name": "job"}}),
        review(namespace=None),
    ],
)
def test_a_review_of_another_shape_is_a_bad_request(body: Any) -> None:
    with pytest.raises(errors.Problem) as raised:
        admission.parse_review(body)
    assert raised.value.kind is errors.BAD_REQUEST


@pytest.mark.parametrize(
    ("why", "facts", "code", "said"),
    [
        ("all is well", FACTS, None, ""),
        ("no tenant", Facts(None, TYPE, exists=False), 422, "namespace 'team-acme' must carry the label"),
        (
            "the name is taken",
            Facts("acme", TYPE, exists=True),
            409,
            'jobs.manifestry.dev "job" already exists',
        ),
        (
            "no such type",
            Facts("acme", None, exists=False),
            422,
            "spec.jobType: `jobType` must name a JobType",
        ),
        ("a taken name goes before a missing type", Facts("acme", None, exists=True), 409, ""),
    ],
)
def test_checks(why: Any, facts: Any, code: Any, said: Any) -> None:
    denial = admission.check(REQUEST, facts)
    assert (None if denial is None else denial.code) == code, why
    assert denial is None or said in denial.message, why


def test_bad_fields_are_named_and_can_be_read_back() -> None:
    env = [{"name": "A"}, {"name": "PARAM_X"}]
    spec = {"jobType": "render", "parameters": [{"name": "a.b", "value": "1"}], "overrides": {"env": env}}
    denial = admission.check(Request("r", "u", "n", "ns", dry_run=False, spec=spec), FACTS)
    assert denial is not None
    assert denial.code == 422
    status = admission.render_review("r", denial)["response"]["status"]
    assert [cause["field"] for cause in status["details"]["causes"]] == [
        "spec.parameters.a.b",
        "spec.overrides.env",
        "spec.overrides.env[1].name",
    ]
    assert [error.pointer for error in admission.parse_fields(status["details"])] == [
        "/spec/parameters/a.b",
        "/spec/overrides/env",
        "/spec/overrides/env/1/name",
    ]


def test_an_accepted_create_is_charged() -> None:
    after, decision = admission.reserve(REQUEST, "acme", Limits(1, 1), NOW)(held(0))
    assert decision == admission.ALLOWED
    assert after.holders["u1"].state is holders.State.RESERVED
    rendered = admission.render_review("r1", decision)
    assert rendered["response"] == {"uid": "r1", "allowed": True}


@pytest.mark.parametrize("count", [0, 2])
def test_dry_run_gives_the_same_answer_and_writes_nothing(count: Any) -> None:
    dry = Request("r1", "u1", "job", "team-acme", dry_run=True, spec=REQUEST.spec)
    before = held(count)
    after, decision = admission.reserve(dry, "acme", Limits(1, 1), NOW)(before)
    assert after is before
    assert decision == admission.reserve(REQUEST, "acme", Limits(1, 1), NOW)(before)[1]


def test_over_the_quota_says_the_numbers_and_never_asks_for_a_silent_retry() -> None:
    _, decision = admission.reserve(REQUEST, "acme", Limits(0, 2), NOW)(held(2))
    answer = admission.render_review("r1", decision)
    assert (answer["apiVersion"], answer["kind"]) == ("admission.k8s.io/v1", "AdmissionReview")
    status = answer["response"]["status"]
    assert (status["code"], status["reason"], status["status"]) == (429, "TooManyRequests", "Failure")
    assert status["message"] == 'quota exceeded: tenant "acme", job type "render": running 0/0, queued 2/2'
    assert "retryAfterSeconds" not in status["details"]
    assert admission.parse_usage(status["details"]) == {
        "tenant": "acme",
        "jobType": "render",
        "running": 0,
        "maxRunning": 0,
        "queued": 2,
        "maxQueued": 2,
    }


def test_an_unlimited_number_is_none_after_reading_it_back() -> None:
    decision = admission.exceeded("a", "t", quotas.Usage(1, 1, 1), Limits(None, 2))
    usage = admission.parse_usage({"causes": [dict(cause) for cause in decision.causes]})
    assert usage is not None
    assert usage["maxRunning"] is None


@pytest.mark.parametrize(
    "details",
    [None, {}, {"causes": None}, {"causes": [3, {"reason": "QuotaExceeded", "field": "running"}]}],
)
def test_a_429_that_is_not_ours_has_no_usage(details: Any) -> None:
    assert admission.parse_usage(details) is None
    assert admission.parse_fields(details) == ()


@pytest.mark.parametrize(("used", "warned"), [(3, False), (4, True)])
def test_over_eighty_percent_is_a_warning(used: Any, warned: Any) -> None:
    _, decision = admission.reserve(REQUEST, "acme", Limits(2, 3), NOW)(held(used))
    assert decision.allowed
    assert bool(decision.warnings) is warned
    if warned:
        assert decision.warnings == (
            '100% of the quota is used: tenant "acme", job type "render": running 0/2, queued 5/3',
        )
        assert admission.render_review("r", decision)["response"]["warnings"] == [*decision.warnings]


def test_busy_asks_for_another_try() -> None:
    status = admission.render_review("r", admission.busy("wait"))["response"]["status"]
    assert (status["code"], status["details"]["retryAfterSeconds"]) == (503, 1)


def test_a_field_without_a_path_is_read_back_as_the_whole() -> None:
    cause = {"reason": "FieldValueInvalid", "message": "m"}
    assert admission.parse_fields({"causes": [cause]}) == (errors.FieldError("", "m"),)
