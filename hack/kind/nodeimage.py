"""Build a node image for kind from Go modules and Debian packages."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import astuple
from pathlib import Path

import artefacts
import binaries
import host
import nodesystem
import ociarchive
import preload
import prerequisites
import processes
import progress
import rootfs
import shell
import systemimages
from engine import Engine
from layout import Layout
from versions import Versions

HERE = Path(__file__).resolve().parent
SOURCES = ("nodeimage", "nodesystem", "ociarchive", "preload", "rootfs", "systemimages")
PROGRAMS = (
    "kb",
    "containerd",
    "containerd-shim-runc-v2",
    "ctr",
    "runc",
    "crictl",
    "coredns",
    "pause",
    "local-path-provisioner",
)
REPOSITORY = "localhost/kind-node"
DOWNLOAD_SECONDS = 300.0
UNPACK_SECONDS = 300.0
IMPORT_SECONDS = 600.0
SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
CHANGES = (
    'ENTRYPOINT ["/usr/local/bin/entrypoint","/sbin/init"]',
    f"ENV container=docker PATH={SEARCH_PATH}",
)


def key(pins: Versions) -> str:
    """Return the hash of everything that decides what the built node image is."""
    recipes = binaries.recipes(pins)
    programs = (binaries.key(binaries.find(name, recipes)) for name in PROGRAMS)
    sources = ((HERE / f"{name}.py").read_bytes() for name in SOURCES)
    features = repr(astuple(host.features()))
    own_pins = repr((pins.kubernetes, pins.etcd_image_tag, pins.coredns, pins.pause_image_tags, pins.kind))
    return artefacts.digest(own_pins, features, artefacts.tree_digest(HERE / "files"), *programs, *sources)


def own_tag(pins: Versions) -> str:
    """Return the name of the image that is built here."""
    return f"{REPOSITORY}:{pins.kubernetes}-{key(pins)}"


def _kind_source(pins: Versions) -> Path:
    args = ["go", "mod", "download", "-json", f"sigs.k8s.io/kind@{pins.kind}"]
    with progress.step("fetch kind's source"):
        return Path(json.loads(shell.need(args, DOWNLOAD_SECONDS, {"GOFLAGS": "-mod=mod"}))["Dir"])


def _assemble(node: Path, kind_source: Path, programs: Mapping[str, str], version: str, storage: str) -> None:
    nodesystem.slim(node)
    nodesystem.add_kind_files(node, kind_source)
    nodesystem.enable_units(node)
    nodesystem.add_programs(node, programs)
    nodesystem.configure(node, version, storage, host.features())


def _unpack(archive: Path, node: Path, layout: Layout) -> None:
    node.mkdir(parents=True)
    args = ["tar", "--numeric-owner", "-C", str(node), "-xf", str(archive)]
    shell.run(shell.Job(args, layout.log("node-image"), UNPACK_SECONDS))


def _fill(work: Path, pins: Versions, layout: Layout) -> None:
    programs = binaries.paths(PROGRAMS, layout, pins)
    debian = rootfs.ensure(rootfs.node(pins.debian_suite), layout)
    source = _kind_source(pins)
    storage = systemimages.parse_storage((source / systemimages.STORAGE_SOURCE).read_text())
    node, archive = work / "node", work / "images.tar"
    with progress.step("assemble the node"):
        _unpack(debian, node, layout)
        systemimages.make_root(work / "images", node, programs)
        ociarchive.write(archive, work / "images", systemimages.names(pins, storage))
        _assemble(node, source, programs, pins.kubernetes, storage.manifest)
    with progress.step("load the system images into the node"):
        store = node / "var/lib/containerd"
        preload.fill(store, archive, work / "containerd", programs, layout.log("node-image"))


def _import(work: Path, tag: str, engine: Engine, layout: Layout) -> None:
    changes = [word for change in CHANGES for word in ("--change", change)]
    args = ["docker", "import", *changes, "-", tag]
    job = shell.Job(args, layout.log("node-image"), IMPORT_SECONDS, env=engine.env)
    with progress.step(f"import {tag}"):
        shell.pipe(["tar", "-C", str(work / "node"), "--numeric-owner", "-cf", "-", "."], job)


def _remove_older(tag: str, engine: Engine) -> None:
    listed = engine.ask("image", "ls", "--format", "{{.Repository}}:{{.Tag}}", REPOSITORY).out.split()
    for image in listed:
        if image != tag:
            # One that a cluster runs on stays: the engine refuses to remove it.
            engine.ask("image", "rm", image)


def _clear(work: Path) -> None:
    processes.sweep(work, work)
    shutil.rmtree(work, ignore_errors=True)


def build(tag: str, engine: Engine, layout: Layout, pins: Versions) -> None:
    """Build the node image and give it to the engine as `tag`.

    Raises:
        MissingError: this is not root, or a package is missing.
    """
    if not host.is_root():
        raise shell.MissingError("must be root to build a node image")
    prerequisites.ensure(prerequisites.NODE_IMAGE, layout)
    work = layout.work / "node-image"
    _clear(work)
    try:
        _fill(work, pins, layout)
        _import(work, tag, engine, layout)
        if engine.own:
            _remove_older(tag, engine)
    finally:
        _clear(work)
