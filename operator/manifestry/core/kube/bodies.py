"""The parts of an object's body, whatever was let into etcd in their place."""

from collections.abc import Mapping
from typing import Any

Body = Mapping[str, Any]


def spec_of(body: Any) -> Body:
    """Return an object's `spec`, empty when it is missing or of another shape."""
    return _part(body, "spec")


def status_of(body: Any) -> Body:
    """Return an object's `status`, empty when it is missing or of another shape."""
    return _part(body, "status")


def _part(body: Any, name: str) -> Body:
    part = body.get(name) if isinstance(body, Mapping) else None
    return part if isinstance(part, Mapping) else {}
