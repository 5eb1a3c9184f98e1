"""Jobs, job types and quotas as REST shows and changes them."""

import asyncio
from typing import Any, cast

import pytest

from manifestry.adapters.kube import apierrors
from manifestry.adapters.quota import reservations, storagebooks
from manifestry.core.kube import names
from manifestry.core.quota.storage import limits
from manifestry_api.objects import views
from tests.unit.api.routes.site import NAMESPACE, Site

QUOTA_CAUSES = [
    {"reason": "QuotaExceeded", "field": field, "message": message}
    for field, message in {
        "tenant": "acme", "jobType": "render",
        "running": "2", "maxRunning": "2", "queued": "3", "maxQueued": "3",
    }.items()
]  # fmt: skip
FULL = apierrors.TooManyRequestsError(429, "TooManyRequests", "quota exceeded: ...", {"causes": QUOTA_CAUSES})


def refuse(site: Site, error: Exception) -> None:
    def fail(verb: str, resource: names.Resource, body: Any) -> None:
        raise error

    site.cluster.before_write = fail


async def test_a_job_is_accepted_and_queued(site: Site) -> None:
    body = {"name": "j", "jobType": "render", "project": "apollo", "parameters": {"frames": 24, "title": "5"}}
    answer = await site.call("POST", "/jobs", body, role="operator")
    assert (answer.status, answer.json["status"], answer.headers["Location"]) == (202, "queued", "/jobs/j")
    assert answer.json["parameters"] == body["parameters"]
    views.JobView.model_validate(answer.json)
    page = (await site.call("GET", "/jobs?jobType=render&project=apollo&status=queued")).json
    views.JobPage.model_validate(page)
    assert [each["id"] for each in page["items"]] == ["j"]
    for query in ("jobType=x", "project=x", "status=running"):
        assert (await site.call("GET", f"/jobs?{query}")).json == {"items": []}


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"jobType": "nope"}, "/jobType"),
        ({"jobType": "No"}, "/jobType"),
        ({}, "/jobType"),
        ({"jobType": "render", "name": "No"}, "/name"),
        ({"jobType": "render", "bogus": 1}, "/bogus"),
        ({"jobType": "render", "parameters": {"frames": 0}}, "/parameters/frames"),
        ({"jobType": "render", "parameters": {"frames": "24"}}, "/parameters/frames"),
        ({"jobType": "render", "parameters": {"title": 3}}, "/parameters/title"),
        ({"jobType": "render", "parameters": {"other": 1}}, "/parameters"),
        ({"jobType": "render", "parameters": {"a b": 1}}, "/parameters/a b"),
        ({"jobType": "render", "priority": 5000}, "/priority"),
        ({"jobType": "render", "desiredState": "Cancelled"}, "/desiredState"),
        ({"jobType": "render", "overrides": {"image": "evil"}}, "/overrides/image"),
        ({"jobType": "render", "inputs": []}, "/inputs"),
    ],
)
async def test_a_bad_job_names_its_field_and_creates_nothing(site: Site, body: Any, pointer: str) -> None:
    answer = await site.call("POST", "/jobs", body)
    assert (answer.status, answer.json["code"]) == (422, "validation-failed")
    assert pointer in [each["pointer"] for each in answer.json["errors"]]
    assert site.cluster.writes == []


async def test_a_full_quota_is_429_with_usage(site: Site) -> None:
    refuse(site, FULL)
    answer = await site.call("POST", "/jobs", {"jobType": "render"})
    assert (answer.status, answer.json["code"]) == (429, "quota-exceeded")
    assert answer.json["usage"] == {
        "tenant": "acme", "jobType": "render", "running": 2, "maxRunning": 2, "queued": 3, "maxQueued": 3,
    }  # fmt: skip
    assert int(answer.headers["Retry-After"]) > 0


async def test_a_webhook_that_does_not_answer_is_a_missing_dependency(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    path = f"/validate/{'0a' * 32}"  # a secret, which the API server shows to the facade as to everybody
    why = f'failed to call webhook: Post "https://manifestry-api.sys.svc:443{path}?timeout=5s": refused'
    message = f'Internal error occurred: failed calling webhook "jobs.manifestry.dev": {why}'
    refuse(site, apierrors.UnavailableError(500, "InternalError", message))
    answer = await site.call("POST", "/jobs", {"jobType": "render"})
    dry_run = await site.call("POST", "/jobs?dryRun=true", {"jobType": "render"})
    for text in (str(answer.json), str(dry_run.json), caplog.text, str([*map(vars, caplog.records)])):
        assert path not in text
    assert path not in str(site.world.records.all)
    assert (answer.status, answer.json["code"]) == (503, "dependency-unavailable")
    assert "webhook" in answer.json["detail"]
    refuse(site, apierrors.UnavailableError(503, "ServiceUnavailable", "no route"))
    assert (await site.call("POST", "/jobs", {"jobType": "render"})).status == 503


async def test_a_dry_run_says_what_the_quota_would(site: Site) -> None:
    answer = await site.call("POST", "/jobs?dryRun=true", {"jobType": "render"})
    assert (answer.status, answer.json["accepted"]) == (200, True)
    views.DryRunView.model_validate(answer.json)
    refuse(site, FULL)
    answer = await site.call("POST", "/jobs?dryRun=true", {"jobType": "render"})
    assert (answer.status, answer.json["accepted"], answer.json["usage"]["maxRunning"]) == (200, False, 2)
    refuse(site, apierrors.ForbiddenError(403, "Forbidden", "no"))
    assert (await site.call("POST", "/jobs?dryRun=true", {"jobType": "render"})).status == 403
    assert (await site.call("GET", "/jobs")).json == {"items": []}


async def test_an_idempotency_key_makes_one_job(site: Site) -> None:
    key = {"Idempotency-Key": '"0f8b"'}
    body = {"jobType": "render", "parameters": {"frames": 1, "title": "x"}}
    same = {"parameters": {"title": "x", "frames": 1}, "jobType": "render"}
    first = await site.call("POST", "/jobs", body, headers=key)
    again = await site.call("POST", "/jobs", same, headers=key)
    assert (first.status, again.status) == (202, 202)
    assert first.headers["Location"] == again.headers["Location"]
    assert first.json == again.json
    assert "Idempotency-Replayed" not in first.headers
    assert again.headers["Idempotency-Replayed"] == "true"
    other = await site.call("POST", "/jobs", {"jobType": "render"}, headers=key)
    assert (other.status, other.json["code"]) == (422, "validation-failed")
    assert len((await site.call("GET", "/jobs")).json["items"]) == 1


async def test_replays_at_the_same_moment_make_one_job(site: Site) -> None:
    key = {"Idempotency-Key": "k"}
    answers = await asyncio.gather(
        *(site.call("POST", "/jobs", {"jobType": "render"}, headers=key) for _ in range(20))
    )
    assert {answer.status for answer in answers} == {202}
    assert len({answer.headers["Location"] for answer in answers}) == 1


async def test_a_replay_that_another_replica_has_made_is_found(site: Site) -> None:
    key = {"Idempotency-Key": "k"}
    first = await site.call("POST", "/jobs", {"jobType": "render"}, headers=key)
    mirror: Any = site.world.ports.caches.jobs
    mirror._items.clear()
    again = await site.call("POST", "/jobs", {"jobType": "render"}, headers=key)
    assert (again.status, again.json["id"]) == (202, first.json["id"])


async def test_a_key_does_not_hide_a_taken_name(site: Site) -> None:
    await site.call("POST", "/jobs", {"name": "j", "jobType": "render"})
    answer = await site.call(
        "POST", "/jobs", {"name": "j", "jobType": "render"}, headers={"Idempotency-Key": "k"}
    )
    assert (answer.status, answer.json["code"]) == (409, "already-exists")


@pytest.mark.parametrize("key", ["", '""', "x" * 256, "\u00e9"])
async def test_a_bad_key_is_a_bad_request(site: Site, key: str) -> None:
    answer = await site.call("POST", "/jobs", {"jobType": "render"}, headers={"Idempotency-Key": key})
    assert answer.status == 400


async def test_controls_write_the_desired_state(site: Site) -> None:
    await site.call("POST", "/jobs", {"name": "j", "jobType": "render"})
    for verb, desired in (("suspend", "Suspended"), ("resume", "Active"), ("cancel", "Cancelled")):
        answer = await site.call("POST", f"/jobs/j/{verb}", role="operator")
        assert (answer.status, answer.json["desiredState"]) == (202, desired)
    writes = len(site.cluster.writes)
    assert (await site.call("POST", "/jobs/j/cancel")).status == 202
    assert len(site.cluster.writes) == writes
    assert (await site.call("POST", "/jobs/j/resume")).status == 409
    assert (await site.call("POST", "/jobs/none/cancel")).status == 404


async def test_a_cancel_in_between_wins(site: Site) -> None:
    await site.call("POST", "/jobs", {"name": "j", "jobType": "render"})
    refuse(site, apierrors.InvalidError(422, "Invalid", "`desiredState` is immutable once it is 'Cancelled'"))
    answer = await site.call("POST", "/jobs/j/suspend")
    assert (answer.status, answer.json["code"]) == (409, "conflict")


async def test_a_deleted_job_is_gone(site: Site) -> None:
    await site.call("POST", "/jobs", {"name": "j", "jobType": "render"})
    assert (await site.call("DELETE", "/jobs/j", role="operator")).status == 202
    assert (await site.call("GET", "/jobs/j")).status == 404


async def test_job_types_show_what_may_be_asked_and_hide_the_environment(site: Site) -> None:
    page = await site.call("GET", "/job-types", role="viewer")
    views.JobTypePage.model_validate(page.json)
    one = await site.call("GET", "/job-types/render")
    assert one.json["parametersSchema"]["properties"]["frames"]["minimum"] == 1
    assert b"canary-secret" not in page.data + one.data
    assert (await site.call("GET", "/job-types/none")).status == 404
    again = await site.call("GET", "/job-types/render", headers={"If-None-Match": one.headers["ETag"]})
    assert again.status == 304


LEDGER = {
    "metadata": {"name": "render", "namespace": NAMESPACE},
    "spec": {"jobType": "render"},
    "status": {
        "initializedTime": "2026-05-04T03:00:00Z",
        "holders": {
            "u1": {"name": "one", "state": "Admitted", "since": "2026-05-04T03:00:00.000001Z"},
            "u2": {"name": "two", "state": "Queued", "since": "2026-05-04T03:00:00.000002Z"},
            "u3": {"name": "three", "state": "Queued", "since": "2026-05-04T03:00:00.000003Z", "priority": 9},
            "u4": {"name": "four", "state": "Reserved", "since": "2026-05-04T03:00:00.000004Z"},
        },
    },
}
QUOTA = {
    "metadata": {"name": "q"},
    "spec": {"tenants": ["acme"], "jobs": [{"jobType": "*", "maxRunning": 1}], "storage": {"maxBytes": 100}},
}


async def test_quotas_show_usage_limits_and_who_is_next(site: Site) -> None:
    site.cluster.put(names.QUOTA_LEDGERS, LEDGER)
    site.cluster.put(names.TENANT_QUOTAS, QUOTA)
    quotas = site.world.ports.quotas
    site.world.ports.reservations = reservations.Reservations(
        storagebooks.StorageBooks(cast("Any", site.cluster)),
        lambda tenant: limits.limits_for(tenant, quotas.table),
    )
    await asyncio.sleep(0.05)
    found = (await site.call("GET", "/quotas", role="viewer")).json
    views.QuotasView.model_validate(found)
    row = {key: value for key, value in found["items"][0].items() if key != "links"}
    assert row == {
        "tenant": "acme", "jobType": "render", "running": 1, "queued": 2, "reserved": 1, "maxRunning": 1,
        "initialized": True,
    }  # fmt: skip
    assert found["storage"] == {"usedBytes": 0, "reservedBytes": 0, "maxBytes": 100, "artifacts": 0}
    assert (await site.call("GET", "/quotas/render")).json == found["items"][0]
    first = (await site.call("GET", "/quotas/render/queue?limit=1")).json
    views.QueuePage.model_validate(first)
    assert [(each["position"], each["jobId"]) for each in first["items"]] == [(1, "three")]
    second = (await site.call("GET", f"/quotas/render/queue?limit=1&continue={first['continue']}")).json
    assert [(each["position"], each["jobId"]) for each in second["items"]] == [(2, "two")]
    assert (await site.call("GET", "/quotas/none")).status == 404
    empty = (await site.call("GET", "/quotas/render/queue", headers={"X-Tenant": "other"})).json
    assert empty["items"] == []
