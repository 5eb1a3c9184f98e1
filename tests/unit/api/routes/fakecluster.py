"""A Kubernetes API in memory behind the client's own port: objects, watches, and a kubelet's logs."""

# ruff: noqa: ARG002 - the port's signatures

import asyncio
import copy
import itertools
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from manifestry.adapters.kube import apierrors, watchevents
from manifestry.core.kube import names

Object = dict[str, Any]
Key = tuple[str, str]


class Log:
    """One container's output: grows, ends, or breaks."""

    def __init__(
        self, content: bytes = b"", *, ended: bool = False, refusal: Exception | None = None
    ) -> None:
        self.content = content
        self.ended = ended
        self.broken = False
        self.refusal = refusal
        self.readers = 0
        self._changed = asyncio.Condition()

    async def write(self, more: bytes) -> None:
        self.content += more
        await self._notify()

    async def end(self) -> None:
        self.ended = True
        await self._notify()

    async def break_off(self) -> None:
        self.broken = True
        await self._notify()

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def read(self, follow: bool, limit_bytes: int | None) -> AsyncIterator[bytes]:
        sent, limit = 0, limit_bytes if limit_bytes is not None else 1 << 30
        while True:
            if self.broken:
                raise apierrors.UnavailableError(503, "ServiceUnavailable", "the kubelet is gone")
            piece = self.content[sent : min(len(self.content), limit)][:7]
            if piece:
                sent += len(piece)
                yield piece
            elif self.ended or not follow or sent >= limit:
                return
            else:
                async with self._changed:
                    await self._changed.wait()


class FakeCluster:
    """Implements the part of `KubeClient` that routes use."""

    def __init__(self) -> None:
        self.objects: dict[str, dict[Key, Object]] = {}
        self.logs: dict[str, Log] = {}
        self.log_calls: list[dict[str, Any]] = []
        self.writes: list[tuple[str, str, Any]] = []
        self.before_write: Callable[[str, names.Resource, Object], None] = lambda *_: None
        self._versions = itertools.count(100)
        self._watchers: list[tuple[names.Resource, asyncio.Queue[watchevents.WatchEvent]]] = []

    def put(self, resource: names.Resource, body: Object) -> Object:
        """Store an object as the API server would, and tell the watches."""
        made = copy.deepcopy(body)
        metadata = made["metadata"]
        known = self._of(resource).get(self._key(made))
        metadata.setdefault("uid", known["metadata"]["uid"] if known else str(uuid.uuid4()))
        metadata.setdefault("creationTimestamp", f"2026-05-04T03:02:{len(self._of(resource)) % 60:02}Z")
        metadata["resourceVersion"] = str(next(self._versions))
        self._of(resource)[self._key(made)] = made
        self._tell(resource, "MODIFIED" if known else "ADDED", made)
        return copy.deepcopy(made)

    def set_status(self, resource: names.Resource, name: str, namespace: str, status: Object) -> Object:
        found = copy.deepcopy(self._of(resource)[(namespace, name)])
        found["status"] = status
        return self.put(resource, found)

    def remove(self, resource: names.Resource, name: str, namespace: str) -> None:
        self._tell(resource, "DELETED", self._of(resource).pop((namespace, name)))

    def find(self, resource: names.Resource, name: str, namespace: str = "") -> Object | None:
        return self._of(resource).get((namespace, name))

    async def get(self, resource: names.Resource, name: str, namespace: str | None = None) -> Object:
        found = self.find(resource, name, namespace or "")
        if found is None:
            raise apierrors.NotFoundError(404, "NotFound", f"{resource.plural} {name!r} not found")
        return copy.deepcopy(found)

    async def list(
        self,
        resource: names.Resource,
        namespace: str | None = None,
        *,
        label_selector: str | None = None,
        **_: Any,
    ) -> tuple[list[Object], str]:
        found = [
            copy.deepcopy(body) for body in self._of(resource).values() if _selected(body, label_selector)
        ]
        return found, str(next(self._versions))

    async def watch(
        self,
        resource: names.Resource,
        namespace: str | None = None,
        *,
        resource_version: str,
        label_selector: str | None = None,
        **_: Any,
    ) -> AsyncIterator[watchevents.WatchEvent]:
        queue: asyncio.Queue[watchevents.WatchEvent] = asyncio.Queue()
        entry = (resource, queue)
        for body in list(self._of(resource).values()):
            if int(body["metadata"]["resourceVersion"]) > int(resource_version):
                queue.put_nowait(watchevents.WatchEvent("ADDED", copy.deepcopy(body)))
        self._watchers.append(entry)
        try:
            while True:
                event = await queue.get()
                if _selected(event.object, label_selector):
                    yield event
        finally:
            self._watchers.remove(entry)

    async def create(
        self,
        resource: names.Resource,
        body: Object,
        namespace: str | None = None,
        *,
        dry_run: bool = False,
        impersonate: Any = None,
    ) -> Object:
        made = copy.deepcopy(body)
        metadata = made["metadata"]
        metadata.setdefault("name", f"{metadata.get('generateName', '')}{uuid.uuid4().hex[:5]}")
        metadata.setdefault("generation", 1)
        self._write("create", resource, made, impersonate)
        if self._key(made) in self._of(resource):
            raise apierrors.AlreadyExistsError(409, "AlreadyExists", "already exists")
        made.setdefault("status", {"observedGeneration": -1})
        return made if dry_run else self.put(resource, made)

    async def merge_patch(
        self,
        resource: names.Resource,
        name: str,
        patch: Object,
        namespace: str | None = None,
        *,
        impersonate: Any = None,
        **_: Any,
    ) -> Object:
        found = await self.get(resource, name, namespace)
        wanted = (patch.get("metadata") or {}).get("resourceVersion")
        self._write("patch", resource, patch, impersonate)
        found = await self.get(resource, name, namespace)
        if wanted is not None and wanted != found["metadata"]["resourceVersion"]:
            raise apierrors.ConflictError(409, "Conflict", "the object has been modified")
        before = copy.deepcopy(found.get("spec"))
        _merge(found, patch)
        if found.get("spec") != before:
            found["metadata"]["generation"] = found["metadata"].get("generation", 1) + 1
        return self.put(resource, found)

    async def delete(
        self,
        resource: names.Resource,
        name: str,
        namespace: str | None = None,
        *,
        uid: str | None = None,
        resource_version: str | None = None,
        impersonate: Any = None,
        **_: Any,
    ) -> None:
        await self.get(resource, name, namespace)
        self._write("delete", resource, {"metadata": {"name": name}}, impersonate)
        found = await self.get(resource, name, namespace)
        if resource_version not in {None, found["metadata"]["resourceVersion"]}:
            raise apierrors.ConflictError(409, "Conflict", "resourceVersion mismatch")
        if uid is not None and uid != found["metadata"]["uid"]:
            raise apierrors.ConflictError(409, "Conflict", "uid mismatch")
        self.remove(resource, name, namespace or "")

    @asynccontextmanager
    async def _open(
        self, log: Log, follow: bool, limit_bytes: int | None
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        if log.refusal is not None:
            raise log.refusal
        log.readers += 1
        try:
            yield log.read(follow, limit_bytes)
        finally:
            log.readers -= 1

    def stream_log(
        self,
        pod: str,
        namespace: str,
        *,
        follow: bool = False,
        limit_bytes: int | None = None,
        **options: Any,
    ) -> Any:
        self.log_calls.append({"pod": pod, "follow": follow, "limit_bytes": limit_bytes, **options})
        return self._open(self.logs[pod], follow, limit_bytes)

    def _write(self, verb: str, resource: names.Resource, body: Object, impersonate: Any) -> None:
        assert impersonate is not None, "a write without impersonation"
        self.before_write(verb, resource, body)
        self.writes.append((verb, resource.plural, impersonate))

    def _of(self, resource: names.Resource) -> dict[Key, Object]:
        return self.objects.setdefault(f"{resource.group}/{resource.plural}", {})

    def _key(self, body: Object) -> Key:
        return body["metadata"].get("namespace", ""), body["metadata"]["name"]

    def _tell(self, resource: names.Resource, kind: str, body: Object) -> None:
        for watched, queue in self._watchers:
            if watched == resource:
                queue.put_nowait(watchevents.WatchEvent(kind, copy.deepcopy(body)))


def _merge(target: Object, patch: Object) -> None:
    for key, value in patch.items():
        if value is None:
            target.pop(key, None)
        elif isinstance(value, dict):
            _merge(target.setdefault(key, {}), value)
        elif key != "resourceVersion":
            target[key] = value


def _selected(body: Object, label_selector: str | None) -> bool:
    if label_selector is None:
        return True
    key, _, value = label_selector.partition("=")
    labels = body["metadata"].get("labels") or {}
    return key in labels and (not value or labels[key] == value)
