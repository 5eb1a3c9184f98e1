"""Make a folder of what a power cut has left."""

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.faults.filesystems import Image

_MEMORY: Final = Path("/dev/shm")


def memory(otherwise: Path) -> Path:
    """Return a folder in memory, where this machine has one."""
    return _MEMORY if os.access(_MEMORY, os.W_OK) else otherwise


@contextmanager
def materialised(image: Image, root: Path, age_seconds: float) -> Iterator[Path]:
    """Give the image as files below `root`, which must not be there, and remove them.

    Args:
        image: what to make.
        root: where.
        age_seconds: how old everything is.
    """
    try:
        root.mkdir()
        for folder in image.folders:
            (root / folder).mkdir(mode=0o700)
        first: dict[int, Path] = {}
        for name, node in image.files.items():
            path = root / name
            if node in first:
                os.link(first[node], path)
            else:
                path.write_bytes(image.contents[node])
                first[node] = path
        then = time.time() - age_seconds
        for name in (*image.files, *reversed(image.folders)):
            os.utime(root / name, (then, then))
        yield root
    finally:
        shutil.rmtree(root)
