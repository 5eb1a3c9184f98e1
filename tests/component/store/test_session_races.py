"""Several facades at one session on a volume: what each was told stays, and nobody's bytes get between."""

import asyncio
import random
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from manifestry.adapters.store import sessions, stores
from manifestry.adapters.store.contract import ports, session_ports
from manifestry.adapters.store.local import session_parts
from manifestry.core.artifacts import uploads
from manifestry.core.blobs import digests
from manifestry.settings import StoreSettings

TENANT = "3f2b8a52-7f6e-4d8e-9a53-0b1c2d3e4f50"
ROUNDS = 8
FACADES = 5


@dataclass
class Race:
    """What was sent to one session, and what of it was acknowledged."""

    session: uploads.Session
    chance: random.Random
    sent: list[tuple[int, bytes]] = field(default_factory=list)
    acknowledged: list[tuple[int, bytes]] = field(default_factory=list)
    told: int = 0

    async def chunks(self, data: bytes) -> AsyncIterator[bytes]:
        for start in range(0, len(data), 100):
            await asyncio.sleep(self.chance.choice((0, 0, 0.0005)))
            if self.chance.random() < 0.01:
                raise ConnectionResetError
            yield data[start : start + 100]

    async def append(self, used: session_ports.Sessions) -> None:
        state = await used.head(self.session.session_id)
        assert state is not None
        assert state.offset >= self.told, "what was told is gone"
        self.told = offset = state.offset
        data = self.chance.randbytes(self.chance.randint(1, 3000))
        self.sent.append((offset, data))
        try:
            await used.append(self.session, offset, self.chunks(data), limit_bytes=len(data))
        except (session_ports.OffsetError, ConnectionResetError):
            return
        self.told = max(self.told, offset + len(data))
        self.acknowledged.append((offset, data))

    def check(self, stored: bytes) -> None:
        for offset, data in self.acknowledged:
            assert stored[offset : offset + len(data)] == data
        ends = {0}
        for offset, data in sorted(self.sent, key=lambda each: each[0]):
            if offset in ends:
                ends.update(range(offset, offset + alike(stored[offset:], data) + 1))
        assert len(stored) in ends, "there are bytes that nobody sent there"


def alike(stored: bytes, sent: bytes) -> int:
    """Return how many bytes are the same from the first on."""
    pairs = enumerate(zip(stored, sent, strict=False))
    return next((at for at, (one, other) in pairs if one != other), min(len(stored), len(sent)))


@pytest.mark.parametrize("seed", range(5))
async def test_of_many_that_append_nobody_loses_what_was_acknowledged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr(session_parts, "SYNC_EVERY_BYTES", 700)
    settings = StoreSettings(store_path=str(tmp_path))
    objects = stores.open_store(settings)
    facades = [sessions.open_sessions(settings, objects) for _ in range(FACADES)]
    for each in facades:
        each.piece_bytes = 100  # type: ignore[misc]
    wanted = uploads.Session(str(uuid.uuid4()), TENANT, "team", "a", str(uuid.uuid4()))
    race = Race(await facades[0].create(wanted, limit=1), random.Random(seed))

    for _ in range(ROUNDS):
        await asyncio.gather(*(race.append(each) for each in facades))
        await race.append(facades[-1])  # undisturbed: whoever comes later takes over, so all might lose
    late = session_parts.Parts(tmp_path, race.session.session_id)
    late.write(late.open(), b"never acknowledged")
    results = await asyncio.gather(*(each.seal(race.session) for each in facades[:2]))
    staged = results[0]
    assert results == [staged, staged]
    blob = await objects.publish(TENANT, staged)
    stored = await objects.read(TENANT, blob.digest, limit_bytes=blob.size_bytes)
    race.check(stored)
    assert race.acknowledged, "nobody has got through"
    assert blob.size_bytes >= race.told
    await facades[0].finish(race.session)
    await facades[1].abort(race.session)
    with pytest.raises(ports.StoreError):
        late.commit()
    late.close()
    assert digests.of(await objects.read(TENANT, blob.digest, limit_bytes=blob.size_bytes)) == blob.digest
    for each in facades:
        await each.close()
    await objects.close()
