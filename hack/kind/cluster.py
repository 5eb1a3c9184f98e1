"""Create, check and delete the kind cluster."""

from __future__ import annotations

import itertools
import json
import shutil
import signal
from dataclasses import dataclass
from pathlib import Path

import host
import kindconfig
import nodechoice
import processes
import progress
import shell
import tools
from engine import Engine
from layout import ClusterPaths, Layout
from processes import Process
from versions import Versions

KIND = "kind"
CREATE_SECONDS = 600.0
READY_WAIT = "180s"
DELETE_SECONDS = 120.0
ROLLOUT_SECONDS = 240.0
LOAD_SECONDS = 600.0
SYSTEM_DEPLOYMENTS = (("kube-system", "coredns"), ("local-path-storage", "local-path-provisioner"))


@dataclass(frozen=True)
class Cluster:
    """One kind cluster on one engine."""

    name: str
    layout: Layout
    engine: Engine

    @property
    def paths(self) -> ClusterPaths:
        """Return the cluster's files."""
        return self.layout.cluster(self.name)

    @property
    def node(self) -> str:
        """Return the name of the node's container."""
        return f"{self.name}-control-plane"

    def kubectl(self, *args: str, timeout: float = shell.ASK_SECONDS) -> shell.Answer:
        """Run a short kubectl command against this cluster."""
        config = ("--kubeconfig", str(self.paths.kubeconfig))
        return shell.ask([tools.kubectl(self.layout), *config, *args], timeout)

    def kind(self, *args: str, timeout: float) -> None:
        """Run kind, its output into the log."""
        env = {**self.engine.env, "KUBECONFIG": str(self.paths.kubeconfig)}
        shell.run(shell.Job([tools.kind(self.layout), *args], self.layout.log("kind"), timeout, env=env))


def save_state(paths: ClusterPaths, mode: str, image: str = "") -> None:
    """Record how the cluster was made, so that later verbs need no option."""
    paths.root.mkdir(parents=True, exist_ok=True)
    paths.state.write_text(json.dumps({"mode": mode, "image": image}) + "\n")


def load_state(paths: ClusterPaths) -> dict[str, str]:
    """Return the record of how the cluster was made; empty where there is none."""
    try:
        return dict(json.loads(paths.state.read_text()))
    except (OSError, ValueError):
        return {}


def exists(cluster: Cluster) -> bool:
    """Tell whether the node's container exists, running or not."""
    return cluster.engine.ask("container", "inspect", cluster.node).ok


def node_address(cluster: Cluster) -> str:
    """Return the node's IP address, where NodePorts answer; empty where it does not run."""
    template = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
    return cluster.engine.ask("container", "inspect", "-f", template, cluster.node).out.strip()


def is_ready(cluster: Cluster) -> bool:
    """Tell whether the API server answers and the node is Ready."""
    if not cluster.paths.kubeconfig.exists():
        return False
    if not cluster.kubectl("get", "--raw=/readyz", "--request-timeout=5s").ok:
        return False
    path = '{.items[*].status.conditions[?(@.type=="Ready")].status}'
    statuses = cluster.kubectl("get", "nodes", "-o", f"jsonpath={path}").out.split()
    return bool(statuses) and set(statuses) == {"True"}


def _forget(paths: ClusterPaths) -> None:
    shutil.rmtree(paths.root, ignore_errors=True)


def delete(cluster: Cluster) -> None:
    """Delete the cluster's container, network use and files."""
    if exists(cluster):
        with progress.step(f"delete cluster {cluster.name}"):
            cluster.kind("delete", "cluster", "--name", cluster.name, timeout=DELETE_SECONDS)
    _forget(cluster.paths)


def _wait_system(cluster: Cluster) -> None:
    for namespace, name in SYSTEM_DEPLOYMENTS:
        limit = f"--timeout={ROLLOUT_SECONDS:.0f}s"
        args = ("-n", namespace, "rollout", "status", f"deployment/{name}", limit)
        answer = cluster.kubectl(*args, timeout=ROLLOUT_SECONDS + 10)
        if not answer.ok:
            raise shell.UserError(f"{name} does not become ready: {answer.err.strip()}")


def create(cluster: Cluster, image: str, pins: Versions) -> None:
    """Create the cluster and wait until DNS and storage answer."""
    # An image that was built here is fitted to the machine already.
    patches = {} if nodechoice.is_own(image) else kindconfig.machine_patches(host.features())
    kindconfig.write(cluster.paths, image, patches)
    args = ["create", "cluster", "--name", cluster.name, "--config", str(cluster.paths.kind_config)]
    with progress.step(f"create cluster {cluster.name}"):
        cluster.kind(*args, "--wait", READY_WAIT, timeout=CREATE_SECONDS)
    if not tools.link_built_kubectl(cluster.layout, pins):
        tools.kubectl_from_node(cluster.node, cluster.layout, dict(cluster.engine.env))
    with progress.step("wait for cluster DNS and storage"):
        _wait_system(cluster)
    save_state(cluster.paths, KIND, image)


def is_creating(process: Process, kind: str, name: str) -> bool:
    """Tell whether a process is our kind creating the named cluster."""
    args = process.args
    return args[:3] == (kind, "create", "cluster") and ("--name", name) in itertools.pairwise(args)


def _end_orphans(cluster: Cluster) -> None:
    # A killed run's `kind create` fails at last, and then would delete the node that we have made meanwhile.
    kind = tools.kind(cluster.layout)
    pids = [p.pid for p in processes.running() if is_creating(p, kind, cluster.name)]
    processes.signal_all(pids, signal.SIGKILL)
    processes.wait_ended(pids)


def ensure(cluster: Cluster, image: str, pins: Versions) -> None:
    """Make sure that a healthy cluster of this image is there; any other one of the name is replaced."""
    if load_state(cluster.paths).get("image") == image and exists(cluster) and is_ready(cluster):
        progress.say(f"   cluster {cluster.name} is up already")
        return
    _end_orphans(cluster)
    delete(cluster)
    create(cluster, image, pins)


def others(cluster: Cluster) -> list[str]:
    """Return the other kind clusters that have a container on this engine."""
    label = "io.x-k8s.kind.cluster"
    template = f'{{{{.Label "{label}"}}}}'
    found = cluster.engine.ask("ps", "-a", "--filter", f"label={label}", "--format", template)
    return sorted(set(found.out.split()) - {cluster.name})


def export_logs(cluster: Cluster, folder: Path) -> None:
    """Write the logs of the node, the kubelet and the pods into a folder."""
    with progress.step("export logs"):
        cluster.kind("export", "logs", str(folder), "--name", cluster.name, timeout=LOAD_SECONDS)
