"""Make the images that kubeadm and kind ask for: one shared layer under many names."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import shell
from versions import Versions

REGISTRY = "registry.k8s.io"
STORAGE_SOURCE = "pkg/build/nodeimage/const_storage.go"
KUBERNETES_IMAGES = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy")
NFT_NAMES = ("iptables", "ip6tables")
NFT_VARIANTS = ("", "-save", "-restore")
SHELL_NAMES = ("sh", "mkdir", "rm", "chmod")
FOLDERS = ("bin", "dev", "etc", "lib/modules", "proc", "run", "sys", "tmp", "usr/local/bin", "var")


@dataclass(frozen=True)
class Storage:
    """kind's default storage, as its own Go source states it."""

    provisioner_image: str
    helper_image: str
    manifest: str


def parse_storage(source: str) -> Storage:
    """Read kind's storage images and manifest out of its Go source.

    Raises:
        UserError: the source does not look as expected.
    """

    def constant(name: str, value: str) -> str:
        found = re.search(rf"^const {name} = {value}$", source, re.MULTILINE | re.DOTALL)
        if found is None:
            raise shell.UserError(f"kind's {STORAGE_SOURCE} has no {name}; hack/kind must be adapted to it")
        return found[1]

    images = {name: constant(name, '"([^"]*)"') for name in ("storageProvisionerImage", "storageHelperImage")}
    manifest = constant("defaultStorageManifest", r"`\n(.*?\n)`")
    for name, image in images.items():
        manifest = manifest.replace(f"` + {name} + `", image)
    return Storage(images["storageProvisionerImage"], images["storageHelperImage"], manifest)


def names(pins: Versions, storage: Storage) -> dict[str, str]:
    """Return the images, name to entry point."""
    programs = "/usr/local/bin"
    return {
        **{f"{REGISTRY}/{name}:{pins.kubernetes}": f"{programs}/{name}" for name in KUBERNETES_IMAGES},
        f"{REGISTRY}/etcd:{pins.etcd_image_tag}": f"{programs}/etcd",
        f"{REGISTRY}/coredns/coredns:{pins.coredns}": "/coredns",
        **{f"{REGISTRY}/pause:{tag}": "/pause" for tag in pins.pause_image_tags},
        storage.provisioner_image: f"{programs}/local-path-provisioner",
        storage.helper_image: "/bin/sh",
    }


def _place(source: str | Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(source, target)


def _programs(root: Path, programs: Mapping[str, str]) -> None:
    local = root / "usr/local/bin"
    _place(programs["kb"], local / "kb")
    for name in (*KUBERNETES_IMAGES, "etcd", "kubectl"):
        (local / name).symlink_to("kb")
    _place(programs["coredns"], root / "coredns")
    _place(programs["pause"], root / "pause")
    _place(programs["local-path-provisioner"], local / "local-path-provisioner")


def _firewall(root: Path, debian: Path) -> None:
    for name in ("nft", "xtables-nft-multi"):
        _place(debian / "usr/sbin" / name, root / "usr/sbin" / name)
    for name in (base + variant for base in NFT_NAMES for variant in NFT_VARIANTS):
        (root / "usr/sbin" / name).symlink_to("xtables-nft-multi")
    extensions = _extensions(debian)
    shutil.copytree(debian / extensions, root / extensions)
    listing = ["sh", "-c", f"ldd /usr/sbin/nft /usr/sbin/xtables-nft-multi /{extensions}/*.so"]
    for shared in linked_libraries(shell.need(["chroot", str(debian), *listing])):
        _place(debian / shared.lstrip("/"), root / shared.lstrip("/"))


def _extensions(debian: Path) -> Path:
    (found,) = (debian / "usr/lib").glob("*-linux-gnu*/xtables")
    return found.relative_to(debian)


def linked_libraries(listing: str) -> list[str]:
    """Return the libraries that `ldd` names, each once."""
    return sorted(set(re.findall(r"(/lib[^ :]*\.so[^ :]*) \(0x", listing)))


def make_root(root: Path, debian: Path, programs: Mapping[str, str]) -> None:
    """Fill `root` with everything that any of the images runs.

    Args:
        root: an empty folder.
        debian: the node's root file system, which iptables, nft and busybox are taken from.
        programs: the Go programs by name.
    """
    for name in FOLDERS:
        (root / name).mkdir(parents=True, exist_ok=True)
    _programs(root, programs)
    _place(debian / "bin/busybox", root / "bin/busybox")
    for name in SHELL_NAMES:
        (root / "bin" / name).symlink_to("busybox")
    _firewall(root, debian)
