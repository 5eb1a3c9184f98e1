"""What a server has used, by the kernel's account."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Usage:
    """CPU seconds since a process's start, and the most memory that it ever had."""

    user_seconds: float
    system_seconds: float
    peak_bytes: int

    @property
    def cpu_seconds(self) -> float:
        """Return both kinds together."""
        return self.user_seconds + self.system_seconds


def usage(pids: Iterable[int]) -> Usage:
    """Return what processes and their children have used together."""
    found = [_of(pid) for parent in pids for pid in (parent, *_children(parent))]
    return Usage(
        sum(each.user_seconds for each in found),
        sum(each.system_seconds for each in found),
        sum(each.peak_bytes for each in found),
    )


def _of(pid: int) -> Usage:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    peak = next((int(line.split()[1]) for line in status if line.startswith("VmHWM:")), 0)
    return Usage(int(fields[11]) / _TICKS, int(fields[12]) / _TICKS, peak << 10)


def _children(pid: int) -> list[int]:
    return [int(text) for text in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
