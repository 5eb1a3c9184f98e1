"""Ask the machine what it can do; the rules that depend on it are elsewhere."""

from __future__ import annotations

import os
import platform
import sys
from dataclasses import dataclass
from pathlib import Path

CAP_SYS_RESOURCE = 24


@dataclass(frozen=True)
class Features:
    """What decides how a node must be set up on this machine.

    Args:
        sys_resource: root holds CAP_SYS_RESOURCE, which `docker run --privileged` asks for.
        cgroup_v2: the unified hierarchy is mounted.
    """

    sys_resource: bool
    cgroup_v2: bool


def has_capability(status: str, bit: int) -> bool:
    """Tell from the text of /proc/self/status whether the bounding set holds a capability."""
    for line in status.splitlines():
        if line.startswith("CapBnd:"):
            return bool(int(line.split()[1], 16) >> bit & 1)
    return False


def features() -> Features:
    """Look at this machine; where it is no Linux, the engine's own is taken for an ordinary one."""
    if sys.platform != "linux":
        return Features(sys_resource=True, cgroup_v2=True)
    return Features(
        sys_resource=has_capability(Path("/proc/self/status").read_text(), CAP_SYS_RESOURCE),
        cgroup_v2=Path("/sys/fs/cgroup/cgroup.controllers").exists(),
    )


def architecture() -> str:
    """Return the machine's architecture in Go's words."""
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())


def is_root() -> bool:
    """Tell whether this process may change the machine."""
    return os.geteuid() == 0
