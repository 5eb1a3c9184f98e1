"""Changes of metadata: what may change, what a change becomes, what is refused and where."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifestry.core import errors
from manifestry.core.artifacts import changes, requests
from manifestry.core.kube import names
from manifestry_api.objects import representations, schemas, views
from manifestry_api.request import bodies

DIGEST = f"sha256:{'ab' * 32}"
OTHER = f"sha256:{'cd' * 32}"


def artifact(**spec: Any) -> dict[str, Any]:
    return {
        "metadata": {
            "name": "a", "uid": "u", "resourceVersion": "7", "creationTimestamp": "2026-05-04T03:02:01Z",
            "labels": {names.PROJECT_LABEL: "apollo", "team": "x"},
        },
        "spec": {
            "mediaType": "text/plain", "project": "apollo", "annotations": {"a": "1", "b": "2"},
            "inline": {"text": "hello"}, **spec,
        },
        "status": {
            "artifact": {"digest": DIGEST, "sizeBytes": 5},
            "manifest": {"digest": OTHER, "sizeBytes": 9},
        },
    }  # fmt: skip


def shown(body: dict[str, Any]) -> dict[str, Any]:
    return representations.artifact(body, "acme")


def patch(body: dict[str, Any], document: Any) -> dict[str, Any]:
    return changes.resource_patch(body, changes.patched(body, shown(body), document))


def put(body: dict[str, Any], document: Any) -> dict[str, Any]:
    return changes.resource_patch(body, changes.replaced(body, shown(body), document))


# RFC 7396 appendix A, but for the cases whose target is an array or a text in a member of ours.
@pytest.mark.parametrize(
    ("target", "change", "result"),
    [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        (["a", "b"], ["c", "d"], ["c", "d"]),
        ({"a": "b"}, ["c"], ["c"]),
        ({"a": "foo"}, None, None),
        ({"a": "foo"}, "bar", "bar"),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_merge_patch(target: Any, change: Any, result: Any) -> None:
    assert changes.merge(target, change) == result


def spec(**wanted: Any) -> dict[str, Any]:
    return {"metadata": {"resourceVersion": "7"}, "spec": wanted}


PATCHES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "nothing": ({}, {}),
    "what is so already": ({"project": "apollo", "annotations": {"a": "1"}}, {}),
    "a text": ({"fileName": "x.txt"}, spec(fileName="x.txt")),
    "a text away": ({"deletionPolicy": None}, {}),
    "one annotation": ({"annotations": {"a": "3"}}, spec(annotations={"a": "3"})),
    "one annotation away": ({"annotations": {"a": None, "c": None}}, spec(annotations={"a": None})),
    "all annotations away": ({"annotations": None}, spec(annotations=None)),
    "the last annotations away": ({"annotations": {"a": None, "b": None}}, spec(annotations=None)),
    "a reference": ({"subjectRef": {"name": "s"}}, spec(subjectRef={"name": "s"})),
    "references": ({"derivedFromRefs": [{"name": "s"}]}, spec(derivedFromRefs=[{"name": "s"}])),
    "a label": ({"labels": {"team": "y"}}, {"metadata": {"resourceVersion": "7", "labels": {"team": "y"}}}),
    "labels away": ({"labels": None}, {"metadata": {"resourceVersion": "7", "labels": {"team": None}}}),
    "the project with its label": (
        {"project": "gemini"},
        {
            "metadata": {"resourceVersion": "7", "labels": {names.PROJECT_LABEL: "gemini"}},
            "spec": {"project": "gemini"},
        },
    ),
    "the project away": (
        {"project": None},
        {
            "metadata": {"resourceVersion": "7", "labels": {names.PROJECT_LABEL: None}},
            "spec": {"project": None},
        },
    ),
}


@pytest.mark.parametrize("title", PATCHES)
def test_a_patch_becomes_the_smallest_patch_of_the_resource(title: str) -> None:
    document, wanted = PATCHES[title]
    assert patch(artifact(), document) == wanted


def test_a_put_takes_away_what_it_leaves_out_but_labels() -> None:
    assert put(artifact(), {"fileName": "x"}) == {
        "metadata": {"resourceVersion": "7", "labels": {names.PROJECT_LABEL: None}},
        "spec": {"project": None, "annotations": None, "fileName": "x"},
    }
    assert put(artifact(), {"project": "apollo", "annotations": {"a": "1"}}) == spec(annotations={"b": None})
    assert put(artifact(), {"project": "apollo", "annotations": {"a": "1", "b": "2"}, "labels": {}}) == {
        "metadata": {"resourceVersion": "7", "labels": {"team": None}}
    }


def test_what_was_read_can_be_put_back_with_a_change() -> None:
    body = artifact(digest=DIGEST)
    assert put(body, shown(body)) == {}
    assert put(body, {**shown(body), "fileName": "x"}) == spec(fileName="x")
    assert patch(body, shown(body)) == {}


def test_what_it_was_created_with_can_be_put_again() -> None:
    body = artifact()
    del body["spec"]["inline"]
    body["spec"] |= {"upload": {"expiresAfterSeconds": 60, "digest": DIGEST, "sizeBytes": 5}, "sizeBytes": 5}
    created = {
        "name": "a", "mediaType": "text/plain", "project": "apollo", "annotations": {"a": "1", "b": "2"},
        "upload": {"expiresAfterSeconds": 60}, "sizeBytes": 5,
    }  # fmt: skip
    assert put(body, created) == {}
    assert patch(body, created) == {}
    files = artifact(files=[{"name": "f", "mediaType": "a/b", "upload": {"digest": DIGEST, "sizeBytes": 5}}])
    del files["spec"]["inline"]
    assert patch(files, {"files": [{"name": "f", "mediaType": "a/b", "upload": {}}]}) == {}


IMMUTABLE: list[tuple[dict[str, Any], str]] = [
    ({"mediaType": "a/b"}, "/mediaType"),
    ({"mediaType": None}, "/mediaType"),
    ({"name": "b"}, "/name"),
    ({"id": "b"}, "/id"),
    ({"tenant": "other"}, "/tenant"),
    ({"status": "ready"}, "/status"),
    ({"source": "upload"}, "/source"),
    ({"createdAt": "2027-01-01T00:00:00Z"}, "/createdAt"),
    ({"createdBy": "me"}, "/createdBy"),
    ({"digest": OTHER}, "/digest"),
    ({"digest": None}, "/digest"),
    ({"sizeBytes": 6}, "/sizeBytes"),
    ({"sizeBytes": True}, "/sizeBytes"),
    ({"manifest": {"digest": DIGEST}}, "/manifest/digest"),
    ({"manifest": None}, "/manifest"),
    ({"expected": {"digest": DIGEST}}, "/expected"),
    ({"inline": {"text": "other"}}, "/inline/text"),
    ({"inline": {"data": "aGk="}}, "/inline/data"),
    ({"inline": None}, "/inline"),
    ({"upload": {}}, "/upload"),
    ({"object": {"digest": DIGEST}}, "/object"),
    ({"files": []}, "/files"),
    ({"conditions": []}, "/conditions"),
    ({"links": {"content": "/x"}}, "/links/content"),
]


@pytest.mark.parametrize(("document", "pointer"), IMMUTABLE)
def test_what_may_not_change_is_named(document: dict[str, Any], pointer: str) -> None:
    body = artifact()
    if pointer == "/conditions":
        body["status"]["conditions"] = [{"type": "Ready", "status": "True"}]
    changing = [patch] if None in document.values() else [patch, put]
    for change in changing:
        with pytest.raises(errors.Problem) as caught:
            change(body, {"project": "gemini", **document})
        assert caught.value.kind is errors.IMMUTABLE_FIELD
        assert [each.pointer for each in caught.value.errors] == [pointer]
        assert "must" in caught.value.detail


def test_null_for_what_is_not_there_is_nothing() -> None:
    assert patch(artifact(), {"upload": None, "storedAt": None}) == {}
    assert patch(artifact(), {"upload": None, "files": None, "verifiedAt": None}) == {}


def test_a_put_may_leave_a_fixed_member_null() -> None:
    body = artifact()
    assert put(body, {**changes.mutable(body), "mediaType": None}) == {}


def test_a_resource_version_is_a_precondition() -> None:
    assert patch(artifact(), {"resourceVersion": "7", "fileName": "x"}) == spec(fileName="x")
    for version in ("6", 7):
        with pytest.raises(errors.Problem) as caught:
            patch(artifact(), {"resourceVersion": version, "mediaType": "a/b"})
        assert caught.value.kind is errors.PRECONDITION_FAILED


@pytest.mark.parametrize("document", [[], "x", 5, True, None])
def test_what_is_no_object_is_refused(document: Any) -> None:
    for change in (patch, put):
        with pytest.raises(errors.Problem) as caught:
            change(artifact(), document)
        assert caught.value.kind is errors.VALIDATION_FAILED


def test_an_unknown_member_is_named_before_an_immutable_one() -> None:
    with pytest.raises(errors.Problem) as caught:
        patch(artifact(), {"mediaType": "a/b", "a/b~c": 1})
    assert caught.value.kind is errors.VALIDATION_FAILED
    assert [each.pointer for each in caught.value.errors] == ["/a~1b~0c"]


def test_labels_of_ours_are_not_for_clients_but_the_one_that_protects() -> None:
    changes.check_labels({"manifestry.dev/x": "1"}, {"manifestry.dev/x": "1", names.PROTECTED_LABEL: "true"})
    changes.check_labels({names.PROTECTED_LABEL: "true"}, {})
    for current, wanted in (({}, {"manifestry.dev/x": "1"}), ({"manifestry.dev/x": "1"}, {})):
        with pytest.raises(errors.Problem) as caught:
            changes.check_labels(current, wanted)
        assert caught.value.errors[0].pointer == "/labels/manifestry.dev~1x"


def test_only_what_is_altered_is_checked() -> None:
    assert changes.altered(artifact(), {"project": "apollo", "fileName": "x"}) == {"fileName": "x"}


def aliases(model: Any) -> set[str]:
    return {field.alias or name for name, field in model.model_fields.items()}


def test_every_member_of_rest_is_either_mutable_or_not() -> None:
    known = {*changes.MUTABLE, *changes.CREATED, *changes.OBSERVED}
    assert known == aliases(views.ArtifactView) | aliases(schemas.ArtifactCreate)
    assert set(changes.MUTABLE) == aliases(schemas.ArtifactUpdate)
    assert set(requests.SOURCES) < set(changes.CREATED)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)
MEMBERS = st.sampled_from([*changes.MUTABLE, *changes.CREATED, *changes.OBSERVED, "bogus"])


@given(st.dictionaries(MEMBERS, JSON, max_size=4))
def test_any_document_is_a_change_or_a_refusal(document: dict[str, Any]) -> None:
    for wanted in (changes.patched, changes.replaced):
        found = outcome(wanted, document)
        if isinstance(found, errors.ErrorKind):
            assert found in {errors.VALIDATION_FAILED, errors.IMMUTABLE_FIELD, errors.PRECONDITION_FAILED}
        else:
            assert set(found) <= {"metadata", "spec"}
            assert set(found.get("spec", {})) <= set(changes.SPEC_FIELDS)
            assert set(found.get("metadata", {})) <= {"resourceVersion", "labels"}


def outcome(wanted: Any, document: dict[str, Any]) -> Any:
    body = artifact()
    try:
        members = wanted(body, shown(body), document)
        bodies.validate(changes.altered(body, members), schemas.ArtifactUpdate)
        changes.check_labels(changes.labels(body), members.get("labels") or {})
        return changes.resource_patch(body, members)
    except errors.Problem as problem:
        return problem.kind


@given(
    st.dictionaries(st.sampled_from("abcd"), st.text(max_size=2), max_size=4),
    st.dictionaries(st.sampled_from("abcd"), st.none() | st.text(max_size=2), max_size=4),
)
def test_the_resources_patch_does_what_the_clients_does(old: dict[str, str], change: dict[str, Any]) -> None:
    body = artifact(annotations=old)
    result = changes.merge(body, patch(body, {"annotations": change}))
    assert (result["spec"].get("annotations") or {}) == changes.merge(old, change)
