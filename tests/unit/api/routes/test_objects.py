"""Artifacts, jobs, job types and quotas as REST shows and changes them."""

import asyncio
import base64
from typing import Any, cast

import pytest

from manifestry.adapters.kube import apierrors
from manifestry.adapters.quota import reservations, storagebooks
from manifestry.adapters.store.contract import ports
from manifestry.core.kube import names
from manifestry.core.quota.storage import limits
from manifestry_api.objects import views
from tests.unit.api.routes.site import NAMESPACE, Site, condition

INLINE = {"mediaType": "text/plain", "inline": {"text": "hello"}}
DIGEST = f"sha256:{'ab' * 32}"
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


async def test_an_artifact_is_created_in_the_callers_name_with_its_origin(site: Site) -> None:
    body = {"name": "greeting", "project": "apollo", "deletionPolicy": "Retain", **INLINE}
    answer = await site.call(
        "POST", "/artifacts", body, role="publisher", headers={"Prefer": "respond-async"}
    )
    assert (answer.status, answer.json["status"]) == (202, "pending")
    assert answer.headers["Location"] == "/artifacts/greeting"
    assert answer.headers["Preference-Applied"] == "respond-async"
    views.ArtifactView.model_validate(answer.json)
    found = site.cluster.find(names.ARTIFACTS, "greeting", NAMESPACE)
    assert found is not None
    annotations = found["metadata"]["annotations"]
    assert annotations[names.AUDIT_ID_ANNOTATION] == answer.headers["Audit-ID"]
    assert annotations[names.TRACEPARENT_ANNOTATION].startswith("00-")
    assert annotations[names.REASON_ANNOTATION] == "ticket 42"
    assert site.cluster.writes[-1][2].groups == ("manifestry:publisher",)


async def test_an_artifact_that_gets_ready_in_time_is_created(site: Site) -> None:
    creating = asyncio.create_task(
        site.call("POST", "/artifacts", {"name": "a", **INLINE}, headers={"Prefer": "wait=10"})
    )
    async with asyncio.timeout(5):
        while site.cluster.find(names.ARTIFACTS, "a", NAMESPACE) is None:  # noqa: ASYNC110 - no event for it
            await asyncio.sleep(0.01)
    site.make_ready("a", ports.Blob(DIGEST, 5), ports.Blob(DIGEST, 9))
    answer = await creating
    assert (answer.status, answer.json["status"]) == (201, "ready")
    assert answer.json["manifest"] == {"digest": DIGEST, "sizeBytes": 9}
    assert answer.headers["Preference-Applied"] == "wait=10"
    views.ArtifactView.model_validate(answer.json)
    assert (await site.call("GET", "/artifacts/a")).json == answer.json


async def test_a_name_is_made_up_when_there_is_none(site: Site) -> None:
    answer = await site.call("POST", "/artifacts", {"project": "apollo", **INLINE})
    assert answer.json["id"].startswith("apollo-")
    assert answer.headers["Location"] == f"/artifacts/{answer.json['id']}"


async def test_a_taken_name_is_already_there(site: Site) -> None:
    await site.call("POST", "/artifacts", {"name": "a", **INLINE})
    answer = await site.call("POST", "/artifacts", {"name": "a", **INLINE})
    assert (answer.status, answer.json["code"]) == (409, "already-exists")
    assert answer.json["errors"][0]["pointer"] == "/name"


BAD_ARTIFACTS: list[tuple[Any, int, str, str | None]] = [
    ({"name": "Not_A_Label", **INLINE}, 422, "validation-failed", "/name"),
    ({"name": "a" * 53, **INLINE}, 422, "validation-failed", "/name"),
    ({"name": "-a", **INLINE}, 422, "validation-failed", "/name"),
    ({"name": "", **INLINE}, 422, "validation-failed", "/name"),
    ({"name": 5, **INLINE}, 422, "validation-failed", "/name"),
    ({"bogus": 1, **INLINE}, 422, "validation-failed", "/bogus"),
    ({**INLINE, "inline": {"text": "x", "more": 1}}, 422, "validation-failed", "/inline/more"),
    ({"inline": {"text": "x"}}, 422, "validation-failed", "/mediaType"),
    ({**INLINE, "mediaType": "text"}, 422, "validation-failed", "/mediaType"),
    ({**INLINE, "mediaType": "text/plain\r\nX: y"}, 422, "validation-failed", "/mediaType"),
    ({**INLINE, "digest": "md5:00"}, 422, "validation-failed", "/digest"),
    ({**INLINE, "digest": DIGEST}, 422, "digest-mismatch", "/digest"),
    ({**INLINE, "sizeBytes": 6}, 422, "validation-failed", "/sizeBytes"),
    ({**INLINE, "sizeBytes": 5.0}, 422, "validation-failed", "/sizeBytes"),
    ({**INLINE, "inline": {"text": "x" * 65537}}, 413, "payload-too-large", "/inline"),
    (
        {**INLINE, "inline": {"data": base64.b64encode(b"x" * 65537).decode()}},
        413, "payload-too-large", "/inline",
    ),
    ({**INLINE, "inline": {"data": "@@"}}, 422, "validation-failed", "/inline/data"),
    ({**INLINE, "upload": {}}, 422, "validation-failed", "/upload"),
    ({"mediaType": "text/plain"}, 422, "validation-failed", ""),
    ({**INLINE, "fileName": "a/b"}, 422, "validation-failed", "/fileName"),
    ({**INLINE, "project": "-"}, 422, "validation-failed", "/project"),
    ({**INLINE, "annotations": {"a~/b": 5}}, 422, "validation-failed", "/annotations/a~0~1b"),
    ([], 422, "validation-failed", ""),
    ({**INLINE, "name": "x" * (1 << 20)}, 413, "payload-too-large", None),
]  # fmt: skip


@pytest.mark.parametrize(("body", "status", "code", "pointer"), BAD_ARTIFACTS)
async def test_a_bad_artifact_names_its_field_and_creates_nothing(
    site: Site, body: Any, status: int, code: str, pointer: str | None
) -> None:
    answer = await site.call("POST", "/artifacts", body)
    assert (answer.status, answer.json["code"]) == (status, code)
    assert answer.headers["Content-Type"] == "application/problem+json"
    if pointer is not None:
        assert pointer in [each["pointer"] for each in answer.json["errors"]]
        assert "must" in answer.json["detail"]
    assert site.cluster.writes == []


@pytest.mark.parametrize(
    ("headers", "data", "status", "code"),
    [
        ({"Content-Type": "text/plain"}, b"{}", 415, "unsupported-media-type"),
        ({"Content-Type": "application/json; charset=latin-1"}, b"{}", 415, "unsupported-media-type"),
        (
            {"Content-Type": "application/json", "Content-Encoding": "gzip"},
            b"{}",
            415,
            "unsupported-media-type",
        ),
        ({"Content-Type": "application/json"}, b"{", 400, "bad-request"),
        ({"Content-Type": "application/json"}, b"", 400, "bad-request"),
        ({"Content-Type": "application/json"}, b"\xff", 400, "bad-request"),
        ({"Content-Type": "application/json"}, b'{"a": NaN}', 400, "bad-request"),
        ({"Content-Type": "application/json"}, b'{"name": "a", "name": "b"}', 400, "bad-request"),
        ({"Content-Type": "application/json"}, b"[" * 200_000, 400, "bad-request"),
        ({"Content-Type": 'application/json; charset="UTF-8"'}, b"{}", 422, "validation-failed"),
    ],
)
async def test_a_body_that_is_no_json_is_refused(
    site: Site, headers: dict[str, str], data: bytes, status: int, code: str
) -> None:
    for path in ("/artifacts", "/jobs"):
        answer = await site.call("POST", path, data=data, headers=headers)
        assert (answer.status, answer.json["code"]) == (status, code)
    assert site.cluster.writes == []


async def test_a_refusal_by_the_schema_points_into_the_rest_body(site: Site) -> None:
    causes = [{"field": "spec.inline.data", "message": "must not be longer", "reason": "FieldValueInvalid"}]
    refuse(site, apierrors.InvalidError(422, "Invalid", "Artifact is invalid", {"causes": causes}))
    answer = await site.call("POST", "/artifacts", INLINE)
    assert (answer.status, answer.json["errors"][0]["pointer"]) == (422, "/inline/data")


async def test_lists_are_filtered_and_paged(site: Site) -> None:
    for number in range(5):
        await site.call(
            "POST", "/artifacts", {"name": f"a{number}", "project": f"p{number % 2}", **INLINE},
            headers={"Prefer": "wait=0"},
        )  # fmt: skip
    first = (await site.call("GET", "/artifacts?limit=3", role="viewer")).json
    views.ArtifactPage.model_validate(first)
    assert [each["id"] for each in first["items"]] == ["a4", "a3", "a2"]
    second = (await site.call("GET", f"/artifacts?limit=3&continue={first['continue']}")).json
    assert [each["id"] for each in second["items"]] == ["a1", "a0"]
    assert "continue" not in second
    for query, expected in {
        "project=p1": ["a3", "a1"], "name=a2": ["a2"], "mediaType=text/plain&project=p0": ["a4", "a2", "a0"],
        "status=ready": [], "status=pending&name=a0": ["a0"], f"digest={DIGEST}": [],
    }.items():  # fmt: skip
        found = (await site.call("GET", f"/artifacts?{query}")).json
        assert [each["id"] for each in found["items"]] == expected
    other = await site.call("GET", f"/artifacts?project=p1&continue={first['continue']}")
    assert (other.status, other.json["code"]) == (400, "bad-request")


@pytest.mark.parametrize(
    ("query", "place"),
    [
        ("limit=0", "limit"),
        ("limit=501", "limit"),
        ("limit=x", "limit"),
        ("projekt=x", "projekt"),
        ("status=x", "status"),
    ],
)
@pytest.mark.parametrize("path", ["/artifacts", "/jobs"])
async def test_a_bad_query_names_its_parameter(site: Site, path: str, query: str, place: str) -> None:
    answer = await site.call("GET", f"{path}?{query}")
    assert answer.status == 422
    assert answer.json["errors"][0]["parameter"] == place


async def test_an_object_has_an_etag(site: Site) -> None:
    await site.call("POST", "/artifacts", {"name": "a", **INLINE})
    first = await site.call("GET", "/artifacts/a")
    again = await site.call("GET", "/artifacts/a", headers={"If-None-Match": first.headers["ETag"]})
    assert (again.status, again.data) == (304, b"")
    site.cluster.set_status(
        names.ARTIFACTS, "a", NAMESPACE, {"conditions": [condition("Stalled", "True", "X")]}
    )
    await asyncio.sleep(0.05)
    changed = await site.call("GET", "/artifacts/a", headers={"If-None-Match": first.headers["ETag"]})
    assert (changed.status, changed.json["status"]) == (200, "failed")


async def test_deleting_an_artifact_is_seen_at_once_and_only_once(site: Site) -> None:
    await site.call("POST", "/artifacts", {"name": "a", **INLINE})
    assert (await site.call("DELETE", "/artifacts/a")).status == 204
    assert (await site.call("GET", "/artifacts/a")).status == 404
    assert (await site.call("DELETE", "/artifacts/a")).status == 404
    assert (await site.call("GET", "/artifacts")).json == {"items": []}


async def test_an_artifact_on_its_way_out_is_gone_to_rest(site: Site) -> None:
    await site.call("POST", "/artifacts", {"name": "a", **INLINE})
    found = site.cluster.find(names.ARTIFACTS, "a", NAMESPACE)
    assert found is not None
    found["metadata"]["deletionTimestamp"] = "2026-05-04T03:02:01Z"
    site.cluster.put(names.ARTIFACTS, found)
    await asyncio.sleep(0.05)
    assert (await site.call("GET", "/artifacts/a")).status == 404
    assert (await site.call("GET", "/artifacts")).json == {"items": []}


async def test_a_protected_artifact_stays(site: Site) -> None:
    await site.call("POST", "/artifacts", {"name": "a", **INLINE})
    found = site.cluster.find(names.ARTIFACTS, "a", NAMESPACE)
    assert found is not None
    found["metadata"]["labels"] = {names.PROTECTED_LABEL: "true"}
    site.cluster.put(names.ARTIFACTS, found)
    answer = await site.call("DELETE", "/artifacts/a")
    assert (answer.status, answer.json["code"]) == (409, "conflict")
    assert (await site.call("GET", "/artifacts/a")).status == 200


async def test_another_tenants_objects_are_not_there(site: Site) -> None:
    await site.call("POST", "/artifacts", {"name": "a", **INLINE})
    await site.call("POST", "/jobs", {"name": "j", "jobType": "render"})
    other = {"X-Tenant": "other"}
    for method, path in (
        ("GET", "/artifacts/a"), ("DELETE", "/artifacts/a"), ("GET", "/jobs/j"), ("DELETE", "/jobs/j"),
        ("POST", "/jobs/j/cancel"), ("GET", "/artifacts/..%2F..%2Fnamespaces"), ("GET", "/jobs/%00"),
    ):  # fmt: skip
        answer = await site.call(method, path, headers=other)
        assert answer.status == 404, path
    assert (await site.call("GET", "/jobs", headers=other)).json == {"items": []}
    assert (await site.call("GET", "/jobs/j")).status == 200


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
