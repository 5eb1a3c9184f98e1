"""Find a kind node, or the image of one, which the control plane's programs can be taken from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import nodeimage
from engine import Engine
from versions import Versions

NODE_LABEL = "io.x-k8s.kind.role=control-plane"
VERSION_FILE = "/kind/version"


@dataclass(frozen=True)
class Source:
    """Where programs can be taken from.

    Args:
        image: the node image's ID.
        version: of Kubernetes, such as v1.37.0.
        node: a running node's container; empty where there is the image only.
    """

    image: str
    version: str
    node: str = ""

    def __str__(self) -> str:
        """Name the source for a person."""
        return f"node {self.node}" if self.node else "the node image"


def is_wanted(version: str, pins: Versions) -> bool:
    """Tell whether a Kubernetes version is of the pinned minor release; any patch of it serves the tests."""
    return version.startswith(f"v{'.'.join(pins.kubernetes_minor)}.")


def _nodes(engine: Engine) -> list[Source]:
    names = engine.ask("ps", "--filter", f"label={NODE_LABEL}", "--format", "{{.Names}}").out.split()
    images = {name: engine.ask("inspect", "-f", "{{.Image}}", name).out.strip() for name in names}
    asked = {name: engine.ask("exec", name, "cat", VERSION_FILE) for name in names}
    return [Source(images[name], asked[name].out.strip(), name) for name in sorted(names) if asked[name].ok]


def _images(engine: Engine, pins: Versions) -> list[Source]:
    names = (pins.kind_node_image, nodeimage.own_tag(pins))
    found = [engine.ask("image", "inspect", "-f", "{{.Id}}", name).out.strip() for name in names]
    read = ("run", "--rm", "--network", "none", "--entrypoint", "cat")
    return [
        Source(image, engine.ask(*read, image, VERSION_FILE).out.strip())
        for image in dict.fromkeys(found)
        if image
    ]


def find(engine: Engine, pins: Versions) -> Source | None:
    """Return the first running node, else the first node image, of the pinned minor release."""
    return _first(_nodes(engine), pins) or _first(_images(engine, pins), pins)


def _first(sources: Iterable[Source], pins: Versions) -> Source | None:
    return next((source for source in sources if is_wanted(source.version, pins)), None)
