"""Read the pinned versions: one file, so that a bump is one line."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

VERSIONS_FILE = Path(__file__).resolve().parent.parent / "versions.toml"


@dataclass(frozen=True)
class Versions:
    """The pins that the development cluster is made from.

    Args:
        node_image_is_given: `kind_node_image` was chosen by the user, so no other one will do.
    """

    kubernetes: str
    etcd_image_tag: str
    coredns: str
    pause_image_tags: tuple[str, ...]
    containerd: str
    runc: str
    crictl: str
    local_path_provisioner: str
    kind: str
    kind_node_image: str
    helm: str
    kwok: str
    debian_suite: str
    python_base_image: str
    node_image_is_given: bool = False

    @property
    def kubernetes_minor(self) -> tuple[str, str]:
        """Return major and minor, for instance ("1", "37")."""
        major, minor = self.kubernetes.removeprefix("v").split(".")[:2]
        return major, minor


def parse(document: dict[str, Any]) -> Versions:
    """Build the pins from a parsed versions.toml.

    Raises:
        KeyError: a section or a key is missing.
    """

    def version(section: str) -> str:
        return str(document[section]["version"])

    return Versions(
        kubernetes=version("kubernetes"),
        etcd_image_tag=str(document["etcd"]["image_tag"]),
        coredns=version("coredns"),
        pause_image_tags=tuple(document["pause"]["image_tags"]),
        containerd=version("containerd"),
        runc=version("runc"),
        crictl=version("crictl"),
        local_path_provisioner=version("local_path_provisioner"),
        kind=version("kind"),
        kind_node_image=str(document["kind"]["node_image"]),
        helm=version("helm"),
        kwok=version("kwok"),
        debian_suite=str(document["debian"]["suite"]),
        python_base_image=str(document["python"]["base_image"]),
    )


def load(path: Path = VERSIONS_FILE) -> Versions:
    """Read the pins from `path`."""
    with path.open("rb") as stream:
        return parse(tomllib.load(stream))


def chosen(pins: Versions, environment: Mapping[str, str]) -> Versions:
    """Return the pins with the node image that the environment asks for, if it asks for one."""
    image = environment.get("MANIFESTRY_NODE_IMAGE")
    return replace(pins, kind_node_image=image, node_image_is_given=True) if image else pins
