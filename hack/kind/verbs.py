"""What each verb of the tool does, told in steps."""

from __future__ import annotations

import json
import shlex
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import appimage
import artefacts
import cluster as clusters
import engine as engines
import nodechoice
import processes
import progress
import readiness
import shell
import tools
from cluster import Cluster
from engine import Engine
from layout import ClusterPaths, Layout
from versions import Versions

CURRENT = "current"


@dataclass(frozen=True)
class Context:
    """What every verb works on."""

    layout: Layout
    name: str
    pins: Versions

    @property
    def paths(self) -> ClusterPaths:
        """Return the files of the cluster."""
        return self.layout.cluster(self.name)

    @property
    def uses_current(self) -> bool:
        """Tell whether `up --use-current` chose somebody else's cluster."""
        return clusters.load_state(self.paths).get("mode") == CURRENT


def _running(context: Context) -> Cluster:
    engine = engines.find(context.layout)
    if engine is None or not clusters.exists(found := Cluster(context.name, context.layout, engine)):
        raise shell.UserError(f"cluster {context.name} is not up; run `python3 hack/kind up` first")
    return found


def _use_current(context: Context) -> None:
    if clusters.load_state(context.paths).get("mode") == clusters.KIND:
        raise shell.UserError(f"cluster {context.name} was made by this tool; run `down` first")
    answer = shell.ask([tools.kubectl(context.layout), "get", "--raw=/version", "--request-timeout=10s"])
    if not answer.ok:
        raise shell.UserError(f"the current kubeconfig must reach a cluster: {answer.err.strip()[-500:]}")
    clusters.save_state(context.paths, CURRENT)
    progress.say(f"   using the current kubeconfig: Kubernetes {json.loads(answer.out).get('gitVersion')}")


def up(context: Context, use_current: bool) -> int:
    """Make sure that the cluster is there, doing only what is missing."""
    started = time.monotonic()
    if use_current:
        _use_current(context)
        return 0
    readiness.require(readiness.cluster_lacks(context.layout, context.pins))
    with artefacts.locked(context.layout.lock("cluster")):
        engine = engines.ensure(context.layout)
        tools.link_basic(context.layout, context.pins)
        image = nodechoice.ensure(engine, context.layout, context.pins)
        clusters.ensure(Cluster(context.name, context.layout, engine), image, context.pins)
    progress.say(f"cluster {context.name} is up after {progress.elapsed(time.monotonic() - started)}")
    progress.say('next: eval "$(python3 hack/kind env)"')
    return 0


def _stop_engine(context: Context, engine: Engine) -> None:
    others = clusters.others(Cluster(context.name, context.layout, engine))
    if others:
        progress.say(f"   the engine goes on for the clusters {', '.join(others)}")
        return
    engine.ask("network", "rm", "kind")
    with progress.step("stop the container engine and put the machine back"):
        engines.stop(context.layout)


def _remove_cluster(context: Context) -> None:
    engine = engines.find(context.layout)
    if engine is None and engines.was_started(context.layout):
        # A killed engine still has the cluster on disk: only an engine can remove that cleanly.
        engine = engines.start(context.layout)
    if engine is None:
        return
    found = Cluster(context.name, context.layout, engine)
    if clusters.exists(found):
        tools.link_basic(context.layout, context.pins)
        clusters.delete(found)
    if engine.own:
        _stop_engine(context, engine)


def down(context: Context, purge: bool) -> int:
    """Delete the cluster, end what was started, and put the machine back."""
    with artefacts.locked(context.layout.lock("cluster")):
        if not context.uses_current:
            _remove_cluster(context)
        shutil.rmtree(context.paths.root, ignore_errors=True)
    if purge:
        _purge(context)
    progress.say(f"cluster {context.name} is down")
    return 0


def _purge(context: Context) -> None:
    engine = engines.find(context.layout)
    if engine is not None and engine.own:
        raise shell.UserError("the engine is in use by another cluster; run `down` for that one first")
    with progress.step(f"remove {context.layout.root}"):
        processes.sweep(context.layout.root, engines.own_paths(context.layout).data)
        shutil.rmtree(context.layout.root)


def check(context: Context) -> int:
    """Say whether everything is there, or can be had, that `make` needs."""
    readiness.require(readiness.lacks(context.layout, context.pins))
    progress.say("nothing has to be installed by hand")
    return 0


def status(context: Context) -> int:
    """Print how things are; zero where the cluster is up."""
    if context.uses_current:
        print("cluster: the current kubeconfig's")
        return 0
    engine = engines.find(context.layout)
    if engine is None:
        print(f"engine:  none\ncluster: {context.name}, down")
        return 1
    found = Cluster(context.name, context.layout, engine)
    ready = clusters.exists(found) and clusters.is_ready(found)
    print(f"engine:  {'own, ' + engine.env['DOCKER_HOST'] if engine.own else 'of the machine'}")
    print(f"image:   {clusters.load_state(context.paths).get('image', 'none')}")
    print(f"cluster: {context.name}, {'up' if ready else 'down'}")
    if ready:
        print(f"node:    {clusters.node_address(found)}\nkubeconfig: {context.paths.kubeconfig}")
    return 0 if ready else 1


def _exports(context: Context, engine: Engine | None) -> dict[str, str]:
    exports = {"MANIFESTRY_CLUSTER": context.name}
    if context.uses_current:
        return exports
    exports["KUBECONFIG"] = str(context.paths.kubeconfig)
    exports["MANIFESTRY_AUDIT_LOG"] = str(context.paths.audit_log)
    if engine is None:
        return exports
    address = clusters.node_address(Cluster(context.name, context.layout, engine))
    return {**exports, **engine.env, **({"MANIFESTRY_NODE_IP": address} if address else {})}


def render_exports(exports: dict[str, str], tools_folder: Path) -> str:
    """Return the shell lines that set the environment."""
    lines = [f"export {name}={shlex.quote(value)}" for name, value in sorted(exports.items())]
    return "\n".join([*lines, f'export PATH={shlex.quote(str(tools_folder))}:"$PATH"'])


def env(context: Context) -> int:
    """Print shell exports for `eval`."""
    print(render_exports(_exports(context, engines.find(context.layout)), context.layout.tools))
    return 0


def build_image(context: Context, tag: str) -> int:
    """Build the project's image."""
    with artefacts.locked(context.layout.lock("build-image")):
        appimage.build(tag, context.layout, context.pins)
    print(tag)
    return 0


def load_image(context: Context, tag: str) -> int:
    """Make an image available to the cluster's pods."""
    if context.uses_current:
        progress.say(f"   not loaded: the current cluster must be able to pull {tag} itself")
        return 0
    appimage.load(tag, _running(context))
    return 0


def logs(context: Context) -> int:
    """Export the cluster's logs and print where they are."""
    folder = context.layout.logs / f"{context.name}-{time.strftime('%Y%m%d-%H%M%S')}"
    clusters.export_logs(_running(context), folder)
    print(folder)
    return 0


def print_binaries(context: Context, names: list[str]) -> int:
    """Ensure programs and print their paths as JSON."""
    context.layout.root.mkdir(parents=True, exist_ok=True)
    paths = {name: tools.provide(name, context.layout, context.pins) for name in names}
    print(json.dumps(paths, indent=1))
    return 0
