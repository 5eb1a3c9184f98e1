"""What reading bytes back says about an Artifact: tables, no store."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from manifestry.core.artifacts import lives, scrubs
from manifestry.core.artifacts.scrubs import Due, Part
from manifestry.core.blobs import digests
from manifestry.core.kube import conditions

NOW = datetime(2026, 5, 4, 12, tzinfo=UTC)
DAY = timedelta(days=1)
A, B, M = (digests.of(text) for text in (b"a", b"b", b"manifest"))
READY = {
    "type": "Ready",
    "status": "True",
    "reason": "Stored",
    "message": "",
    "lastTransitionTime": "2026-01-01T00:00:00Z",
}


def body(**status: Any) -> dict[str, Any]:
    meta = {"name": "report", "namespace": "ns", "uid": "u", "generation": 2}
    meta["creationTimestamp"] = "2026-01-01T00:00:00Z"
    stored = {"observedGeneration": 2, "conditions": [READY], "artifact": {"digest": A, "sizeBytes": 1}}
    return {
        "metadata": meta,
        "spec": {},
        "status": {**stored, "manifest": {"digest": M, "sizeBytes": 9}, **status},
    }


def since(text: str) -> dict[str, Any]:
    return body(lastVerifiedTime=text)


@pytest.mark.parametrize(
    ("given", "due"),
    [
        (body(), datetime(2026, 1, 1, tzinfo=UTC)),
        (since("2026-05-03T12:00:00Z"), NOW - DAY),
        (since("2026-05-03T12:00:01Z"), None),
        (since("not a time"), datetime(2026, 1, 1, tzinfo=UTC)),
        (body(artifact={"digest": A, "sizeBytes": 1, "storedTime": "2026-05-04T11:00:00Z"}), None),
        (body(observedGeneration=1), None),
        (body(conditions=[]), None),
        (body(artifact=None, manifest=None), None),
    ],
)
def test_whose_turn_it_is(given: dict[str, Any], due: datetime | None) -> None:
    wanted = None if due is None else Due(due, "ns", "report")
    assert scrubs.due(given, NOW, DAY) == wanted


def test_those_read_longest_ago_come_first() -> None:
    found = [Due(NOW - n * DAY, "ns", f"n{n}") for n in range(5)]
    assert [each.name for each in scrubs.first(found, 2)] == ["n4", "n3"]


def test_the_parts_are_payloads_and_manifest_each_once() -> None:
    files = [{"name": n, "digest": d, "sizeBytes": 1} for n, d in (("x", A), ("y", A), ("z", B))]
    assert scrubs.parts(body(artifact=None, files=files)) == (Part(A, 1), Part(B, 1), Part(M, 9))
    assert scrubs.parts(body()) == (Part(A, 1), Part(M, 9))
    assert scrubs.parts({"status": None}) == scrubs.parts({}) == ()
    assert scrubs.parts(body(artifact={"digest": "x", "sizeBytes": 1}, files={}, manifest={})) == ()


@pytest.mark.parametrize(
    ("finding", "digest", "sentence"),
    [
        ("Damaged", A, f"the payload's bytes read back do not hash to '{A}'; they were set aside"),
        ("Missing", A, f"the payload's bytes with digest '{A}' are not in the store"),
        ("Missing", M, f"the manifest's bytes with digest '{M}' are not in the store"),
        ("Missing", B, f"the bytes of file 'b.txt' with digest '{B}' are not in the store"),
    ],
)
def test_bad_bytes_are_said_in_the_conditions_and_an_event(
    finding: scrubs.Finding, digest: str, sentence: str
) -> None:
    found = body(files=[{"name": "b.txt", "digest": B, "sizeBytes": 1}])
    status = scrubs.broken(found, digest, finding, NOW)
    for kind in ("Ready", "Stored"):
        condition = conditions.find(status["conditions"], kind)
        assert condition is not None
        assert (condition["status"], condition["reason"], condition["message"]) == (
            "False",
            finding,
            sentence,
        )
    broken = {**found, "status": status}
    assert conditions.kstatus(broken) == "Failed"
    assert lives.is_lost(broken)
    assert not lives.is_lost(found)
    assert status["artifact"] == found["status"]["artifact"]
    event = scrubs.event(found, finding, sentence, NOW, "op-1")
    assert (event["reason"], event["note"], event["type"]) == (finding, sentence, "Warning")
    assert event["regarding"]["uid"] == "u"
    assert event["metadata"]["namespace"] == "ns"
    assert event["eventTime"] == "2026-05-04T12:00:00.000000Z"


def test_good_bytes_move_only_the_time() -> None:
    found = body()
    assert scrubs.verified(found, NOW) == {**found["status"], "lastVerifiedTime": "2026-05-04T12:00:00Z"}
