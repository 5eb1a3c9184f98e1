"""A copy of one kind's objects in memory that never keeps ghosts: list, watch, and list again with a diff."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from manifestry.adapters.kube import apierrors, cluster, retries, watchevents
from manifestry.core.kube import names

_logger = logging.getLogger(__name__)

RECONNECT_SECONDS = 0.1  # a watch that ends at once, again and again, must not spin

Key = tuple[str, str]
Object = dict[str, Any]
Change = Literal["ADDED", "MODIFIED", "DELETED"]
Callback = Callable[[Change, Object], None]
Predicate = Callable[[Object], bool]
KeysOf = Callable[[Object], Iterable[Hashable]]

_NONE: Mapping[str, Object] = MappingProxyType({})


class _Waiter(NamedTuple):
    predicate: Predicate
    future: asyncio.Future[Object | None]

    def offer(self, item: Object) -> None:
        if self.future.done():
            return
        try:
            if self.predicate(item):
                self.future.set_result(item)
        except Exception as error:  # noqa: BLE001 - it belongs to whoever waits, not to the mirror
            self.future.set_exception(error)

    def give_up(self) -> None:
        if not self.future.done():
            self.future.set_result(None)


class _Index:
    """Keys of the mirrored objects by values computed from each: a look-up reads only what it finds."""

    def __init__(self, keys_of: KeysOf) -> None:
        self._keys_of = keys_of
        self._keys: dict[Hashable, dict[Key, None]] = {}  # a dict, for its order
        self._values: dict[Key, frozenset[Hashable]] = {}

    def find(self, value: Hashable) -> tuple[Key, ...]:
        return tuple(self._keys.get(value, ()))

    def change(self, key: Key, item: Object | None) -> None:
        before, after = self._values.pop(key, frozenset()), self._compute(item)
        for value in before - after:
            found = self._keys[value]
            del found[key]
            if not found:
                del self._keys[value]
        for value in after - before:
            self._keys.setdefault(value, {})[key] = None
        if after:
            self._values[key] = after

    def _compute(self, item: Object | None) -> frozenset[Hashable]:
        try:
            return frozenset() if item is None else frozenset(self._keys_of(item))
        except Exception:  # an odd object is found by no index, but stays in the mirror
            _logger.exception("object cannot be indexed", extra={"index": self._keys_of.__name__})
            return frozenset()


class Reflector:
    """Mirrors the objects of one kind, in one namespace or in all.

    `items` is what the API server said last, plus what this process has just written (`observe`). Where the
    server is away the copy stays as it is: `last_contact` tells how old it may be.

    Args:
        client: the Kubernetes API.
        resource: the kind.
        namespace: None for all.
        label_selector: evaluated by the server.
        keep_managed_fields: keep `metadata.managedFields`, nearly half of an object's memory.
    References: client-go tools/cache Reflector; KEP-5504 (resourceVersions of one kind are comparable).
    """

    def __init__(
        self,
        client: cluster.KubeClient,
        resource: names.Resource,
        *,
        namespace: str | None = None,
        label_selector: str | None = None,
        keep_managed_fields: bool = False,
    ) -> None:
        self._client = client
        self._resource = resource
        self._namespace = namespace
        self._selector = label_selector
        self._keep_managed_fields = keep_managed_fields
        self._items: dict[Key, Object] = {}
        self._by_namespace: dict[str, dict[str, Object]] = {}
        self._indexes: dict[KeysOf, _Index] = {}
        self._version = ""
        self._callbacks: list[Callback] = []
        self._waiters: dict[Key, list[_Waiter]] = {}
        self._backoff = retries.Backoff(base_seconds=0.2, cap_seconds=30.0)
        self._failures = 0
        self.synced = asyncio.Event()
        self.last_contact = float("-inf")
        self.failure: str | None = None

    @property
    def resource(self) -> names.Resource:
        """Return the mirrored kind."""
        return self._resource

    @property
    def items(self) -> Mapping[Key, Object]:
        """Return the objects by (namespace or "", name); they are shared: never change them."""
        return self._items

    def in_namespace(self, namespace: str) -> Mapping[str, Object]:
        """Return the objects of one namespace by name; as with `items`, never change them.

        The mapping is live: take a copy before you await.
        """
        return self._by_namespace.get(namespace, _NONE)

    def select(self, keys_of: KeysOf, value: Hashable) -> Iterator[Object]:
        """Yield the objects for which `value` is among `keys_of(object)`, by an index.

        Args:
            keys_of: a pure function of the module level: the index is made when it is first asked for, and
                kept for as long as the mirror is.
            value: what to look for; begin it with the namespace where a tenant must see only its own.
        """
        index = self._indexes.get(keys_of)
        if index is None:
            index = self._indexes[keys_of] = _Index(keys_of)
            for key, item in self._items.items():
                index.change(key, item)
        return (self._items[key] for key in index.find(value) if key in self._items)

    def subscribe(self, callback: Callback) -> Callable[[], None]:
        """Call `callback(change, object)` for each change from now on; it must be quick.

        Returns:
            A function that ends the subscription.
        """
        self._callbacks.append(callback)
        return lambda: self._callbacks.remove(callback)

    def observe(self, item: Object) -> None:
        """Put an object that this process has just written, so that its next read sees it.

        Ignored when the mirror is already past it: then it knows better, the object may even be gone.
        """
        if _number(_version(item)) > _number(self._version):
            self._put(item)

    async def wait_for(self, key: Key, predicate: Predicate, timeout_seconds: float) -> Object | None:
        """Wait until the object at `key` satisfies `predicate`.

        Returns:
            The object, or None when it was deleted meanwhile or time is up.
        """
        found = self._items.get(key)
        if found is not None and predicate(found):
            return found
        waiter = _Waiter(predicate, asyncio.get_running_loop().create_future())
        self._waiters.setdefault(key, []).append(waiter)
        try:
            async with asyncio.timeout(timeout_seconds):
                return await waiter.future
        except TimeoutError:
            return None
        finally:
            self._remove_waiter(key, waiter)

    async def run(self) -> None:
        """Mirror for ever; failures are reported in `failure` and the log, and tried again with backoff."""
        while True:
            try:
                await self._follow()
            except apierrors.GoneError:
                self._version = ""
            except apierrors.ApiError as error:
                await self._report(error)
            await asyncio.sleep(RECONNECT_SECONDS)

    async def _follow(self) -> None:
        if not self._version:
            await self._relist()
        events = self._client.watch(
            self._resource,
            self._namespace,
            resource_version=self._version,
            label_selector=self._selector,
        )
        async with contextlib.aclosing(events):
            async for event in events:
                self._touch()
                self._apply(event)

    async def _relist(self) -> None:
        items, version = await self._client.list(
            self._resource, self._namespace, label_selector=self._selector
        )
        listed = {_key(item) for item in items}
        for key in [key for key in self._items if key not in listed]:
            if _number(_version(self._items[key])) <= _number(version):  # else written after the list
                self._remove(key)
        for item in items:
            self._put(item)
        self._version = version
        self._touch()
        self.synced.set()

    def _apply(self, event: watchevents.WatchEvent) -> None:
        version = _version(event.object)
        if event.type in {"ADDED", "MODIFIED"}:
            self._put(event.object)
        elif event.type == "DELETED":
            kept = self._items.get(_key(event.object))
            if kept is not None and _number(_version(kept)) <= _number(version):
                self._remove(_key(event.object), event.object)
        self._version = version or self._version

    def _put(self, item: Object) -> None:
        key = _key(item)
        kept = self._items.get(key)
        if kept is not None and _number(_version(kept)) >= _number(_version(item)):
            return
        if not self._keep_managed_fields:
            item["metadata"].pop("managedFields", None)
        self._store(key, item)
        self._notify("ADDED" if kept is None else "MODIFIED", item)
        for waiter in self._waiters.get(key, ()):
            waiter.offer(item)

    def _remove(self, key: Key, last: Object | None = None) -> None:
        kept = self._items[key]
        self._store(key, None)
        self._notify("DELETED", last or kept)
        for waiter in self._waiters.get(key, ()):
            waiter.give_up()

    def _store(self, key: Key, item: Object | None) -> None:
        """Change the copy and everything by which it is found, together; None removes."""
        namespace, name = key
        if item is not None:
            self._items[key] = item
            self._by_namespace.setdefault(namespace, {})[name] = item
        else:
            del self._items[key]
            del self._by_namespace[namespace][name]
            if not self._by_namespace[namespace]:
                del self._by_namespace[namespace]
        for index in self._indexes.values():
            index.change(key, item)

    def _notify(self, change: Change, item: Object) -> None:
        for callback in list(self._callbacks):
            try:
                callback(change, item)
            except Exception:  # a subscriber's fault must not stop the mirror
                _logger.exception("watch subscriber failed", extra={"resource": self._resource.plural})

    def _remove_waiter(self, key: Key, waiter: _Waiter) -> None:
        waiters = self._waiters[key]
        waiters.remove(waiter)
        if not waiters:
            del self._waiters[key]

    def _touch(self) -> None:
        self.last_contact = time.monotonic()
        self._failures, self.failure = 0, None

    async def _report(self, error: apierrors.ApiError) -> None:
        self._failures += 1
        self.failure = str(error)
        seconds = self._delay(error)
        _logger.warning(
            "watch failed",
            extra={
                "resource": self._resource.plural,
                "error": str(error),
                "retry_seconds": round(seconds, 1),
            },
        )
        await asyncio.sleep(seconds)

    def _delay(self, error: apierrors.ApiError) -> float:
        """A missing permission or CRD is for people to mend: look seldom, but look."""
        refused = isinstance(error, apierrors.ForbiddenError | apierrors.NotFoundError)
        return self._backoff.delay(self._failures + (5 if refused else 0))


def _key(item: Object) -> Key:
    metadata = item["metadata"]
    return metadata.get("namespace") or "", metadata["name"]


def _version(item: Object) -> str:
    return str(item["metadata"].get("resourceVersion") or "")


def _number(version: str) -> int:
    return int(version) if version.isdecimal() else 0
