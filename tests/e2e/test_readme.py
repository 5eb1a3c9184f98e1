"""The README's commands are run as they stand there."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.controlplane.clusterapi import ClusterApi

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.timeout(600)
def test_the_quick_start_does_what_it_says(cluster: ClusterApi) -> None:
    done = subprocess.run(
        [sys.executable, "hack/walkthrough.py", "README.md", "Quick start"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=580,
        check=False,
    )
    print(done.stdout[-8000:], done.stderr[-4000:])
    assert done.returncode == 0
    assert "line 8 of 8 for acme" in done.stdout
    assert '"code": "quota-exceeded"' in done.stdout or '"code":"quota-exceeded"' in done.stdout
    assert 'quota exceeded: tenant "acme", job type "count"' in done.stderr
    cluster.kubectl("delete", "namespace", "acme", "--wait=false")
