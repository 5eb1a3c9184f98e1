"""What an artifact's plan says: a table of specs and evidence, no cluster, no store."""

import base64
import json
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import pytest

from manifestry.core.artifacts import lives, manifests, plans, steps
from manifestry.core.artifacts.manifests import Descriptor
from manifestry.core.artifacts.plans import Lookups, Observed
from manifestry.core.artifacts.sources import Evidence
from manifestry.core.blobs import digests
from manifestry.core.fetching.fetches import Fetched, Pending
from tests.unit.core.artifacts.observations import (
    ABSENT,
    ACME,
    CONFIG,
    CREATED,
    FAILED,
    FETCHED,
    HELLO,
    INLINE,
    NOW,
    OTHER,
    PRIVATE,
    READY,
    SECRET,
    UPLOADED,
    WAITS,
    body,
    kinds,
    observe,
    planned,
    summary,
)


@pytest.mark.parametrize(
    ("spec", "evidence", "state", "reason"),
    [
        (INLINE, {}, READY, "Stored"),
        ({"inline": {"data": base64.b64encode(b"hello").decode()}}, {}, READY, "Stored"),
        ({"inline": {"data": "aGVs\nbG8=\r\n"}}, {}, READY, "Stored"),
        ({"inline": {"text": ""}}, {}, READY, "Stored"),
        ({**INLINE, "digest": HELLO, "sizeBytes": 5}, {}, READY, "Stored"),
        ({**INLINE, "digest": OTHER}, {}, FAILED, "DigestMismatch"),
        ({**INLINE, "sizeBytes": 4}, {}, FAILED, "SizeMismatch"),
        ({"inline": {"text": "x" * 65536}}, {}, READY, "Stored"),
        ({"inline": {"text": "x" * 65537}}, {}, FAILED, "TooLarge"),
        ({"inline": {"text": "é" * 32769}}, {}, FAILED, "TooLarge"),
        ({"inline": {"text": "\ud800"}}, {}, FAILED, "InvalidSource"),
        ({"inline": {"data": "!"}}, {}, FAILED, "InvalidSource"),
        ({"inline": {"data": "aGVsbG8"}}, {}, FAILED, "InvalidSource"),
        ({"inline": {"data": "é"}}, {}, FAILED, "InvalidSource"),
        ({"inline": {}}, {}, FAILED, "InvalidSource"),
        ({"inline": {"text": "a", "data": "YQ=="}}, {}, FAILED, "InvalidSource"),
        ({"inline": {"text": 5}}, {}, FAILED, "InvalidSource"),
        ({"inline": "hello"}, {}, FAILED, "InvalidSource"),
        ({}, {}, FAILED, "InvalidSource"),
        ({**INLINE, "upload": {}}, {}, FAILED, "InvalidSource"),
        ({**INLINE, "mediaType": None}, {}, FAILED, "InvalidSource"),
        ({**INLINE, "mediaType": ""}, {}, FAILED, "InvalidSource"),
        ({**INLINE, "artifactType": 3}, {}, FAILED, "InvalidSource"),
        ({**INLINE, "artifactType": "application/x"}, {}, READY, "Stored"),
        ({**INLINE, "annotations": {"a": "\ud800"}}, {}, FAILED, "InvalidSource"),
        ({**INLINE, "digest": "sha256:x"}, {}, FAILED, "InvalidSource"),
        ({**INLINE, "sizeBytes": -1}, {}, FAILED, "InvalidSource"),
        ({**INLINE, "sizeBytes": True}, {}, FAILED, "InvalidSource"),
        ({**INLINE, "subjectRef": {"name": "../x"}}, {}, FAILED, "InvalidSource"),
        ({**INLINE, "subjectRef": {"name": "greeting"}}, {}, FAILED, "InvalidSource"),
        ({**INLINE, "subjectRef": {"name": "absent"}}, {}, WAITS, "SourceNotFound"),
        ({"upload": {}}, {}, WAITS, "AwaitingUpload"),
        ({"upload": {"expiresAfterSeconds": 300}}, {}, FAILED, "UploadExpired"),
        ({"upload": {"expiresAfterSeconds": 301}}, {}, WAITS, "AwaitingUpload"),
        ({"upload": {"digest": HELLO}}, {}, FAILED, "InvalidSource"),
        (UPLOADED, {"blobs": {HELLO: 5}}, READY, "Stored"),
        (UPLOADED, {"blobs": {HELLO: None}}, WAITS, "SourceNotFound"),
        (UPLOADED, {"blobs": {HELLO: 4}}, FAILED, "SizeMismatch"),
        ({**UPLOADED, "digest": OTHER}, {"blobs": {HELLO: 5}}, FAILED, "DigestMismatch"),
        ({**UPLOADED, "sizeBytes": 6}, {"blobs": {HELLO: 5}}, FAILED, "SizeMismatch"),
        (
            {"upload": {**UPLOADED["upload"], "expiresAfterSeconds": 60}},
            {"blobs": {HELLO: 5}},
            READY,
            "Stored",
        ),
        ({"object": {"digest": HELLO}}, {"blobs": {HELLO: 5}}, READY, "Stored"),
        ({"object": {"digest": HELLO}}, {}, WAITS, "SourceNotFound"),
        ({"object": {}}, {}, FAILED, "InvalidSource"),
        ({"configMapRef": {"name": "c", "key": "k"}}, {"contents": {CONFIG: b"hello"}}, READY, "Stored"),
        ({"configMapRef": {"name": "c", "key": "k"}}, {}, WAITS, "SourceNotFound"),
        ({"secretRef": {"name": "s", "key": "k"}}, {"contents": {SECRET: b"hello"}}, READY, "Stored"),
        ({"secretRef": {"name": "../s", "key": "k"}}, {}, FAILED, "InvalidSource"),
        ({"secretRef": {"name": "s"}}, {}, FAILED, "InvalidSource"),
        (FETCHED, {}, WAITS, "Fetching"),
        (FETCHED, {"downloads": None}, FAILED, "SourceNotSupported"),
        (FETCHED, {"downloads": {"": Fetched("u", HELLO, 5)}}, READY, "Stored"),
        ({**FETCHED, "digest": HELLO}, {"downloads": {"": Fetched("u", HELLO, 5)}}, READY, "Stored"),
        (FETCHED, {"downloads": {"": Pending(ABSENT)}}, WAITS, "SourceNotFound"),
        (FETCHED, {"downloads": {"": ABSENT}}, WAITS, "SourceNotFound"),
        (FETCHED, {"downloads": {"": PRIVATE}}, FAILED, "InvalidSource"),
        (FETCHED, {"downloads": {"": Pending(PRIVATE)}}, FAILED, "InvalidSource"),
        ({"url": {}}, {}, FAILED, "InvalidSource"),
        ({"files": []}, {}, FAILED, "InvalidSource"),
        ({"files": [{"name": "a", **INLINE}]}, {}, FAILED, "InvalidSource"),
        ({"files": [{"mediaType": "a/b", **INLINE}]}, {}, FAILED, "InvalidSource"),
        ({"files": [{"name": "a", "mediaType": "a/b", **INLINE}] * 2}, {}, FAILED, "InvalidSource"),
        ({"files": [7]}, {}, FAILED, "InvalidSource"),
        ({"files": [{"name": "a", "mediaType": "a/b", "upload": {}}]}, {}, WAITS, "AwaitingUpload"),
        (
            {"files": [{"name": "a", "mediaType": "a/b", **INLINE, "digest": OTHER}]},
            {},
            FAILED,
            "DigestMismatch",
        ),
        ({"files": [{"name": "a", "mediaType": "a/b", **UPLOADED}]}, {"blobs": {HELLO: 5}}, READY, "Stored"),
    ],
)
def test_a_spec_has_this_state(
    spec: dict[str, Any], evidence: dict[str, Any], state: tuple[str, str], reason: str
) -> None:
    plan = planned(body(**spec), **evidence)
    assert summary(plan) == (state[0], reason, state[1])
    abnormal = {READY: set(), WAITS: {"Reconciling"}, FAILED: {"Stalled"}}[state]
    assert kinds(plan) == {"Ready", "Stored"} | abnormal
    assert bool(plan.actions) is (state is READY)


def test_a_spec_that_is_not_an_object_has_a_condition() -> None:
    specs: list[Any] = [None, [], "x"]
    for spec in specs:
        made = body() | {"spec": spec}
        assert steps.lookups(made) == Lookups()
        assert summary(planned(made))[1] == "InvalidSource"


def puts(plan: plans.Plan) -> list[plans.PutBlob]:
    found = [each for each in plan.actions if isinstance(each, plans.PutBlob)]
    assert len(found) == len(plan.actions)
    return found


def test_inline_bytes_are_put_before_the_manifest_that_names_them() -> None:
    plan = planned(body(fileName="g.txt", **INLINE))
    payload, manifest = puts(plan)
    assert (payload.tenant_uid, payload.digest, payload.data) == (ACME.uid, HELLO, b"hello")
    assert plan.status is not None
    assert plan.status["manifest"] == {"digest": digests.of(manifest.data), "sizeBytes": len(manifest.data)}
    assert manifest.digest == plan.status["manifest"]["digest"]
    layer = json.loads(manifest.data)["layers"][0]
    assert (layer["digest"], layer["annotations"][manifests.TITLE]) == (HELLO, "g.txt")
    assert plan.status["artifact"] == {
        "digest": HELLO,
        "sizeBytes": 5,
        "mediaType": "text/plain",
        "storedTime": "2026-01-01T12:05:00Z",
    }
    assert (plan.status["tenant"], plan.status["observedGeneration"]) == ("acme", 1)


def test_files_become_layers_in_their_order_and_same_bytes_are_put_once() -> None:
    files = [{"name": name, "mediaType": "a/b", **INLINE} for name in ("z", "a")]
    plan = planned(body(files=files))
    assert plan.status is not None
    assert [item["name"] for item in plan.status["files"]] == ["z", "a"]
    assert "artifact" not in plan.status
    assert len(puts(plan)) == 2
    layers = json.loads(puts(plan)[-1].data)["layers"]
    assert [layer["annotations"][manifests.TITLE] for layer in layers] == ["z", "a"]


def test_the_manifest_does_not_depend_on_time_or_on_the_objects_identity() -> None:
    first = planned(body(**INLINE))
    later = body(metadata={"uid": "x", "creationTimestamp": "2027-01-01T00:00:00Z"}, **INLINE)
    assert planned(later, now=NOW + timedelta(days=9)).actions == first.actions


def test_the_subject_stands_in_the_manifest() -> None:
    made = body(subjectRef={"name": "image"}, **INLINE)
    subject = Descriptor(manifests.MEDIA_TYPE, OTHER, 7)
    plan = steps.plan(Observed(made, ACME, Evidence(), subject), NOW)
    assert json.loads(puts(plan)[-1].data)["subject"]["digest"] == OTHER


def reconciled(made: dict[str, Any], now: datetime = NOW, **evidence: Any) -> dict[str, Any]:
    return {**made, "status": planned(made, now, **evidence).status}


def test_a_ready_artifact_needs_nothing() -> None:
    ready = reconciled(body(**INLINE))
    assert lives.is_ready(ready)
    assert steps.lookups(ready) is None
    assert lives.reason(ready) == ("Stored", "payload and manifest are stored")


def test_a_status_that_already_stands_is_not_written_again() -> None:
    specs: list[dict[str, Any]] = [INLINE, {"upload": {}}, {"url": {"url": "https://x"}}]
    for spec in specs:
        assert planned(reconciled(body(**spec)), now=NOW + timedelta(seconds=9)).status is None


def test_a_new_generation_keeps_when_the_bytes_were_stored() -> None:
    old = reconciled(body(**INLINE))
    edited = body(generation=2, status=old["status"], annotations={"a": "b"}, **INLINE)
    assert not lives.is_ready(edited)
    plan = planned(edited, now=NOW + timedelta(hours=1))
    assert plan.status is not None
    assert plan.status["artifact"] == old["status"]["artifact"]
    assert plan.status["manifest"] != old["status"]["manifest"]
    assert plan.status["observedGeneration"] == 2


def test_a_reference_is_read_once() -> None:
    spec: dict[str, Any] = {"configMapRef": {"name": "c", "key": "k"}}
    files: dict[str, Any] = {
        "files": [{"name": "f", "mediaType": "a/b", **spec}, {"name": "g", "mediaType": "a/b", **INLINE}]
    }
    for source in (spec, files):
        made = body(**source)
        assert steps.lookups(made) == Lookups(frozenset(), frozenset({CONFIG}))
        stored = reconciled(made, contents={CONFIG: b"hello"})
        edited = body(generation=2, status=stored["status"], project="p", **source)
        assert steps.lookups(edited) == Lookups(frozenset({HELLO}))
        assert summary(planned(edited, blobs={HELLO: 5}))[:2] == ("True", "Stored")


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (INLINE, Lookups()),
        (UPLOADED, Lookups(frozenset({HELLO}))),
        ({"upload": {}}, Lookups()),
        (
            {"object": {"digest": HELLO}, "subjectRef": {"name": "s"}},
            Lookups(frozenset({HELLO}), subject="s"),
        ),
        ({"object": {}}, Lookups()),
    ],
)
def test_only_what_the_spec_points_to_is_gathered(spec: dict[str, Any], expected: Lookups) -> None:
    assert steps.lookups(body(**spec)) == expected


def test_nothing_is_gathered_for_an_artifact_that_is_being_deleted() -> None:
    assert steps.lookups(body(metadata={"deletionTimestamp": "2026-01-01T12:00:00Z"}, **INLINE)) is None


def test_a_namespace_without_a_tenant_is_said_and_looked_at_again() -> None:
    plan = steps.plan(Observed(body(**INLINE), None), NOW)
    assert summary(plan) == ("False", "TenantNotFound", "Failed")
    assert plan.again_seconds == steps.TENANT_RETRY_SECONDS
    assert "tenant" not in (plan.status or {})


def test_a_store_that_fails_is_tried_again_with_one_write() -> None:
    made = body(**INLINE)
    plan = steps.unavailable(observe(made), "the object store is full", NOW)
    assert summary(plan) == ("Unknown", "StoreUnavailable", "InProgress")
    assert plan.again_seconds == steps.STORE_RETRY_SECONDS
    again = observe({**made, "status": plan.status})
    assert steps.unavailable(again, "the object store is full", NOW + timedelta(seconds=5)).status is None


def test_an_upload_is_looked_at_again_when_it_expires() -> None:
    assert planned(body(upload={"expiresAfterSeconds": 600})).again_seconds == 300
    assert planned(body(upload={})).again_seconds == 86400 - 300


@pytest.mark.parametrize(
    ("stamp", "expected"),
    [
        ("2026-01-01T12:00:00Z", CREATED),
        ("2026-01-01T12:00:00", CREATED),
        ("yesterday", None),
        (None, None),
    ],
)
def test_the_creation_time_is_read(stamp: Any, expected: datetime | None) -> None:
    assert lives.created({"metadata": {"creationTimestamp": stamp}}) == expected


def test_an_upload_of_unknown_age_does_not_expire() -> None:
    assert summary(planned(body(metadata={"creationTimestamp": "?"}, upload={})))[1] == "AwaitingUpload"


def test_what_others_recorded_in_the_status_is_kept() -> None:
    attested = {"type": "Attested", "status": "True", "reason": "R", "message": "", "lastTransitionTime": "t"}
    status = {"conditions": [attested], "attestations": [{"predicateType": "p"}], "observedGeneration": -1}
    plan = planned(body(status=status, **INLINE))
    assert plan.status is not None
    assert plan.status["attestations"] == [{"predicateType": "p"}]
    assert attested in plan.status["conditions"]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, True),
        ({"manifest": {}}, False),
        ({"manifest": {"digest": HELLO}}, False),
        ({"observedGeneration": 0}, False),
        ({"manifest": None}, False),
    ],
)
def test_only_a_ready_artifact_can_be_a_subject(change: Mapping[str, Any], expected: bool) -> None:
    ready = reconciled(body(**INLINE))
    ready["status"] |= change
    found = lives.manifest_of(ready)
    assert (found is not None) is expected
    assert found is None or found.digest == ready["status"]["manifest"]["digest"]


@pytest.mark.parametrize(
    "status", [None, [], {"conditions": 5}, {"conditions": [5, {"type": "Ready"}]}, {"files": 1}]
)
def test_a_strange_status_does_no_harm(status: Any) -> None:
    made = body(status=status, **INLINE)
    assert not lives.is_ready(made)
    assert lives.reason({"status": {}}) == ("", "")
    assert summary(planned(made))[1] == "Stored"
