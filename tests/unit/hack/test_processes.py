"""Leftovers of a killed run are told from everything else."""

import pytest

import cluster
import processes
from processes import Process

ROOT = "/c/engine"
CONTAINER = "0f" * 32


@pytest.mark.parametrize(
    ("args", "ours"),
    [
        (("dockerd", "--data-root", "/c/engine/data"), True),
        (("/usr/bin/dockerd", "--host=unix:///c/engine/docker.sock"), True),
        (("containerd-shim-runc-v2", "-address", "/c/engine/run/containerd/containerd.sock"), True),
        (("dockerd", "--data-root", "/var/lib/docker"), False),
        (("dockerd", "--data-root", "/c/engine-two/data"), False),
        (("tail", "-f", "/c/engine/dockerd.log"), False),
        ((), False),
    ],
)
def test_daemons_are_known_by_program_and_path(args: tuple[str, ...], ours: bool) -> None:
    assert processes.is_daemon_of(Process(1, args), ROOT) is ours


def test_processes_of_our_containers_are_leftovers_too() -> None:
    table = [
        Process(1, ("init",), "0::/"),
        Process(2, ("systemd",), f"5:pids:/docker/{CONTAINER}\n"),
        Process(3, ("dockerd", "--data-root", "/c/engine/data"), "0::/"),
    ]
    assert processes.leftovers(table, ROOT, [CONTAINER]) == [2, 3]
    assert processes.leftovers(table, ROOT, []) == [3]


def test_inner_mounts_come_first() -> None:
    mountinfo = "\n".join(
        f"1 2 0:1 / {point} rw - overlay overlay rw"
        for point in ("/", "/c/engine", "/c/engine/a\\040b", "/c/engine2")
    )
    assert processes.mounts_below(mountinfo, ROOT) == ["/c/engine/a b", "/c/engine"]


@pytest.mark.parametrize(
    ("args", "ours"),
    [
        (("/t/kind", "create", "cluster", "--name", "two", "--config", "x"), True),
        (("/t/kind", "create", "cluster", "--name", "one"), False),
        (("/usr/bin/kind", "create", "cluster", "--name", "two"), False),
        (("/t/kind", "delete", "cluster", "--name", "two"), False),
    ],
)
def test_an_orphaned_creation_is_recognised(args: tuple[str, ...], ours: bool) -> None:
    assert cluster.is_creating(Process(1, args), "/t/kind", "two") is ours
