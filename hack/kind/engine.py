"""Use the machine's container engine, or run one of our own below the cache folder."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import artefacts
import host
import hoststate
import prerequisites
import processes
import progress
import shell
from layout import Layout

FILES = Path(__file__).resolve().parent / "files"
START_SECONDS = 60.0
STOP_SECONDS = 40.0
PROBE_SECONDS = 10.0
# sun_path holds 108 bytes, and containerd's socket lies deeper than ours.
ROOT_PATH_LIMIT = 60


@dataclass(frozen=True)
class Engine:
    """A container engine that answers.

    Args:
        own: this tool started it and ends it.
        env: what the docker client and kind need to reach it.
    """

    own: bool
    env: Mapping[str, str] = field(default_factory=dict)

    def ask(self, *args: str, timeout: float = shell.ASK_SECONDS) -> shell.Answer:
        """Run a short docker command."""
        return shell.ask(["docker", *args], timeout, self.env)

    def need(self, *args: str) -> str:
        """Run a short docker command that must succeed and return its output."""
        return shell.need(["docker", *args], env=self.env)

    @property
    def cgroup_v2(self) -> bool:
        """Tell whether the engine's containers see the unified cgroup hierarchy."""
        return self.ask("info", "--format", "{{.CgroupVersion}}").out.strip() != "1"


@dataclass(frozen=True)
class OwnPaths:
    """The files of the engine that this tool starts."""

    root: Path

    @property
    def socket(self) -> Path:
        """Return the API socket."""
        return self.root / "docker.sock"

    @property
    def url(self) -> str:
        """Return the value for DOCKER_HOST."""
        return f"unix://{self.socket}"

    @property
    def pid(self) -> Path:
        """Return the daemon's PID file."""
        return self.root / "dockerd.pid"

    @property
    def data(self) -> Path:
        """Return the folder of images and containers."""
        return self.root / "data"

    @property
    def run(self) -> Path:
        """Return the folder of run-time state."""
        return self.root / "run"

    @property
    def wrapper(self) -> Path:
        """Return the runc wrapper, a copy: the engine may outlive the checkout."""
        return self.root / "runc-wrap"

    @property
    def before(self) -> Path:
        """Return the record of the machine's state before the engine."""
        return self.root / "host-before.json"


def own_paths(layout: Layout) -> OwnPaths:
    """Return the files of our own engine."""
    return OwnPaths(layout.engine)


def daemon_args(paths: OwnPaths, sys_resource: bool) -> list[str]:
    """Return dockerd's command line: everything it writes stays below the cache folder.

    There is no default bridge: kind makes its own network, and builds use the machine's.
    """
    args = ["dockerd", "--data-root", str(paths.data), "--exec-root", str(paths.run)]
    args += ["--pidfile", str(paths.pid), "--config-file", str(paths.root / "daemon.json")]
    args += ["--host", paths.url, "--bridge", "none"]
    if not sys_resource:
        # Lowering the own OOM score needs that capability too.
        args += ["--oom-score-adjust", "0"]
        args += ["--add-runtime", f"wrap={paths.wrapper}", "--default-runtime", "wrap"]
    return args


def _answers(env: Mapping[str, str]) -> bool:
    return shell.ask(["docker", "version", "--format", "{{.Server.Version}}"], PROBE_SECONDS, env).ok


def find(layout: Layout) -> Engine | None:
    """Return the engine that answers: our own first, then the machine's."""
    paths = own_paths(layout)
    own = {"DOCKER_HOST": paths.url}
    if paths.socket.exists() and _answers(own):
        return Engine(True, own)
    if os.environ.get("DOCKER_HOST") != paths.url and _answers({}):
        return Engine(False)
    return None


def _environment() -> dict[str, str]:
    # sbin is where iptables, runc and dockerd are, and not on every user's PATH.
    return {"PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"}


def _launch(paths: OwnPaths, log: Path) -> subprocess.Popen[bytes]:
    args = daemon_args(paths, host.features().sys_resource)
    with shell.open_log(log) as stream:
        return subprocess.Popen(
            args,
            stdout=stream,
            stderr=stream,
            stdin=subprocess.DEVNULL,
            env=shell.merged(_environment()),
            start_new_session=True,
        )


def _wait_started(paths: OwnPaths, daemon: subprocess.Popen[bytes]) -> bool:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and daemon.poll() is None:
        if paths.socket.exists() and _answers({"DOCKER_HOST": paths.url}):
            return True
        time.sleep(0.2)
    return False


def _clear_leftovers(paths: OwnPaths) -> int:
    found = processes.sweep(paths.root, paths.data)
    shutil.rmtree(paths.run, ignore_errors=True)
    for stale in (paths.pid, paths.socket):
        stale.unlink(missing_ok=True)
    return found


def _try_start(paths: OwnPaths, log: Path) -> bool:
    if found := _clear_leftovers(paths):
        progress.say(f"   cleared {found} processes and mounts of a killed engine")
    daemon = _launch(paths, log)
    if _wait_started(paths, daemon):
        return True
    daemon.kill()
    daemon.wait()
    return False


def _write_files(paths: OwnPaths) -> None:
    paths.root.mkdir(parents=True, exist_ok=True)
    (paths.root / "daemon.json").write_text("{}\n")
    shutil.copy(FILES / paths.wrapper.name, paths.wrapper)
    paths.wrapper.chmod(0o755)


def start(layout: Layout) -> Engine:
    """Start our own engine, replacing what a killed one left.

    Where it does not start with the data it has, it starts with none: all of it can be built again.

    Raises:
        MissingError: this is not root, or a package is missing.
        UserError: it does not start.
    """
    paths, log = own_paths(layout), layout.log("dockerd")
    if not host.is_root():
        raise shell.MissingError("must be root to start a container engine; or start Docker yourself")
    if len(str(paths.root)) > ROOT_PATH_LIMIT:
        raise shell.UserError(f"`MANIFESTRY_CACHE` must be a shorter path: sockets go below {paths.root}")
    prerequisites.ensure(prerequisites.ENGINE, layout)
    hoststate.remember(paths.before)
    _write_files(paths)
    with progress.step("start a container engine (Debian's docker.io)"):
        if not _try_start(paths, log):
            progress.say("   it does not start with the data it has; trying with none")
            _clear_leftovers(paths)
            shutil.rmtree(paths.data, ignore_errors=True)
            if not _try_start(paths, log):
                raise shell.explain("the container engine does not start", log)
    return Engine(True, {"DOCKER_HOST": paths.url})


def ensure(layout: Layout) -> Engine:
    """Return an engine that answers, starting our own where there is none."""
    if found := find(layout):
        return found
    with artefacts.locked(layout.lock("engine")):
        if host.is_root():
            # Where an init system runs, installing the package starts it.
            prerequisites.ensure(prerequisites.ENGINE, layout)
        return find(layout) or start(layout)


def _recorded_pid(paths: OwnPaths) -> int | None:
    try:
        pid = int(paths.pid.read_text())
    except (OSError, ValueError):
        return None
    ours = [p.pid for p in processes.running() if processes.is_daemon_of(p, str(paths.root))]
    return pid if pid in ours else None


def stop(layout: Layout) -> None:
    """End our own engine and put the machine back as it was before."""
    paths = own_paths(layout)
    pid = _recorded_pid(paths)
    if pid is not None:
        processes.signal_all([pid], signal.SIGTERM)
        processes.wait_ended([pid], STOP_SECONDS)
    _clear_leftovers(paths)
    for problem in hoststate.restore(paths.before):
        progress.say(f"   could not restore: {problem}")


def was_started(layout: Layout) -> bool:
    """Tell whether our own engine has run since the machine was last put back."""
    return own_paths(layout).before.exists()
