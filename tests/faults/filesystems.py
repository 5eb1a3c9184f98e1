"""What a power cut may leave of a run, by the rules of a file system.

Common to both kinds:
- Since the last sync of a file each of its sectors may be on the disk in any of its versions, and its size
  may be any that it had or passed through, also ahead of its bytes: what is missing reads as zeros. What was
  written past the page cache is treated alike: until a sync it may be missing.
- A sync of a file puts its bytes and its size on the disk; after a failed one those bytes never will be.
- Making, linking, renaming and removing a name is atomic; a rename is done or not, in both of its folders.
- Times are not modelled: whoever materialises a state makes all old: the worst for garbage.

`WEAK` (as ALICE's, for any file system that POSIX allows): changes of names may be on the disk in any subset,
whatever their order; only a sync of a folder puts those on the disk that touch it; a sync of a file does
nothing for its name.

`ORDERED` (as ext4, xfs): changes of names are on the disk in their order, up to any point; a sync of a file
or a folder puts those on the disk that touch it, with all before them.
"""

import itertools
import math
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final

from tests.faults.pages import File
from tests.faults.recorder import ROOT, Change, Cut, Link, Log, Lost, Make, Note, Remove, Rename, Sync, Write

NameChange = Make | Link | Rename | Remove
Tree = dict[int, dict[str, int]]
Choice = dict[int, dict[int, int]]
_BIASES: Final = (0.1, 0.5, 0.9)


class Rules(Enum):
    """A kind of file system."""

    WEAK = "weak"
    ORDERED = "ordered"


@dataclass
class _Named:
    change: NameChange
    is_durable: bool = False

    def touches(self, node: int) -> bool:
        match self.change:
            case Make(folder, _, made, _):
                return node in {folder, made}
            case Link(folder, _, linked):
                return node in {folder, linked}
            case Rename(folder, _, to_folder, _, renamed):
                return node in {folder, to_folder, renamed}
            case Remove(folder, _):
                return node == folder


@dataclass(frozen=True)
class Image:
    """What lies on a disk: paths, a file of several names once for each.

    Args:
        folders: their paths, parents first.
        files: path to node.
        contents: node to bytes.
    """

    folders: tuple[str, ...]
    files: dict[str, int]
    contents: dict[int, bytes]

    @property
    def key(self) -> int:
        """Return what equal images have in common: numbers of nodes play no part."""
        first: dict[int, str] = {}
        each = tuple(
            (path, first.setdefault(node, path), self.contents[node])
            for path, node in sorted(self.files.items())
        )
        return hash((tuple(sorted(self.folders)), each))


@dataclass(frozen=True)
class State:
    """One way in which a run may have been cut.

    Args:
        operation: what the store was doing.
        point: how many entries of the log had happened.
        image: what is on the disk.
        told: the last note before.
    """

    operation: str
    point: int
    image: Image
    told: Any


@dataclass
class Disk:
    """A disk under a running store: what it has for sure, and what it may have besides.

    Args:
        rules: which kind of file system.
    """

    rules: Rules
    names: list[_Named] = field(default_factory=list)
    files: dict[int, File] = field(default_factory=dict)
    folders: set[int] = field(default_factory=lambda: {ROOT})

    def apply(self, change: Change) -> None:
        """Let something happen."""
        match change:
            case Write(node, offset, data):
                self.files[node].write(offset, data)
            case Cut(node, size):
                self.files[node].cut(size)
            case Sync(node):
                self._sync(node)
            case Lost(node):
                if node in self.files:
                    self.files[node].lose()
            case Note():
                pass
            case _:
                self._name(change)

    def _name(self, change: NameChange) -> None:
        if isinstance(change, Make):
            if change.is_folder:
                self.folders.add(change.node)
            else:
                self.files[change.node] = File()
        self.names.append(_Named(change))

    def _sync(self, node: int) -> None:
        if node in self.files:
            self.files[node].sync()
        touching = [number for number, each in enumerate(self.names) if each.touches(node)]
        if self.rules is Rules.ORDERED:
            touching = list(range(max(touching, default=-1) + 1))
        elif node in self.files:
            return
        for number in touching:
            self.names[number].is_durable = True

    def settle(self) -> None:
        """Let everything be on the disk."""
        for file in self.files.values():
            file.sync()
        for each in self.names:
            each.is_durable = True

    def newest(self) -> Image:
        """Return what is on the disk once all is written that still can be, and the cache is dropped."""
        pending = frozenset(range(len(self.names)))
        return self._image(pending, {node: file.newest() for node, file in self.files.items()})

    def images(self, rng: random.Random, limit: int) -> Iterator[Image]:
        """Yield what a power cut may leave now: all of it where that is little, otherwise a sample.

        Args:
            rng: what to draw from.
            limit: how many at most.
        """
        subsets = self._subsets()
        options = [
            (node, number, count) for node, file in self.files.items() for number, count in file.options()
        ]
        total = subsets * math.prod(count for *_, count in options)
        if total <= limit:
            yield from self._all(options)
            return
        yield self._image(frozenset(), {})
        yield self.newest()
        for _ in range(limit - 2):
            bias = rng.choice(_BIASES)
            chosen = {node: file.draw(rng, bias) for node, file in self.files.items()}
            yield self._image(self._draw(rng, bias), chosen)

    def _pending(self) -> list[int]:
        return [number for number, each in enumerate(self.names) if not each.is_durable]

    def _subsets(self) -> int:
        count = len(self._pending())
        return count + 1 if self.rules is Rules.ORDERED else 2**count

    def _all(self, options: list[tuple[int, int, int]]) -> Iterator[Image]:
        pending = self._pending()
        if self.rules is Rules.ORDERED:
            subsets = [frozenset(pending[:count]) for count in range(len(pending) + 1)]
        else:
            subsets = [
                frozenset(each)
                for count in range(len(pending) + 1)
                for each in itertools.combinations(pending, count)
            ]
        for subset in subsets:
            for numbers in itertools.product(*(range(count) for *_, count in options)):
                chosen: Choice = {}
                for (node, page, _), number in zip(options, numbers, strict=True):
                    chosen.setdefault(node, {})[page] = number
                yield self._image(subset, chosen)

    def _draw(self, rng: random.Random, bias: float) -> frozenset[int]:
        pending = self._pending()
        if self.rules is Rules.ORDERED:
            return frozenset(pending[: rng.randint(0, len(pending))])
        return frozenset(number for number in pending if rng.random() < bias)

    def _image(self, subset: frozenset[int], chosen: Mapping[int, Mapping[int, int]]) -> Image:
        tree: Tree = {node: {} for node in self.folders}
        for number, each in enumerate(self.names):
            if each.is_durable or number in subset:
                _rename(tree, each.change)
        folders: list[str] = []
        files: dict[str, int] = {}
        self._walk(tree, ROOT, "", folders, files)
        contents = {node: self.files[node].content(chosen.get(node, {})) for node in set(files.values())}
        return Image(tuple(folders), files, contents)

    def _walk(self, tree: Tree, node: int, prefix: str, folders: list[str], files: dict[str, int]) -> None:
        for name, found in tree[node].items():
            if found in self.folders:
                folders.append(prefix + name)
                self._walk(tree, found, f"{prefix}{name}/", folders, files)
            else:
                files[prefix + name] = found


def _rename(tree: Tree, change: NameChange) -> None:
    match change:
        case Make(folder, name, node, _) | Link(folder, name, node):
            tree[folder][name] = node
        case Rename(folder, name, to_folder, to_name, node):
            if tree[folder].get(name) == node:
                del tree[folder][name]
            tree[to_folder][to_name] = node
        case Remove(folder, name):
            tree[folder].pop(name, None)


def replay(log: Log, rules: Rules) -> Iterator[tuple[int, Disk]]:
    """Yield the disk at every point of a run: before everything, and after each thing that happened."""
    disk = Disk(rules)
    for change in log.before:
        disk.apply(change)
    disk.settle()
    yield 0, disk
    for point, entry in enumerate(log.entries, 1):
        disk.apply(entry.change)
        yield point, disk


def states(log: Log, rules: Rules, rng: random.Random, limit: int) -> Iterator[State]:
    """Yield the states in which a power cut may leave a run, at every point of it; some of them are equal.

    Args:
        log: the run.
        rules: which kind of file system.
        rng: what to draw from.
        limit: how many at each point.
    """
    told: Any = None
    for point, disk in replay(log, rules):
        entry = log.entries[point - 1] if point else None
        if entry is not None and isinstance(entry.change, Note):
            told = entry.change.value
        if entry is None or not isinstance(entry.change, Sync):  # a sync leaves a subset of what was
            for image in disk.images(rng, limit):
                yield State(entry.operation if entry else "start", point, image, told)
