"""The last seen JobTypes, TenantQuotas and tenant namespaces: few, small, and asked for at every decision."""

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from typing import Any

from manifestry.core.artifacts.plans import DropPin, PutPin
from manifestry.core.kube import names
from manifestry.core.quota import quotas
from manifestry.core.quota.storage import departures

Object = Mapping[str, Any]
MAX_DELETED = 4096  # uids that are remembered: what falls out is released by the next repair instead
MAX_DEPARTED = 16_384  # Artifacts; of one that falls out the pin stays as it is, listed and removable
CACHED = (names.JOB_TYPES, names.TENANT_QUOTAS, names.NAMESPACES)


class Caches:
    """Fed by kopf's events, corrected by every resync's LIST: kopf tells no DELETED after a re-list."""

    def __init__(self) -> None:
        self._kinds: dict[str, dict[str, Object]] = {resource.kind: {} for resource in CACHED}
        self._deleted: dict[str, None] = {}
        self._departed: dict[tuple[str, str], dict[str, PutPin | DropPin]] = {}
        self._claimants: dict[str, frozenset[str]] | None = None  # namespaces by the tenant they claim
        self._quotas: quotas.Table | None = None
        self.served: dict[str, str | None] = {}  # the claim by which a namespace was last looked at
        self.summarised: dict[str, float] = {}  # when a TenantQuota's usage was last written, monotonic

    @property
    def job_types(self) -> Mapping[str, Object]:
        """Return the JobTypes by name."""
        return self._kinds[names.JOB_TYPES.kind]

    @property
    def tenant_quotas(self) -> Mapping[str, Object]:
        """Return the TenantQuotas by name."""
        return self._kinds[names.TENANT_QUOTAS.kind]

    @property
    def namespaces(self) -> Mapping[str, Object]:
        """Return the namespaces that carry the tenant label, by name; two may claim the same tenant."""
        return self._kinds[names.NAMESPACES.kind]

    def tenant(self, namespace: str) -> str | None:
        """Return the tenant of a namespace, or None: no tenant, or one that another namespace claims too."""
        claimed = self.claim(namespace)
        return claimed if claimed and len(self.claimants(claimed)) == 1 else None

    def claimants(self, tenant: str | None) -> frozenset[str]:
        """Return the namespaces that claim a tenant; more than one means that none of them is served."""
        if self._claimants is None:
            grouped: dict[str, set[str]] = {}
            for name in self.namespaces:
                if claimed := self.claim(name):
                    grouped.setdefault(claimed, set()).add(name)
            self._claimants = {claimed: frozenset(found) for claimed, found in grouped.items()}
        return self._claimants.get(tenant or "", frozenset())

    def claim(self, namespace: str) -> str | None:
        """Return the tenant that a namespace claims by its label, whoever else does."""
        found = self.namespaces.get(namespace)
        labels = found["metadata"].get("labels") if found else None
        claimed = labels.get(names.TENANT_LABEL) if isinstance(labels, Mapping) else None
        return claimed if isinstance(claimed, str) else None

    @property
    def quota_table(self) -> quotas.Table:
        """Return the TenantQuotas arranged by tenant."""
        if self._quotas is None:
            self._quotas = quotas.Table.of(self.tenant_quotas.values())
        return self._quotas

    def tenant_uid(self, namespace: str) -> str | None:
        """Return the uid of a tenant's namespace, under which its bytes are stored, or None."""
        found = self.namespaces.get(namespace)
        return None if found is None else found["metadata"].get("uid")

    def namespace_of(self, uid: str) -> str:
        """Return the name of the tenant's namespace with a uid, empty for none."""
        return next((name for name in self.namespaces if self.tenant_uid(name) == uid), "")

    def note_deleted(self, uid: str) -> None:
        """Remember that a Job existed and is gone: its reservation belongs to none that is being created."""
        self._deleted[uid] = None
        if len(self._deleted) > MAX_DELETED:
            self._deleted.pop(next(iter(self._deleted)))

    def is_deleted(self, uid: str) -> bool:
        """Tell whether a Job of this uid was seen to go."""
        return uid in self._deleted

    def deleted_of(self, uids: AbstractSet[str]) -> list[str]:
        """Return those of `uids` whose Job was seen to go."""
        return [*(self._deleted.keys() & uids)]

    def note_departed(self, namespace: str, name: str, item: Object) -> None:
        """Remember what the last `deletionPolicy` of an Artifact that is gone still asks for."""
        tenant_uid = self.tenant_uid(namespace)  # now: the namespace may be the next to go
        for action in departures.pins(item, tenant_uid) if tenant_uid else ():
            self._departed.setdefault((namespace, name), {})[action.artifact_uid] = action
        if len(self._departed) > MAX_DEPARTED:
            self._departed.pop(next(iter(self._departed)))

    def departed(self, namespace: str, name: str) -> list[PutPin | DropPin]:
        """Return what is still to be done for the Artifacts of this name that are gone."""
        return list(self._departed.get((namespace, name), {}).values())

    def settle_departed(self, namespace: str, name: str, done: PutPin | DropPin) -> None:
        """Forget what was done for an Artifact that is gone."""
        waiting = self._departed.get((namespace, name), {})
        waiting.pop(done.artifact_uid, None)
        if not waiting:
            self._departed.pop((namespace, name), None)

    def put(self, kind: str, item: Object) -> bool:
        """Keep an object unless it or a newer one is kept already; tell whether it is news.

        Args:
            kind: one of the cached kinds; other kinds are ignored.
            item: the object; one without a name is ignored.
        """
        cache, name = self._kinds.get(kind), _name(item)
        if cache is None or name is None or _version(cache.get(name)) >= _version(item):
            return False
        before, cache[name] = cache.get(name), item
        if before is None or _meaning(before) != _meaning(item):  # mostly only a status has changed
            self._rearrange(kind)
        return True

    def drop(self, kind: str, name: str) -> None:
        """Forget a deleted object."""
        self._kinds.get(kind, {}).pop(name, None)
        self._rearrange(kind)

    def replace(self, kind: str, items: Iterable[Object], version: str = "") -> set[str]:
        """Take a complete LIST; return the names of what it has changed, those that had vanished included.

        Args:
            kind: one of the cached kinds.
            items: all objects.
            version: the LIST's resourceVersion; what an event has told since is kept.
        """
        before = self._kinds[kind]
        newer = {name: item for name, item in before.items() if version and _number(version) < _version(item)}
        listed = {name: item for item in items if (name := _name(item)) is not None}
        after = self._kinds[kind] = {**listed, **newer}
        self._rearrange(kind)
        return {
            name
            for name in before.keys() | after.keys()
            if _version(before.get(name)) != _version(after.get(name))
        }

    def _rearrange(self, kind: str) -> None:
        if kind == names.NAMESPACES.kind:
            self._claimants = None
        elif kind == names.TENANT_QUOTAS.kind:
            self._quotas = None


def _name(item: Object) -> str | None:
    metadata = item.get("metadata")
    name = metadata.get("name") if isinstance(metadata, Mapping) else None
    return name if isinstance(name, str) and name else None


def _meaning(item: Object) -> tuple[Any, Any, Any]:
    """Return what the arrangements below are made of."""
    metadata = item["metadata"]
    return metadata.get("labels"), metadata.get("creationTimestamp"), item.get("spec")


def _version(item: Object | None) -> int:
    return _number(item["metadata"].get("resourceVersion")) if item else 0


def _number(version: Any) -> int:
    return int(version) if isinstance(version, str) and version.isdecimal() else 0
