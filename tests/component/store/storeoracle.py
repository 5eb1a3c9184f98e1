"""A store and the model of it, side by side: how one is used and killed, and how both are compared."""

import asyncio
import hashlib
import sys
import uuid
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar, Final, TypeVar, cast

from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant

from manifestry.adapters.store import inventory, sessions, stores
from manifestry.adapters.store.contract import ports
from manifestry.adapters.store.local import sessions as local_sessions
from manifestry.adapters.store.remote import sessions as remote_sessions
from manifestry.core.blobs import digests, keys
from manifestry.settings import StoreSettings
from tests.component.store.storeplaces import Key, Model, Place, Upload
from tests.faults.crashes import Crash, Fuse

PIECE_BYTES: Final = 2000  # instead of 1 or 8 MiB, so that an append has several
LOST_ANSWER: Final = 100  # everything is done, but nobody hears of it

T = TypeVar("T")


class Killed:
    """The outcome of what was killed."""


KILLED: Final = Killed()


class StoreOracle(RuleBasedStateMachine):
    """A store, what the model says of it, and what must always hold."""

    make_place: ClassVar[Callable[[], Place]]
    fuse: ClassVar[Fuse]

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.place = type(self).make_place()
        self.tenant_uids = (str(uuid.uuid4()), str(uuid.uuid4()))
        self.model = Model()
        self.steps: dict[str, int] = {}

    @initialize()
    def begin(self) -> None:
        self._open()

    def teardown(self) -> None:
        """Look at everything once more."""
        try:
            self.fuse.mend()
            self._reads_back()
        finally:
            self._close()
            self.runner.close()

    # -- what must always hold

    @invariant()
    def visible_is_what_the_model_says(self) -> None:
        for tenant_uid in self.tenant_uids:
            shown = set(self.place.keys(keys.tenant(tenant_uid)))
            found = {parsed for key in shown if (parsed := keys.parse_blob(key))}
            assert len(found) == len(shown), "there is something else below a tenant's blobs"
            sure = {key for key in self.model.there if key[0] == tenant_uid}
            assert sure <= found, "a blob is lost"
            assert found <= sure | set(self.model.open), "a blob came from nowhere"

    def _reads_back(self) -> None:
        if not hasattr(self, "store"):
            return
        for key, data in self.model.there.items():
            assert self._run(self._received(key, 0, None)) == data
        for key, data in self.model.open.items():
            if self._run(self.store.head(*key)) is not None:
                assert self._run(self._received(key, 0, None)) == data
        for reference in self.model.references:
            assert reference in self.model.there
        for upload in list(self.model.uploads.values()):
            self._check_upload(upload)

    def _is_there(self, key: Key, data: bytes) -> bool:
        blob = self._run(self.store.head(*key))
        assert blob in {None, ports.Blob(key[1], len(data))}
        if key in self.model.there:
            assert blob is not None
        elif key not in self.model.open:
            assert blob is None
        elif blob is not None:
            self.model.gains(key, data)
        else:
            self.model.loses(key)
        return blob is not None

    def _check_upload(self, upload: Upload) -> None:
        state = self._run(self.sessions.head(upload.session.session_id))
        if state is None:
            assert upload.may_be_gone or upload.may_be_finished, "a session is lost"
            return
        assert state.session == upload.session
        assert upload.acknowledged <= state.offset <= upload.sent
        upload.acknowledged = upload.sent = state.offset
        upload.history.append(state.offset)
        assert upload.is_sealed <= (state.seal is not None) <= (upload.is_sealed or upload.may_be_sealed)
        if state.seal is not None:
            upload.is_sealed = True

    def _seal(self, upload: Upload, kill: int | None) -> ports.Staged | None:
        self._check_upload(upload)
        upload.may_be_sealed = True
        staged = self._do(lambda: self.sessions.seal(upload.session), kill)
        if not isinstance(staged, ports.Staged):
            self._check_upload(upload)
            upload.may_be_sealed, upload.may_be_ended = upload.is_sealed, True
            return None
        upload.is_sealed = True
        sent = upload.data[: upload.acknowledged]
        assert (staged.digest, staged.size_bytes) == (digests.of(sent), len(sent))
        return staged

    # -- how it is done

    def _open(self) -> None:
        settings = StoreSettings.from_mapping(self.place.settings)

        async def opening() -> None:
            self.store = stores.open_store(settings)
            self.sessions = sessions.open_sessions(settings, self.store)

        self.runner.run(opening())
        assert isinstance(self.sessions, local_sessions.LocalSessions | remote_sessions.RemoteSessions)
        self.sessions.piece_bytes = PIECE_BYTES
        self.inventory = inventory.Inventory(self.store)

    def _close(self) -> None:
        if hasattr(self, "store"):
            self.runner.run(self.sessions.close())
            self.runner.run(self.store.close())

    def _run(self, work: Any) -> Any:
        async def bounded() -> Any:
            async with asyncio.timeout(30):
                return await work

        return self.runner.run(bounded())

    def _do(self, work: Callable[[], Awaitable[T]], kill: int | None) -> T | Killed:
        """Do something, and be killed on `kill` percent of the way; then a new process takes over."""
        operation = sys._getframe(1).f_code.co_name
        if kill is not None and kill != LOST_ANSWER:
            self.fuse.set(kill * self.steps.get(operation, 10) // LOST_ANSWER)
        try:
            done = self._run(work())
        except Crash:
            done = KILLED
        finally:
            blown, steps = self.fuse.blown, self.fuse.steps
            self.fuse.mend()
        if not blown:
            self.steps[operation] = steps
        if blown or kill == LOST_ANSWER:
            self._close()
            self._open()
            return KILLED
        return cast("T", done)

    def _pick(self, listed: list[T], choice: int) -> T:
        return listed[choice % len(listed)]

    async def _received(self, key: Key, first: int, count: int | None) -> bytes:
        views = [bytes(view) async for view in self.store.stream(*key, offset=first, count=count)]
        data = b"".join(views)
        assert count is not None or f"sha256:{hashlib.sha256(data).hexdigest()}" == key[1]
        return data
