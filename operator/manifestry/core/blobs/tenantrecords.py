"""Whose a tenant's prefix is, and what becomes of it when its namespace is gone: pure.

A namespace that the collector does not find may have been deleted, by accident, too, or may be another
cluster's. So a whole tenant goes only if its record names this cluster, and days after it was first missed.
"""

import json
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

Fate = Literal["live", "foreign", "unknown", "missed", "waiting", "due"]


@dataclass(frozen=True)
class TenantRecord:
    """What `tenants/<uid>/tenant.json` says.

    Args:
        cluster_uid: the cluster that the tenant's namespace is of.
        namespace: its name, for people; empty when it was not known.
    """

    cluster_uid: str
    namespace: str


@dataclass(frozen=True)
class Seen:
    """A tenant's prefix as a run of the collector finds it.

    Args:
        record: None when there is none, or none that can be read.
        is_live: its namespace is there.
        gone_since: when a run first missed it, by the store's clock; None when none has.
    """

    record: TenantRecord | None
    is_live: bool
    gone_since: datetime | None


def render(record: TenantRecord) -> bytes:
    """Return the record's content."""
    return json.dumps(
        {"version": 1, "clusterUid": record.cluster_uid, "namespace": record.namespace}
    ).encode()


def parse(data: bytes | None) -> TenantRecord | None:
    """Return what a record says, None when that cannot be read."""
    try:
        match json.loads(data or b""):
            case {"clusterUid": str(uid), "namespace": str(namespace)} if uid:
                return TenantRecord(uid, namespace)
    except ValueError:
        pass
    return None


def fate(seen: Seen, cluster_uid: str, now: datetime, grace: timedelta) -> Fate:
    """Return what the collector does with a tenant.

    Args:
        seen: the tenant.
        cluster_uid: our cluster.
        now: the time.
        grace: how long a tenant without a namespace is left alone.

    Returns:
        `live`: its garbage is collected, and it gets a record when it has none. `foreign` (its record names
        another cluster) and `unknown` (its namespace is gone, and it has no record that can be read): nothing
        is touched until an administrator decides. `missed`: the time begins now. `waiting`: it is over later.
        `due`: everything that is not pinned is garbage.
    """
    if seen.record is not None and seen.record.cluster_uid != cluster_uid:
        return "foreign"
    if seen.is_live:
        return "live"
    if seen.record is None:
        return "unknown"
    if seen.gone_since is None:
        return "missed"
    return "due" if seen.gone_since + grace <= now else "waiting"
