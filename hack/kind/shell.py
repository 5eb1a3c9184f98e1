"""Run other programs: argument lists only, a timeout always, output into a log or back."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

TAIL_LINES = 30
LOG_BYTES = 10 << 20
ASK_SECONDS = 30.0


class UserError(Exception):
    """Something the user has to read; printed without a traceback."""

    exit_code = 1


class MissingError(UserError):
    """A prerequisite that only the user can provide."""

    exit_code = 2


@dataclass(frozen=True)
class Answer:
    """What a short command said."""

    code: int
    out: str
    err: str = ""

    @property
    def ok(self) -> bool:
        """Tell whether the command succeeded."""
        return self.code == 0


@dataclass(frozen=True)
class Job:
    """One long command: its output goes to `log`.

    Args:
        timeout: seconds.
        env: added to this process's environment.
        stdin: a file to read from; nothing by default.
        output: a file for the standard output; the log by default.
    """

    args: Sequence[str]
    log: Path
    timeout: float
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: Path | None = None
    stdin: Path | None = None
    output: Path | None = None


def merged(env: Mapping[str, str] | None) -> dict[str, str]:
    """Return this process's environment with `env` on top."""
    return {**os.environ, **(env or {})}


def tail(log: Path, lines: int = TAIL_LINES) -> str:
    """Return the last lines of a log, or nothing where there is none."""
    try:
        return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
    except OSError:
        return ""


def explain(what: str, log: Path) -> UserError:
    """Build the failure that shows the end of a log and where the rest is."""
    return UserError(f"{what}; the last lines of {log}:\n{tail(log)}")


def ask(args: Sequence[str], timeout: float = ASK_SECONDS, env: Mapping[str, str] | None = None) -> Answer:
    """Run a short command and return what it said; a missing program or a timeout is a failed answer."""
    try:
        done = subprocess.run(
            args,
            capture_output=True,
            text=True,
            timeout=timeout,
            env=merged(env),
            stdin=subprocess.DEVNULL,
            check=False,
        )
    except OSError as error:
        return Answer(127, "", f"{args[0]}: {error.strerror}")
    except subprocess.TimeoutExpired:
        return Answer(124, "", f"{args[0]}: no answer after {timeout:.0f} s")
    return Answer(done.returncode, done.stdout, done.stderr)


def need(args: Sequence[str], timeout: float = ASK_SECONDS, env: Mapping[str, str] | None = None) -> str:
    """Run a short command that must succeed and return its output.

    Raises:
        UserError: it did not succeed.
    """
    answer = ask(args, timeout, env)
    if not answer.ok:
        raise UserError(f"`{' '.join(args[:4])}` failed ({answer.code}): {answer.err.strip()[-2000:]}")
    return answer.out


def open_log(path: Path) -> IO[bytes]:
    """Open a log to append to; one that has grown large makes room for a new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and path.stat().st_size > LOG_BYTES:
        path.replace(path.with_suffix(".old.log"))
    return path.open("ab")


def _open_stdin(path: Path | None) -> IO[bytes]:
    return (path or Path(os.devnull)).open("rb")


def _end_group(process: subprocess.Popen[bytes]) -> None:
    # Its own session: a compiler's or a build's children must not outlive it.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@contextlib.contextmanager
def _open_output(job: Job, log: IO[bytes]) -> Iterator[IO[bytes]]:
    if job.output is None:
        yield log
        return
    with job.output.open("wb") as stream:
        yield stream


def _start(job: Job, log: IO[bytes], stdin: IO[bytes]) -> subprocess.Popen[bytes]:
    env = merged(job.env)
    try:
        with _open_output(job, log) as out:
            return subprocess.Popen(
                job.args, stdout=out, stderr=log, stdin=stdin, env=env, cwd=job.cwd, start_new_session=True
            )
    except OSError as error:
        raise UserError(f"`{job.args[0]}` cannot be run: {error.strerror}") from None


def run(job: Job) -> None:
    """Run a long command to its end.

    Raises:
        UserError: it failed or took too long; carries the end of the log.
    """
    with open_log(job.log) as log, _open_stdin(job.stdin) as stdin:
        log.write(f"$ {' '.join(job.args)}\n".encode())
        log.flush()
        process = _start(job, log, stdin)
        try:
            code = process.wait(job.timeout)
        except subprocess.TimeoutExpired:
            _end_group(process)
            raise explain(f"`{job.args[0]}` took more than {job.timeout:.0f} s", job.log) from None
        except BaseException:
            _end_group(process)
            raise
    if code != 0:
        raise explain(f"`{' '.join(job.args[:3])}` failed ({code})", job.log)


def pipe(producer: Sequence[str], consumer: Job) -> None:
    """Feed one command's output to another.

    Raises:
        UserError: either failed.
    """
    with open_log(consumer.log) as log:
        log.write(f"$ {' '.join(producer)} | {' '.join(consumer.args)}\n".encode())
        log.flush()
        first = subprocess.Popen(producer, stdout=subprocess.PIPE, stderr=log, start_new_session=True)
        try:
            subprocess.run(
                consumer.args,
                stdin=first.stdout,
                stdout=log,
                stderr=log,
                env=merged(consumer.env),
                timeout=consumer.timeout,
                check=True,
            )
            code = first.wait(ASK_SECONDS)
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
            raise explain(f"`{' '.join(consumer.args[:2])}` failed", consumer.log) from None
        finally:
            _end_group(first)
    if code != 0:
        raise explain(f"`{producer[0]}` failed ({code})", consumer.log)
