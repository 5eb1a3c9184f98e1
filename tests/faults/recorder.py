"""Record what a run of the store does to its files, in the order in which it happens."""

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

from tests.faults.syscalls import WRITES, Call, Kernel

ROOT: Final = 0


class Make(NamedTuple):
    """A name for a new file or folder."""

    folder: int
    name: str
    node: int
    is_folder: bool


class Link(NamedTuple):
    """A further name for a file."""

    folder: int
    name: str
    node: int


class Rename(NamedTuple):
    """Another name for a file, in the place of whatever had it."""

    folder: int
    name: str
    to_folder: int
    to_name: str
    node: int


class Remove(NamedTuple):
    """A name less."""

    folder: int
    name: str


class Write(NamedTuple):
    """Bytes in a file."""

    node: int
    offset: int
    data: bytes


class Cut(NamedTuple):
    """Another size of a file."""

    node: int
    size: int


class Sync(NamedTuple):
    """What a file or a folder has is on the disk now."""

    node: int


class Lost(NamedTuple):
    """A sync failed: what a file has that was not on the disk will never be, unless it is written again."""

    node: int


class Note(NamedTuple):
    """What the outside has been told by now."""

    value: Any


Change = Make | Link | Rename | Remove | Write | Cut | Sync | Lost | Note


@dataclass(frozen=True)
class Entry:
    """A change, and what the store was doing."""

    operation: str
    change: Change


@dataclass
class Log:
    """What was there before, and everything that happened.

    Args:
        before: changes that make what was there, all of it on the disk.
        entries: what happened.
    """

    before: list[Change] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)


class Recorder:
    """A hook of `syscalls.watched` that writes down what it lets pass.

    Args:
        root: the folder; what is in it is taken for durable.
        fails: asked before each sync; what it returns is raised in the place of the sync.
    """

    def __init__(self, root: Path, fails: Callable[[], OSError | None] = lambda: None) -> None:
        self.log = Log()
        self.operation = ""
        self.syncs = 0
        self._fails = fails
        self._lock = threading.RLock()
        self._nodes = {Kernel.stat(root).st_ino: ROOT}
        self._count = ROOT
        self._scan(root, ROOT)

    def begin(self, operation: str) -> None:
        """Say what the store is made to do from now on."""
        self.operation = operation

    def note(self, value: Any) -> None:
        """Write down what the outside has just been told."""
        self._add(Note(value))

    def __call__(self, call: Call) -> Any:
        """Make the call and write it down."""
        with self._lock:
            if call.name in {"fsync", "fdatasync"}:
                return self._sync(call)
            if not call.is_change or call.name == "utime":
                return call.go()
            return getattr(self, f"_{'write' if call.name in WRITES else call.name}")(call)

    def _add(self, change: Change) -> None:
        self.log.entries.append(Entry(self.operation, change))

    def _scan(self, folder: Path, node: int) -> None:
        for path in sorted(folder.iterdir()):
            status = path.stat(follow_symlinks=False)
            known = self._nodes.get(status.st_ino)
            if known is not None:
                self.log.before.append(Link(node, path.name, known))
                continue
            made = self._new(status.st_ino)
            self.log.before.append(Make(node, path.name, made, path.is_dir()))
            if path.is_dir():
                self._scan(path, made)
            else:
                self.log.before.append(Write(made, 0, path.read_bytes()))

    def _new(self, inode: int) -> int:
        self._count += 1
        self._nodes[inode] = self._count
        return self._count

    def _node(self, fd: int) -> int:
        return self._nodes[Kernel.fstat(fd).st_ino]

    def _place(self, call: Call, which: int = 0) -> tuple[int, str]:
        folder, path = call.place(which)
        above, name = os.path.split(path)
        status = Kernel.stat(above or ".", dir_fd=folder) if above or folder is None else Kernel.fstat(folder)
        return self._nodes[status.st_ino], name

    @staticmethod
    def _inode(call: Call, which: int = 0) -> int | None:
        folder, path = call.place(which)
        try:
            return Kernel.stat(path, dir_fd=folder, follow_symlinks=False).st_ino
        except FileNotFoundError:
            return None

    def _open(self, call: Call) -> Any:
        was_there = self._inode(call) is not None
        fd = call.go()
        if not was_there:
            self._add(Make(*self._place(call), self._new(Kernel.fstat(fd).st_ino), is_folder=False))
        elif call.args[1] & os.O_TRUNC:
            self._add(Cut(self._node(fd), 0))
        return fd

    def _mkdir(self, call: Call) -> Any:
        done = call.go()
        inode = self._inode(call)
        assert inode is not None
        self._add(Make(*self._place(call), self._new(inode), is_folder=True))
        return done

    def _write(self, call: Call) -> Any:
        fd, data = call.args[:2]
        is_at = call.name == "pwrite"
        offset = call.args[2] if is_at else os.lseek(fd, 0, os.SEEK_CUR)
        written = call.go()
        self._add(Write(self._node(fd), offset, bytes(data[:written])))
        return written

    def _ftruncate(self, call: Call) -> Any:
        done = call.go()
        self._add(Cut(self._node(call.args[0]), call.args[1]))
        return done

    def _sync(self, call: Call) -> Any:
        self.syncs += 1
        fd = call.args[0] if isinstance(call.args[0], int) else call.args[0].fileno()
        error = self._fails()
        self._add((Sync if error is None else Lost)(self._node(fd)))
        if error is not None:
            raise error

    def _link(self, call: Call) -> Any:
        inode = self._inode(call)
        done = call.go()
        assert inode is not None
        self._add(Link(*self._place(call, 1), self._nodes[inode]))
        return done

    def _rename(self, call: Call) -> Any:
        inode, there = self._inode(call), self._inode(call, 1)
        done = call.go()
        assert inode is not None
        if inode != there:  # of two names of one file a rename leaves both
            self._add(Rename(*self._place(call), *self._place(call, 1), self._nodes[inode]))
        return done

    _replace = _rename

    def _unlink(self, call: Call) -> Any:
        done = call.go()
        self._add(Remove(*self._place(call)))
        return done

    _remove = _rmdir = _unlink
