"""What of one file a power cut may leave: any version of each sector, any size, since the last sync."""

import random
from collections.abc import Iterator, Mapping
from typing import Final

PAGE: Final = 4096
SECTOR: Final = 512  # what a disk writes whole or not at all; a page may be torn between two of them
_HOLE: Final = bytes(SECTOR)


class File:
    """The bytes of one file: as the process sees them, and as they may lie on the disk."""

    def __init__(self) -> None:
        self.cache = bytearray()
        # The first of each list is on the disk for sure; None is a hole, which reads as zeros.
        self.sectors: dict[int, list[bytes | None]] = {}
        self.sizes = [0]

    def write(self, offset: int, data: bytes) -> None:
        """Take bytes; the size may grow page by page, and before the bytes are there."""
        old, end = len(self.cache), offset + len(data)
        if end > old:
            self.cache.extend(bytes(end - old))
            self.sizes += list(range(_up(old + 1), end, PAGE))
            self.sizes.append(end)
        self.cache[offset:end] = data
        for number in range(offset // SECTOR, -(-end // SECTOR)):
            self._dirty(number)

    def cut(self, size: int) -> None:
        """Take another size."""
        del self.cache[size:]
        self.cache.extend(bytes(size - len(self.cache)))
        for number, versions in self.sectors.items():
            if number >= -(-size // SECTOR) and versions[-1] is not None:
                versions.append(None)
        if size % SECTOR:
            self._dirty(size // SECTOR)
        self.sizes.append(size)

    def sync(self) -> None:
        """Let the newest version of everything be on the disk."""
        self.sectors = {number: versions[-1:] for number, versions in self.sectors.items()}
        self.sizes = self.sizes[-1:]

    def lose(self) -> None:
        """Forget the newer versions: the kernel takes them for written, the disk has them not."""
        self.sectors = {number: versions[:1] for number, versions in self.sectors.items()}

    def options(self) -> Iterator[tuple[int, int]]:
        """Yield (sector, number of its versions) where there is more than one; sector -1 is the size."""
        if len(self.sizes) > 1:
            yield -1, len(self.sizes)
        for number, versions in self.sectors.items():
            if len(versions) > 1:
                yield number, len(versions)

    def content(self, chosen: Mapping[int, int]) -> bytes:
        """Return what lies on the disk.

        Args:
            chosen: which version of a sector (-1: of the size); the one on the disk for sure otherwise.
        """
        size = self.sizes[chosen.get(-1, 0)]
        found = [self._version(number, chosen) for number in range(-(-size // SECTOR))]
        return b"".join(found)[:size]

    def _version(self, number: int, chosen: Mapping[int, int]) -> bytes:
        versions = self.sectors.get(number)
        found = versions[chosen.get(number, 0)] if versions else None
        return _HOLE if found is None else found

    def newest(self) -> dict[int, int]:
        """Return the choice of the newest version of everything."""
        return {number: count - 1 for number, count in self.options()}

    def draw(self, rng: random.Random, bias: float) -> dict[int, int]:
        """Return a random choice.

        Args:
            rng: what to draw from.
            bias: how likely a sector is as new as can be.
        """
        return {
            number: count - 1 if rng.random() < bias else rng.randrange(count)
            for number, count in self.options()
        }

    def _dirty(self, number: int) -> None:
        data = bytes(self.cache[number * SECTOR : (number + 1) * SECTOR])
        self.sectors.setdefault(number, [None]).append(data.ljust(SECTOR, b"\0"))


def _up(size: int) -> int:
    return -(-size // PAGE) * PAGE
