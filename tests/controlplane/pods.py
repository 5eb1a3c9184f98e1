"""Do to a pod's status what a kubelet would do; on a cluster with nodes the two would fight."""

import datetime as dt
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from tests.controlplane.apirequests import ApiFailure
from tests.controlplane.clusterapi import Object, poll_until
from tests.controlplane.controlplane import ControlPlane

PODS = "v1/pods"
_UNFINISHED = "status.phase!=Succeeded,status.phase!=Failed"


def run_pod(cp: ControlPlane, pod: Object) -> Object:
    """Make a pod Running, with its init containers done and its containers ready."""
    return _patch_status(cp, pod, _status(pod, "Running", {"running": {"startedAt": _now()}}, ready=True))


def finish_pod(cp: ControlPlane, pod: Object, exit_code: int = 0) -> Object:
    """Make a pod Running, then Succeeded or Failed with every container's exit code."""
    running = run_pod(cp, pod) if pod.get("status", {}).get("phase") != "Running" else pod
    phase, reason = ("Succeeded", "Completed") if exit_code == 0 else ("Failed", "Error")
    started = running["status"]["containerStatuses"][0]["state"]["running"]["startedAt"]
    end = {"exitCode": exit_code, "reason": reason, "startedAt": started, "finishedAt": _now()}
    return _patch_status(cp, running, _status(running, phase, {"terminated": end}, ready=False))


def pods_of(cp: ControlPlane, namespace: str, job_name: str) -> list[Object]:
    """Return the pods that the Job controller made for a batch Job."""
    return cp.list(PODS, namespace, label_selector=f"batch.kubernetes.io/job-name={job_name}")


def wait_for_pod(cp: ControlPlane, namespace: str, job_name: str, *, timeout_seconds: float = 20.0) -> Object:
    """Wait for an unfinished pod of a batch Job and return it."""
    found: list[Object] = []

    def look() -> bool:
        pods = pods_of(cp, namespace, job_name)
        found[:] = [pod for pod in pods if pod["status"].get("phase") in {"Pending", "Running"}]
        return bool(found)

    poll_until(look, f"a pod of batch job {namespace}/{job_name}", timeout_seconds)
    return found[0]


class Kubelet:
    """A thread that runs, and where told to finishes, every pod of a namespace while its block is open.

    Args:
        exit_code: of a pod; None leaves the pod running.
        run_seconds: how long a pod runs.

    References: kwok does the same with nodes and a scheduler, where the scale matters.
    """

    def __init__(
        self,
        cp: ControlPlane,
        namespace: str,
        *,
        exit_code: Callable[[Object], int | None] = lambda _: 0,
        run_seconds: float = 0.0,
        period_seconds: float = 0.1,
    ) -> None:
        self._cp = cp
        self._namespace = namespace
        self._exit_code = exit_code
        self._run_seconds = run_seconds
        self._period_seconds = period_seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="kubelet", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(timeout=30)

    def _work(self) -> None:
        while not self._stop.wait(self._period_seconds):
            try:
                pods = self._cp.list(PODS, self._namespace, field_selector=_UNFINISHED)
            except ApiFailure:
                continue
            for pod in pods:
                self._advance(pod)

    def _advance(self, pod: Object) -> None:
        try:
            if pod["status"].get("phase") != "Running":
                pod = run_pod(self._cp, pod)
            code = self._exit_code(pod)
            if code is not None and _age_seconds(pod) >= self._run_seconds:
                finish_pod(self._cp, pod, code)
        except ApiFailure:
            # Deleted or changed meanwhile, or the server is down: the next round sees.
            return


def _age_seconds(pod: Object) -> float:
    started = dt.datetime.fromisoformat(pod["status"]["startTime"])
    return (dt.datetime.now(dt.UTC) - started).total_seconds()


def _now() -> str:
    return dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _container_status(container: Object, state: dict[str, Any], *, ready: bool) -> Object:
    image = container["image"]
    return {
        "name": container["name"],
        "image": image,
        "imageID": f"test/{image}",
        "containerID": f"test://{container['name']}",
        "ready": ready,
        "started": "running" in state,
        "restartCount": 0,
        "state": state,
    }


def _status(pod: Object, phase: str, state: dict[str, Any], *, ready: bool) -> Object:
    done = {"terminated": {"exitCode": 0, "reason": "Completed", "startedAt": _now(), "finishedAt": _now()}}
    inits = pod["spec"].get("initContainers", [])
    truth = "True" if ready else "False"
    reason = {} if ready else {"reason": "PodCompleted" if phase == "Succeeded" else "PodFailed"}
    return {
        "phase": phase,
        "startTime": pod.get("status", {}).get("startTime") or _now(),
        "conditions": [
            {"type": "PodScheduled", "status": "True", "lastTransitionTime": _now()},
            {"type": "Initialized", "status": "True", "lastTransitionTime": _now()},
            *(
                {"type": kind, "status": truth, "lastTransitionTime": _now(), **reason}
                for kind in ("ContainersReady", "Ready")
            ),
        ],
        # A native sidecar (restartPolicy Always) runs as long as the pod.
        "initContainerStatuses": [
            _container_status(init, state if init.get("restartPolicy") == "Always" else done, ready=True)
            for init in inits
        ],
        "containerStatuses": [
            _container_status(container, state, ready=ready) for container in pod["spec"]["containers"]
        ],
    }


def _patch_status(cp: ControlPlane, pod: Object, status: Object) -> Object:
    meta = pod["metadata"]
    return cp.patch(PODS, meta["name"], {"status": status}, meta["namespace"], subresource="status")
