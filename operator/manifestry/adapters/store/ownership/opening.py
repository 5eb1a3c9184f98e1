"""A process's store with its resumable uploads, behind one guard: what both components open."""

from collections.abc import Callable
from dataclasses import dataclass

from manifestry.adapters import clock as clocks
from manifestry.adapters.store import sessions, stores
from manifestry.adapters.store.contract import ports, session_ports
from manifestry.adapters.store.ownership import guarded, guards, homes, owners
from manifestry.adapters.store.ownership import tenants as ownership_tenants
from manifestry.settings import StoreSettings


@dataclass(frozen=True)
class Opened:
    """What is open; nothing may be written until the guard has looked."""

    store: ports.Store
    sessions: session_ports.Sessions
    guard: guards.Guard

    async def close(self) -> None:
        """Release threads and descriptors."""
        await self.sessions.close()
        await self.store.close()


@dataclass(frozen=True)
class Process:
    """Who opens a store.

    Args:
        home: its cluster.
        name_of: the name of the namespace with a uid, empty for unknown.
        identity: its name, for people.
        leads: whether it is the leader.
    """

    home: homes.Home
    name_of: Callable[[str], str]
    identity: str = ""
    leads: bool = False


def open_guarded(settings: StoreSettings, process: Process, clock: clocks.Clock | None = None) -> Opened:
    """Return the store that the settings describe, and its sessions; nothing is sent yet."""
    raw = stores.open_store(settings)
    guard = guard_of(raw, process, clock)
    tenants = ownership_tenants.Tenants(raw.records(), lambda: guard.cluster_uid, process.name_of)
    partial = sessions.open_sessions(settings, raw)
    return Opened(
        guarded.GuardedStore(raw, guard, tenants),
        guarded.GuardedSessions(partial, guard),
        guard,
    )


def guard_of(raw: ports.Store, process: Process, clock: clocks.Clock | None = None) -> guards.Guard:
    """Return the guard of a store; only a leader sends removals that must end."""
    return guards.Guard(
        owners.Owner(raw.records(), process.home, process.identity),
        lambda: raw.examine(removals=process.leads),
        clock,
        leads=process.leads,
    )
