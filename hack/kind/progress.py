"""Tell the user what is going on, with the time it takes; always on stderr."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

HEARTBEAT_SECONDS = 20.0


def say(text: str) -> None:
    """Print one line at once, so that it is not lost behind a long command."""
    print(text, file=sys.stderr, flush=True)


def elapsed(seconds: float) -> str:
    """Format a duration, for instance `8 s` or `2 min 05 s`."""
    whole = round(seconds)
    return f"{whole} s" if whole < 60 else f"{whole // 60} min {whole % 60:02d} s"


def _beat(text: str, started: float, done: threading.Event) -> None:
    while not done.wait(HEARTBEAT_SECONDS):
        say(f"  ... {text}: {elapsed(time.monotonic() - started)}")


@contextmanager
def step(text: str) -> Iterator[None]:
    """Announce a step, report while it runs, and print its duration at the end."""
    started, done = time.monotonic(), threading.Event()
    say(f"-> {text}")
    threading.Thread(target=_beat, args=(text, started, done), daemon=True).start()
    try:
        yield
    except BaseException:
        say(f"   FAILED {text} after {elapsed(time.monotonic() - started)}")
        raise
    else:
        say(f"   ok {text}: {elapsed(time.monotonic() - started)}")
    finally:
        done.set()
