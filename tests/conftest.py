"""Register the harness, mark tests by their folder, choose Hypothesis' profile."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

pytest_plugins = ("tests.controlplane.plugin", "tests.seaweed.plugin", "tests.faults.plugin")

_MARKERS = {
    "unit": "unit",
    "component": "component",
    "seaweed": "component",
    "faults": "component",
    "clouds": "component",
    "cluster": "cluster",
    "e2e": "e2e",
}
_HERE = Path(__file__).parent

settings.register_profile("dev", max_examples=50, deadline=None)
# Derandomized: a red build must be red for everybody. The machine may stall, so no deadline.
settings.register_profile(
    "ci", max_examples=300, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") else "dev"))


def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark a test by the folder directly below tests/ it lies in."""
    folder = item.path.relative_to(_HERE).parts[0] if item.path.is_relative_to(_HERE) else ""
    if folder in _MARKERS:
        item.add_marker(_MARKERS[folder])
