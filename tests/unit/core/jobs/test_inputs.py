"""Which Artifacts a Job needs."""

from typing import Any

import pytest

from manifestry.core.jobs import inputs


def job(summary: str | None = None, **spec: Any) -> dict[str, Any]:
    conditions = [{"type": "Succeeded", "status": summary}] if summary else []
    return {
        "metadata": {"name": "j", "namespace": "ns"},
        "spec": spec,
        "status": {"conditions": conditions},
    }


INPUTS = [
    {"name": "one", "artifactRef": {"name": "a"}, "path": "/a"},
    {"name": "two", "artifactRef": {"name": "b"}, "path": "/b"},
]


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (job(), []),
        (job(inputs=[]), []),
        (job(inputs=None), []),
        (job(inputs=INPUTS), [("ns", "a"), ("ns", "b")]),
        (job("Unknown", inputs=INPUTS), [("ns", "a"), ("ns", "b")]),
        (job("True", inputs=INPUTS), []),
        (job("False", inputs=INPUTS), []),
        (job(inputs=[{"name": "odd"}]), []),
        ({"metadata": {"name": "j"}}, []),
    ],
)
def test_a_job_needs_its_inputs_until_it_has_ended(body: dict[str, Any], found: list[Any]) -> None:
    assert list(inputs.in_use(body)) == found
