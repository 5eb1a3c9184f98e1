"""Provide kind, helm and kubectl on one PATH folder; a program of the right version is taken, not built."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import binaries
import nodeprograms
import shell
from layout import Layout
from versions import Versions

VERSION_COMMANDS = {"kind": ("version",), "helm": ("version", "--short")}


def states_version(output: str, version: str) -> bool:
    """Tell whether a program's output names exactly this version."""
    return re.search(rf"(?<![\w.]){re.escape(version)}(?![\w.])", output) is not None


def states_version_since(output: str, version: str) -> bool:
    """Tell whether a program's output names this version or a later one of the same major version."""
    wanted = _numbers(version)
    found = [_numbers(text) for text in re.findall(r"(?<![\w.])v\d+\.\d+\.\d+(?![\w.])", output)]
    return any(numbers[0] == wanted[0] and numbers >= wanted for numbers in found)


def _numbers(version: str) -> list[int]:
    return [int(number) for number in version.removeprefix("v").split(".")]


def other_folders(path: str, tools_folder: Path) -> str:
    """Return PATH without our own folder: a link found there must not become a link to itself."""
    folders = (folder for folder in path.split(os.pathsep) if folder)
    return os.pathsep.join(folder for folder in folders if Path(folder) != tools_folder)


def _search(name: str, layout: Layout) -> str | None:
    found = shutil.which(name, path=other_folders(os.environ.get("PATH", os.defpath), layout.tools))
    return str(Path(found).resolve()) if found else None


def _installed(name: str, wanted: str, layout: Layout) -> str | None:
    path = _search(name, layout)
    if path is None:
        return None
    answer = shell.ask([path, *VERSION_COMMANDS[name]])
    # Where nothing can be built, a later one of the same major version has to do.
    fits = states_version if binaries.has_go() else states_version_since
    return path if answer.ok and fits(answer.out, wanted) else None


def _pinned(pins: Versions) -> dict[str, str]:
    return {"kind": pins.kind, "helm": pins.helm}


def find(name: str, layout: Layout, pins: Versions) -> str | None:
    """Return the path of a program that is in the cache or on PATH."""
    recipe = binaries.find(name, binaries.recipes(pins))
    if binaries.is_built(recipe, layout):
        return str(binaries.folder(recipe, layout) / name)
    return _installed(name, _pinned(pins)[name], layout) if name in VERSION_COMMANDS else None


def provide(name: str, layout: Layout, pins: Versions) -> str:
    """Return the path of a program: from the cache, from PATH, out of a kind node, or built.

    Raises:
        MissingError: it must be built or taken from a node, and there is neither Go nor a node.
        UserError: there is no such program, or the build failed.
    """
    if path := find(name, layout, pins):
        return path
    if name in binaries.KUBERNETES_PROGRAMS and not binaries.has_go():
        return nodeprograms.path(name, layout, pins)
    return binaries.paths([name], layout, pins)[name]


def missing(layout: Layout, pins: Versions) -> list[str]:
    """Return the programs that `up` needs and that are neither there nor can be built."""
    if binaries.has_go():
        return []
    return [f"{name} {version}" for name, version in _pinned(pins).items() if not find(name, layout, pins)]


def link_basic(layout: Layout, pins: Versions) -> None:
    """Link kind and helm, and the docker client that is on PATH."""
    targets = {name: provide(name, layout, pins) for name in _pinned(pins)}
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
