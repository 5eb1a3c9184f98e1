"""Check for system packages; only those that the path really taken needs."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import host
import progress
import shell
from layout import Layout

APT_UPDATE_SECONDS = 300.0
APT_INSTALL_SECONDS = 1200.0


@dataclass(frozen=True)
class Need:
    """A Debian package, and what shows that it is there: a program or, with a slash, a file."""

    package: str
    evidence: str


ENGINE = (Need("docker.io", "dockerd"), Need("iptables", "iptables"))
NODE_IMAGE = (
    Need("mmdebstrap", "mmdebstrap"),
    Need("gcc", "gcc"),
    Need("libc6-dev", "/usr/include/stdio.h"),
    Need("pkg-config", "pkg-config"),
    Need("libseccomp-dev", "/usr/include/seccomp.h"),
)
BASE_IMAGE = (Need("mmdebstrap", "mmdebstrap"),)


def is_there(evidence: str) -> bool:
    """Tell whether a program is on PATH, or in the system folders that PATH may lack, or a file exists."""
    if "/" in evidence:
        return Path(evidence).exists()
    return any(shutil.which(evidence, path=path) for path in (None, "/usr/sbin:/sbin"))


def missing(needs: Iterable[Need], there: Callable[[str], bool] = is_there) -> list[str]:
    """Return the packages whose evidence is not there, in order."""
    return [need.package for need in needs if not there(need.evidence)]


def _apt(args: list[str], layout: Layout, timeout: float) -> None:
    env = {"DEBIAN_FRONTEND": "noninteractive"}
    shell.run(shell.Job(["apt-get", "-q", "-y", *args], layout.log("apt"), timeout, env=env))


def ensure(needs: Iterable[Need], layout: Layout) -> None:
    """Install what is missing where this is root on Debian.

    Raises:
        MissingError: the user has to install packages.
    """
    packages = missing(needs)
    if not packages:
        return
    if not host.is_root() or shutil.which("apt-get") is None:
        raise shell.MissingError("must be installed first (Debian's package names): " + " ".join(packages))
    with progress.step(f"install {' '.join(packages)}"):
        _apt(["update"], layout, APT_UPDATE_SECONDS)
        _apt(["install", "--no-install-recommends", *packages], layout, APT_INSTALL_SECONDS)
