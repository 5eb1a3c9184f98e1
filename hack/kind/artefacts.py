"""Keep built things: each in a folder named by a hash of its inputs, complete or not there at all."""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import progress

STAMP = ".stamp.json"
KEY_LENGTH = 12


def digest(*parts: str | bytes) -> str:
    """Return a short key for the given inputs; their order counts."""
    total = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        total.update(len(data).to_bytes(8, "big") + data)
    return total.hexdigest()[:KEY_LENGTH]


def tree_digest(folder: Path) -> str:
    """Return a key for the files of a folder, by name and content."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return digest(*(part for path in files for part in (str(path.relative_to(folder)), path.read_bytes())))


def _inventory(folder: Path) -> dict[str, list[int]]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != STAMP)
    stats = ((str(path.relative_to(folder)), path.stat()) for path in files)
    return {name: [stat.st_size, stat.st_mode & 0o777] for name, stat in stats}


def is_intact(folder: Path) -> bool:
    """Tell whether an artefact is complete: stamped, and every file with its size and mode."""
    try:
        stamp = json.loads((folder / STAMP).read_text())
    except (OSError, ValueError):
        return False
    return bool(stamp) and stamp == _inventory(folder)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock file; another process that holds it is waited for."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with progress.step(f"wait for another run that holds {path.name}"):
                fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _fill(folder: Path, build: Callable[[Path], None]) -> None:
    draft = folder.with_name(folder.name + ".draft")
    shutil.rmtree(draft, ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        build(draft)
        (draft / STAMP).write_text(json.dumps(_inventory(draft)))
        draft.replace(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def ensure(folder: Path, lock: Path, build: Callable[[Path], None]) -> Path:
    """Return the artefact's folder, building it when it is missing or damaged.

    Args:
        folder: where the artefact is kept; its name holds the key of its inputs.
        lock: serialises runs that need the same artefact.
        build: fills the folder that it is given; its result appears under the final name only when complete.
    """
    if is_intact(folder):
        return folder
    with locked(lock):
        if not is_intact(folder):
            _fill(folder, build)
    return folder
