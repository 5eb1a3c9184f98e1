"""Tell at once everything that only the user can provide, before anything is begun."""

from __future__ import annotations

import importlib.util
import shutil

import engine as engines
import host
import nodechoice
import nodeimage
import prerequisites
import shell
import tools
from layout import Layout
from versions import Versions

GO = "Go 1.26 or later (https://go.dev/dl)"
DOCKER = "Docker (https://docs.docker.com/engine/install)"
PERMISSION = "permission denied"


def installs_packages() -> bool:
    """Tell whether system packages are this tool's to install: root on Debian."""
    return host.is_root() and shutil.which("apt-get") is not None


def engine_lack(has_client: bool, refusal: str) -> str:
    """Say what a user without root has to do for a container engine.

    Args:
        has_client: the program docker is there.
        refusal: what it said when the engine was asked.
    """
    if not has_client:
        return f"{DOCKER}, and you in the group docker: only root can start an engine of its own"
    if PERMISSION in refusal.lower():
        return "access to the running Docker: `sudo usermod -aG docker $USER`, then log in again"
    return "a running Docker: `sudo systemctl start docker`, and you in the group docker"


def _engine(layout: Layout) -> list[str]:
    if engines.find(layout) is not None:
        return []
    if host.is_root():
        packages = [] if installs_packages() else prerequisites.missing(prerequisites.ENGINE)
        return [f"{DOCKER}, or Debian's packages {' '.join(packages)}"] if packages else []
    answer = shell.ask(["docker", "version"])
    return [engine_lack(shutil.which("docker") is not None, answer.err)]


def _node_image(layout: Layout, pins: Versions) -> list[str]:
    if host.is_root() or pins.node_image_is_given:
        return []
    engine = engines.find(layout)
    if engine is None:
        boots, built = host.features().cgroup_v2, False
    else:
        boots, built = engine.cgroup_v2, nodechoice.is_present(nodeimage.own_tag(pins), engine)
    return [] if boots or built else [f"root, to build a node image: {nodechoice.NO_CGROUP_V1}"]


def _programs(layout: Layout, pins: Versions) -> list[str]:
    missing = tools.missing(layout, pins)
    return [f"{GO}; or else on PATH: {' and '.join(missing)}"] if missing else []


def _python() -> list[str]:
    if installs_packages() or importlib.util.find_spec("ensurepip"):
        return []
    return ["Python's venv and ensurepip (Debian's package python3-venv)"]


def cluster_lacks(layout: Layout, pins: Versions) -> list[str]:
    """Return what the user has to provide before a cluster can be made, one line each; empty if nothing."""
    return [*_engine(layout), *_node_image(layout, pins), *_programs(layout, pins)]


def lacks(layout: Layout, pins: Versions) -> list[str]:
    """Return what the user has to provide for everything that `make` does, one line each."""
    return [*_python(), *cluster_lacks(layout, pins)]


def require(found: list[str]) -> None:
    """Stop with the whole list where it is not empty.

    Raises:
        MissingError: something has to be provided first.
    """
    if found:
        raise shell.MissingError("\n  - ".join(["please provide first:", *found]))
