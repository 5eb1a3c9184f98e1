"""The settings of the node that is built here."""

import pytest

import nodesystem
import shell
from host import Features

STOCK = '[plugins."io.containerd.grpc.v1.cri"]\n  restrict_oom_score_adj = false\n'


@pytest.mark.parametrize(("sys_resource", "expected"), [(True, "false"), (False, "true")])
def test_oom_scores_are_restricted_only_without_the_capability(sys_resource: bool, expected: str) -> None:
    config = nodesystem.containerd_config(STOCK, Features(sys_resource, cgroup_v2=True))
    assert f"restrict_oom_score_adj = {expected}" in config
    assert "cni.tmpl" in config


def test_an_unexpected_containerd_configuration_is_refused() -> None:
    with pytest.raises(shell.UserError, match="restrict_oom_score_adj"):
        nodesystem.containerd_config("", Features(sys_resource=True, cgroup_v2=True))


@pytest.mark.parametrize(("cgroup_v2", "told"), [(True, False), (False, True)])
def test_the_kubelet_is_told_of_cgroup_v1(cgroup_v2: bool, told: bool) -> None:
    text = nodesystem.kubelet_defaults(Features(sys_resource=True, cgroup_v2=cgroup_v2))
    assert ("--fail-cgroupv1=false" in text) is told


def test_the_base_spec_gains_the_hook_and_loses_rlimits() -> None:
    spec = nodesystem.base_spec({"process": {"rlimits": [1], "cwd": "/"}, "root": {}})
    assert spec["process"] == {"cwd": "/"}
    assert spec["hooks"]["createContainer"] == [nodesystem.PRODUCT_HOOK]
    assert spec["root"] == {}
