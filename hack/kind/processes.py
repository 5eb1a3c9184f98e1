"""Find and end the processes and mounts that a killed run of this tool left behind."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import shell

DAEMONS = frozenset({"dockerd", "containerd", "containerd-shim-runc-v2", "runc"})
END_SECONDS = 10.0
UNMOUNT_SECONDS = 30.0


@dataclass(frozen=True)
class Process:
    """One process, as /proc shows it."""

    pid: int
    args: tuple[str, ...]
    cgroup: str = ""


def _read(folder: Path) -> Process | None:
    try:
        args = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
        return Process(int(folder.name), tuple(args), (folder / "cgroup").read_text())
    except OSError:
        return None


def running() -> list[Process]:
    """List the machine's processes; none where there is no /proc."""
    found = (_read(folder) for folder in Path("/proc").glob("[0-9]*"))
    return [process for process in found if process is not None]


def is_below(path: str, root: str) -> bool:
    """Tell whether a path is the root or below it."""
    return path == root or path.startswith(root.rstrip("/") + "/")


def is_daemon_of(process: Process, root: str) -> bool:
    """Tell whether a process is a container daemon started with paths below `root`.

    Only known programs count: an editor or a pager with one of our files open is not ours to end.
    """
    name = Path(process.args[0]).name if process.args else ""
    values = (arg.split("=", 1)[-1].removeprefix("unix://") for arg in process.args[1:])
    return name in DAEMONS and any(is_below(value, root) for value in values)


def is_in_container(process: Process, containers: Iterable[str]) -> bool:
    """Tell whether a process runs in one of the containers."""
    return any(container in process.cgroup for container in containers)


def leftovers(processes: Iterable[Process], root: str, containers: Iterable[str]) -> list[int]:
    """Return the PIDs that belong to the engine below `root` or to its containers."""
    ids = tuple(containers)
    return [p.pid for p in processes if is_daemon_of(p, root) or is_in_container(p, ids)]


def mounts_below(mountinfo: str, root: str) -> list[str]:
    """Return the mount points below `root` from the text of /proc/self/mountinfo, the innermost first."""
    points = [line.split()[4].replace("\\040", " ") for line in mountinfo.splitlines()]
    return [point for point in reversed(points) if is_below(point, root)]


def is_alive(pid: int) -> bool:
    """Tell whether a process exists and is not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def wait_ended(pids: Iterable[int], seconds: float = END_SECONDS) -> bool:
    """Wait until none of the processes exists; tell whether that came true."""
    pids, deadline = list(pids), time.monotonic() + seconds
    while any(is_alive(pid) for pid in pids):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def signal_all(pids: Iterable[int], number: signal.Signals) -> None:
    """Send a signal to processes, some of which may be gone already."""
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue


def container_ids(data_root: Path) -> list[str]:
    """Return the IDs of the containers that an engine has on disk."""
    folder = data_root / "containers"
    return [entry.name for entry in folder.iterdir()] if folder.is_dir() else []


def sweep(root: Path, data_root: Path) -> int:
    """End the daemons below `root` with their containers, undo its mounts, and return how many were found."""
    ids = container_ids(data_root)
    pids = leftovers(running(), str(root), ids)
    signal_all(pids, signal.SIGKILL)
    wait_ended(pids)
    mounts = mounts_below(Path("/proc/self/mountinfo").read_text(), str(root))
    for point in mounts:
        shell.ask(["umount", "--lazy", point], UNMOUNT_SECONDS)
    return len(pids) + len(mounts)
