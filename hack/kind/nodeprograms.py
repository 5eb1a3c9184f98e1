"""Take the control plane's programs out of a kind node, for a machine without Go to build them with."""

from __future__ import annotations

import gzip
import shutil
import sys
import tarfile
import zlib
from collections.abc import Iterable
from pathlib import Path

import artefacts
import engine as engines
import host
import nodesources
import progress
import shell
from engine import Engine
from layout import Layout
from nodesources import Source
from versions import Versions

SERVERS = ("kube-apiserver", "kube-controller-manager", "etcd")
NAMES = (*SERVERS, "kubectl")
MULTI_CALL = "/usr/bin/kb"
KUBECTL = "/usr/bin/kubectl"
BLOBS = "/var/lib/containerd/io.containerd.content.v1.content/blobs/sha256"
COPY_SECONDS = 300.0
NO_LAYER = (tarfile.TarError, EOFError, gzip.BadGzipFile, zlib.error)
PREFIX = "kb-of-node"
# Called as the multi-call binary is: the first argument says which program runs, in this same process.
DISPATCHER = """#!/bin/sh
program="$1"
shift
exec "${0%/*}/$program" "$@"
"""
VERSION_ARGUMENTS = {"kubectl": ("version", "--client")}


def key(source: Source) -> str:
    """Return the hash of everything that decides what is taken."""
    return artefacts.digest(source.image, host.architecture(), DISPATCHER, *NAMES)


def folder(source: Source, layout: Layout) -> Path:
    """Return the folder which the programs are kept in."""
    return layout.artefacts / f"{PREFIX}-{source.version}-{key(source)}"


def cached(layout: Layout, pins: Versions) -> Path | None:
    """Return programs that were taken from an earlier node of the pinned minor release, the newest first."""
    pattern = f"{PREFIX}-v{'.'.join(pins.kubernetes_minor)}.*"
    found = (path for path in layout.artefacts.glob(pattern) if artefacts.is_intact(path))
    return max(found, key=lambda path: path.stat().st_mtime, default=None)


def _is_server(entry: tarfile.TarInfo, names: Iterable[str]) -> bool:
    path = Path(entry.name)
    return path.name in names and path.parent.name == "bin" and (entry.isreg() or entry.islnk())


def extract(blob: Path, names: Iterable[str], target: Path) -> set[str]:
    """Write the programs that a layer holds below some `bin` folder; what is no layer holds none.

    Args:
        blob: a file of containerd's content store: a layer (plain or gzip), or a JSON document.
        names: the programs that are wanted.
        target: takes them.

    Returns:
        the names found.
    """
    found = set()
    try:
        with tarfile.open(blob) as layer:
            for entry in layer:
                content = layer.extractfile(entry) if _is_server(entry, names) else None
                if content is not None:
                    found.add(Path(entry.name).name)
                    with (target / Path(entry.name).name).open("wb") as stream:
                        shutil.copyfileobj(content, stream)
    except NO_LAYER:
        return set()
    return found


def _from_node(source: Source, engine: Engine, layout: Layout, target: Path) -> None:
    # What the node runs, whichever image it came in.
    for name in SERVERS:
        script = f'exec cat "/proc/$(pgrep -o -f "^([^ ]*/)?{name}( |$)")/exe"'
        args = ["docker", "exec", source.node, "sh", "-c", script]
        log = layout.log("node-programs")
        shell.run(shell.Job(args, log, COPY_SECONDS, env=engine.env, output=target / name))


def _from_image(container: str, engine: Engine, layout: Layout, target: Path) -> None:
    blobs = target / "blobs"
    _copy(f"{container}:{BLOBS}", blobs, engine, layout)
    wanted = set(SERVERS)
    for blob in sorted(blobs.iterdir()):
        wanted -= extract(blob, wanted, target)
    shutil.rmtree(blobs)
    if wanted:
        raise shell.UserError(f"the node image has no {', '.join(sorted(wanted))} that can be read")


def _copy(path: str, target: Path, engine: Engine, layout: Layout) -> None:
    args = ["docker", "cp", "--follow-link", path, str(target)]
    shell.run(shell.Job(args, layout.log("node-programs"), COPY_SECONDS, env=engine.env))


def _take(source: Source, container: str, engine: Engine, layout: Layout, target: Path) -> None:
    _copy(f"{container}:{KUBECTL}", target / "kubectl", engine, layout)
    if source.node:
        _from_node(source, engine, layout, target)
    else:
        _from_image(container, engine, layout, target)


def _take_multi_call(container: str, engine: Engine, layout: Layout, target: Path) -> bool:
    """Copy the one binary of a node image that this tool built; tell whether it is one."""
    try:
        _copy(f"{container}:{MULTI_CALL}", target / "kb", engine, layout)
    except shell.UserError:
        return False
    for name in NAMES:
        (target / name).symlink_to("kb")
    return True


def _add_dispatcher(target: Path) -> None:
    (target / "kb").write_text(DISPATCHER)
    for name in ("kb", *NAMES):
        (target / name).chmod(0o755)


def _check(target: Path, source: Source) -> None:
    for name in NAMES:
        answer = shell.ask([str(target / "kb"), name, *VERSION_ARGUMENTS.get(name, ("--version",))])
        if not answer.ok:
            raise shell.UserError(f"`{name}` of {source} does not run here: {answer.err.strip()[-500:]}")


def _fill(source: Source, engine: Engine, layout: Layout, target: Path) -> None:
    container = source.node or engine.need("create", source.image).strip()
    try:
        if not _take_multi_call(container, engine, layout, target):
            _take(source, container, engine, layout, target)
            _add_dispatcher(target)
    finally:
        if not source.node:
            engine.ask("rm", "--volumes", container)
    _check(target, source)


def _taken(source: Source, engine: Engine, layout: Layout) -> Path:
    def build(target: Path) -> None:
        with progress.step(f"take Kubernetes {source.version} out of {source}"):
            _fill(source, engine, layout, target)

    return artefacts.ensure(folder(source, layout), layout.lock(PREFIX), build)


def path(name: str, layout: Layout, pins: Versions) -> str:
    """Return the path of `kb` or one of its programs, taken out of a node where it is not there yet.

    Raises:
        MissingError: there is neither a node nor an image of the pinned minor release, nor a copy from one.
        UserError: the node does not give its programs, or they do not run here.
    """
    if name not in {"kb", *NAMES}:
        raise shell.MissingError(f"Go 1.26 or later must be on PATH: a kind node does not give `{name}`")
    engine = engines.find(layout) if sys.platform == "linux" else None
    source = nodesources.find(engine, pins) if engine else None
    taken = _taken(source, engine, layout) if engine and source else cached(layout, pins)
    if taken is None:
        raise shell.MissingError(
            f"`{name}` needs Go 1.26 or later to be built, or a kind node of Kubernetes "
            f"{'.'.join(pins.kubernetes_minor)} to be taken from; `python3 hack/kind up` makes one"
        )
    return str(taken / name)
