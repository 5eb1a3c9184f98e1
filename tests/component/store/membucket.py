"""A bucket in memory under the real adapters, its requests and its clock in a test's hands."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import pytest
from obstore import exceptions as obstore_errors

from manifestry.adapters.store.remote import blobs, claims, records
from manifestry.core.blobs import digests, signedurls

TICK = timedelta(milliseconds=1)


def everywhere(bucket: "Bucket", patch: pytest.MonkeyPatch) -> None:
    """Put a bucket in the place of obstore, and its clock in the place of the machine's."""
    for module in (blobs, records, claims):
        patch.setattr(module, "obstore", bucket.module())
    patch.setattr(claims, "_now", bucket.elsewhere)
    patch.setattr(blobs, "_age", lambda found: bucket.now - found["last_modified"])


@dataclass
class Bucket:
    """An obstore store in memory; `module` stands in for the library.

    Args:
        step: waits until a request may be done.
        sleep: how long whoever is next has slept.
        skew: by how much the clocks of the others are ahead.
    """

    step: Callable[[], Awaitable[None]]
    sleep: Callable[[], timedelta] = timedelta
    skew: timedelta = timedelta()
    ahead: timedelta = timedelta(minutes=15)
    now: datetime = datetime(2026, 5, 4, tzinfo=UTC)
    objects: dict[str, tuple[bytes, datetime]] = field(default_factory=dict)

    def module(self) -> Any:
        names = (
            "head_async",
            "put_async",
            "copy_async",
            "delete_async",
            "get_async",
            "get_range_async",
            "list",
        )
        return SimpleNamespace(**{name: getattr(self, name) for name in names})

    async def _step(self) -> None:
        await self.step()
        self.now += TICK + self.sleep()

    def _meta(self, key: str) -> dict[str, Any]:
        if key not in self.objects:
            raise FileNotFoundError(key)
        data, modified = self.objects[key]
        tag = digests.of(data)  # as of S3: it is of the bytes, and knows no other time
        return {"path": key, "size": len(data), "last_modified": modified, "e_tag": tag, "version": None}

    def elsewhere(self) -> datetime:
        """Return the time by the others' clocks."""
        return self.now + self.skew

    async def sign(self, keys: Sequence[str], seconds: int) -> list[str]:
        """Sign as `deletes.Deletes` does."""
        await self._step()
        query = f"X-Amz-Date={self.elsewhere():%Y%m%dT%H%M%SZ}&X-Amz-Expires={seconds}"
        return [f"https://bucket/{key}?{query}" for key in keys]

    async def send(self, url: str) -> bool:
        """Remove a key unless the time is over."""
        await self._step()
        span = signedurls.span(url)
        assert span is not None
        if self.now <= span[1]:
            self.objects.pop(urlsplit(url).path.removeprefix("/"), None)
        return self.now <= span[1]

    async def head_async(self, _: Any, key: str) -> Any:
        await self._step()
        return self._meta(key)

    async def put_async(self, _: Any, key: str, data: bytes, *, mode: Any = "overwrite", **__: Any) -> None:
        await self._step()
        if mode == "create" and key in self.objects:
            raise obstore_errors.AlreadyExistsError(key)
        if isinstance(mode, dict) and self._meta(key)["e_tag"] != mode["e_tag"]:
            raise obstore_errors.PreconditionError(key)
        self.objects[key] = (bytes(data), self.now)

    async def get_async(self, _: Any, key: str) -> Any:
        await self._step()
        meta, data = self._meta(key), self.objects[key][0]

        async def body() -> bytes:
            return data

        return SimpleNamespace(meta=meta, bytes_async=body)

    async def copy_async(self, _: Any, source: str, key: str, *, overwrite: bool) -> None:
        await self._step()
        self._meta(source)
        if not overwrite and key in self.objects:
            raise obstore_errors.AlreadyExistsError(key)
        self.objects[key] = (self.objects[source][0], self.now)

    async def delete_async(self, _: Any, key: str) -> None:
        await self._step()
        self.objects.pop(key, None)

    async def get_range_async(self, _: Any, key: str, *, start: int, length: int) -> bytes:
        await self._step()
        self._meta(key)
        return self.objects[key][0][start : start + length]

    async def list(self, _: Any, prefix: str, *, offset: str | None, chunk_size: int) -> AsyncIterator[Any]:
        await self._step()
        keys = sorted(key for key in self.objects if key.startswith(prefix) and key > (offset or ""))
        yield [self._meta(key) for key in keys[:chunk_size]]
