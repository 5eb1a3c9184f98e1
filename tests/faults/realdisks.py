"""A small real file system for this process: an image in memory, mounted by the loop driver; root only."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.controlplane.plugin import refuse

SIZES_BYTES: Final = {"ext4": 64 << 20, "xfs": 320 << 20}  # xfs refuses less than 300 MiB
_MAKE: Final = {"ext4": ["-q", "-F", "-m", "0"], "xfs": ["-q", "-f"]}


@contextmanager
def mounted(kind: str, where: Path) -> Iterator[Path]:
    """Give a folder on a new `ext4` or `xfs`; the test is refused where that cannot be."""
    program = shutil.which(f"mkfs.{kind}", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if program is None:
        refuse(f"needs mkfs.{kind} (Debian: {'e2fsprogs' if kind == 'ext4' else 'xfsprogs'})")
    if os.geteuid() != 0:
        refuse("needs root to mount a file system")
    image, folder = where / "image", where / "mounted"
    folder.mkdir()
    with image.open("wb") as file:
        file.truncate(SIZES_BYTES[kind])
    _run(program, *_MAKE[kind], str(image))
    _run("mount", "-o", "loop", str(image), str(folder))
    try:
        yield folder
    finally:
        _run("umount", str(folder))
        image.unlink()


def _run(*argv: str) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, f"{argv[0]}: {done.stderr}"
