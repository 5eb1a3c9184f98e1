"""What an artifact needs of the storage quota, and what its status says about it."""

from datetime import UTC, datetime
from typing import Any

import pytest

from manifestry.core.artifacts import lives, plans, steps
from manifestry.core.artifacts.plans import DropFetched, Observed, Tenant
from manifestry.core.artifacts.sources import Evidence
from manifestry.core.fetching.fetches import Fetched, NoRoom, Pending
from manifestry.core.kube import conditions
from manifestry.core.kube.conditions import Condition
from manifestry.core.quota.storage import grants
from manifestry.core.quota.storage.limits import Limits

pytestmark = pytest.mark.unit
NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
DIGEST = f"sha256:{'0' * 64}"
TENANT = Tenant("acme", "0a1b2c3d-0000-4000-8000-00000000000f")
UPLOADED = {"upload": {"digest": DIGEST, "sizeBytes": 7}}


def observed(
    spec: dict[str, Any], evidence: Evidence | None = None, quota: Condition | None = None, **status: Any
) -> Observed:
    meta = {"name": "a", "uid": "u", "namespace": "t", "generation": 1}
    body = {"metadata": meta, "spec": {"mediaType": "a/b", **spec}, "status": status}
    return Observed(body, TENANT, evidence or Evidence(), quota=quota)


def of_files(*sources: dict[str, Any]) -> dict[str, Any]:
    return {"files": [{"name": f"f{n}", "mediaType": "a/b", **each} for n, each in enumerate(sources)]}


URL = {"url": {"url": "https://example.org/x"}}


@pytest.mark.parametrize(
    ("spec", "evidence", "expected"),
    [
        ({"inline": {"text": "hello"}}, Evidence(), 5),
        ({"upload": {}}, Evidence(), 0),
        (UPLOADED, Evidence(), 7),
        (UPLOADED, Evidence({DIGEST: 7}), 7),
        ({"object": {"digest": DIGEST}}, Evidence(), 0),
        ({"object": {"digest": DIGEST}}, Evidence({DIGEST: 9}), 9),
        ({**URL, "sizeBytes": 3}, Evidence(downloads={"": Pending()}), 3),
        (URL, Evidence(downloads={"": Pending()}), 0),
        (URL, Evidence(downloads={"": Fetched("id", DIGEST, 4)}), 4),
        (URL, Evidence(downloads={"": NoRoom(4)}), 4),
        (of_files({"inline": {"text": "hello"}}, URL), Evidence(downloads={"f1": NoRoom(9)}), 9),
        (of_files(URL, URL), Evidence(downloads={"f0": Fetched("id", DIGEST, 4), "f1": NoRoom(9)}), 9),
        (of_files(UPLOADED, URL), Evidence({DIGEST: 7}, downloads={"f1": NoRoom(5)}), 7),
        (of_files({"inline": {"text": "hello"}}, {"upload": {}}, UPLOADED), Evidence(), 7),
        (of_files({"inline": {"text": "hello"}}, UPLOADED), Evidence({DIGEST: 7}), 12),
        ({"inline": {"text": "hello"}, "sizeBytes": 6}, Evidence(), None),
        ({}, Evidence(), None),
    ],
)
def test_what_is_needed_is_what_is_known(
    spec: dict[str, Any], evidence: Evidence, expected: int | None
) -> None:
    assert steps.needed_bytes(observed(spec, evidence), NOW) == expected


def summary(plan: plans.Plan) -> set[tuple[str, str, str]]:
    assert plan.status is not None
    return {(each["type"], each["status"], each["reason"]) for each in plan.status["conditions"]}


def test_a_charged_artifact_is_stored_and_says_so() -> None:
    quota = grants.condition("Reserved", 5, Limits(10))
    plan = steps.plan(observed({"inline": {"text": "hello"}}, quota=quota), NOW)
    assert ("QuotaReserved", "True", "Reserved") in summary(plan)
    assert ("Ready", "True", "Stored") in summary(plan)
    waiting = steps.plan(observed({"upload": {}}, quota=quota), NOW)
    assert ("QuotaReserved", "True", "Reserved") in summary(waiting)


@pytest.mark.parametrize("spec", [{"inline": {"text": "hello"}}, {"upload": {}}])
@pytest.mark.parametrize(
    ("reason", "ready", "kstatus"),
    [("WaitingForQuota", "Unknown", "InProgress"), ("ExceedsMaxQuota", "False", "Failed")],
)
def test_without_room_nothing_is_stored(spec: dict[str, Any], reason: Any, ready: str, kstatus: str) -> None:
    seen = observed(spec, quota=grants.condition(reason, 5, Limits(3)))
    plan = steps.plan(seen, NOW)
    assert plan.actions == (DropFetched(),)
    assert {("QuotaReserved", "False", reason), ("Ready", ready, reason)} <= summary(plan)
    assert plan.again_seconds is None, "room wakes it"
    assert conditions.kstatus({**seen.body, "status": plan.status}) == kstatus


def test_what_is_refused_anyway_is_refused_for_what_it_is() -> None:
    quota = grants.condition("WaitingForQuota", 5, Limits(3))
    plan = steps.plan(observed({"inline": {"text": "hello"}, "sizeBytes": 6}, quota=quota), NOW)
    assert ("Ready", "False", "SizeMismatch") in summary(plan)


def test_a_verdict_does_not_outlive_the_quota() -> None:
    old = [
        {
            "type": "QuotaReserved",
            "status": "False",
            "reason": "WaitingForQuota",
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }
    ]
    plan = steps.plan(observed({"inline": {"text": "hello"}}, conditions=old), NOW)
    assert ("QuotaReserved", "True", "Unlimited") in summary(plan)
    plan = steps.plan(observed({"inline": {"text": "hello"}}), NOW)
    assert "QuotaReserved" not in {kind for kind, _, _ in summary(plan)}


def test_a_download_without_room_waits_for_it_or_begins_again() -> None:
    evidence = Evidence(downloads={"": NoRoom(4, at_least=True)})
    over = grants.condition("WaitingForQuota", 4, Limits(3, 1), at_least=True)
    assert "the artifact of at least 4 bytes waits" in over.message
    waiting = steps.plan(observed(URL, evidence, over), NOW)
    assert ("Ready", "Unknown", "WaitingForQuota") in summary(waiting)
    assert (waiting.actions, waiting.again_seconds) == ((DropFetched(),), None)
    reserved = grants.condition("Reserved", 4, Limits(4))
    again = steps.plan(observed(URL, evidence, reserved), NOW)
    assert ("Ready", "Unknown", "Fetching") in summary(again)
    assert (again.actions, again.again_seconds) == ((), 1.0)


@pytest.mark.parametrize(
    ("spec", "status", "expected"),
    [
        (URL, {}, True),
        (of_files({"inline": {"text": "hello"}}, URL), {}, True),
        (UPLOADED, {}, False),
        ({}, {}, False),
        (URL, {"artifact": {"digest": DIGEST, "sizeBytes": 1}}, False),
    ],
)
def test_what_is_fetched_is_known(spec: dict[str, Any], status: dict[str, Any], expected: bool) -> None:
    assert lives.is_fetched(observed(spec, **status).body) is expected
