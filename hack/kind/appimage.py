"""Build the project's own image with the builder that is there, and load it into the cluster."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import engine as engines
import host
import nodeimage
import prerequisites
import progress
import rootfs
import shell
from cluster import LOAD_SECONDS, Cluster
from engine import Engine
from layout import Layout
from versions import Versions

REPOSITORY = Path(__file__).resolve().parent.parent.parent
DEFAULT_TAG = "localhost/manifestry:dev"
BUILD_SECONDS = 1800.0
IMPORT_SECONDS = 300.0
OTHER_BUILDERS = ("podman", "buildah")
# Values may carry a password, so they travel by environment, never on a command line or into a log.
PASSED_ON = ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_TRUSTED_HOST", "PIP_DEFAULT_TIMEOUT")


@dataclass(frozen=True)
class Plan:
    """One image build.

    Args:
        builder: docker, podman or buildah.
        arguments: build arguments, name to value; no secrets.
        inherited: names of build arguments whose values come from the environment.
        own_network: build on the machine's network, for an engine without a default bridge.
    """

    builder: str
    tag: str
    dockerfile: Path
    context: Path
    arguments: Mapping[str, str] = field(default_factory=dict)
    inherited: tuple[str, ...] = ()
    own_network: bool = False


def command(plan: Plan) -> list[str]:
    """Return the command line of the build."""
    args = [plan.builder, "build", "--tag", plan.tag, "--file", str(plan.dockerfile)]
    if plan.own_network:
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


def _local_base(engine: Engine, layout: Layout, pins: Versions) -> str:
    tag = _local_tag(pins)
    prerequisites.ensure(prerequisites.BASE_IMAGE, layout)
    archive = rootfs.ensure(rootfs.python(pins.debian_suite), layout)
    changes = ["--change", f"ENV PATH={nodeimage.SEARCH_PATH} LANG=C.UTF-8", "--change", 'CMD ["python3"]']
    args = ["docker", "import", *changes, str(archive), tag]
    with progress.step(f"import {tag}"):
        shell.run(shell.Job(args, layout.log("build-image"), IMPORT_SECONDS, env=engine.env))
    return tag


def _base(public: str, engine: Engine, layout: Layout, pins: Versions) -> str:
    for image in (public, _local_tag(pins)):
        if engine.ask("image", "inspect", image).ok:
            return image
    # Only root can make the local one; for others the build itself tells what cannot be pulled.
    if not host.is_root() or nodeimage.can_pull(public, engine, layout):
        return public
    return _local_base(engine, layout, pins)


def _builder(layout: Layout) -> tuple[str, Engine | None]:
    if found := engines.find(layout):
        return "docker", found
    for name in OTHER_BUILDERS:
        if shutil.which(name):
            return name, None
    return "docker", engines.ensure(layout)


def _docker_environment(engine: Engine) -> dict[str, str]:
    # Debian's docker.io has no buildx, and docker then wants to be told.
    buildx = engine.ask("buildx", "version").ok and not engine.own
    return {**engine.env, **({} if buildx else {"DOCKER_BUILDKIT": "0"})}


def build(tag: str, layout: Layout, pins: Versions) -> None:
    """Build the image of the repository's Dockerfile.

    Raises:
        UserError: there is no Dockerfile, or the build fails.
    """
    dockerfile = REPOSITORY / "Dockerfile"
    if not dockerfile.exists():
        raise shell.UserError(f"must have a Dockerfile at {dockerfile}")
    text = dockerfile.read_text()
    builder, engine = _builder(layout)
    arguments, env = {}, {}
    if engine is not None:
        arguments["BASE_IMAGE"] = _base(default_base(text, pins.python_base_image), engine, layout, pins)
        env = _docker_environment(engine)
    settings = pip_settings(os.environ, _index_url(), declared(text))
    own = engine is not None and engine.own
    plan = Plan(builder, tag, dockerfile, REPOSITORY, arguments, tuple(settings), own)
    with progress.step(f"build {tag} with {builder}"):
        shell.run(shell.Job(command(plan), layout.log("build-image"), BUILD_SECONDS, env={**env, **settings}))
    if own and engine is not None:
        # The builder's cache of today stays.
        engine.ask("image", "prune", "--force", "--filter", "until=24h", timeout=BUILD_SECONDS)


def load(tag: str, cluster: Cluster) -> None:
    """Load an image of the engine into the cluster's node.

    Raises:
        UserError: the engine does not have the image.
    """
    if not cluster.engine.ask("image", "inspect", tag).ok:
        raise shell.UserError(f"no image {tag} on the engine; run `build-image --tag {tag}` first")
    with progress.step(f"load {tag} into cluster {cluster.name}"):
        cluster.kind("load", "docker-image", tag, "--name", cluster.name, timeout=LOAD_SECONDS)
