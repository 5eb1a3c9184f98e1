"""The record of a store's owner: looked at, claimed, and moved on to the leader's next turn."""

import uuid
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from manifestry.adapters.store.contract.claim_ports import CLAIM_STALE
from manifestry.adapters.store.contract.record_ports import LIST_MAX, RECORD_MAX_BYTES, Records
from manifestry.adapters.store.ownership import homes
from manifestry.core.blobs import garbagekeys, keys, ownership
from manifestry.core.blobs.ownership import State

LEFT_BEHIND: Final = timedelta(hours=1)  # no probe takes so long


@dataclass(frozen=True)
class Look:
    """What was found in a store and in the cluster.

    Args:
        state: what follows from it.
        found: the record's bytes, None when there is none.
        noted: what the cluster said after that.
    """

    state: State
    found: bytes | None
    noted: homes.Noted

    @property
    def owner(self) -> str:
        """Return the uid of the cluster that the record names, empty when it names none."""
        record = ownership.parse(self.found) if self.found else None
        return record.cluster_uid if record else ""


class Owner:
    """The owner of one store, asked by one cluster.

    Args:
        records: of the store, unguarded.
        home: the cluster.
        identity: of this process, for people.
    """

    def __init__(self, records: Records, home: homes.Home, identity: str = "") -> None:
        self._records = records
        self._home = home
        self._identity = identity

    async def look(self) -> Look:
        """Read the record and then the cluster; nothing is written.

        Raises:
            StoreError, ApiError: one of them does not answer.
        """
        found = await self._records.read(garbagekeys.OWNER, limit_bytes=RECORD_MAX_BYTES)
        if found is None and await self._records.head(garbagekeys.OWNER) is not None:
            found = b"?"  # it is there, but far too long, or was being written
        noted = await self._home.look()
        return Look(ownership.judge(found, noted.home), found, noted)

    async def claim(self, seen: Look, now: datetime) -> Look:
        """Make a store ours that is nobody's; what came of it is looked at again.

        A record that breaks off before it names a cluster has been left by one who was killed: it says
        nothing, and is replaced when nobody can be writing it any more.
        """
        content = ownership.render(ownership.Record(seen.noted.home.cluster_uid))
        if seen.state is State.ABSENT:
            await self._records.create(garbagekeys.OWNER, content)
        elif seen.state is State.BLANK and seen.found is not None and await self._is_old(now):
            await self._records.replace(garbagekeys.OWNER, seen.found, content)
        return await self.look()

    async def _is_old(self, now: datetime) -> bool:
        item = await self._records.head(garbagekeys.OWNER)
        return item is not None and item.modified + CLAIM_STALE < now

    async def advance(self, seen: Look, now: datetime) -> bool:
        """Put a new turn into the record that was seen; tell whether it was still that one.

        The turn is noted in the cluster first: in the record nobody of ours finds one that is not noted.
        """
        record = ownership.parse(seen.found) if seen.found else None
        if record is None or seen.found is None:
            return False
        return await self._take(seen, seen.found, record.turn, now)

    async def adopt(self, seen: Look, now: datetime) -> bool:
        """Make a store ours, whosever it was; tell whether its record was still the one that was seen."""
        if seen.found is None:
            return (await self.claim(seen, now)).state is State.OURS
        return await self._take(seen, seen.found, "", now)

    async def _take(self, seen: Look, found: bytes, current: str, now: datetime) -> bool:
        home, turn = seen.noted.home, str(uuid.uuid4())
        await self._home.note(seen.noted, ownership.remember(home.turns, current, turn), self._identity)
        renewed = now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        record = ownership.Record(home.cluster_uid, turn, self._identity, renewed)
        return await self._records.replace(garbagekeys.OWNER, found, ownership.render(record))

    async def release(self) -> None:
        """Make a store nobody's."""
        await self._records.remove(garbagekeys.OWNER)

    async def sweep(self, now: datetime) -> int:
        """Remove what killed processes have left of their probes, a thousand at most; return how many."""
        items = await self._records.scan(keys.CANARY, limit=LIST_MAX)
        old = [item for item in items if item.modified + LEFT_BEHIND < now]
        for item in old:
            await self._records.remove(item.key)
        return len(old)
