"""What a store must do, as a model of it: artifacts, uploads, sessions, garbage, and a kill at any step.

The model knows three things of a blob: it is there, it is not, or a kill has left that open until one looks.
Whatever happens: what an artifact refers to can be read and is whole, what is visible is whole, and what a
session has acknowledged stays.
"""

import asyncio
import random
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from manifestry.adapters.store import inventory
from manifestry.adapters.store.contract import ports, session_ports
from manifestry.core.artifacts import uploads
from manifestry.core.blobs import digests
from tests.component.store.storeoracle import KILLED, LOST_ANSWER, StoreOracle
from tests.component.store.storeplaces import Upload

SIZES: Final = (0, 1, 17, 1000, 5000, 70_001, (1 << 20) + 1)
PAYLOADS: Final = {size: random.Random(size).randbytes(size) for size in SIZES}
SESSION_LIMIT: Final = 3
FUTURE: Final = datetime(2100, 1, 1, tzinfo=UTC)
GRACE: Final = timedelta(hours=2)

sizes = st.sampled_from(SIZES)  # not the bytes: what fails is printed
tenants = st.integers(0, 1)
# At which part of the way, in percent; how long the way of each operation is, one run tells the next.
kills = st.none() | st.none() | st.integers(0, LOST_ANSWER)


class StoreMachine(StoreOracle):
    """Does to one store what clients, collectors and kills do, and compares."""

    # -- plain uploads

    @rule(size=sizes, kill=kills, discards=st.booleans())
    def stage(self, size: int, kill: int | None, discards: bool) -> None:
        staged = self._stage(PAYLOADS[size], None if discards else kill)
        if discards:
            self.model.staged.pop()
            self._do(lambda: self.store.discard(staged), kill)

    def _stage(self, data: bytes, kill: int | None) -> Any:
        staged = self._do(lambda: self.store.stage(_chunks(data), limit_bytes=len(data)), kill)
        if isinstance(staged, ports.Staged):
            assert (staged.digest, staged.size_bytes) == (digests.of(data), len(data))
            self.model.staged.append((staged, data))
        return staged

    @rule(size=sizes, after=st.integers(0, 1 << 20), too_large=st.booleans())
    def stage_and_fail(self, size: int, after: int, too_large: bool) -> None:
        data = PAYLOADS[size]
        if too_large and not data:
            return
        source = _chunks(data) if too_large else _broken(data[:after])
        limit = len(data) - 1 if too_large else len(data)
        before = self.place.keys("uploads")
        with pytest.raises(ports.TooLargeError if too_large else ConnectionResetError):
            self._do(lambda: self.store.stage(source, limit_bytes=limit), None)
        assert self.place.keys("uploads") == before

    @rule(choice=st.integers(0, 99), size=sizes, tenant=tenants, kill=kills)
    def publish(self, choice: int, size: int, tenant: int, kill: int | None) -> None:
        """An artifact is created: bytes first, then what refers to them."""
        if not self.model.staged:
            self._stage(PAYLOADS[size], None)
        staged, data = self._pick(self.model.staged, choice)
        key = (self.tenant_uids[tenant], staged.digest)
        self.model.staged.remove((staged, data))
        if self._do(lambda: self.store.publish(key[0], staged), kill) is KILLED:
            self.model.doubts(key, data)
        else:
            self.model.gains(key, data)
            self.model.references.append(key)

    @rule(size=sizes, tenant=tenants, kill=kills)
    def put(self, size: int, tenant: int, kill: int | None) -> None:
        data = PAYLOADS[size]
        key = (self.tenant_uids[tenant], digests.of(data))
        if self._do(lambda: self.store.put(key[0], data), kill) is KILLED:
            self.model.doubts(key, data)
        else:
            self.model.gains(key, data)
            self.model.references.append(key)

    @precondition(lambda self: self.model.references)
    @rule(choice=st.integers(0, 99))
    def delete_artifact(self, choice: int) -> None:
        self.model.references.remove(self._pick(self.model.references, choice))

    @rule(size=sizes, tenant=tenants, first=st.integers(0, 80_000), count=st.integers(0, 80_000))
    def read_a_range(self, size: int, tenant: int, first: int, count: int) -> None:
        data = PAYLOADS[size]
        key = (self.tenant_uids[tenant], digests.of(data))
        if self._is_there(key, data):
            first = min(first, len(data))
            count = min(count, len(data) - first)
            assert self._run(self._received(key, first, count)) == data[first : first + count]

    # -- sessions

    @rule(size=sizes, tenant=tenants, kill=kills)
    def create_session(self, size: int, tenant: int, kill: int | None) -> None:
        self._create_session(PAYLOADS[size], tenant, kill)

    def _create_session(self, data: bytes, tenant: int, kill: int | None) -> None:
        session = uploads.Session(
            str(uuid.uuid4()), self.tenant_uids[tenant], "team", "artifact", str(uuid.uuid4())
        )
        taken = [
            each
            for each in self.model.uploads.values()
            if each.session.tenant_uid == session.tenant_uid and not each.is_finished
        ]
        sure = [each for each in taken if not (each.may_be_finished or each.may_be_gone)]
        try:
            made = self._do(lambda: self.sessions.create(session, limit=SESSION_LIMIT), kill)
        except session_ports.SessionLimitError:
            assert len(taken) >= SESSION_LIMIT
            return
        assert len(sure) < SESSION_LIMIT
        if isinstance(made, uploads.Session):
            self.model.uploads[made.session_id] = Upload(made, data)
        else:
            state = self._run(self.sessions.head(session.session_id))
            if state is not None:
                self.model.uploads[session.session_id] = Upload(state.session, data)
            self._run(self.sessions.free_slots(FUTURE))

    @rule(
        choice=st.integers(0, 99),
        count=st.integers(1, 9000),
        stale=st.sampled_from((False, False, True)),
        breaks=st.booleans(),
        kill=kills,
    )
    def append(self, choice: int, count: int, stale: bool, breaks: bool, kill: int | None) -> None:
        """Send more bytes where they end, or where they once ended, as one does who has missed an answer."""
        upload = self._pick_upload(choice)
        offset = upload.acknowledged
        if stale:
            offset = self._pick([0, *upload.history], count)
        refused = offset < upload.acknowledged or upload.is_sealed
        data = upload.data[offset : offset + count]
        if not data:
            return
        if not refused:
            upload.sent = offset + len(data)
        source = _broken(data) if breaks else _chunks(data, 700)
        try:
            end = self._do(
                lambda: self.sessions.append(upload.session, offset, source, limit_bytes=len(data)),
                kill,
            )
        except (session_ports.OffsetError, session_ports.SessionNotFoundError):
            assert refused or upload.may_be_ended
        except ConnectionResetError:
            assert breaks
        else:
            if isinstance(end, int):
                assert not refused, "bytes were taken that nobody will ever see"
                assert end == offset + len(data)
                upload.acknowledged = end
        self._check_upload(upload)

    @rule(choice=st.integers(0, 99), kill=kills, kill_publish=kills, kill_finish=kills)
    def complete(
        self, choice: int, kill: int | None, kill_publish: int | None, kill_finish: int | None
    ) -> None:
        """Seal, publish, refer, finish: as the facade does, killed anywhere."""
        upload = self._pick_upload(choice)
        if upload.is_finished or upload.may_be_finished:
            return
        staged = self._seal(upload, kill)
        if staged is None:
            return
        key, data = (upload.session.tenant_uid, staged.digest), upload.data[: staged.size_bytes]
        try:
            if self._do(lambda: self.store.publish(key[0], staged), kill_publish) is KILLED:
                self.model.doubts(key, data)
                upload.may_be_published = True
                return
        except ports.BlobNotFoundError:  # the client came back after the grace: it must upload again
            assert upload.may_be_published
            assert key not in self.model.there
            return
        self.model.gains(key, data)
        self.model.references.append(key)
        upload.may_be_finished = True
        if self._do(lambda: self.sessions.finish(upload.session), kill_finish) is not KILLED:
            upload.is_finished = True
        else:
            self._run(self.sessions.finish(upload.session))
            upload.is_finished = True
        self._check_upload(upload)

    @rule(choice=st.integers(0, 99), kill=kills)
    def abort(self, choice: int, kill: int | None) -> None:
        upload = self._pick_upload(choice)
        if self._do(lambda: self.sessions.abort(upload.session), kill) is KILLED:
            upload.may_be_gone = True
            if self._run(self.sessions.head(upload.session.session_id)) is not None:
                self._run(self.sessions.abort(upload.session))  # the client, or the collector, tries again
            self._run(self.sessions.free_slots(FUTURE))
        assert self._run(self.sessions.head(upload.session.session_id)) is None
        del self.model.uploads[upload.session.session_id]

    @rule(kill=kills)
    def sweep(self, kill: int | None) -> None:
        """The collector removes what belongs to nobody: then nothing else is left."""
        if self._do(self._sweep, kill) is KILLED:
            self._run(self._sweep())
        kept = self._run(self._kept_ids())
        found = {key.split("/")[1].split(".")[0] for key in self.place.keys("uploads")}
        assert found <= kept, found - kept

    async def _sweep(self) -> None:
        kept = await self._kept_ids()
        async for entry in self.sessions.entries():
            if isinstance(entry, uploads.Leftover):
                if entry.upload_id not in kept:
                    await self.sessions.remove(entry)
            elif entry.session.session_id not in self.model.uploads:
                await self.sessions.abort(entry.session)
        await self.sessions.free_slots(FUTURE)

    async def _kept_ids(self) -> set[str]:
        kept = {staged.upload_id for staged, _ in self.model.staged} | set(self.model.uploads)
        for session_id in self.model.uploads:
            state = await self.sessions.head(session_id)
            if state is not None and state.seal is not None:
                kept.add(state.seal.staged_id)
        return kept

    # -- garbage

    @rule(tenant=tenants, kill=kills)
    def collect(self, tenant: int, kill: int | None) -> None:
        """What nobody refers to goes, what somebody refers to stays."""
        time.sleep(0.02)  # a disk's clock ticks every 4 ms: what is as old as its claim would stay
        tenant_uid = self.tenant_uids[tenant]
        referred = self._referred(tenant_uid)
        visible = {blob.digest for blob in self._run(self.inventory.blobs(tenant_uid))}
        asked = sorted(visible | {digests.of(b"absent")})
        live = self._live(tenant_uid)
        removal = self._do(lambda: self.inventory.remove(tenant_uid, asked, live, timedelta(0)), kill)
        garbage = {(tenant_uid, digest) for digest in visible - referred}
        if isinstance(removal, inventory.Removal):
            removed = {(tenant_uid, blob.digest) for blob in removal.removed}
            for key in removed:
                self.model.loses(key)
            # S3's times are whole seconds: what is as old as its claim stays.
            assert removed == garbage if self.place.folder else removed <= garbage
        else:
            for key in garbage:
                self.model.doubts_removal(key)
            self._run(self.inventory.reap(timedelta(days=-1)))  # a dead collector's claims become stale

    @precondition(lambda self: self.place.folder)
    @rule(choice=st.integers(0, 99), size=sizes, tenant=tenants, pause=st.floats(0, 0.01))
    def publish_while_collecting(self, choice: int, size: int, tenant: int, pause: float) -> None:
        """Old bytes are published again at the moment in which a collector decides about them."""
        if not self.model.staged:
            self._stage(PAYLOADS[size], None)
        staged, data = self._pick(self.model.staged, choice)
        self.model.staged.remove((staged, data))
        key = (self.tenant_uids[tenant], staged.digest)
        self.place.age(self.tenant_uids)
        visible = {blob.digest for blob in self._run(self.inventory.blobs(key[0]))}

        async def publish() -> None:
            await asyncio.sleep(pause)
            await self.store.publish(key[0], staged)
            self.model.references.append(key)

        async def both() -> inventory.Removal:
            removing = self.inventory.remove(key[0], [*visible, key[1]], self._live(key[0]), GRACE)
            removal, _ = await asyncio.gather(removing, publish())
            return removal

        removal = self._run(both())
        for blob in removal.removed:
            self.model.loses((key[0], blob.digest))
        self.model.gains(key, data)

    def _live(self, tenant_uid: str) -> Callable[[frozenset[str]], Awaitable[Collection[str]]]:
        async def live(asked: frozenset[str]) -> Collection[str]:
            await asyncio.sleep(0)
            return asked & self._referred(tenant_uid)

        return live

    def _referred(self, tenant_uid: str) -> set[str]:
        return {digest for owner, digest in self.model.references if owner == tenant_uid}

    def _pick_upload(self, choice: int) -> Upload:
        if not self.model.uploads:
            self._create_session(PAYLOADS[SIZES[-1]], choice % 2, None)
        upload = self._pick(list(self.model.uploads.values()), choice)
        self._check_upload(upload)
        return upload


async def _chunks(data: bytes, size: int = 64 << 10) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


async def _broken(data: bytes) -> AsyncIterator[bytes]:
    async for chunk in _chunks(data, 700):
        yield chunk
    raise ConnectionResetError
