"""Predicates over objects of the cluster, for `wait_for`."""

from collections.abc import Callable, Mapping
from typing import Any

Predicate = Callable[[Mapping[str, Any] | None], bool]


def condition(body: Mapping[str, Any] | None, kind: str) -> Mapping[str, Any]:
    """Return a condition, empty when it is not there."""
    found = ((body or {}).get("status") or {}).get("conditions") or ()
    return next((c for c in found if c["type"] == kind), {})


def has(kind: str, status: str) -> Predicate:
    """Return a predicate: the condition has the status."""
    return lambda body: condition(body, kind).get("status") == status


def reason(kind: str, expected: str) -> Predicate:
    """Return a predicate: the condition has the reason."""
    return lambda body: condition(body, kind).get("reason") == expected
