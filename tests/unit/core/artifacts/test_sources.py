"""References are decoded as Kubernetes has them; no spec, however malformed, raises."""

import base64
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifestry.core.artifacts import lives, plans, sources, steps
from manifestry.core.artifacts.plans import Observed, Tenant
from manifestry.core.artifacts.sources import Absent, Evidence, Reference
from manifestry.core.kube import conditions

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
ENCODED = base64.b64encode(b"\x00\xff").decode()


OFFERED = {"metadata": {"labels": {"manifestry.dev/artifact-source": "true"}}}
REFUSED = {"metadata": {"labels": {"manifestry.dev/artifact-source": "false"}}}


@pytest.mark.parametrize(
    ("kind", "body", "expected"),
    [
        ("ConfigMap", {"data": {"k": "é"}}, "é".encode()),
        ("ConfigMap", {"data": {"k": ""}}, b""),
        ("ConfigMap", {"binaryData": {"k": ENCODED}}, b"\x00\xff"),
        ("ConfigMap", {"data": {"other": "x"}}, Absent.NO_KEY),
        ("ConfigMap", {"data": None, "binaryData": None}, Absent.NO_KEY),
        ("ConfigMap", None, Absent.NO_OBJECT),
        ("Secret", {**OFFERED, "data": {"k": ENCODED}}, b"\x00\xff"),
        ("Secret", {**OFFERED, "data": {"k": ""}}, b""),
        ("Secret", {**OFFERED, "binaryData": {"k": ENCODED}}, Absent.NO_KEY),
        ("Secret", {**REFUSED, "data": {"k": ENCODED}}, Absent.NOT_OFFERED),
        ("Secret", {"metadata": {}, "data": {"k": ENCODED}}, Absent.NOT_OFFERED),
        ("Secret", None, Absent.NO_OBJECT),
    ],
)
def test_the_bytes_under_a_key_are_read(
    kind: Any, body: dict[str, Any] | None, expected: bytes | Absent
) -> None:
    assert sources.content(Reference(kind, "n", "k"), body) == expected


@pytest.mark.parametrize(
    ("absent", "message"),
    [
        (Absent.NO_OBJECT, "Secret 's' does not exist"),
        (Absent.NO_KEY, "Secret 's' does not have the key 'k'"),
        (Absent.NOT_OFFERED, "Secret 's' must carry the label `manifestry.dev/artifact-source: 'true'`"),
        (
            Absent.FORBIDDEN,
            (
                "Secret 's' may not be read by the operator; "
                "the chart's value `operator.references.secrets` allows it"
            ),
        ),
    ],
)
def test_a_reference_without_bytes_says_why_and_is_tried_again(absent: Absent, message: str) -> None:
    reference = Reference("Secret", "s", "k")
    payload = sources.Payload("", "a/b", reference, None, None)
    found = sources.locate(payload, Evidence(contents={reference: absent}), NOW)
    assert found == sources.Waiting("SourceNotFound", message, sources.RETRY_MIN_SECONDS)


@pytest.mark.parametrize(("age_seconds", "again"), [(0, 1), (4, 1), (40, 10), (240, 60), (1e7, 60), (-5, 1)])
def test_what_is_missing_is_looked_for_ever_more_seldom(age_seconds: float, again: float) -> None:
    evidence = Evidence(created=NOW - timedelta(seconds=age_seconds))
    assert sources.missing("m", evidence, NOW).seconds == again


def test_secret_bytes_have_no_printable_form() -> None:
    found = plans.PutBlob("t", "d", b"canary")
    evidence = Evidence(contents={Reference("Secret", "s", "k"): b"canary"})
    for shown in (repr(found), repr(evidence), repr(sources.Inline(b"canary"))):
        assert "canary" not in shown


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
FIELDS = [
    *("mediaType", "artifactType", "project", "annotations", "fileName", "subjectRef", "digest", "sizeBytes"),
    *(
        "inline",
        "upload",
        "object",
        "url",
        "configMapRef",
        "secretRef",
        "files",
        "name",
        "key",
        "text",
        "data",
    ),
    *("expiresAfterSeconds", "deletionPolicy", "derivedFromRefs"),
]
DIGESTS = st.sampled_from(["sha256:" + "a" * 64, "sha256:" + "A" * 64, "sha512:" + "a" * 64])
VALUES = JSON | DIGESTS | st.sampled_from(["text/plain", "aGk=", "a", {}, [], -1, 1 << 70, "\ud800"])
PARTS = st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=4)
SPECS = st.dictionaries(st.sampled_from(FIELDS), VALUES | PARTS | st.lists(PARTS, max_size=3), max_size=6)
SOUND = st.fixed_dictionaries(
    {"mediaType": st.just("a/b")},
    optional={
        "inline": PARTS,
        "upload": PARTS,
        "object": PARTS,
        "annotations": PARTS,
        "subjectRef": PARTS,
        "files": st.lists(
            st.fixed_dictionaries({"mediaType": st.just("a/b"), "name": VALUES, "inline": PARTS})
        ),
    },
)


@given(SPECS | SOUND | JSON, JSON | st.fixed_dictionaries({"conditions": JSON}), JSON)
def test_every_spec_gets_a_condition_that_says_what_to_expect(spec: Any, status: Any, stamp: Any) -> None:
    metadata = {"name": "n", "namespace": "ns", "generation": 1, "creationTimestamp": stamp}
    body = {"metadata": metadata, "spec": spec, "status": status}
    steps.lookups(body)
    observed = Observed(body, Tenant("t", "uid"), Evidence(created=lives.created(body)))
    plan = steps.plan(observed, NOW)
    assert plan.status is not None
    listed = plan.status["conditions"]
    ready = conditions.find(listed, "Ready")
    assert ready is not None
    assert (ready["status"] == "Unknown") is conditions.is_status(listed, "Reconciling", "True")
    assert (ready["status"] == "False") is conditions.is_status(listed, "Stalled", "True")
    assert len(ready["message"]) <= 1024
    again = steps.plan(Observed({**body, "status": plan.status}, observed.tenant, observed.evidence), NOW)
    assert again.status is None
