"""Fixtures of the tests against a real API server; the harness brings the rest."""

from collections.abc import Callable
from typing import Any

import pytest

MakeBatchJob = Callable[..., dict[str, Any]]


@pytest.fixture
def batch_job() -> MakeBatchJob:
    """Give a builder of batch Jobs: `(name, **spec) -> body`."""

    def build(name: str, **spec: Any) -> dict[str, Any]:
        container = {"name": "main", "image": "example.org/none", "command": ["true"]}
        template = {"spec": {"restartPolicy": "Never", "containers": [container]}}
        return {"metadata": {"name": name}, "spec": {"backoffLimit": 0, "template": template, **spec}}

    return build
