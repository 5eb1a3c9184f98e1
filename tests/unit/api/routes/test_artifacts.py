"""Artifacts as REST makes, shows and deletes them; bodies, queries and tenants, of jobs too."""

import asyncio
import base64
from typing import Any

import pytest

from manifestry.adapters.kube import apierrors
from manifestry.adapters.store.contract import ports
from manifestry.core.kube import names
from manifestry_api.objects import views
from tests.unit.api.routes.site import NAMESPACE, Site, condition
from tests.unit.api.routes.test_jobs import refuse

INLINE = {"mediaType": "text/plain", "inline": {"text": "hello"}}
DIGEST = f"sha256:{'ab' * 32}"


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
