"""What a reconciler is given, what it must offer, and which ones there are."""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, cast

from manifestry import settings as configuration
from manifestry.adapters import clock
from manifestry.adapters.kube import cluster
from manifestry.adapters.queues import queues
from manifestry.handlers.runtime import caches

if TYPE_CHECKING:
    from manifestry.adapters.fetching import queues as fetching_queues
    from manifestry.adapters.quota import ledgers
    from manifestry.adapters.store.contract import ports
    from manifestry.adapters.store.ownership import guards
    from manifestry.handlers.runtime import storagestates


@dataclass(frozen=True)
class Context:
    """Everything a reconciler may touch.

    Args:
        client: the Kubernetes API.
        store: the object store.
        ledgers: the quota ledgers, batched.
        caches: last seen JobTypes, TenantQuotas and tenant namespaces.
        queue: where a reconciler wakes other keys `(kind, namespace, name)`.
        clock: time.
        settings: the operator's switches.
        cluster_settings: how the cluster is reached; its `namespace` is our own.
        fetches: downloads for `url` sources; None when they are not served.
        storage: the storage quotas; None when they are not kept.
        guard: says whether the store is ours; without one nothing is collected.
    """

    client: cluster.KubeClient
    store: "ports.Store"
    ledgers: "ledgers.Ledgers"
    caches: caches.Caches
    queue: queues.KeyedQueue
    clock: clock.Clock
    settings: configuration.OperatorSettings
    cluster_settings: configuration.ClusterSettings
    fetches: "fetching_queues.FetchQueue | None" = None
    storage: "storagestates.Storage | None" = None
    guard: "guards.Guard | None" = None


Reconciler = Callable[[Context, str, str], Awaitable[float | None]]
Resync = Callable[[Context], Awaitable[None]]


class Handler(Protocol):
    """A handler module.

    `KIND` names the keys it takes. `reconcile(ctx, namespace, name)` looks at the world and acts; it returns
    the seconds after which to look again, or None; an exception means again with backoff. A module may also
    have `resync(ctx)`, called after winning the leadership and every `resync_seconds`.
    """

    KIND: str

    async def reconcile(self, ctx: Context, namespace: str, name: str) -> float | None:
        """Bring one object closer to what its spec asks for."""


def reconcilers(modules: Iterable[Handler]) -> Mapping[str, Reconciler]:
    """Return the reconcilers by kind.

    Raises:
        ValueError: two modules claim one kind.
    """
    table: dict[str, Reconciler] = {}
    for module in modules:
        if module.KIND in table:
            raise ValueError(f"two handlers claim the kind {module.KIND}")
        table[module.KIND] = module.reconcile
    return table


def dispatcher(ctx: Context, modules: Iterable[Handler]) -> queues.Reconcile:
    """Return the function that gives a key to its module; a kind without one needs no work."""
    table = reconcilers(modules)

    async def dispatch(key: queues.Key) -> float | None:
        kind, namespace, name = key
        reconcile = table.get(kind)
        return None if reconcile is None else await reconcile(ctx, namespace, name)

    return dispatch


def resyncs(modules: Iterable[Handler]) -> Mapping[str, Resync]:
    """Return by kind the `resync` of the modules that have one."""
    return {module.KIND: cast("Resync", module.resync) for module in modules if hasattr(module, "resync")}
