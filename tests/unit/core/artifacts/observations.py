"""What an artifact's plan is made from: specs, evidence, and what is read out of the plan."""

from datetime import UTC, datetime, timedelta
from typing import Any

from manifestry.core.artifacts import lives, steps
from manifestry.core.artifacts.plans import Observed, Plan, Tenant
from manifestry.core.artifacts.sources import Evidence, Reference
from manifestry.core.blobs import digests
from manifestry.core.fetching.fetches import Failure
from manifestry.core.kube import conditions

CREATED = datetime(2026, 1, 1, 12, tzinfo=UTC)
NOW = CREATED + timedelta(minutes=5)
ACME = Tenant("acme", "0a1b2c3d-0000-4000-8000-00000000000f")
HELLO, OTHER = digests.of(b"hello"), digests.of(b"other")
CONFIG, SECRET = Reference("ConfigMap", "c", "k"), Reference("Secret", "s", "k")


def body(generation: int = 1, status: Any = None, metadata: Any = None, **spec: Any) -> dict[str, Any]:
    given = {"name": "greeting", "namespace": "team", "generation": generation}
    given |= {"creationTimestamp": "2026-01-01T12:00:00Z", **(metadata or {})}
    return {"metadata": given, "spec": {"mediaType": "text/plain", **spec}, "status": status}


def observe(made: dict[str, Any], **evidence: Any) -> Observed:
    evidence.setdefault("created", lives.created(made))
    return Observed(made, ACME, Evidence(**evidence))


def planned(made: dict[str, Any], now: datetime = NOW, **evidence: Any) -> Plan:
    return steps.plan(observe(made, **evidence), now)


def summary(plan: Plan) -> tuple[str, str, str]:
    assert plan.status is not None
    found = conditions.find(plan.status["conditions"], "Ready")
    assert found is not None
    kstatus = conditions.kstatus({"metadata": {"generation": 1}, "status": plan.status})
    return found["status"], found["reason"], kstatus


def kinds(plan: Plan) -> set[str]:
    return {condition["type"] for condition in (plan.status or {})["conditions"]}


INLINE: dict[str, Any] = {"inline": {"text": "hello"}}
UPLOADED: dict[str, Any] = {"upload": {"digest": HELLO, "sizeBytes": 5}}
FETCHED: dict[str, Any] = {"url": {"url": "https://example.org/"}}
ABSENT = Failure("SourceNotFound", "the server answers 404", "soon")
PRIVATE = Failure("InvalidSource", "the host has no public address")
READY, WAITS, FAILED = ("True", "Current"), ("Unknown", "InProgress"), ("False", "Failed")
