"""PATCH and PUT of an artifact's metadata: what they change, refuse, and do when somebody was faster."""

import asyncio
import io
import itertools
from collections.abc import Callable
from typing import Any

import pytest

from manifestry.adapters.kube import apierrors
from manifestry.adapters.store.contract import ports
from manifestry.core.kube import names
from manifestry_api.artifacts import updates
from manifestry_api.objects import views
from tests.unit.api.routes.metadata import DIGEST, INLINE, MERGE, OTHER, artifact, change, put, stored
from tests.unit.api.routes.site import Site


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(updates, "PAUSE_SECONDS", 0.001)


async def test_a_patch_changes_what_it_names_and_nothing_else(site: Site) -> None:
    await put(site, artifact("a", project="apollo", annotations={"x": "1", "y": "2"}))
    wanted = {"project": "gemini", "annotations": {"y": None, "z": "3"}, "labels": {"team": "red"}}
    answer = await change(site, "PATCH", wanted)
    assert answer.status == 202, answer.json  # nobody observes here
    views.ArtifactView.model_validate(answer.json)
    assert answer.json["annotations"] == {"x": "1", "z": "3"}
    assert (answer.json["project"], answer.json["labels"]) == ("gemini", {"team": "red"})
    found = stored(site, "a")
    assert found["metadata"]["labels"] == {"team": "red", names.PROJECT_LABEL: "gemini"}
    assert found["spec"] == {**INLINE, "project": "gemini", "annotations": {"x": "1", "z": "3"}}
    assert answer.headers["ETag"] == (await site.call("GET", "/artifacts/a")).headers["ETag"]
    assert site.cluster.writes[-1][2].groups == ("manifestry:publisher",)


async def test_labels_alone_need_no_operator(site: Site) -> None:
    await put(site, artifact("a"))
    answer = await change(site, "PATCH", {"labels": {names.PROTECTED_LABEL: "true"}})
    assert answer.status == 200
    assert (await site.call("DELETE", "/artifacts/a")).status == 409
    answer = await change(site, "PATCH", {"labels": {names.PROTECTED_LABEL: None}})
    assert "labels" not in answer.json
    assert (await site.call("DELETE", "/artifacts/a")).status == 204


async def test_what_is_so_already_is_not_written(site: Site) -> None:
    await put(site, artifact("a", project="apollo"))
    read = await site.call("GET", "/artifacts/a")
    for method, body in (("PATCH", {}), ("PATCH", {"project": "apollo"}), ("PUT", read.json)):
        answer = await change(site, method, body, If_Match=read.headers["ETag"])
        assert (answer.status, answer.headers["ETag"]) == (200, read.headers["ETag"])
    assert site.cluster.writes == []


async def test_a_put_replaces(site: Site) -> None:
    await put(site, artifact("a", project="apollo", annotations={"x": "1"}, metadata={"labels": {"t": "u"}}))
    read = (await site.call("GET", "/artifacts/a")).json
    answer = await change(site, "PUT", {**read, "annotations": {"y": "2"}, "project": None})
    assert answer.status == 202, answer.json
    assert answer.json["annotations"] == {"y": "2"}
    assert "project" not in answer.json
    assert answer.json["labels"] == {"t": "u"}
    assert stored(site, "a")["spec"] == {**INLINE, "annotations": {"y": "2"}}


async def test_the_answer_waits_for_the_manifest(site: Site) -> None:
    await put(site, artifact("a"))
    changing = asyncio.create_task(change(site, "PATCH", {"fileName": "x.txt"}, Prefer="wait=10"))
    async with asyncio.timeout(5):
        while stored(site, "a")["metadata"]["generation"] == 1:  # noqa: ASYNC110 - no event for it
            await asyncio.sleep(0.01)
    site.make_ready("a", ports.Blob(DIGEST, 5), ports.Blob(OTHER, 9))
    answer = await changing
    assert (answer.status, answer.json["manifest"]["digest"]) == (200, OTHER)
    assert answer.headers["Preference-Applied"] == "wait=10"
    again = await change(site, "PATCH", {"labels": {"a": "b"}}, If_Match=answer.headers["ETag"])
    assert again.status == 200


BAD: list[tuple[Any, str, str | None]] = [
    ({"mediaType": "a/b"}, "immutable-field", "/mediaType"),
    ({"inline": {"text": "other"}}, "immutable-field", "/inline/text"),
    ({"digest": OTHER}, "immutable-field", "/digest"),
    ({"sizeBytes": 1}, "immutable-field", "/sizeBytes"),
    ({"upload": {}}, "immutable-field", "/upload"),
    ({"id": "b"}, "immutable-field", "/id"),
    ({"status": "failed"}, "immutable-field", "/status"),
    ({"bogus": 1}, "validation-failed", "/bogus"),
    ({"project": "-"}, "validation-failed", "/project"),
    ({"project": 5}, "validation-failed", "/project"),
    ({"annotations": {"a": 5}}, "validation-failed", "/annotations/a"),
    ({"annotations": {"a": {"b": "c"}}}, "validation-failed", "/annotations/a"),
    ({"annotations": {f"k{n}": "v" for n in range(33)}}, "validation-failed", "/annotations"),
    ({"annotations": [1]}, "validation-failed", "/annotations"),
    ({"labels": {"a b": "c"}}, "validation-failed", "/labels/a b"),
    ({"labels": {"a": "-"}}, "validation-failed", "/labels/a"),
    ({"labels": {"manifestry.dev/tenant": "x"}}, "validation-failed", "/labels/manifestry.dev~1tenant"),
    ({"labels": {names.PROJECT_LABEL: "x"}}, "validation-failed", "/labels/manifestry.dev~1project"),
    ({"fileName": "../x"}, "validation-failed", "/fileName"),
    ({"fileName": "x\r\nSet-Cookie: y"}, "validation-failed", "/fileName"),
    ({"deletionPolicy": "Never"}, "validation-failed", "/deletionPolicy"),
    ({"subjectRef": {"name": "../b"}}, "validation-failed", "/subjectRef/name"),
    ({"subjectRef": {"name": "b", "namespace": "c"}}, "validation-failed", "/subjectRef/namespace"),
    ({"derivedFromRefs": [{"name": "B"}]}, "validation-failed", "/derivedFromRefs/0/name"),
    ([], "validation-failed", ""),
    ("x", "validation-failed", ""),
]


@pytest.mark.parametrize("method", ["PATCH", "PUT"])
@pytest.mark.parametrize(("body", "code", "pointer"), BAD)
async def test_a_bad_change_names_its_field_and_writes_nothing(
    site: Site, method: str, body: Any, code: str, pointer: str
) -> None:
    await put(site, artifact("a"))
    answer = await change(site, method, body)
    assert (answer.status, answer.json["code"]) == (422, code)
    assert pointer in [each["pointer"] for each in answer.json["errors"]]
    assert "must" in answer.json["detail"]
    assert site.cluster.writes == []


@pytest.mark.parametrize(
    ("method", "headers", "data", "status"),
    [
        ("PATCH", {"Content-Type": "application/json"}, b"{}", 415),
        ("PATCH", {"Content-Type": "application/json-patch+json"}, b"[]", 415),
        ("PATCH", {}, b"{}", 415),
        ("PUT", {"Content-Type": "application/merge-patch+json"}, b"{}", 415),
        ("PATCH", {"Content-Type": "Application/Merge-Patch+JSON; charset=UTF-8"}, b"{}", 200),
        ("PATCH", MERGE, b"{", 400),
        ("PATCH", MERGE, b'{"project":"a","project":"b"}', 400),
        ("PATCH", MERGE, b'{"annotations":' * 70 + b"{}" + b"}" * 70, 400),
        ("PATCH", MERGE, b'{"sizeBytes": 1e999}', 400),
        ("PATCH", MERGE, b'{"fileName": "\\ud800"}', 400),
        ("PATCH", MERGE, b'{"fileName": "\\uD83D\\uDE00"}', 202),
        ("PATCH", MERGE, b'{"a":"' + b"x" * (1 << 20) + b'"}', 413),
    ],
)
async def test_bodies_of_a_change(
    site: Site, method: str, headers: dict[str, str], data: bytes, status: int
) -> None:
    await put(site, artifact("a"))
    sent = {"Content-Type": "", **headers}
    answer = await site.call(method, "/artifacts/a", data=io.BytesIO(data), headers=sent)
    assert answer.status == status, answer.json
    if status == 415 and method == "PATCH":
        assert answer.headers["Accept-Patch"] == "application/merge-patch+json"


async def test_a_refusal_by_the_schema_points_into_the_rest_body(site: Site) -> None:
    await put(site, artifact("a"))
    causes = [{"field": "spec.annotations", "message": "must be few", "reason": "FieldValueInvalid"}]

    def refuse(*_: Any) -> None:
        raise apierrors.InvalidError(422, "Invalid", "Artifact is invalid", {"causes": causes})

    site.cluster.before_write = refuse
    answer = await change(site, "PATCH", {"annotations": {"a": "b"}})
    assert (answer.status, answer.json["errors"][0]["pointer"]) == (422, "/annotations")


def meanwhile(site: Site, act: Callable[[int], None], times: int) -> None:
    """Let somebody else write between the facade's read and its write."""
    calls = itertools.count()

    def interfere(verb: str, resource: names.Resource, _: Any) -> None:
        if resource is names.ARTIFACTS and verb in {"patch", "delete"} and (number := next(calls)) < times:
            act(number)

    site.cluster.before_write = interfere


def relabel(site: Site) -> Callable[[int], None]:
    def act(number: int) -> None:
        found = stored(site, "a")
        site.cluster.put(
            names.ARTIFACTS, {**found, "metadata": {**found["metadata"], "labels": {"n": str(number)}}}
        )

    return act


async def test_a_change_goes_over_what_was_written_meanwhile(site: Site) -> None:
    await put(site, artifact("a"))
    meanwhile(site, relabel(site), 3)
    answer = await change(site, "PATCH", {"labels": {"mine": "x"}})
    assert (answer.status, answer.json["labels"]) == (200, {"n": "2", "mine": "x"})


async def test_a_change_that_never_gets_through_is_busy(site: Site) -> None:
    await put(site, artifact("a"))
    meanwhile(site, relabel(site), 1000)
    answer = await change(site, "PATCH", {"fileName": "x"})
    assert (answer.status, answer.json["code"]) == (503, "busy")
    assert answer.headers["Retry-After"]


async def test_a_condition_is_checked_again_when_somebody_was_faster(site: Site) -> None:
    await put(site, artifact("a"))
    current = (await site.call("GET", "/artifacts/a")).headers["ETag"]
    for method, headers in (("PATCH", MERGE), ("DELETE", {})):
        meanwhile(site, relabel(site), 1)
        body = {"fileName": "x"} if headers else None
        answer = await site.call(method, "/artifacts/a", body, headers={**headers, "If-Match": current})
        assert (answer.status, answer.json["code"]) == (412, "precondition-failed")
    meanwhile(site, relabel(site), 1)
    assert (await site.call("DELETE", "/artifacts/a", headers={"If-Match": "*"})).status == 204


async def test_one_of_many_with_the_same_tag_wins(site: Site) -> None:
    await put(site, artifact("a"))
    current = (await site.call("GET", "/artifacts/a")).headers["ETag"]
    answers = await asyncio.gather(
        *(change(site, "PATCH", {"fileName": f"f{n}"}, If_Match=current) for n in range(20))
    )
    assert sorted(answer.status for answer in answers) == [202] + [412] * 19
    (winner,) = [answer for answer in answers if answer.status == 202]
    assert stored(site, "a")["spec"]["fileName"] == winner.json["fileName"]
