"""Kill a process between any two steps of its I/O, without a process: after the fuse blows nothing works.

What was done before stays, what would have come after never happens, not even tidying up: that is what
kill -9 leaves. What a power cut would also take, the bytes that were not synced, is not lost here.
"""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any, Final

import obstore

from manifestry.adapters.store.remote import deletes

_WRITES: Final = frozenset({"write", "pwrite"})
_CHANGES: Final = _WRITES | {
    *("rename", "replace", "link", "symlink", "unlink", "rmdir", "mkdir"),
    *("fsync", "fdatasync", "utime", "ftruncate"),
}


class Crash(BaseException):
    """The process is dead."""


class Fuse:
    """Counts steps of I/O and blows at the one it was set to; until `mend` every later one fails, too."""

    def __init__(self) -> None:
        self._left: int | None = None
        self.blown = False
        self.steps = 0

    def set(self, steps: int) -> None:
        """Blow after so many more steps."""
        self._left = steps

    def mend(self) -> None:
        """Let everything work: a new process."""
        self._left, self.blown, self.steps = None, False, 0

    def burns(self) -> bool:
        """Count a step; tell whether this is the one that blows it.

        Raises:
            Crash: it has blown before.
        """
        if self.blown:
            raise Crash
        self.steps += 1
        if self._left is None:
            return False
        self._left -= 1
        self.blown = self._left < 0
        return self.blown


class _FragileOs(ModuleType):
    def __init__(self, fuse: Fuse) -> None:
        super().__init__("os")
        self._fuse = fuse

    def __getattr__(self, name: str) -> Any:
        found = getattr(os, name)
        if name == "open":
            return self._open
        return self._step(name, found) if name in _CHANGES else found

    def _open(self, path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
        if flags & os.O_CREAT and self._fuse.burns():
            raise Crash
        return os.open(path, flags, *args, **kwargs)

    def _step(self, name: str, found: Callable[..., Any]) -> Callable[..., Any]:
        def step(first: Any, *args: Any, **kwargs: Any) -> Any:
            if self._fuse.burns():
                if name in _WRITES:  # it got half-way
                    data, *rest = args
                    found(first, data[: len(data) // 2], *rest)
                raise Crash
            return found(first, *args, **kwargs)

        return step


class _FragileObstore(ModuleType):
    def __init__(self, fuse: Fuse) -> None:
        super().__init__("obstore")
        self._fuse = fuse

    def __getattr__(self, name: str) -> Any:
        found = getattr(obstore, name)
        if not name.endswith("_async"):
            return found

        def step(*args: Any, **kwargs: Any) -> Any:
            if self._fuse.burns():
                raise Crash
            made = found(*args, **kwargs)
            return _FragileWriter(made, self._fuse) if name == "open_writer_async" else made

        return step


class _FragileWriter:
    def __init__(self, writer: Any, fuse: Fuse) -> None:
        self._writer = writer
        self._fuse = fuse

    async def write(self, data: bytes) -> Any:
        if self._fuse.burns():
            raise Crash
        return await self._writer.write(data)

    async def close(self) -> Any:
        if self._fuse.burns():
            raise Crash
        return await self._writer.close()

    async def __aexit__(self, *details: object) -> Any:
        if self._fuse.burns():
            raise Crash
        return await self._writer.__aexit__(*details)


@contextmanager
def fragile(fuse: Fuse) -> Iterator[None]:
    """Let every adapter do its I/O through the fuse."""
    sent = deletes.Deletes._status

    async def send(self: deletes.Deletes, url: str) -> int:
        if fuse.burns():
            raise Crash
        return await sent(self, url)

    doubles = {"os": (os, _FragileOs(fuse)), "obstore": (obstore, _FragileObstore(fuse))}
    changed: list[tuple[ModuleType, str, ModuleType]] = []
    try:
        for module in [each for name, each in sys.modules.items() if name.startswith("manifestry.adapters.")]:
            for name, (real, double) in doubles.items():
                if getattr(module, name, None) is real:
                    setattr(module, name, double)
                    changed.append((module, name, real))
        assert changed
        deletes.Deletes._status = send  # type: ignore[method-assign]
        yield
    finally:
        deletes.Deletes._status = sent  # type: ignore[method-assign]
        for module, name, real in changed:
            setattr(module, name, real)
