"""Build, fetch and hand on images with whichever builder is there: docker, podman or buildah."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import nodeimage
import progress
import shell
from engine import Engine
from layout import Layout

# In the order of preference, where docker does not answer.
OTHERS = ("podman", "buildah")
PULL_SECONDS = 900.0
IMPORT_SECONDS = 300.0
LOG = "build-image"
# What an image of a root file system needs beside the files.
PATH = f"PATH={nodeimage.SEARCH_PATH}"
LANGUAGE = "LANG=C.UTF-8"
COMMAND = "python3"


@dataclass(frozen=True)
class Builder:
    """A program that builds images.

    Args:
        name: docker, podman or buildah.
        env: what it needs to work as is wanted here.
        engine: docker's engine; the others need none.
    """

    name: str
    env: Mapping[str, str] = field(default_factory=dict)
    engine: Engine | None = None

    @property
    def machine_network(self) -> bool:
        """Tell whether steps must run on the machine's network: there may be no bridge with a way out."""
        return self.engine is None or self.engine.own

    def ask(self, *args: str) -> shell.Answer:
        """Run a short command of the builder."""
        return shell.ask([self.name, *args], env=self.env)

    def run(self, args: Sequence[str], layout: Layout, timeout: float) -> None:
        """Run a long command of the builder, its output into the log."""
        shell.run(shell.Job([self.name, *args], layout.log(LOG), timeout, env=self.env))

    def has(self, image: str) -> bool:
        """Tell whether the builder has an image."""
        words = ["inspect", "--type", "image"] if self.name == "buildah" else ["image", "inspect"]
        return self.ask(*words, image).ok

    def full_name(self, image: str) -> str:
        """Return the name that the builder takes: only docker guesses the registry of a short one."""
        return image if self.name == "docker" else qualified(image)

    def can_pull(self, image: str, layout: Layout) -> bool:
        """Tell whether the image could be pulled, and pull it."""
        try:
            with progress.step(f"pull {image}"):
                self.run(["pull", image], layout, PULL_SECONDS)
        except shell.UserError:
            progress.say(f"   going on without a registry: {shell.tail(layout.log(LOG), 1)}")
            return False
        return True

    def import_root(self, archive: Path, image: str, layout: Layout) -> None:
        """Make an image of the tar file of a root file system."""
        with progress.step(f"import {image}"):
            for args in import_commands(self.name, archive, image):
                self.run(args, layout, IMPORT_SECONDS)

    def export(self, image: str, archive: Path, layout: Layout) -> None:
        """Write an image as an archive that `kind load` and `docker load` read."""
        target = f"docker-archive:{archive}:{image}"
        self.run(["push", image, target], layout, IMPORT_SECONDS)


def qualified(image: str) -> str:
    """Return an image's name with its registry, which is Docker Hub where it names none."""
    first, slash, _ = image.partition("/")
    if slash and (first == "localhost" or "." in first or ":" in first):
        return image
    return f"docker.io/{image}" if slash else f"docker.io/library/{image}"


def import_commands(name: str, archive: Path, image: str) -> list[list[str]]:
    """Return the commands that make an image of a root file system, without the builder's own name."""
    if name != "buildah":
        changes = ["--change", f"ENV {PATH} {LANGUAGE}", "--change", f'CMD ["{COMMAND}"]']
        return [["import", *changes, str(archive), image]]
    container = f"import-{os.getpid()}"
    return [
        ["from", "--name", container, "scratch"],
        ["add", "--quiet", container, str(archive), "/"],
        ["config", "--env", PATH, "--env", LANGUAGE, "--cmd", COMMAND, container],
        ["commit", "--quiet", "--rm", container, image],
    ]
