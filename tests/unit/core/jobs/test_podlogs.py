"""Which container's log answers."""

from typing import Any

import pytest

from manifestry.core import errors
from manifestry.core.jobs import podlogs
from manifestry.core.jobs.podlogs import Target, Wanted


def pod(
    name: str, state: str = "running", second: int = 0, phase: str = "Running", **extra: Any
) -> dict[str, Any]:
    return {
        "metadata": {"name": name, "creationTimestamp": f"2026-11-23T10:00:{second:02}Z"},
        "spec": {
            "nodeName": "n1",
            "containers": [{"name": "job"}, {"name": "side"}],
            "initContainers": [{"name": "fetch"}],
        },
        "status": {
            "phase": phase,
            "containerStatuses": [{"name": "job", "state": {state: extra}}],
            "initContainerStatuses": [{"name": "fetch", "state": {"terminated": {}}}],
        },
    }


FIRST, SECOND = pod("p1", "terminated", 1), pod("p2", "running", 2)


@pytest.mark.parametrize(
    ("pods", "wanted", "expected"),
    [
        ([FIRST], Wanted(), Target("p1", "job", 1, ended=True)),
        ([SECOND, FIRST], Wanted(), Target("p2", "job", 2, ended=False)),
        ([SECOND, FIRST], Wanted(attempt=1), Target("p1", "job", 1, ended=True)),
        ([SECOND], Wanted(container="fetch"), Target("p2", "fetch", 1, ended=True)),
        ([], Wanted(follow=True), None),
        ([FIRST], Wanted(attempt=2, follow=True), None),
        ([pod("p", "waiting")], Wanted(follow=True), None),
        ([SECOND], Wanted(container="side", follow=True), None),
    ],
)
def test_what_is_opened_or_waited_for(pods: list[Any], wanted: Wanted, expected: Target | None) -> None:
    assert podlogs.choose("running", False, pods, wanted) == expected


@pytest.mark.parametrize(
    ("ended", "pods", "wanted", "kind"),
    [
        (False, [], Wanted(), errors.CONFLICT),
        (False, [FIRST], Wanted(attempt=2), errors.CONFLICT),
        (False, [pod("p", "waiting", reason="ImagePullBackOff")], Wanted(), errors.CONFLICT),
        (True, [], Wanted(), errors.NOT_FOUND),
        (True, [], Wanted(follow=True), errors.NOT_FOUND),
        (True, [FIRST], Wanted(attempt=7, follow=True), errors.NOT_FOUND),
        (True, [pod("p", "waiting")], Wanted(follow=True), errors.NOT_FOUND),
        (False, [pod("p", "waiting", phase="Failed")], Wanted(follow=True), errors.NOT_FOUND),
        (False, [SECOND], Wanted(container="nope", follow=True), errors.VALIDATION_FAILED),
    ],
)
def test_why_there_is_no_log(ended: bool, pods: list[Any], wanted: Wanted, kind: errors.ErrorKind) -> None:
    with pytest.raises(errors.Problem) as caught:
        podlogs.choose("cancelled" if ended else "queued", ended, pods, wanted)
    assert caught.value.kind is kind


def test_the_reason_for_waiting_is_told() -> None:
    with pytest.raises(errors.Problem, match="ImagePullBackOff"):
        podlogs.choose("queued", False, [pod("p", "waiting", reason="ImagePullBackOff")], Wanted())


def test_a_container_without_a_status_or_a_node_waits() -> None:
    assert podlogs.container_state({"metadata": {}}, "job") == "waiting"
    assert podlogs.container_state({"spec": {"nodeName": "n1"}}, "job") == "waiting"
    assert podlogs.container_state({**SECOND, "spec": {}}, "job") == "waiting"
