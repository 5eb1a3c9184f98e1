"""Conditions and the kstatus word."""

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifestry.core.kube import conditions
from manifestry.core.kube.conditions import Condition

OLD = datetime(2026, 8, 30, 12, 0, 0, tzinfo=UTC)
NOW = datetime(2026, 8, 30, 12, 5, 0, tzinfo=UTC)


def merged(current: list[dict[str, Any]] | None, *wanted: Condition) -> list[dict[str, Any]]:
    return conditions.merge(current, wanted, 3, NOW)


def test_a_new_condition_has_every_field_of_metav1() -> None:
    assert merged(None, Condition("Ready", "True", "Stored", "all is well")) == [
        {
            "type": "Ready",
            "status": "True",
            "reason": "Stored",
            "message": "all is well",
            "observedGeneration": 3,
            "lastTransitionTime": "2026-08-30T12:05:00Z",
        }
    ]


@pytest.mark.parametrize(("status", "moved"), [("False", False), ("True", True), ("Unknown", True)])
def test_the_transition_time_moves_only_with_the_status(status: conditions.Status, moved: bool) -> None:
    before = conditions.merge(None, [Condition("Ready", "False", "Old")], 1, OLD)
    after = merged(before, Condition("Ready", status, "New", "other words"))
    assert after[0]["lastTransitionTime"] == conditions.timestamp(NOW if moved else OLD)
    assert (after[0]["reason"], after[0]["observedGeneration"]) == ("New", 3)


def test_foreign_conditions_stay_and_abnormal_ones_vanish_unless_wanted() -> None:
    before = [
        {"type": "Foreign", "status": "True"},
        {"type": "Stalled", "status": "True", "lastTransitionTime": "t"},
        {"type": "Reconciling", "status": "True", "lastTransitionTime": "t"},
    ]
    after = merged(
        before, Condition("Ready", "Unknown", "Progressing"), Condition("Reconciling", "True", "X")
    )
    assert [condition["type"] for condition in after] == ["Ready", "Reconciling", "Foreign"]
    assert after[1]["lastTransitionTime"] == "t"


def test_a_long_message_is_cut() -> None:
    assert len(merged(None, Condition("Ready", "False", "R", "m" * 5000))[0]["message"]) == 1024


def test_merging_the_same_again_changes_nothing() -> None:
    once = merged([{"type": "Foreign", "status": "True"}], Condition("Ready", "True", "R"))
    assert conditions.merge(once, [Condition("Ready", "True", "R")], 3, NOW.replace(hour=20)) == once


@pytest.mark.parametrize("present", [None, [], [{"type": "Other"}], ["not a mapping", {}]])
def test_a_missing_condition_is_none(present: Any) -> None:
    assert conditions.find(present, "Ready") is None
    assert not conditions.is_status(present, "Ready", "True")


def body(generation: int = 2, deleting: bool = False, **status: Any) -> dict[str, Any]:
    metadata: dict[str, Any] = {"generation": generation}
    if deleting:
        metadata["deletionTimestamp"] = "2026-08-30T12:00:00Z"
    return {"metadata": metadata, "status": status}


def kinds(**statuses: str) -> list[dict[str, str]]:
    return [{"type": kind, "status": status} for kind, status in statuses.items()]


@pytest.mark.parametrize(
    ("found", "word"),
    [
        (body(deleting=True, observedGeneration=2, conditions=kinds(Ready="True")), "Terminating"),
        (body(observedGeneration=-1), "InProgress"),
        (body(observedGeneration=1, conditions=kinds(Ready="True")), "InProgress"),
        (body(observedGeneration=2, conditions=kinds(Reconciling="True", Stalled="True")), "InProgress"),
        (body(observedGeneration=2, conditions=kinds(Stalled="True", Ready="False")), "Failed"),
        (body(observedGeneration=2, conditions=kinds(Ready="False")), "InProgress"),
        (body(observedGeneration=2, conditions=kinds(Ready="Unknown")), "InProgress"),
        (body(observedGeneration=2, conditions=kinds(Ready="True", Stalled="False")), "Current"),
        (body(observedGeneration=2, conditions=kinds(Succeeded="True")), "Current"),
        (body(), "Current"),
        ({}, "Current"),
        ({"metadata": None, "status": None}, "Current"),
    ],
)
def test_the_kstatus_word_follows_the_order_of_kstatus(found: dict[str, Any], word: str) -> None:
    assert conditions.kstatus(found) == word


@given(
    st.lists(
        st.builds(
            Condition,
            type=st.sampled_from(["Ready", "Stored", "Stalled"]),
            status=st.sampled_from(["True", "False", "Unknown"]),
            reason=st.sampled_from(["A", "B"]),
        ),
        unique_by=lambda condition: condition.type,
    )
)
def test_merging_twice_is_merging_once(wanted: list[Condition]) -> None:
    once = conditions.merge(None, wanted, 1, OLD)
    assert conditions.merge(once, wanted, 1, NOW) == once
