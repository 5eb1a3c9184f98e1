"""A store and its resumable uploads behind a guard: reads go through, writes are asked for first."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path

from manifestry.adapters.store.contract.claim_ports import Claim, Claims, Look
from manifestry.adapters.store.contract.ports import Blob, Chunk, Payload, Staged, Store
from manifestry.adapters.store.contract.record_ports import LIST_MAX, Item, Records
from manifestry.adapters.store.contract.session_ports import Sessions
from manifestry.adapters.store.ownership import tenants as ownership_tenants
from manifestry.adapters.store.ownership.guards import Guard
from manifestry.core.artifacts import uploads
from manifestry.core.blobs import garbagekeys

NameOf = Callable[[str], str]


class GuardedStore:
    """See `ports.Store`; what writes may raise `StoreRefusedError`.

    Args:
        store: the store itself.
        guard: asked before each write.
        tenants: notes whose a tenant's prefix is, before anything is published there.
    """

    def __init__(self, store: Store, guard: Guard, tenants: ownership_tenants.Tenants) -> None:
        self._store = store
        self._guard = guard
        self._tenants = tenants

    async def stage(self, chunks: AsyncIterator[Chunk], *, limit_bytes: int) -> Staged:
        """Store and hash a stream where nobody sees it."""
        self._guard.require()
        return await self._store.stage(chunks, limit_bytes=limit_bytes)

    async def publish(self, tenant_uid: str, staged: Staged) -> Blob:
        """Make staged bytes visible under their digest."""
        self._guard.require()
        await self._tenants.note(tenant_uid)
        blob = await self._store.publish(tenant_uid, staged)
        self._guard.require()  # what is not ours any more is not acknowledged
        return blob

    async def put(self, tenant_uid: str, data: bytes) -> Blob:
        """Publish a few bytes that are in memory anyway."""
        self._guard.require()
        await self._tenants.note(tenant_uid)
        blob = await self._store.put(tenant_uid, data)
        self._guard.require()
        return blob

    async def head(self, tenant_uid: str, digest: str) -> Blob | None:
        """Return a blob's size."""
        return await self._store.head(tenant_uid, digest)

    async def confirm(self, tenant_uid: str, digest: str) -> Blob | None:
        """Return a blob's size once no collector is about to decide on it."""
        return await self._store.confirm(tenant_uid, digest)

    async def read(self, tenant_uid: str, digest: str, *, limit_bytes: int) -> bytes:
        """Return a small blob."""
        return await self._store.read(tenant_uid, digest, limit_bytes=limit_bytes)

    def stream(
        self, tenant_uid: str, digest: str, *, offset: int = 0, count: int | None = None
    ) -> AsyncGenerator[memoryview, None]:
        """Yield the bytes."""
        return self._store.stream(tenant_uid, digest, offset=offset, count=count)

    async def open(self, tenant_uid: str, digest: str) -> Payload | None:
        """Return a blob's open file."""
        return await self._store.open(tenant_uid, digest)

    async def link(self, tenant_uid: str, digest: str, seconds: float) -> str | None:
        """Return a URL of the blob."""
        return await self._store.link(tenant_uid, digest, seconds)

    async def discard(self, staged: Staged) -> None:
        """Remove staged bytes; they are this process's own, whosever the store is."""
        await self._store.discard(staged)

    async def delete(self, tenant_uid: str, digest: str) -> None:
        """Remove a blob."""
        self._guard.require_owner()
        await self._store.delete(tenant_uid, digest)

    async def canary(self) -> None:
        """Write, read back and delete a few bytes; of a store that is not ours only read."""
        if self._guard.is_ours:
            await self._store.canary()
        else:
            await self._store.records().head(garbagekeys.OWNER)

    async def examine(self, *, removals: bool) -> str:
        """Try what everything relies on."""
        return await self._store.examine(removals=removals)

    async def look(self) -> None:
        """Read, as readiness needs it."""
        await self._store.look()

    def local_path(self, tenant_uid: str, digest: str) -> Path | None:
        """Return where the blob lies."""
        return self._store.local_path(tenant_uid, digest)

    def records(self) -> Records:
        """Return what the collector works on."""
        return GuardedRecords(self._store.records(), self._guard)

    def claims(self) -> Claims:
        """Return how the collector removes."""
        return GuardedClaims(self._store.claims(), self._guard)

    async def close(self) -> None:
        """Close the store."""
        await self._store.close()


class GuardedRecords:
    """See `record_ports.Records`."""

    def __init__(self, records: Records, guard: Guard) -> None:
        self._records = records
        self._guard = guard

    async def scan(self, prefix: str, *, after: str = "", limit: int = LIST_MAX) -> list[Item]:
        """Return keys."""
        return await self._records.scan(prefix, after=after, limit=limit)

    def walk(self, prefix: str) -> AsyncIterator[Item]:
        """Yield every key below a prefix."""
        return self._records.walk(prefix)

    async def folders(self, prefix: str) -> list[str]:
        """Return the names directly below a prefix."""
        return await self._records.folders(prefix)

    async def head(self, key: str) -> Item | None:
        """Return one key."""
        return await self._records.head(key)

    async def read(self, key: str, *, limit_bytes: int) -> bytes | None:
        """Return the bytes."""
        return await self._records.read(key, limit_bytes=limit_bytes)

    async def create(self, key: str, data: bytes) -> Item | None:
        """Write a few bytes if the key is not there."""
        self._guard.require_owner()
        return await self._records.create(key, data)

    async def replace(self, key: str, seen: bytes, data: bytes) -> bool:
        """Write a few bytes if the key still has those that were seen."""
        self._guard.require_owner()
        return await self._records.replace(key, seen, data)

    async def write(self, key: str, data: bytes) -> None:
        """Write a few bytes."""
        self._guard.require_owner()
        await self._records.write(key, data)

    async def touch(self, key: str) -> None:
        """Make a key's time new."""
        self._guard.require_owner()
        await self._records.touch(key)

    async def move(self, key: str, to: str) -> None:
        """Give a key another name."""
        self._guard.require_owner()
        await self._records.move(key, to)

    def stream(self, key: str) -> AsyncGenerator[memoryview, None]:
        """Yield the bytes of a large key."""
        return self._records.stream(key)

    async def remove(self, key: str) -> None:
        """Remove a key."""
        self._guard.require_owner()
        await self._records.remove(key)

    async def prune(self, prefix: str) -> None:
        """Remove empty folders."""
        self._guard.require_owner()
        await self._records.prune(prefix)


class GuardedClaims:
    """See `claim_ports.Claims`."""

    def __init__(self, claims: Claims, guard: Guard) -> None:
        self.at_once = claims.at_once
        self._claims = claims
        self._guard = guard

    async def make(self, tenant_uid: str, digest: str) -> Claim | None:
        """Claim a blob."""
        self._guard.require_owner()
        return await self._claims.make(tenant_uid, digest)

    async def prepare(self, tenant_uid: str) -> None:
        """Get ready to claim when the store is full."""
        self._guard.require_owner()
        await self._claims.prepare(tenant_uid)

    async def fence(self, claims: Sequence[Claim]) -> list[Claim]:
        """Bound in time what can be done under new claims."""
        self._guard.require_owner()
        return await self._claims.fence(claims)

    async def remove(self, claim: Claim) -> bool:
        """Remove the claimed blob."""
        self._guard.require_owner()
        return await self._claims.remove(claim)

    async def set_aside(self, tenant_uid: str, digest: str, is_same: Look) -> bool:
        """Move a blob to where damaged bytes are kept."""
        self._guard.require_owner()
        return await self._claims.set_aside(tenant_uid, digest, is_same)

    async def give_back(self, claims: Sequence[Claim]) -> None:
        """Release claims before anything was done under them; they are this process's own."""
        await self._claims.give_back(claims)

    async def release(self, claim: Claim) -> None:
        """Give a claim back; it is this process's own."""
        await self._claims.release(claim)

    async def reap(self, age: timedelta) -> int:
        """Take old claims away."""
        self._guard.require_owner()
        return await self._claims.reap(age)


class GuardedSessions:
    """See `session_ports.Sessions`; what writes may raise `StoreRefusedError`.

    Args:
        sessions: the resumable uploads themselves.
        guard: asked before each write.
    """

    def __init__(self, sessions: Sessions, guard: Guard) -> None:
        self._sessions = sessions
        self._guard = guard

    @property
    def piece_bytes(self) -> int:
        """Return how many bytes are held in memory before they are written."""
        return self._sessions.piece_bytes

    async def create(self, session: uploads.Session, *, limit: int) -> uploads.Session:
        """Begin a session."""
        self._guard.require()
        return await self._sessions.create(session, limit=limit)

    async def head(self, session_id: str) -> uploads.State | None:
        """Return how far a session is."""
        return await self._sessions.head(session_id)

    async def append(
        self, session: uploads.Session, offset: int, chunks: AsyncIterator[Chunk], *, limit_bytes: int
    ) -> int:
        """Store more bytes at the end."""
        self._guard.require()
        end = await self._sessions.append(session, offset, chunks, limit_bytes=limit_bytes)
        self._guard.require()  # what came may have taken hours
        return end

    async def cut(self, session: uploads.Session, offset: int) -> None:
        """Remove the bytes from an offset on."""
        self._guard.require_owner()
        await self._sessions.cut(session, offset)

    async def seal(self, session: uploads.Session, *, size_bytes: int | None = None) -> Staged:
        """Hash the bytes and let no more come."""
        self._guard.require()
        return await self._sessions.seal(session, size_bytes=size_bytes)

    async def finish(self, session: uploads.Session) -> None:
        """Give the slot and the bytes free after they were published."""
        self._guard.require_owner()
        await self._sessions.finish(session)

    async def abort(self, session: uploads.Session) -> None:
        """Remove a session."""
        self._guard.require_owner()
        await self._sessions.abort(session)

    def entries(self) -> AsyncGenerator[uploads.State | uploads.Leftover, None]:
        """Yield every session."""
        return self._sessions.entries()

    async def remove(self, leftover: uploads.Leftover) -> None:
        """Remove bytes that belong to no session."""
        self._guard.require_owner()
        await self._sessions.remove(leftover)

    async def free_slots(self, before: datetime) -> int:
        """Free slots whose sessions are gone."""
        self._guard.require_owner()
        return await self._sessions.free_slots(before)

    async def close(self) -> None:
        """Close the sessions."""
        await self._sessions.close()
