"""Start, pause, kill and restart a child process, and never leave one behind."""

import atexit
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

_POLL_SECONDS = 0.02
_REAPER = Path(__file__).with_name("reaper.py")
_STOP_SECONDS = 10.0
_FROZEN = frozenset("TtZX")  # proc(5): stopped, traced, or dead


class ChildFailedError(RuntimeError):
    """A child process ended, or did not become ready or stop in time; the message ends with its log."""


@dataclass(frozen=True)
class Program:
    """What is started.

    Args:
        argv: the program's absolute path and its arguments.
        is_ready: tells whether the process serves; called until it returns true.
        ready_seconds: how long that may take.
        stop_seconds: how long it may take to end after SIGTERM.
        may_be_forced: killing it after that time is fine; otherwise it is an error.
        env: the whole environment; None inherits the test process's.
    """

    name: str
    argv: Sequence[str]
    is_ready: Callable[[], bool]
    ready_seconds: float = 60.0
    stop_seconds: float = 20.0
    may_be_forced: bool = False
    env: Mapping[str, str] | None = None
    cwd: Path | None = None


class _Reaper:
    """The pipe to the process that cleans up after us."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None

    def tell(self, change: str, group: int) -> None:
        with self._lock:
            if self._process is None:
                self._process = self._start()
            assert self._process.stdin is not None
            self._process.stdin.write(f"{change}{group}\n")
            self._process.stdin.flush()

    def _start(self) -> subprocess.Popen[str]:
        argv = [sys.executable, "-I", "-S", str(_REAPER)]
        process = subprocess.Popen(argv, stdin=subprocess.PIPE, text=True, start_new_session=True)
        atexit.register(process.communicate)
        return process


_reaper = _Reaper()
_known: dict[int, "Child"] = {}


def known() -> list["Child"]:
    """Return every child that was started and not disposed of, for the report of a failed test."""
    return list(_known.values())


@dataclass(eq=False)
class Child:
    """A handle on one process in a process group of its own; it may be started many times.

    Args:
        program: what is started.
        log_path: takes the output of all its runs.
    """

    program: Program
    log_path: Path
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False)
    _paused: bool = field(default=False, init=False)

    @property
    def running(self) -> bool:
        """Tell whether the process exists, paused or not."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """Return the process id of the last run."""
        if self._process is None:
            raise ChildFailedError(f"{self.program.name} was never started")
        return self._process.pid

    def launch(self) -> None:
        """Start the process without waiting for it to serve."""
        assert not self.running, f"{self.program.name} is running"
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                list(self.program.argv),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self.program.env,
                cwd=self.program.cwd,
                start_new_session=True,
            )
        self._paused = False
        _known[id(self)] = self
        _reaper.tell("+", self._process.pid)

    def wait_ready(self) -> None:
        """Wait until the process serves.

        Raises:
            ChildFailedError: it ended, or took longer than `ready_seconds`.
        """
        deadline = time.monotonic() + self.program.ready_seconds
        while not self.program.is_ready():
            if not self.running:
                raise self._failure("ended")
            if time.monotonic() > deadline:
                raise self._failure(f"was not ready after {self.program.ready_seconds} s")
            time.sleep(_POLL_SECONDS)

    def start(self) -> None:
        """Start the process and wait until it serves."""
        self.launch()
        self.wait_ready()

    def stop(self) -> int:
        """Ask the process to end (SIGTERM) and return its exit code.

        Raises:
            ChildFailedError: it did not end in time and may not be forced; it is killed in any case.
        """
        if not self.running:
            return self._collect()
        self.resume()
        self.send_signal(signal.SIGTERM)
        try:
            return self._collect(self.program.stop_seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            if self.program.may_be_forced:
                return -signal.SIGKILL
            raise self._failure(f"did not stop within {self.program.stop_seconds} s") from None

    def kill(self) -> None:
        """End the process and its children at once (SIGKILL)."""
        if self._process is None:
            return
        self._signal_group(signal.SIGKILL)
        self._collect(timeout_seconds=10.0)

    def pause(self) -> None:
        """Freeze the process (SIGSTOP): its sockets stay open, nothing answers.

        The signal is only sent when `kill` returns: until each thread has taken it, it may still answer.
        """
        self.send_signal(signal.SIGSTOP)
        self._paused = True
        deadline = time.monotonic() + _STOP_SECONDS
        while not self._is_frozen():
            if time.monotonic() > deadline:
                raise self._failure("did not freeze")
            time.sleep(0.005)

    def _is_frozen(self) -> bool:
        tasks = [path.read_text() for path in Path(f"/proc/{self.pid}/task").glob("*/stat")]
        return bool(tasks) and all(task.rpartition(")")[2].split()[0] in _FROZEN for task in tasks)

    def resume(self) -> None:
        """Let a paused process go on."""
        if self._paused:
            self.send_signal(signal.SIGCONT)
            self._paused = False

    def restart(self, *, kill: bool = False) -> None:
        """End the process, gently or not, start it again and wait until it serves."""
        if kill:
            self.kill()
        else:
            self.stop()
        self.start()

    def dispose(self) -> None:
        """Kill the process and forget it."""
        self.kill()
        _known.pop(id(self), None)

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal to the process and its children.

        Raises:
            ChildFailedError: the process is not running.
        """
        if not self.running:
            raise self._failure("is not running")
        self._signal_group(number)

    def log_tail(self, lines: int = 40) -> str:
        """Return the last lines of the process's output."""
        if not self.log_path.exists():
            return ""
        with self.log_path.open(encoding="utf-8", errors="replace") as log:
            return "".join(deque(log, maxlen=lines))

    def _signal_group(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def _collect(self, timeout_seconds: float | None = None) -> int:
        if self._process is None:
            return 0
        code = self._process.wait(timeout_seconds)
        _reaper.tell("-", self._process.pid)
        return code

    def _failure(self, what: str) -> ChildFailedError:
        code = self._process.poll() if self._process else None
        end = "" if code is None else f" with exit code {code}"
        return ChildFailedError(
            f"{self.program.name} {what}{end}; end of {self.log_path}:\n{self.log_tail()}"
        )
