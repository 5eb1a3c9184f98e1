"""Custom resources from REST bodies."""

import base64
import hashlib
from typing import Any

import pytest

from manifestry.core import errors
from manifestry.core.artifacts import requests
from manifestry.core.kube import names, objects
from manifestry.core.kube.objects import Provenance

PROVENANCE = Provenance("alice", "nightly", "0b6e", "00-aa-bb-01")
NAMESPACE = "tenant-acme"

DIGEST = f"sha256:{'a' * 64}"


def artifact(**body: Any) -> dict[str, Any]:
    return requests.artifact({"mediaType": "text/plain", **body}, NAMESPACE, PROVENANCE)


def refused(kind: errors.ErrorKind, call: Any, *arguments: Any) -> errors.Problem:
    with pytest.raises(errors.Problem) as caught:
        call(*arguments)
    assert caught.value.kind is kind
    return caught.value


def test_an_artifact_keeps_its_fields_in_spec_and_its_origin_in_annotations() -> None:
    body = artifact(name="greeting", project="apollo", inline={"text": "hello"}, digest=None)
    assert body == {
        "apiVersion": names.API_VERSION,
        "kind": "Artifact",
        "metadata": {
            "name": "greeting",
            "namespace": NAMESPACE,
            "labels": {names.PROJECT_LABEL: "apollo"},
            "annotations": {
                names.ACTOR_ANNOTATION: "alice",
                names.REASON_ANNOTATION: "nightly",
                names.AUDIT_ID_ANNOTATION: "0b6e",
                names.TRACEPARENT_ANNOTATION: "00-aa-bb-01",
            },
        },
        "spec": {"mediaType": "text/plain", "project": "apollo", "inline": {"text": "hello"}},
    }


def test_empty_provenance_leaves_no_annotation() -> None:
    assert Provenance("alice", "", "", "").annotations() == {names.ACTOR_ANNOTATION: "alice"}


@pytest.mark.parametrize(
    ("project", "prefix"),
    [
        (None, "artifact-"),
        ("apollo", "apollo-"),
        ("Apollo_11.x", "apollo-11-x-"),
        ("9", "9-"),
        ("\xe4", "artifact-"),
        ("a" * 63, "a" * 46 + "-"),
    ],
)
def test_a_name_is_made_from_the_project(project: str | None, prefix: str) -> None:
    metadata = artifact(project=project)["metadata"]
    assert metadata["generateName"] == prefix
    assert "name" not in metadata
    assert names.is_dns_label(prefix + "x" * objects.GENERATED_SUFFIX_LENGTH, names.NAME_MAX_LENGTH)


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({}, ""),
        ({"inline": {"text": ""}, "upload": {}}, "/upload"),
        ({"url": {"url": "http://a.example/"}}, "/url/url"),
        ({"url": {"url": "https://0x7f.1/"}}, "/url/url"),
        ({"secretRef": {"name": "a", "key": "b"}}, "/secretRef"),
        ({"files": [{"name": "a", "secretRef": {"name": "a", "key": "b"}}]}, "/files/0/secretRef"),
        ({"files": [{"name": "a", "upload": {}}, {"name": "b"}]}, "/files/1"),
        ({"files": [{"name": "a", "upload": {}}, {"name": "a", "upload": {}}]}, "/files/1/name"),
        ({"files": [{"name": "a", "upload": {}, "inline": {"text": ""}}]}, "/files/0/upload"),
        ({"files": [{"name": "a", "inline": {"text": "abc"}, "sizeBytes": 4}]}, "/files/0/sizeBytes"),
        ({"files": [{"name": "a", "inline": {"data": "!"}}]}, "/files/0/inline/data"),
        ({"files": [{"name": "a", "url": {"url": "https://localhost/"}}]}, "/files/0/url/url"),
        ({"files": [{"name": "a", "upload": {}}], "sizeBytes": 4}, "/sizeBytes"),
        ({"files": [{"name": "a", "upload": {}}], "inline": {"text": ""}}, "/files"),
        ({"inline": {}}, "/inline"),
        ({"inline": {"text": "a", "data": "YQ=="}}, "/inline"),
        ({"inline": {"data": "!"}}, "/inline/data"),
        ({"inline": {"data": "YQ"}}, "/inline/data"),
        ({"inline": {"text": "abc"}, "sizeBytes": 4}, "/sizeBytes"),
    ],
)
def test_a_source_that_does_not_fit_names_its_field(body: dict[str, Any], pointer: str) -> None:
    problem = refused(errors.VALIDATION_FAILED, requests.check_source, body)
    assert problem.errors[0].pointer == pointer
    assert "must" in problem.detail


@pytest.mark.parametrize(
    ("body", "source", "awaits"),
    [
        ({"inline": {"text": ""}}, "inline", False),
        ({"upload": {}}, "upload", True),
        ({"object": {"digest": DIGEST}}, "object", False),
        ({"url": {"url": "https://a.example/"}}, "url", False),
        ({"configMapRef": {"name": "a", "key": "b"}}, "configMapRef", False),
        ({"files": [{"name": "a", "inline": {"text": ""}}, {"name": "b", "upload": {}}]}, "files", True),
        ({"files": [{"name": "a", "object": {"digest": DIGEST}}]}, "files", False),
    ],
)
def test_sources_that_are_served(body: dict[str, Any], source: str, awaits: bool) -> None:
    assert requests.check_source(body) == source
    assert requests.awaits_upload(body) is awaits


def test_an_uploaded_file_is_recorded_beside_the_others() -> None:
    files = [
        {"name": "a", "upload": {"expiresAfterSeconds": 60}, "mediaType": "a/b"},
        {"name": "b", "upload": {}, "mediaType": "a/b"},
    ]
    body = {"metadata": {"resourceVersion": "7"}, "spec": {"files": files}}
    change = requests.uploaded(body, DIGEST, 5, "a")
    uploads = {"a": {"digest": DIGEST, "sizeBytes": 5}}
    assert change == {"metadata": {"resourceVersion": "7"}, "spec": {"fileUploads": uploads}}
    assert requests.awaits_upload({"files": files, "fileUploads": uploads})
    assert not requests.awaits_upload({"files": files[:1], "fileUploads": uploads})


def test_an_inline_payload_over_64_kib_is_too_large() -> None:
    text = "x" * (requests.INLINE_MAX_BYTES + 1)
    for inline in ({"text": text}, {"data": base64.b64encode(text.encode()).decode()}):
        problem = refused(errors.PAYLOAD_TOO_LARGE, requests.check_source, {"inline": inline})
        assert problem.errors[0].pointer == "/inline"
    assert requests.check_source({"inline": {"text": text[:-1]}}) == "inline"


def test_the_promised_digest_is_checked_before_anything_is_created() -> None:
    digest = f"sha256:{hashlib.sha256(b'abc').hexdigest()}"
    assert requests.check_source({"inline": {"text": "abc"}, "digest": digest, "sizeBytes": 3}) == "inline"
    problem = refused(
        errors.DIGEST_MISMATCH, requests.check_source, {"inline": {"text": "abd"}, "digest": digest}
    )
    assert problem.errors[0].pointer == "/digest"


@pytest.mark.parametrize(
    ("inline", "expected"),
    [({"text": "\u20ac"}, b"\xe2\x82\xac"), ({"data": "AAE="}, b"\0\1"), ({"text": ""}, b"")],
)
def test_inline_bytes(inline: dict[str, str], expected: bytes) -> None:
    assert requests.inline_bytes(inline) == expected


def test_an_upload_is_recorded_only_on_what_was_read() -> None:
    patch = requests.uploaded({"metadata": {"resourceVersion": "7"}}, "sha256:00", 3)
    assert patch == {
        "metadata": {"resourceVersion": "7"},
        "spec": {"upload": {"digest": "sha256:00", "sizeBytes": 3}},
    }
