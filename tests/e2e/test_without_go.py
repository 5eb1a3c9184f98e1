"""The control-plane-only profile on a machine without Go: its programs come out of the running kind node."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.controlplane import binaries
from tests.controlplane.controlplane import ControlPlane
from tests.controlplane.plugin import refuse

TAKE_SECONDS = 120.0


@pytest.fixture
def kb(tmp_path: Path) -> Iterator[Path]:
    """Take the programs out of the node, with an empty cache and nothing but Docker on PATH."""
    docker = shutil.which("docker")
    if docker is None or "MANIFESTRY_NODE_IP" not in os.environ:
        refuse("needs a kind node on a Docker that this shell reaches (`hack/kind env` says which)")
    path = tmp_path / "path"
    path.mkdir()
    (path / "docker").symlink_to(docker)
    env = {**os.environ, "PATH": str(path), "MANIFESTRY_CACHE": str(tmp_path / "cache")}
    argv = [sys.executable, str(binaries.ROOT / "hack" / "kind"), "binaries", "kb"]
    done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=TAKE_SECONDS, check=False)
    assert done.returncode == 0, done.stderr
    yield Path(json.loads(done.stdout)["kb"])
    # pytest keeps the folders of the last runs.
    shutil.rmtree(tmp_path / "cache")


def test_a_control_plane_out_of_the_node_serves_and_survives_kills(kb: Path, tmp_path: Path) -> None:
    cp = ControlPlane(kb, tmp_path / "control-plane")
    try:
        cp.start()
        cp.create("v1/configmaps", {"metadata": {"name": "kept"}}, "default")
        for child in (cp.etcd, cp.apiserver):
            child.restart(kill=True)
        assert cp.kubectl("get", "configmap", "kept", "-o", "name").stdout == "configmap/kept\n"
    finally:
        cp.stop()
