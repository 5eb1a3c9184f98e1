"""Stand between the store and the kernel: every system call on what lies below one folder passes a hook.

The functions of the module `os` itself are replaced, so it does not matter which module calls them or how it
has imported `os`. What changes files by a way that is not known here is refused: a recorder that overlooks a
write would prove nothing.
"""

import fcntl
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import pytest

WRITES: Final = ("write", "pwrite")
NAMES: Final = ("rename", "replace", "link", "unlink", "remove", "mkdir", "rmdir")
SYNCS: Final = ("fsync", "fdatasync")
CHANGES: Final = (*WRITES, *NAMES, *SYNCS, "ftruncate", "utime")
LOOKS: Final = ("stat", "fstat", "lstat", "pread", "read", "scandir", "listdir")
LOCKS: Final = ("flock",)
UNKNOWN: Final = ("writev", "pwritev", "sendfile", "splice", "copy_file_range", "posix_fallocate", "symlink")
UNKNOWN_TOO: Final = ("truncate", "chmod", "fchmod", "mkfifo", "mknod", "makedirs", "removedirs", "renames")
_TWO_PATHS: Final = frozenset({"rename", "replace", "link"})


class Kernel:
    """The functions of `os` as they are, whatever stands before them."""

    open = staticmethod(os.open)
    close = staticmethod(os.close)
    stat = staticmethod(os.stat)
    fstat = staticmethod(os.fstat)
    pread = staticmethod(os.pread)
    pwrite = staticmethod(os.pwrite)
    ftruncate = staticmethod(os.ftruncate)
    flock = staticmethod(fcntl.flock)


@dataclass(frozen=True)
class Call:
    """One system call that is about to be made.

    Args:
        name: of the function, as in `os`.
        args: its arguments by position.
        options: its arguments by name.
        real: does it.
    """

    name: str
    args: tuple[Any, ...]
    options: dict[str, Any]
    real: Callable[..., Any]

    def go(self) -> Any:
        """Make the call."""
        return self.real(*self.args, **self.options)

    @property
    def is_change(self) -> bool:
        """Tell whether others, or the disk, can see what it does."""
        return self.name in CHANGES or (
            self.name == "open" and bool(self.args[1] & (os.O_CREAT | os.O_TRUNC))
        )

    def place(self, which: int = 0) -> tuple[int | None, str]:
        """Return (open folder, path) of the first or the second path."""
        names = ("src_dir_fd", "dst_dir_fd") if self.name in _TWO_PATHS else ("dir_fd", "dir_fd")
        return self.options.get(names[which]), os.fspath(self.args[which])


Hook = Callable[[Call], Any]


_aside = threading.local()


@contextmanager
def aside() -> Iterator[None]:
    """Let the calls of this thread pass, as they are the test's own."""
    _aside.is_on = True
    try:
        yield
    finally:
        _aside.is_on = False


class _Watch:
    """Knows which descriptors are of files below the root."""

    def __init__(self, root: Path, hook: Hook) -> None:
        self._root, self._hook = str(root), hook
        self._mine: set[int] = set()

    def is_mine(self, call: Call) -> bool:
        if getattr(_aside, "is_on", False):
            return False
        folder = call.options.get("dir_fd", call.options.get("src_dir_fd"))
        first = call.args[0] if call.args else folder
        if isinstance(first, int):
            return first in self._mine
        if folder is not None:
            return folder in self._mine
        path = os.fspath(cast("str", first))
        return path == self._root or str(path).startswith(f"{self._root}/")

    def call(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def called(*args: Any, **options: Any) -> Any:
            call = Call(name, args, options, real)
            if name == "open":
                return self._open(call)
            if name == "close":
                self._mine.discard(args[0])
                return real(*args)
            return self._hook(call) if self.is_mine(call) else real(*args, **options)

        return called

    def refuse(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def called(*args: Any, **options: Any) -> Any:
            assert not self.is_mine(Call(name, args, options, real)), f"{name} is not known to the recorder"
            return real(*args, **options)

        return called

    def _open(self, call: Call) -> int:
        is_mine = self.is_mine(call)
        fd: int = self._hook(call) if is_mine else call.go()
        (self._mine.add if is_mine else self._mine.discard)(fd)
        return fd


@contextmanager
def watched(root: Path, hook: Hook) -> Iterator[None]:
    """Let every system call on what lies below `root` be made by `hook`."""
    watch = _Watch(root, hook)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("open", "close", *CHANGES, *LOOKS):
            patch.setattr(os, name, watch.call(name, getattr(os, name)))
        for name in (*UNKNOWN, *UNKNOWN_TOO):
            patch.setattr(os, name, watch.refuse(name, getattr(os, name)))
        patch.setattr(fcntl, "flock", watch.call("flock", fcntl.flock))
        yield
