"""What lies below uploads and sessions: listed, told apart, and freed."""

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import obstore
import pytest

from manifestry.adapters.store.contract import ports
from manifestry.adapters.store.local import session_files
from manifestry.adapters.store.local import sessions as local_sessions
from manifestry.core.artifacts import uploads
from tests.component.store import test_sessions as contract
from tests.component.store.test_sessions import Place, chunks

place, tenant = contract.place, contract.tenant


async def test_a_record_that_was_cut_off_is_no_session(place: Place, tenant: str) -> None:
    session = await place.begin(tenant)
    (record,) = [key for key in place.keys("uploads") if session.session_id in key and key.endswith("json")]
    obstore.put(place.behind, record, b'{"session_id": ')
    assert await place.sessions.head(session.session_id) is None
    entry = (await place.entries())[session.session_id]
    assert isinstance(entry, uploads.Leftover)
    await place.sessions.remove(entry)
    assert [key for key in place.keys("uploads") if session.session_id in key] == []


async def test_everything_below_uploads_is_listed(place: Place, tenant: str) -> None:
    begun = datetime.now(UTC) - timedelta(seconds=5)
    session, sealed = await place.begin(tenant, length_bytes=5), await place.begin(tenant)
    await place.append(session, 0, b"hello")
    await place.append(sealed, 0, b"world")
    await place.sessions.seal(sealed)
    staged = await place.store.stage(chunks(b"plain"), limit_bytes=5)
    orphan = await place.begin(tenant)
    await place.append(orphan, 0, b"x")
    for key in place.keys("uploads"):
        if orphan.session_id in key and key.endswith("json"):
            obstore.delete(place.behind, key)
    obstore.put(place.behind, "uploads/not-ours.txt", b"")
    found = await place.entries()
    assert all(begun < found[each].touched < begun + timedelta(seconds=60) for each in (session.session_id,))
    state = found[session.session_id]
    assert isinstance(state, uploads.State)
    assert (state.session, state.offset, state.seal) == (session, 5, None)
    other = found[sealed.session_id]
    assert isinstance(other, uploads.State)
    assert other.seal is not None
    for leftover in (found[staged.upload_id], found[orphan.session_id]):
        assert isinstance(leftover, uploads.Leftover)
        await place.sessions.remove(leftover)
    for kept in (session, sealed):
        await place.sessions.abort(kept)
    mine = (session.session_id, sealed.session_id, staged.upload_id, orphan.session_id)
    assert not [key for key in place.keys("uploads") if any(each in key for each in mine)]
    assert "uploads/not-ours.txt" in place.keys("uploads")


async def test_slots_without_a_session_are_freed_after_a_while(place: Place, tenant: str) -> None:
    kept = await place.begin(tenant)
    obstore.put(place.behind, uploads.slot(tenant, 1), str(uuid.uuid4()).encode())
    obstore.put(place.behind, uploads.slot(tenant, 2), b"")
    soon = datetime.now(UTC) + timedelta(seconds=60)
    assert await place.sessions.free_slots(datetime.now(UTC) - timedelta(hours=1)) == 0
    assert await place.sessions.free_slots(soon) >= 2
    assert place.keys(f"sessions/{tenant}") == [uploads.slot(tenant, kept.slot)]


async def test_a_session_that_cannot_be_recorded_takes_no_slot(
    place: Place, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if isinstance(place.sessions, local_sessions.LocalSessions):

        def fail(*_: object) -> None:
            raise OSError(28, "no space left on device")

        monkeypatch.setattr(session_files, "create", fail)
    else:

        async def refuse(*_: object) -> None:
            raise ports.StoreFullError("full")

        monkeypatch.setattr(cast("Any", place.sessions)._pieces, "put", refuse)
    with pytest.raises(ports.StoreFullError):
        await place.begin(tenant)
    assert place.keys(f"sessions/{tenant}") == []
