"""Audit records."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from manifestry.core.access import audit

WHEN = datetime(2026, 5, 4, 3, 2, 1, 123456, tzinfo=UTC)


def event(**changes: Any) -> audit.Event:
    fields = {
        "audit_id": "a-1",
        "stage": "ResponseComplete",
        "method": "GET",
        "uri": "/jobs/render%2D1",
        "path": "/jobs/render-1",
        "subject": "alice",
        "groups": ("g",),
        "namespace": "ns-acme",
        "source_ips": ("10.0.0.1",),
        "user_agent": "curl/8",
        "status": 200,
        "code": "",
        "detail": "",
        "received": WHEN,
        "decided": WHEN,
        "decision": "allow",
        "annotations": {"tenant": "acme", "reason": "why", "empty": ""},
    }
    return audit.Event(**{**fields, **changes})


def test_a_success_is_a_kubernetes_audit_event() -> None:
    assert audit.record(event()) == {
        "kind": "Event",
        "apiVersion": "audit.k8s.io/v1",
        "level": "Metadata",
        "auditID": "a-1",
        "stage": "ResponseComplete",
        "requestURI": "/jobs/render%2D1",
        "verb": "get",
        "user": {"username": "alice", "groups": ["g"]},
        "sourceIPs": ["10.0.0.1"],
        "userAgent": "curl/8",
        "objectRef": {
            "resource": "jobs",
            "namespace": "ns-acme",
            "name": "render-1",
            "apiGroup": "manifestry.dev",
            "apiVersion": "v1alpha1",
        },
        "responseStatus": {"metadata": {}, "code": 200},
        "requestReceivedTimestamp": "2026-05-04T03:02:01.123456Z",
        "stageTimestamp": "2026-05-04T03:02:01.123456Z",
        "annotations": {
            "authorization.k8s.io/decision": "allow",
            "manifestry.dev/tenant": "acme",
            "manifestry.dev/reason": "why",
        },
    }


@pytest.mark.parametrize(("status", "decision"), [(401, "forbid"), (429, "allow"), (404, "allow")])
def test_a_refusal_says_so(status: int, decision: Any) -> None:
    record = audit.record(event(status=status, code="some-code", detail="because", decision=decision))
    assert record["responseStatus"] == {
        "metadata": {}, "code": status, "status": "Failure", "reason": "some-code", "message": "because",
    }  # fmt: skip
    assert record["annotations"]["authorization.k8s.io/decision"] == decision


def test_nobody_is_the_anonymous_user() -> None:
    user = audit.record(event(subject="", groups=()))["user"]
    assert user == {"username": "system:anonymous", "groups": ["system:unauthenticated"]}


@pytest.mark.parametrize(
    ("method", "path", "verb"),
    [
        ("GET", "/jobs", "list"),
        ("HEAD", "/artifacts/a/content", "get"),
        ("POST", "/jobs", "create"),
        ("POST", "/jobs/a/cancel", "create"),
        ("PUT", "/artifacts/a", "update"),
        ("PATCH", "/artifacts/a", "patch"),
        ("DELETE", "/jobs/a", "delete"),
        ("GET", "/nowhere", "list"),
    ],
)
def test_verbs(method: str, path: str, verb: str) -> None:
    assert audit.record(event(method=method, path=path))["verb"] == verb


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/artifacts/a/content", {"resource": "artifacts", "name": "a", "subresource": "content"}),
        ("/job-types", {"resource": "jobtypes"}),
        ("/manifests/sha256:0", {"resource": "manifests", "name": "sha256:0"}),
        ("/garbage", {"resource": "garbage"}),
        (
            "/damaged/sha256:0/restore",
            {"resource": "damaged", "name": "sha256:0", "subresource": "restore"},
        ),
        ("/quotas/render/queue", {"resource": "quotaledgers", "name": "render", "subresource": "queue"}),
        ("/", None),
        ("/other/x", None),
    ],
)
def test_object_references(path: str, expected: Any) -> None:
    reference = audit.object_reference(path, "")
    rest = {"apiGroup": "manifestry.dev", "apiVersion": "v1alpha1"}
    assert reference == (None if expected is None else {**expected, **rest})


def test_an_unknown_path_has_no_object_reference() -> None:
    assert "objectRef" not in audit.record(event(path="/nope"))


def test_no_value_can_forge_a_line() -> None:
    forged = 'x\r\n{"kind":"Event"}\u2028\x1b[2J'
    record = audit.record(event(user_agent=forged, path="/jobs/" + forged, annotations={"reason": forged}))
    line = audit.line(record)
    assert line.isascii()
    assert line.isprintable()
    assert json.loads(line)["userAgent"] == forged


def test_texts_are_bounded() -> None:
    path = "/jobs/" + "y" * 100_000
    record = audit.record(event(user_agent="x" * 100_000, uri=path, path=path, detail="z" * 9999, code="c"))
    assert len(audit.line(record)) < 8192


def test_without_a_decision_none_is_recorded() -> None:
    record = audit.record(event(status=503, code="dependency-unavailable", decision=""))
    assert "authorization.k8s.io/decision" not in record["annotations"]
