"""Whether a volume does what the local store relies on: exclusive names, locks, links, renames, syncs."""

import contextlib
import fcntl
import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Final

from manifestry.adapters.store.local import files
from manifestry.core.blobs import keys

_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_OPEN: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
_FOLDER: Final = PurePosixPath(keys.CANARY)
NAMES: Final = 3

Habit = Callable[[int, str, str, str], bool]


def examine(root: Path, probe_id: str) -> str:
    """Return what a volume does wrong, empty when it does all of it right; small files come and go.

    Args:
        root: the store's folder.
        probe_id: a UUID that no other process uses at this time.

    Raises:
        OSError: the volume fails, or is full.
    """
    first, second, third = (str(uuid.uuid5(uuid.UUID(probe_id), str(n))) for n in range(NAMES))
    with files.open_folder(root, _FOLDER, create=True) as folder:
        _clear(folder, (first, second, third))
        try:
            for habit, wrong in HABITS:
                if not habit(folder, first, second, third):
                    return wrong
        finally:
            _clear(folder, (first, second, third))
    return ""


def _clear(folder: int, names: tuple[str, ...]) -> None:
    for name in names:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=folder)


def _creates_once(folder: int, first: str, second: str, third: str) -> bool:  # noqa: ARG001 - a habit's signature
    os.close(os.open(first, _NEW, 0o600, dir_fd=folder))
    try:
        os.close(os.open(first, _NEW, 0o600, dir_fd=folder))
    except FileExistsError:
        return True
    return False


def _locks(folder: int, first: str, second: str, third: str) -> bool:  # noqa: ARG001 - a habit's signature
    with _opened(folder, first) as one, _opened(folder, first) as other:
        fcntl.flock(one, fcntl.LOCK_EX)
        try:
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _links(folder: int, first: str, second: str, third: str) -> bool:
    """Where there are no links at all the store does without; half a link is worse than none."""
    try:
        os.link(first, second, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
    except OSError as error:
        if error.errno not in files.NO_LINKS:
            raise
        os.close(os.open(second, _NEW, 0o600, dir_fd=folder))
        return True
    os.close(os.open(third, _NEW, 0o600, dir_fd=folder))
    try:
        os.link(first, third, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
    except FileExistsError:
        return _identity(folder, first) == _identity(folder, second) != _identity(folder, third)
    return False


def _renames(folder: int, first: str, second: str, third: str) -> bool:
    """Rename over another file: the old name is gone, the new one is the renamed file."""
    os.unlink(first, dir_fd=folder)
    with contextlib.suppress(FileNotFoundError):  # a volume without links has none
        os.unlink(third, dir_fd=folder)
    os.close(os.open(third, _NEW, 0o600, dir_fd=folder))
    moved = _identity(folder, second)
    os.rename(second, third, src_dir_fd=folder, dst_dir_fd=folder)
    try:
        os.stat(second, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return _identity(folder, third) == moved
    return False


def _syncs(folder: int, first: str, second: str, third: str) -> bool:  # noqa: ARG001 - a habit's signature
    os.fsync(folder)
    return True


HABITS: Final[tuple[tuple[Habit, str], ...]] = (
    (_creates_once, "the volume makes a file that is there already (O_EXCL)"),
    (_locks, "the volume does not lock files (flock)"),
    (_links, "the volume links over a file that is there already (link)"),
    (_renames, "the volume does not replace a file by another one (rename)"),
    (_syncs, "the volume does not sync folders (fsync)"),
)


@contextlib.contextmanager
def _opened(folder: int, name: str) -> Iterator[int]:
    fd = os.open(name, _OPEN, dir_fd=folder)
    try:
        yield fd
    finally:
        os.close(fd)


def _identity(folder: int, name: str) -> tuple[int, int]:
    status = os.stat(name, dir_fd=folder, follow_symlinks=False)
    return status.st_dev, status.st_ino
