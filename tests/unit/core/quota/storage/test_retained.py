"""What a pin keeps, as it is listed and counted."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from manifestry.core.blobs.garbage import Pin
from manifestry.core.quota.storage import lives, retained
from manifestry.core.quota.storage.lives import Live, State

NOW = datetime(2026, 1, 1, tzinfo=UTC)
BEFORE = NOW - timedelta(days=1)
A, B = f"sha256:{'a' * 64}", f"sha256:{'b' * 64}"


def test_a_pin_says_its_size_and_its_time_or_the_store_does() -> None:
    old = retained.of(Pin("u1", "a", frozenset({B, A}), "ns"), 9, NOW)
    assert (old.size_bytes, old.since, old.digests) == (9, NOW, (A, B))
    new = retained.of(Pin("u1", "a", frozenset({A}), "ns", 0, BEFORE), 9, NOW)
    assert (new.size_bytes, new.since, new.is_damaged) == (0, BEFORE, False)


def test_what_is_retained_counts_as_one_artifact() -> None:
    found = retained.of(Pin("u1", "a", frozenset({A}), "ns", 7), 0, NOW)
    assert found.live() == Live("u1", "a", State.RETAINED, 7)
    damaged = retained.damaged("u2", NOW)
    assert (damaged.live().size_bytes, damaged.is_damaged) == (0, True)


def test_an_artifact_that_exists_is_not_counted_for_its_pin_too() -> None:
    alive = Live("u1", "a", State.PENDING, 3)
    pins = [Live("u1", "a", State.RETAINED, 7), Live("u2", "a", State.RETAINED, 5)]
    assert lives.with_retained(iter([alive]), pins) == [
        replace(alive, is_pinned=True),
        pins[1],
    ]
