"""What the last policy of a deleted Artifact asks for, from the object as its deletion showed it."""

from typing import Any

import pytest

from manifestry.core.artifacts import lives
from manifestry.core.artifacts.plans import DropPin, PutPin
from manifestry.core.blobs import garbage
from manifestry.core.quota.storage import departures

TENANT, UID = "0a1b2c3d-0000-4000-8000-00000000000f", "0a1b2c3d-0000-4000-8000-00000000000a"
A, B, C = (f"sha256:{letter * 64}" for letter in "abc")
ONE = {"artifact": {"digest": A, "sizeBytes": 5}, "manifest": {"digest": C, "sizeBytes": 400}}
TWO = {
    "files": [{"name": "x", "digest": A, "sizeBytes": 5}, {"name": "y", "digest": B, "sizeBytes": 2}],
    "manifest": {"digest": C, "sizeBytes": 400},
}


def gone(
    policy: str | None, status: dict[str, Any], generation: int = 2, ready: int | None = 1
) -> dict[str, Any]:
    """Return an Artifact that was ready at a generation, and is deleted at another."""
    condition = {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}
    return {
        "metadata": {"name": "a", "namespace": "ns", "uid": UID, "generation": generation},
        "spec": {"mediaType": "a/b"} | ({"deletionPolicy": policy} if policy else {}),
        "status": status | {"observedGeneration": ready, "conditions": [condition]},
    }


@pytest.mark.parametrize(
    "body",
    [
        gone("Retain", ONE, 1, 1),  # carried out before it was ready
        gone("Delete", ONE, 2, 2),
        gone(None, ONE, 1, None),  # never edited: there is no pin
        gone("Delete", {}, 1, None),
        gone("Retain", {}, 1, None),  # never stored
        gone("Retain", {"manifest": None}, 3, 2),
        {"metadata": {"name": "a"}, "spec": {"deletionPolicy": "Retain"}},
        {"metadata": {"name": "a", "uid": 7}},
    ],
)
def test_mostly_there_is_nothing_to_do(body: dict[str, Any]) -> None:
    assert departures.pins(body, TENANT) == ()


@pytest.mark.parametrize("policy", ["Delete", None])
@pytest.mark.parametrize("status", [ONE, TWO, {}])
def test_a_policy_that_was_changed_back_lets_the_bytes_go(policy: str | None, status: dict[str, Any]) -> None:
    assert departures.pins(gone(policy, status), TENANT) == (DropPin(TENANT, UID),)


@pytest.mark.parametrize(("status", "size_bytes", "found"), [(ONE, 5, {A, C}), (TWO, 7, {A, B, C})])
def test_a_policy_that_was_changed_to_retain_keeps_what_is_stored(
    status: dict[str, Any], size_bytes: int, found: set[str]
) -> None:
    (action,) = departures.pins(gone("Retain", status), TENANT)
    assert isinstance(action, PutPin)
    pin = garbage.parse_pin(UID, action.content)
    assert (action.tenant_uid, action.artifact_uid) == (TENANT, UID)
    assert (pin.name, pin.namespace, pin.size_bytes) == ("a", "ns", size_bytes)
    assert pin.digests == found


def test_what_is_pinned_at_the_end_is_what_a_reconcile_would_have_pinned() -> None:
    """Or each would write the other's pin anew."""
    body = gone("Retain", ONE)
    (action,) = departures.pins(body, TENANT)
    assert isinstance(action, PutPin)
    assert action.content == garbage.render_pin(body, [C, A], 5)
    assert not lives.is_ready(body)
