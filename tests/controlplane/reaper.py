"""Kill process groups when the test process is gone, however it ended.

A program of its own: it reads `+<pgid>` and `-<pgid>` lines from its standard input, and kills what is left
when the input ends. A parent-death signal would follow the thread that started a child, not the process.
"""

import os
import signal
import sys


def main() -> None:
    """Follow the parent until its end of the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    groups: set[int] = set()
    for line in sys.stdin:
        change = groups.add if line[0] == "+" else groups.discard
        change(int(line[1:]))
    for group in groups:
        try:
            os.killpg(group, signal.SIGKILL)
        except ProcessLookupError:
            continue


if __name__ == "__main__":
    main()
