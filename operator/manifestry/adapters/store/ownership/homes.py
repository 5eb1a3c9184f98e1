"""What the cluster says of itself to whoever asks whose a store is: its uid, and the turns of its leaders."""

from dataclasses import dataclass
from typing import Any, Final, Protocol

from manifestry.adapters.kube import apierrors, cluster
from manifestry.core.blobs import ownership
from manifestry.core.kube import names

SYSTEM_NAMESPACE: Final = "kube-system"  # its uid is what the field takes for a cluster's identity
TURNS: Final = f"{names.GROUP}/store-turns"


@dataclass(frozen=True)
class Noted:
    """A look at the cluster.

    Args:
        home: what it says.
        lease: the object in which turns are noted, None where there is none yet.
    """

    home: ownership.Home
    lease: dict[str, Any] | None = None


class Home(Protocol):
    """Where turns are noted; every method may raise `ApiError`."""

    async def look(self) -> Noted:
        """Return what the cluster says now."""
        ...

    async def note(self, seen: Noted, turns: tuple[str, ...], leader: str) -> None:
        """Note the turns in the place of those that were seen.

        Raises:
            ApiError: somebody else has noted others meanwhile, or the API server does not answer.
        """
        ...


class KubeHome:
    """Turns are noted in a Lease beside that of the leader election; etcd's snapshots have both.

    Args:
        client: the Kubernetes API.
        namespace: our own.
        lease_name: of the leader election.
    """

    def __init__(self, client: cluster.KubeClient, namespace: str, lease_name: str) -> None:
        self._client = client
        self._namespace = namespace
        self._name = f"{lease_name}-store"
        self._uid = ""

    async def look(self) -> Noted:
        """Return what the cluster says now; its uid is asked for once."""
        if not self._uid:
            found = await self._client.get(names.NAMESPACES, SYSTEM_NAMESPACE)
            self._uid = str(found["metadata"]["uid"])
        try:
            lease = await self._client.get(names.LEASES, self._name, self._namespace)
        except apierrors.NotFoundError:
            return Noted(ownership.Home(self._uid))
        noted = (lease["metadata"].get("annotations") or {}).get(TURNS, "")
        return Noted(ownership.Home(self._uid, tuple(filter(None, noted.split(",")))), lease)

    async def note(self, seen: Noted, turns: tuple[str, ...], leader: str) -> None:
        """Write the Lease as it was seen, with other turns."""
        lease = seen.lease or {
            "apiVersion": names.LEASES.api_version,
            "kind": names.LEASES.kind,
            "metadata": {"name": self._name, "namespace": self._namespace},
        }
        meta = lease["metadata"]
        annotations = {**(meta.get("annotations") or {}), TURNS: ",".join(turns)}
        spec = {**(lease.get("spec") or {}), "holderIdentity": leader}
        body = {**lease, "metadata": {**meta, "annotations": annotations}, "spec": spec}
        if seen.lease is None:
            await self._client.create(names.LEASES, body)
        else:
            await self._client.replace(names.LEASES, body)
