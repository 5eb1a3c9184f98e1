"""Render the cluster's configuration. JSON is YAML too, and the standard library can write it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from host import Features
from layout import ClusterPaths

AUDIT_NODE_FOLDER = "/var/log/manifestry-audit"
AUDIT_POLICY_NODE_FILE = "/etc/manifestry/audit-policy.yaml"
AUDIT_MEGABYTES = "200"
# kube-proxy 1.37.2 in nftables mode was seen with an empty service map after an hour (cause not proved).
KUBE_PROXY_MODE = "iptables"
# Without CAP_SYS_RESOURCE no process can lower its own OOM score.
OOM_PATCH = '[plugins."io.containerd.grpc.v1.cri"]\n  restrict_oom_score_adj = true\n'


def audit_policy() -> dict[str, Any]:
    """Return the API server's audit policy: every write, once, without its body.

    Reads and the leases that nodes and leaders renew all the time are left out, so that a test
    can count the writes which a job or an artifact costs.
    """
    quiet = ["kube-node-lease", "kube-system"]
    leases = [{"group": "coordination.k8s.io", "resources": ["leases"]}]
    events = [{"group": group, "resources": ["events"]} for group in ("", "events.k8s.io")]
    return {
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "omitStages": ["RequestReceived"],
        "rules": [
            {"level": "None", "verbs": ["get", "list", "watch"]},
            {"level": "None", "namespaces": quiet, "resources": leases},
            {"level": "None", "resources": events},
            {"level": "Metadata"},
        ],
    }


def _volume(name: str, path: str, path_type: str) -> dict[str, Any]:
    read_only = path_type == "File"
    return {"name": name, "hostPath": path, "mountPath": path, "pathType": path_type, "readOnly": read_only}


def kubeadm_patch() -> dict[str, Any]:
    """Return kubeadm's settings that switch the audit log on."""
    args = {
        "audit-policy-file": AUDIT_POLICY_NODE_FILE,
        "audit-log-path": f"{AUDIT_NODE_FOLDER}/audit.log",
        "audit-log-maxsize": AUDIT_MEGABYTES,
        "audit-log-maxbackup": "1",
    }
    volumes = [
        _volume("audit-policy", AUDIT_POLICY_NODE_FILE, "File"),
        _volume("audit-log", AUDIT_NODE_FOLDER, "DirectoryOrCreate"),
    ]
    extra = [{"name": name, "value": value} for name, value in args.items()]
    return {"kind": "ClusterConfiguration", "apiServer": {"extraArgs": extra, "extraVolumes": volumes}}


def machine_patches(features: Features) -> dict[str, list[str]]:
    """Return what makes a node image that was not built for this machine run on it; mostly nothing."""
    patches = {}
    if not features.sys_resource:
        patches["containerdConfigPatches"] = [OOM_PATCH]
    if not features.cgroup_v2:
        kubelet = {"kind": "KubeletConfiguration", "failCgroupV1": False}
        patches["kubeadmConfigPatches"] = [json.dumps(kubelet)]
    return patches


def cluster(paths: ClusterPaths, image: str, patches: Mapping[str, list[str]]) -> dict[str, Any]:
    """Return kind's configuration of one node, with the audit folder of the host mounted."""
    mounts = [
        {"hostPath": str(paths.audit_policy), "containerPath": AUDIT_POLICY_NODE_FILE, "readOnly": True},
        {"hostPath": str(paths.audit_folder), "containerPath": AUDIT_NODE_FOLDER},
    ]
    node = {
        "role": "control-plane",
        "image": image,
        "extraMounts": mounts,
        "kubeadmConfigPatches": [json.dumps(kubeadm_patch())],
    }
    return {
        "kind": "Cluster",
        "apiVersion": "kind.x-k8s.io/v1alpha4",
        "networking": {"kubeProxyMode": KUBE_PROXY_MODE},
        **patches,
        "nodes": [node],
    }


def write(paths: ClusterPaths, image: str, patches: Mapping[str, list[str]]) -> None:
    """Write the files that `kind create cluster` and the node read."""
    paths.audit_folder.mkdir(parents=True, exist_ok=True)
    # The node's root would make a file that nobody else can read; one that is there keeps its owner.
    paths.audit_log.touch()
    paths.audit_policy.write_text(json.dumps(audit_policy(), indent=1) + "\n")
    paths.kind_config.write_text(json.dumps(cluster(paths, image, patches), indent=1) + "\n")
