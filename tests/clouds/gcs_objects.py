"""The objects of one Cloud Storage bucket, as its XML API knows them: generations, conditions, parts."""

import hashlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

PART_MIN_BYTES = 5 << 20
PARTS_MAX = 10_000


class RefusedError(Exception):
    """The answer to a request that was not done.

    Args:
        status: of HTTP.
        code: the element Code of the answer.
    """

    def __init__(self, status: int, code: str) -> None:
        super().__init__(code)
        self.status, self.code = status, code


@dataclass(frozen=True)
class Found:
    """One object: its bytes are in a file named after its generation."""

    name: str
    generation: int
    size: int
    etag: str
    updated: float
    metadata: Mapping[str, str] = field(default_factory=dict)


class Objects:
    """A bucket on a disk, changed by one process alone, each change at once.

    Args:
        folder: of the bucket; what is there already stays.
    """

    def __init__(self, folder: Path) -> None:
        self._data, self._records, self._parts = folder / "data", folder / "records", folder / "parts"
        for made in (self._data, self._records, self._parts):
            made.mkdir(parents=True, exist_ok=True)
        records = (Found(**json.loads(path.read_text())) for path in self._records.iterdir())
        self._found = {found.name: found for found in records}

    def get(self, name: str) -> Found:
        """Return an object or refuse."""
        if name not in self._found:
            raise RefusedError(404, "NoSuchKey")
        return self._found[name]

    def read(self, found: Found, start: int, count: int) -> bytes:
        """Return a part of an object's bytes."""
        with (self._data / str(found.generation)).open("rb") as file:
            file.seek(start)
            return file.read(count)

    def names(self, prefix: str) -> list[str]:
        """Return the names with a prefix, in the order of their bytes."""
        return sorted((name for name in self._found if name.startswith(prefix)), key=str.encode)

    def put(
        self,
        name: str,
        pieces: Iterable[bytes],
        if_generation: int | None,
        metadata: Mapping[str, str] | None = None,
    ) -> Found:
        """Write an object if the present generation (0: none) is the one that is asked for."""
        present = self._found.get(name)
        if if_generation not in {None, present.generation if present else 0}:
            raise RefusedError(412, "PreconditionFailed")
        generation, hashed, size = time.time_ns() // 1000, hashlib.md5(), 0
        while (self._data / str(generation)).exists():
            generation += 1
        with (self._data / str(generation)).open("xb") as file:
            for piece in pieces:
                hashed.update(piece)
                size += file.write(piece)
        etag = f'"{hashed.hexdigest()}"'
        self._found[name] = Found(name, generation, size, etag, time.time(), metadata or {})
        self._record(self._found[name])
        if present is not None:
            (self._data / str(present.generation)).unlink()
        return self._found[name]

    def copy(self, source: str, name: str, if_generation: int | None) -> Found:
        """Copy an object onto another name."""
        found = self.get(source)
        pieces = (self.read(found, start, 1 << 20) for start in range(0, found.size, 1 << 20))
        return self.put(name, pieces, if_generation, found.metadata)

    def delete(self, name: str) -> None:
        """Remove an object or refuse."""
        found = self.get(name)
        self._record_path(name).unlink()
        (self._data / str(found.generation)).unlink()
        del self._found[name]

    def begin(self) -> str:
        """Begin an upload in parts."""
        upload = secrets.token_hex(16)
        (self._parts / upload).mkdir()
        return upload

    def part(self, upload: str, number: int, data: bytes) -> str:
        """Keep one part and return its ETag."""
        if not 1 <= number <= PARTS_MAX:
            raise RefusedError(400, "InvalidArgument")
        (self._upload(upload) / f"{number:05}").write_bytes(data)
        return f'"{hashlib.md5(data).hexdigest()}"'

    def complete(self, upload: str, name: str, parts: list[tuple[int, str]]) -> Found:
        """Make an object of parts in their order; all but the last must be large enough."""
        numbers = [number for number, _ in parts]
        if not parts or numbers != sorted(set(numbers)):
            raise RefusedError(400, "InvalidPartOrder")
        paths = [self._upload(upload) / f"{number:05}" for number in numbers]
        if not all(path.is_file() for path in paths):
            raise RefusedError(400, "InvalidPart")
        pieces = [path.read_bytes() for path in paths]
        if [f'"{hashlib.md5(piece).hexdigest()}"' for piece in pieces] != [etag for _, etag in parts]:
            raise RefusedError(400, "InvalidPart")
        if any(len(piece) < PART_MIN_BYTES for piece in pieces[:-1]):
            raise RefusedError(400, "EntityTooSmall")
        found = self.put(name, pieces, None)
        self.abort(upload)
        return found

    def abort(self, upload: str) -> None:
        """Forget an upload in parts."""
        shutil.rmtree(self._upload(upload))

    def _upload(self, upload: str) -> Path:
        if not upload.isalnum() or not (self._parts / upload).is_dir():
            raise RefusedError(404, "NoSuchUpload")
        return self._parts / upload

    def _record_path(self, name: str) -> Path:
        return self._records / hashlib.sha256(name.encode()).hexdigest()

    def _record(self, found: Found) -> None:
        path = self._record_path(found.name)
        fresh = path.with_name(f"{path.name}.new")
        fresh.write_text(json.dumps(asdict(found)))
        os.replace(fresh, path)  # noqa: PTH105 - a kill leaves the one or the other
