"""Turn a Debian root file system into a kind node: kind's own files, the Go programs, the settings."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import shell
from host import Features

FILES = Path(__file__).resolve().parent / "files"
UNNEEDED = (
    "var/cache/apt",
    "var/lib/apt/lists",
    "usr/share/doc",
    "usr/share/info",
    "usr/share/locale",
    "usr/share/man",
)
# What kind's own Dockerfile switches off; a node has no devices, consoles or mounts of its own to care for.
UNWANTED_UNITS = (
    "lib/systemd/system/sysinit.target.wants/systemd-tmpfiles-setup.service",
    "lib/systemd/system/multi-user.target.wants/*",
    "etc/systemd/system/*.wants/*",
    "lib/systemd/system/local-fs.target.wants/*",
    "lib/systemd/system/sockets.target.wants/*udev*",
    "lib/systemd/system/sockets.target.wants/*initctl*",
    "lib/systemd/system/basic.target.wants/*",
)
ENABLED_UNITS = ("kubelet.service", "containerd.service", "undo-mount-hacks.service")
CNI_PLUGINS = ("host-local", "loopback", "ptp", "portmap", "bridge")
CNI_SECTION = """
[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = "/opt/cni/bin"
  conf_dir = "/etc/cni/net.d"
  conf_template = "/etc/containerd/cni.tmpl"
"""
# kind applies this file where kindnetd's manifest would be; the bridge needs nothing in the cluster.
NO_CNI_MANIFEST = """apiVersion: v1
kind: ConfigMap
metadata: {name: cni-is-a-bridge, namespace: kube-system}
"""
PRODUCT_HOOK = {"path": "/kind/bin/mount-product-files.sh"}


def containerd_config(stock: str, features: Features) -> str:
    """Return kind's containerd configuration with the bridge CNI, fitted to the machine.

    Raises:
        UserError: kind's file does not look as expected.
    """
    setting = "restrict_oom_score_adj = false"
    if setting not in stock:
        raise shell.UserError(f"kind's containerd configuration has no `{setting}`: adapt hack/kind")
    if not features.sys_resource:
        stock = stock.replace(setting, "restrict_oom_score_adj = true")
    return stock + CNI_SECTION


def kubelet_defaults(features: Features) -> str:
    """Return /etc/default/kubelet; on cgroup v1 the kubelet must be told to go on."""
    extra = "" if features.cgroup_v2 else " --fail-cgroupv1=false"
    return f"KUBELET_EXTRA_ARGS=--runtime-cgroups=/system.slice/containerd.service{extra}\n"


def base_spec(spec: dict[str, Any]) -> dict[str, Any]:
    """Return containerd's default OCI spec with kind's hook and without rlimits."""
    process = {name: value for name, value in spec["process"].items() if name != "rlimits"}
    hooks = dict(spec.get("hooks") or {})
    hooks["createContainer"] = [*hooks.get("createContainer", []), PRODUCT_HOOK]
    return {**spec, "process": process, "hooks": hooks}


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def slim(node: Path) -> None:
    """Remove what a node never reads, and the units it must not start."""
    for folder in UNNEEDED:
        for entry in (node / folder).glob("*"):
            _remove(entry)
    for log in (node / "var/log").glob("*.log"):
        log.unlink()
    for pattern in UNWANTED_UNITS:
        for unit in node.glob(pattern):
            _remove(unit)


def add_kind_files(node: Path, kind_source: Path) -> None:
    """Copy the files that kind's own base image is made with."""
    stock = kind_source / "images/base/files"
    for name in ("usr", "etc", "kind"):
        for source in sorted(path for path in (stock / name).rglob("*") if path.is_file()):
            target = node / source.relative_to(stock)
            target.parent.mkdir(parents=True, exist_ok=True)
            # The module cache is read-only, and so are the modes it would hand on.
            shutil.copyfile(source, target)
            target.chmod(0o755 if target.parent.name == "bin" else 0o644)


def enable_units(node: Path) -> None:
    """Switch the node's services on and off."""
    shell.need(["chroot", str(node), "systemctl", "-q", "enable", *ENABLED_UNITS])
    shell.need(["chroot", str(node), "systemctl", "-q", "mask", "systemd-binfmt.service"])
    with (node / "etc/systemd/journald.conf").open("a") as stream:
        stream.write("ReadKMsg=no\n")


def _install(source: str, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / Path(source).name
    shutil.copyfile(source, target)
    target.chmod(0o755)


def add_programs(node: Path, programs: Mapping[str, str]) -> None:
    """Install the Go programs and the CNI plugins where kind and kubeadm look for them."""
    for name in ("containerd", "containerd-shim-runc-v2", "ctr", "crictl"):
        _install(programs[name], node / "usr/local/bin")
    _install(programs["runc"], node / "usr/local/sbin")
    _install(programs["kb"], node / "usr/bin")
    for name in ("kubelet", "kubeadm", "kubectl"):
        (node / "usr/bin" / name).symlink_to("kb")
    plugins = node / "opt/cni/bin"
    plugins.mkdir(parents=True)
    for name in CNI_PLUGINS:
        (plugins / name).symlink_to(f"/usr/lib/cni/{name}")


def configure(node: Path, version: str, storage_manifest: str, features: Features) -> None:
    """Write the node's settings and the manifests that kind applies."""
    config = node / "etc/containerd/config.toml"
    config.write_text(containerd_config(config.read_text(), features))
    spec = json.loads(shell.need(["chroot", str(node), "/usr/local/bin/ctr", "oci", "spec"]))
    (node / "etc/containerd/cri-base.json").write_text(json.dumps(base_spec(spec)))
    shutil.copyfile(FILES / "cni.tmpl", node / "etc/containerd/cni.tmpl")
    (node / "etc/default/kubelet").write_text(kubelet_defaults(features))
    manifests = node / "kind/manifests"
    manifests.mkdir(parents=True)
    (manifests / "default-storage.yaml").write_text(storage_manifest)
    (manifests / "default-cni.yaml").write_text(NO_CNI_MANIFEST)
    (node / "etc/kubernetes/manifests").mkdir(parents=True, exist_ok=True)
    (node / "kind/version").write_text(version)
