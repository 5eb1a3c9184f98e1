"""A client that follows the protocol of uploads on real stores, and remembers what it was told."""

import contextlib
import os
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, cast

import pytest

from manifestry.adapters.store import sessions, stores
from manifestry.adapters.store.contract import ports
from manifestry.adapters.store.local import files, session_parts
from manifestry.core.artifacts import uploads
from manifestry.core.blobs import digests
from manifestry.core.kube import names
from manifestry.handlers.artifacts import uploads as janitor
from manifestry.settings import StoreSettings
from tests.component.artifacts import garbageworld
from tests.faults.pages import PAGE
from tests.faults.promises import Promises, Upload

LIMIT_BYTES: Final = 64 * PAGE
SESSIONS: Final = 8
BATCH_BYTES: Final = PAGE + PAGE // 2
HOUR: Final = timedelta(hours=1)
MINUTE: Final = timedelta(minutes=1)
# What the adapters do every so many MiB, they do every few pages here.
_SMALL: Final = {"SYNC_EVERY_BYTES": 3 * PAGE, "DIRECT_FROM_BYTES": 2 * PAGE}
_MODULES: Final = (files, session_parts)


class RefusedError(ports.StoreError):
    """What was asked for was not done; it may be asked for again."""


class BrokenOffError(Exception):
    """The client's connection has broken off."""


def small(patch: pytest.MonkeyPatch) -> None:
    """Let a few pages be what many mebibytes are."""
    for module in _MODULES:
        for name, value in _SMALL.items():
            if hasattr(module, name):
                patch.setattr(module, name, value)
    patch.setitem(cast("Any", ports.batches).__kwdefaults__, "batch_bytes", BATCH_BYTES)


class Client:
    """A tenant's client, and the operator beside it.

    Args:
        root: the store's folder.
        told: where it says what it was told each time, and which operation begins.
        promises: what others were told before.
    """

    def __init__(
        self, root: Path, told: Callable[[Promises], None], promises: Promises | None = None
    ) -> None:
        self.root = root
        settings = StoreSettings.from_mapping({"MANIFESTRY_STORE_PATH": str(root)})
        self.store = stores.open_store(settings)
        self.sessions = sessions.open_sessions(settings, self.store)
        cast("Any", self.sessions).piece_bytes = BATCH_BYTES
        self.world = garbageworld.World(self.store, cast("Any", None))
        self._trust()
        self.promises = Promises() if promises is None else promises
        self.begins: Callable[[str], None] = lambda _: None
        self._told = told
        self._put = self.world.api.put
        cast("Any", self.world.api).put = self._noted
        self._begin()

    def _begin(self) -> None:
        tenant = self.world.api.objects["Namespace", "", "team"]
        self.world.uid = tenant["metadata"]["uid"] = str(uuid.UUID(int=7))
        self.world.ctx.caches.put(names.NAMESPACES.kind, tenant)
        self.world.api.objects |= self.promises.objects

    def _trust(self) -> None:
        """Let the guard of the store not try its habits each time, nor move its record on."""

        async def sound() -> str:
            return ""

        guard = cast("Any", self.world.guard)
        guard._examine, guard._leads = sound, False

    async def start(self) -> None:
        """Own the store, before anything is written to it."""
        self.begins("own")
        assert await self.world.guard.check()

    def _noted(self, resource: names.Resource, body: dict[str, Any]) -> dict[str, Any]:
        done = self._put(resource, body)
        self.tell()
        return done

    def tell(self) -> None:
        """Say what is promised now."""
        self.promises.objects = self.world.api.objects
        self._told(self.promises.copy())

    async def close(self) -> None:
        """Close the store."""
        await self.sessions.close()
        await self.store.close()

    # -- whole uploads

    async def inline(self, data: bytes, name: str) -> None:
        """Apply an artifact whose bytes stand in it."""
        self.begins("put")
        await self.world.artifact(name, inline={"text": data.decode()})
        self._acknowledge(data, name)

    async def upload(self, data: bytes, name: str, **spec: Any) -> None:
        """Send an artifact's bytes in one request."""
        self.begins("stage")
        staged = await self.store.stage(chunks(data), limit_bytes=LIMIT_BYTES)
        self.begins("publish")
        await self.store.publish(self.world.uid, staged)
        await self._record(data, name, **spec)

    async def _record(self, data: bytes, name: str, **spec: Any) -> None:
        await self.world.artifact(name, upload={"digest": digests.of(data), "sizeBytes": len(data)}, **spec)
        self._acknowledge(data, name)

    def _acknowledge(self, data: bytes, name: str) -> None:
        if self.world.ready(name) != ("True", "Stored"):
            raise RefusedError
        key = (self.world.uid, digests.of(data))
        self.promises.blobs[key] = data
        self.promises.damaged -= {key}
        self.tell()

    def give_up(self, data: bytes) -> None:
        """Want bytes no more."""
        self.promises.blobs.pop((self.world.uid, digests.of(data)), None)
        self.tell()

    def spoil(self, data: bytes) -> None:
        """Let stored bytes go bad on the disk."""
        self.promises.damaged |= {(self.world.uid, digests.of(data))}
        self.give_up(data)
        path = self.store.local_path(self.world.uid, digests.of(data))
        assert path is not None
        for _ in range(2):  # where one call of all is made to fail, the other is not
            with contextlib.suppress(OSError):
                _overwrite(path, bytes(100))

    async def has(self, data: bytes) -> bool:
        """Tell whether the tenant has these bytes."""
        return await self.world.has(data)

    async def fail(self, body: AsyncIterator[bytes], limit_bytes: int, error: type[Exception]) -> None:
        """Send what must be refused."""
        self.begins("stage")
        with pytest.raises((error, ports.StoreError)):
            await self.store.stage(body, limit_bytes=limit_bytes)

    async def stammer(self, session_id: str) -> None:
        """Seal and publish twice each, as after a lost answer, and record nothing."""
        session = self.promises.uploads[session_id].session
        self.begins("seal")
        staged = await self.sessions.seal(session)
        assert await self.sessions.seal(session) == staged
        self.begins("publish")
        await self.store.publish(self.world.uid, staged)
        await self.store.publish(self.world.uid, staged)

    # -- resumable uploads

    async def begin(self, data: bytes, name: str, *, says_length: bool = True) -> str:
        """Begin a session; return its id."""
        self.begins("create")
        meta = {"name": name, "namespace": "team", "uid": str(uuid.uuid5(uuid.NAMESPACE_OID, name))}
        self.world.api.put(names.ARTIFACTS, {"metadata": meta, "spec": {"upload": {}}, "status": {}})
        length = len(data) if says_length else None
        wanted = uploads.Session(
            str(uuid.uuid4()), self.world.uid, "team", name, meta["uid"], length_bytes=length
        )
        made = await self.sessions.create(wanted, limit=SESSIONS)
        self._promise(Upload(made, data))
        return made.session_id

    def _promise(self, upload: Upload) -> None:
        self.promises.uploads[upload.session.session_id] = upload
        self.tell()

    async def patch(self, session_id: str, count: int, *, broken_after: int | None = None) -> None:
        """Send the next bytes; with `broken_after` fewer, and then ask how many are there."""
        self.begins("append")
        upload = self.promises.uploads[session_id]
        data = upload.data[upload.offset : upload.offset + count]
        body = chunks(data) if broken_after is None else broken(data[:broken_after])
        try:
            end = await self.sessions.append(upload.session, upload.offset, body, limit_bytes=LIMIT_BYTES)
        except BrokenOffError:
            await self.head(session_id)
            return
        assert end == upload.offset + len(data)
        self._promise(replace(upload, offset=end))

    async def head(self, session_id: str) -> uploads.State:
        """Ask how far a session is, and rely on it."""
        self.begins("head")
        upload, state = self.promises.uploads[session_id], await self.sessions.head(session_id)
        assert state is not None, "a session that was acknowledged is gone"
        assert upload.offset <= state.offset <= len(upload.data), (
            f"the offset was {upload.offset} of {len(upload.data)}; now it is {state.offset}"
        )
        self._promise(replace(upload, offset=state.offset))
        return state

    async def complete(self, session_id: str) -> None:
        """Send what is left, and do what completing does."""
        state = await self.head(session_id)
        if state.offset < len(self.promises.uploads[session_id].data):
            await self.patch(session_id, LIMIT_BYTES)
        upload = self.promises.uploads[session_id]
        self.begins("seal")
        staged = await self.sessions.seal(upload.session)
        self.begins("publish")
        assert (staged.digest, staged.size_bytes) == (digests.of(upload.data), len(upload.data)), (
            "an upload was completed with other bytes than were sent"
        )
        await self.store.publish(self.world.uid, staged)
        self._promise(replace(upload, may_be_gone=True))
        await self._record(upload.data, upload.session.artifact_name)
        self.begins("finish")
        await self.sessions.finish(upload.session)

    async def abort(self, session_id: str) -> None:
        """Delete a session."""
        self.begins("abort")
        self._promise(replace(self.promises.uploads[session_id], may_be_gone=True))
        await self.sessions.abort(self.promises.uploads[session_id].session)

    # -- the operator

    async def sweep(self) -> None:
        """Let the janitor of uploads look through the store, and an hour later once more."""
        self.begins("sweep")
        keeper, before = janitor.Collector(self.sessions), self.world.clock.ahead
        await keeper.collect(self.world.ctx)
        self.world.clock.ahead += HOUR + MINUTE
        await keeper.collect(self.world.ctx)
        self.world.clock.ahead = before

    async def scrub(self) -> None:
        """Let the scrub read everything back."""
        self.begins("scrub")
        await self.world.scrubbed()

    async def collect(self, *, is_later: bool = True) -> None:
        """Let the collector mark, and after the grace remove."""
        self.begins("collect")
        for number in range(1 + is_later):
            self.world.clock.ahead += number * HOUR
            if not await self.world.collector.once():
                raise RefusedError


def _overwrite(path: Path, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY)
    try:
        os.pwrite(fd, data, 0)
        os.fsync(fd)
    finally:
        os.close(fd)


async def chunks(data: bytes) -> AsyncIterator[bytes]:
    """Yield bytes as they come from a socket."""
    for start in range(0, len(data), PAGE // 2):
        yield data[start : start + PAGE // 2]


async def broken(data: bytes) -> AsyncIterator[bytes]:
    """Yield bytes, and break off."""
    async for chunk in chunks(data):
        yield chunk
    raise BrokenOffError
