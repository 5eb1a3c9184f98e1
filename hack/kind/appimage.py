"""Build the project's own image with the builder that is there, and load it into the cluster."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import builders
import engine as engines
import host
import prerequisites
import progress
import rootfs
import shell
from builders import Builder
from cluster import LOAD_SECONDS, Cluster
from engine import Engine
from layout import Layout
from versions import Versions

REPOSITORY = Path(__file__).resolve().parent.parent.parent
DEFAULT_TAG = "localhost/manifestry:dev"
BUILD_SECONDS = 1800.0
# Values may carry a password, so they travel by environment, never on a command line or into a log.
PASSED_ON = ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_TRUSTED_HOST", "PIP_DEFAULT_TIMEOUT")


@dataclass(frozen=True)
class Plan:
    """One image build.

    Args:
        builder: docker, podman or buildah.
        arguments: build arguments, name to value; no secrets.
        inherited: build arguments whose values travel by environment.
        machine_network: run the steps on the machine's network.
    """

    builder: str
    tag: str
    dockerfile: Path
    context: Path
    arguments: Mapping[str, str] = field(default_factory=dict)
    inherited: Mapping[str, str] = field(default_factory=dict)
    machine_network: bool = False


def command(plan: Plan) -> list[str]:
    """Return the command line of the build."""
    args = [plan.builder, "build", "--tag", plan.tag, "--file", str(plan.dockerfile)]
    if plan.machine_network:
        args += ["--network", "host"]
    for name, value in plan.arguments.items():
        args += ["--build-arg", f"{name}={value}"]
    for name in plan.inherited:
        args += ["--build-arg", name]
    return [*args, str(plan.context)]


def declared(dockerfile: str) -> set[str]:
    """Return the names of the build arguments that a Dockerfile declares."""
    return set(re.findall(r"^\s*ARG\s+(\w+)", dockerfile, re.MULTILINE | re.IGNORECASE))


def default_base(dockerfile: str, fallback: str) -> str:
    """Return the base image that a Dockerfile names as its default."""
    found = re.search(r"^\s*ARG\s+BASE_IMAGE=[\"']?([^\s\"']+)", dockerfile, re.MULTILINE | re.IGNORECASE)
    return found[1] if found else fallback


def pip_settings(environment: Mapping[str, str], index_url: str, names: Iterable[str]) -> dict[str, str]:
    """Return the machine's pip settings that the Dockerfile takes as build arguments."""
    known = {name: environment[name] for name in PASSED_ON if environment.get(name)}
    if index_url:
        known.setdefault("PIP_INDEX_URL", index_url)
    wanted = set(names)
    return {name: value for name, value in known.items() if name in wanted}


def _index_url() -> str:
    return shell.ask(["python3", "-m", "pip", "config", "get", "global.index-url"]).out.strip()


def _local_tag(pins: Versions) -> str:
    return f"localhost/manifestry-base:{rootfs.python(pins.debian_suite).key}"


def _local_base(builder: Builder, layout: Layout, pins: Versions) -> str:
    prerequisites.ensure(prerequisites.BASE_IMAGE, layout)
    archive = rootfs.ensure(rootfs.python(pins.debian_suite), layout)
    builder.import_root(archive, _local_tag(pins), layout)
    return _local_tag(pins)


def _base(public: str, builder: Builder, layout: Layout, pins: Versions) -> str:
    for image in (public, _local_tag(pins)):
        if builder.has(image):
            return image
    # Only root can make the local one; for others the build itself tells what cannot be pulled.
    if not host.is_root() or builder.can_pull(public, layout):
        return public
    return _local_base(builder, layout, pins)


def _docker(engine: Engine) -> Builder:
    # Debian's docker.io has no buildx, and docker then wants to be told.
    buildx = engine.ask("buildx", "version").ok and not engine.own
    return Builder("docker", {**engine.env, **({} if buildx else {"DOCKER_BUILDKIT": "0"})}, engine)


def _others() -> Iterator[Builder]:
    return (Builder(name) for name in builders.OTHERS if shutil.which(name))


def _builder(layout: Layout) -> Builder:
    if found := engines.find(layout):
        return _docker(found)
    return next(_others(), None) or _docker(engines.ensure(layout))


def _plan(tag: str, builder: Builder, layout: Layout, pins: Versions) -> Plan:
    dockerfile = REPOSITORY / "Dockerfile"
    if not dockerfile.exists():
        raise shell.UserError(f"must have a Dockerfile at {dockerfile}")
    text = dockerfile.read_text()
    public = builder.full_name(default_base(text, pins.python_base_image))
    arguments = {"BASE_IMAGE": _base(public, builder, layout, pins)}
    settings = pip_settings(os.environ, _index_url(), declared(text))
    return Plan(builder.name, tag, dockerfile, REPOSITORY, arguments, settings, builder.machine_network)


def build(tag: str, layout: Layout, pins: Versions) -> None:
    """Build the image of the repository's Dockerfile.

    Raises:
        UserError: there is no Dockerfile, or the build fails.
    """
    builder = _builder(layout)
    plan = _plan(tag, builder, layout, pins)
    env = {**builder.env, **plan.inherited}
    with progress.step(f"build {tag} with {builder.name}"):
        shell.run(shell.Job(command(plan), layout.log(builders.LOG), BUILD_SECONDS, env=env))
    if builder.engine is not None and builder.engine.own:
        # The builder's cache of today stays.
        builder.engine.ask("image", "prune", "--force", "--filter", "until=24h", timeout=BUILD_SECONDS)


def _load_archive(tag: str, builder: Builder, cluster: Cluster) -> None:
    layout = cluster.layout
    layout.work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=layout.work) as folder:
        archive = Path(folder) / "image.tar"
        builder.export(tag, archive, layout)
        cluster.kind("load", "image-archive", str(archive), "--name", cluster.name, timeout=LOAD_SECONDS)


def load(tag: str, cluster: Cluster) -> None:
    """Load an image of the engine, else one of podman or buildah, into the cluster's node.

    Raises:
        UserError: nobody has the image.
    """
    if cluster.engine.ask("image", "inspect", tag).ok:
        with progress.step(f"load {tag} into cluster {cluster.name}"):
            cluster.kind("load", "docker-image", tag, "--name", cluster.name, timeout=LOAD_SECONDS)
        return
    builder = next((found for found in _others() if found.has(tag)), None)
    if builder is None:
        raise shell.UserError(f"no image {tag} on the engine; run `build-image --tag {tag}` first")
    with progress.step(f"load {tag} of {builder.name} into cluster {cluster.name}"):
        _load_archive(tag, builder, cluster)
