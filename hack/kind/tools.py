"""Provide kind, helm and kubectl on one PATH folder; a program of the right version is taken, not built."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import binaries
import shell
from layout import Layout
from versions import Versions

VERSION_COMMANDS = {"kind": ("version",), "helm": ("version", "--short")}


def states_version(output: str, version: str) -> bool:
    """Tell whether a program's output names exactly this version."""
    return re.search(rf"(?<![\w.]){re.escape(version)}(?![\w.])", output) is not None


def other_folders(path: str, tools_folder: Path) -> str:
    """Return PATH without our own folder: a link found there must not become a link to itself."""
    folders = (folder for folder in path.split(os.pathsep) if folder)
    return os.pathsep.join(folder for folder in folders if Path(folder) != tools_folder)


def _search(name: str, layout: Layout) -> str | None:
    found = shutil.which(name, path=other_folders(os.environ.get("PATH", os.defpath), layout.tools))
    return str(Path(found).resolve()) if found else None


def _installed(name: str, version: str, layout: Layout) -> str | None:
    path = _search(name, layout)
    if path is None:
        return None
    answer = shell.ask([path, *VERSION_COMMANDS[name]])
    return path if answer.ok and states_version(answer.out, version) else None


def _provide(name: str, version: str, layout: Layout, pins: Versions) -> str:
    recipe = binaries.recipes(pins)[name]
    if not binaries.is_built(recipe, layout) and (path := _installed(name, version, layout)):
        return path
    return binaries.paths([name], layout, pins)[name]


def link_basic(layout: Layout, pins: Versions) -> None:
    """Link kind and helm, and the docker client that is on PATH."""
    wanted = {"kind": pins.kind, "helm": pins.helm}
    targets = {name: _provide(name, version, layout, pins) for name, version in wanted.items()}
    if docker := _search("docker", layout):
        targets["docker"] = docker
    binaries.link_tools(layout, targets)


def kubectl_from_node(node: str, layout: Layout, env: dict[str, str]) -> None:
    """Link the kubectl that is part of the running node: nothing to build on the stock path."""
    target = layout.tools / "kubectl-of-node"
    layout.tools.mkdir(parents=True, exist_ok=True)
    shell.need(["docker", "cp", "--follow-link", f"{node}:/usr/bin/kubectl", str(target)], env=env)
    binaries.link_tools(layout, {"kubectl": str(target)})


def link_built_kubectl(layout: Layout, pins: Versions) -> bool:
    """Link the kubectl of the cached multi-call binary; tell whether there is one."""
    recipe = binaries.recipes(pins)["kb"]
    if not binaries.is_built(recipe, layout):
        return False
    binaries.link_tools(layout, {"kubectl": str(binaries.folder(recipe, layout) / "kubectl")})
    return True


def kind(layout: Layout) -> str:
    """Return kind's path."""
    return str(layout.tools / "kind")


def kubectl(layout: Layout) -> str:
    """Return kubectl's path: ours where it is linked."""
    ours: Path = layout.tools / "kubectl"
    return str(ours) if ours.exists() else "kubectl"
