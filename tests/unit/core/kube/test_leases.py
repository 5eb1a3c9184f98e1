"""Election decisions as a table, and the Lease's body."""

import dataclasses
from datetime import UTC, datetime
from typing import Any

import pytest

from manifestry.core.kube import leases

NOW = datetime(2026, 8, 30, 12, 0, 0, 1500, tzinfo=UTC)
TERMS = leases.Terms()


def lease(holder: str | None, **spec: object) -> dict[str, object]:
    found = {"holderIdentity": holder, "leaseDurationSeconds": 15, **spec}
    return {"metadata": {"name": "l", "resourceVersion": "7"}, "spec": found}


@pytest.mark.parametrize(
    ("found", "unchanged_seconds", "step"),
    [
        (None, 0, leases.Step.CREATE),
        (lease("me"), 0, leases.Step.RENEW),
        (lease("me"), 3600, leases.Step.RENEW),
        (lease(""), 0, leases.Step.TAKE),
        (lease(None), 0, leases.Step.TAKE),
        ({"metadata": {}}, 0, leases.Step.TAKE),
        (lease("you"), 0, leases.Step.WAIT),
        (lease("you"), 14.9, leases.Step.WAIT),
        (lease("you"), 15, leases.Step.TAKE),
        (lease("you", leaseDurationSeconds=60), 15, leases.Step.WAIT),
        (lease("you", leaseDurationSeconds=None), 15, leases.Step.TAKE),
        (lease("you", leaseDurationSeconds=None), 14, leases.Step.WAIT),
    ],
)
def test_a_candidate_waits_for_a_living_holder_and_takes_what_is_free(
    found: dict[str, object] | None, unchanged_seconds: float, step: leases.Step
) -> None:
    assert leases.decide(found, "me", unchanged_seconds) is step


@pytest.mark.parametrize(("since", "stop"), [(0, False), (9.9, False), (10, True), (3600, True)])
def test_a_leader_that_cannot_renew_stops_before_the_lease_expires(since: float, stop: bool) -> None:
    assert leases.must_stop(since, TERMS) is stop


def test_a_new_lease_says_who_and_since_when() -> None:
    made = leases.create("l", "ns", "me", NOW, TERMS)
    assert made["metadata"] == {"name": "l", "namespace": "ns"}
    assert made["spec"] == {
        "holderIdentity": "me",
        "leaseDurationSeconds": 15,
        "renewTime": "2026-08-30T12:00:00.001500Z",
        "acquireTime": "2026-08-30T12:00:00.001500Z",
        "leaseTransitions": 0,
    }


def test_taking_counts_a_transition_and_keeps_the_precondition() -> None:
    taken = leases.take(lease("you", leaseTransitions=4), "me", NOW, TERMS)
    assert (taken["spec"]["holderIdentity"], taken["spec"]["leaseTransitions"]) == ("me", 5)
    assert taken["metadata"]["resourceVersion"] == "7"
    assert leases.take(lease("you"), "me", NOW, TERMS)["spec"]["leaseTransitions"] == 1


def test_renewing_moves_only_the_time() -> None:
    before = leases.create("l", "ns", "me", NOW, TERMS)
    later = leases.renew(before, "me", NOW.replace(second=2), TERMS)
    assert later["spec"] == before["spec"] | {"renewTime": "2026-08-30T12:00:02.001500Z"}


def test_a_released_lease_is_free_for_everybody() -> None:
    released = leases.release(lease("me"), NOW)
    assert leases.holder(released) == ""
    assert leases.decide(released, "you", 0) is leases.Step.TAKE


@pytest.mark.parametrize("change", [{"retry_seconds": 10.0}, {"renew_seconds": 15.0}])
def test_terms_that_would_let_two_lead_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must hold"):
        dataclasses.replace(TERMS, **change)
