"""What a Job's plan is made from: Jobs, batch Jobs, pods and ledger entries, and what is seen of them."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from manifestry.core.jobs import plans, steps
from manifestry.core.jobs.plans import Observed
from manifestry.core.kube import conditions, names
from manifestry.core.quota.holders import Holder, State

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
TYPE = {"metadata": {"name": "render"}, "spec": {"image": "x", "allowedOverrides": ["Priority"]}}
UID = "0123456789ab"


def job(spec: Any = None, status: Any = None, **metadata: Any) -> dict[str, Any]:
    return {
        "metadata": {
            "name": "a",
            "uid": UID,
            "namespace": "ns",
            "generation": 1,
            "resourceVersion": "7",
            "creationTimestamp": "2026-01-01T11:59:00Z",
            **metadata,
        },
        "spec": {"jobType": "render", **(spec or {})},
        "status": status or {},
    }


def batch(*, suspend: bool = False, uid: str = UID, deleting: bool = False, **status: Any) -> dict[str, Any]:
    metadata = {
        "name": "a-01234567",
        "uid": "b1",
        "resourceVersion": "9",
        "labels": {names.JOB_UID_LABEL: uid},
    }
    if deleting:
        metadata["deletionTimestamp"] = "2026-01-01T12:00:00Z"
    return {"metadata": metadata, "spec": {"suspend": suspend}, "status": status}


def dated(seconds: int, **fields: Any) -> dict[str, Any]:
    made = batch(**fields)
    return {**made, "spec": {**made["spec"], "activeDeadlineSeconds": seconds}}


def ended(kind: str, **fields: Any) -> dict[str, Any]:
    entry = {"type": kind, "status": "True", "lastTransitionTime": "2026-01-01T12:00:00Z", **fields}
    return batch(conditions=[entry], failed=1, startTime="2026-01-01T11:59:30Z")


def pod(state: Any = None, name: str = "p", **status: Any) -> dict[str, Any]:
    container = {"name": "main", "image": "x", "state": state or {}}
    return {
        "metadata": {"name": name, "creationTimestamp": "2026-01-01T11:59:31Z"},
        "status": {"containerStatuses": [container], **status},
    }


def holder(state: State, priority: int = 0) -> Holder:
    return Holder(UID, "a", state, NOW - timedelta(seconds=5), priority)


def status_of(reason: str, word: conditions.Status, **fields: Any) -> dict[str, Any]:
    entry = {"type": "Succeeded", "status": word, "reason": reason, "message": "m", "lastTransitionTime": "t"}
    return {"observedGeneration": 1, "conditions": [entry], **fields}


def see(body: dict[str, Any] | None = None, **fields: Any) -> Observed:
    return replace(Observed(body or job(), "acme", TYPE), **fields)


def kinds(plan: plans.Plan) -> list[str]:
    return [type(action).__name__ for action in plan.actions]


def reason(plan: plans.Plan) -> str:
    found = conditions.find((plan.status or {}).get("conditions"), "Succeeded")
    return str(found["reason"]) if found else ""


FINAL = status_of("Failed", "False")
RUNNING = status_of("Running", "Unknown", jobRef={"name": "a-01234567", "uid": "b1"})
NAMED = status_of("Admitted", "Unknown", jobRef={"name": "a-01234567", "uid": "b1"})
SUSPENDED = status_of("Suspended", "Unknown")
SUSPEND_WISH = job({"desiredState": "Suspended"})
CANCEL_WISH = job({"desiredState": "Cancelled"})
ADMITTED = holder(State.ADMITTED)


def message(observed: Observed) -> str:
    found = conditions.find((steps.plan(observed, NOW).status or {})["conditions"], "Succeeded")
    assert found is not None
    return str(found["message"])


SLOW = batch(active=1, startTime="2026-01-01T11:59:30Z")
