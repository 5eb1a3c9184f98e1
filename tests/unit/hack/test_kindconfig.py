"""The cluster's configuration."""

import json
from pathlib import Path

import kindconfig
from host import Features
from layout import ClusterPaths

PATHS = ClusterPaths(Path("/c/clusters/two"))


def test_the_audit_log_of_the_node_is_a_folder_of_the_host() -> None:
    (node,) = kindconfig.cluster(PATHS, "image:1", {})["nodes"]
    (patch,) = (json.loads(text) for text in node["kubeadmConfigPatches"])
    mounts = {mount["containerPath"]: mount["hostPath"] for mount in node["extraMounts"]}
    args = {arg["name"]: arg["value"] for arg in patch["apiServer"]["extraArgs"]}
    assert mounts[str(Path(args["audit-log-path"]).parent)] == str(PATHS.audit_folder)
    assert mounts[args["audit-policy-file"]] == str(PATHS.audit_policy)
    assert node["image"] == "image:1"


def test_the_api_server_sees_every_audit_path() -> None:
    api_server = kindconfig.kubeadm_patch()["apiServer"]
    assert {volume["mountPath"] for volume in api_server["extraVolumes"]} == {
        kindconfig.AUDIT_NODE_FOLDER,
        kindconfig.AUDIT_POLICY_NODE_FILE,
    }


def test_reads_are_left_out_before_anything_is_logged() -> None:
    rules = kindconfig.audit_policy()["rules"]
    assert rules[0] == {"level": "None", "verbs": ["get", "list", "watch"]}
    assert rules[-1] == {"level": "Metadata"}


def test_leases_are_quiet_only_in_the_clusters_own_namespaces() -> None:
    (rule,) = (rule for rule in kindconfig.audit_policy()["rules"] if "namespaces" in rule)
    assert rule["namespaces"] == ["kube-node-lease", "kube-system"]


def test_both_files_are_written(tmp_path: Path) -> None:
    paths = ClusterPaths(tmp_path / "two")
    kindconfig.write(paths, "image:1", {})
    assert json.loads(paths.kind_config.read_text()) == kindconfig.cluster(paths, "image:1", {})
    assert json.loads(paths.audit_policy.read_text()) == kindconfig.audit_policy()


def test_the_audit_log_is_the_users_own_file(tmp_path: Path) -> None:
    paths = ClusterPaths(tmp_path / "two")
    kindconfig.write(paths, "image:1", {})
    assert paths.audit_log.read_text() == ""


def test_a_node_image_of_others_is_fitted_to_the_machine() -> None:
    patches = kindconfig.machine_patches(Features(sys_resource=False, cgroup_v2=False))
    document = kindconfig.cluster(PATHS, "image:1", patches)
    assert "restrict_oom_score_adj = true" in document["containerdConfigPatches"][0]
    (kubelet,) = (json.loads(text) for text in document["kubeadmConfigPatches"])
    assert kubelet == {"kind": "KubeletConfiguration", "failCgroupV1": False}


def test_on_a_usual_machine_nothing_is_patched() -> None:
    assert kindconfig.machine_patches(Features(sys_resource=True, cgroup_v2=True)) == {}
