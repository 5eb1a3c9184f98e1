"""Make Debian root file systems with the machine's own apt configuration; no package host is named here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import artefacts
import progress
import shell
from layout import Layout

BUILD_SECONDS = 1200.0
CA_BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")

NODE_PACKAGES = (
    "systemd",
    "systemd-sysv",
    "dbus",
    "conntrack",
    "iptables",
    "nftables",
    "iproute2",
    "ethtool",
    "util-linux",
    "mount",
    "kmod",
    "libseccomp2",
    "e2fsprogs",
    "bash",
    "ca-certificates",
    "jq",
    "procps",
    "containernetworking-plugins",
    "hostname",
    "busybox-static",
)
PYTHON_PACKAGES = ("python3-minimal", "python3-venv", "ca-certificates")


@dataclass(frozen=True)
class Spec:
    """What a root file system is made of."""

    name: str
    suite: str
    variant: str
    packages: Sequence[str]
    machine_certificates: bool = False

    @property
    def key(self) -> str:
        """Return the hash that names the artefact."""
        return artefacts.digest(self.suite, self.variant, *self.packages, str(self.machine_certificates))


def node(suite: str) -> Spec:
    """Return what a kind node is made of."""
    return Spec("rootfs-node", suite, "minbase", NODE_PACKAGES)


def python(suite: str) -> Spec:
    """Return what a Python image is made of, where the public one cannot be pulled.

    The machine's certificates go in: behind a proxy of its own, pip fails without them.
    """
    return Spec("rootfs-python", suite, "apt", PYTHON_PACKAGES, machine_certificates=True)


def command(spec: Spec, target: Path) -> list[str]:
    """Return the mmdebstrap command that writes the tar file `target`."""
    args = ["mmdebstrap", f"--variant={spec.variant}", f"--include={','.join(spec.packages)}"]
    if spec.machine_certificates:
        args.append(f"--customize-hook=copy-in {CA_BUNDLE} {CA_BUNDLE.parent}/")
    return [*args, spec.suite, str(target)]


def ensure(spec: Spec, layout: Layout) -> Path:
    """Return the tar file of the root file system, making it where needed."""

    def build(folder: Path) -> None:
        with progress.step(f"make {spec.name} from Debian packages"):
            shell.run(shell.Job(command(spec, folder / "root.tar"), layout.log(spec.name), BUILD_SECONDS))

    name = f"{spec.name}-{spec.key}"
    return artefacts.ensure(layout.artefacts / name, layout.lock(spec.name), build) / "root.tar"
