"""An API server in memory, small enough to lose an answer or to tell a stale thing at will."""

import copy
import itertools
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast

from manifestry import settings
from manifestry.adapters.kube import apierrors
from manifestry.adapters.queues import queues
from manifestry.adapters.quota.ledgers import Ledgers
from manifestry.core.kube import names
from manifestry.handlers.runtime import caches
from manifestry.handlers.runtime.registry import Context
from tests.unit.adapters.fakeclock import FakeClock

NAMESPACE, TENANT, TYPE = "ns", "acme", "render"
Object = dict[str, Any]
Objects = list[Object]


class FakeApi:
    """One atomic call at a time; `calls` notes (verb, kind) of each."""

    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock
        self._versions = itertools.count(10)
        self.objects: dict[tuple[str, str], Object] = {}
        self.calls: list[tuple[str, str]] = []
        self.refuse: dict[tuple[str, str], Exception] = {}  # instead of the call
        self.lose: set[tuple[str, str]] = set()  # the call is done, its answer never comes
        self.largest_page = 0
        self.events: dict[names.Resource, list[tuple[str, Object]]] = {}  # as watches will tell, by kind

    def writes(self, resource: names.Resource) -> list[str]:
        """Return the verbs that have changed objects of a kind."""
        kind = f"{resource.plural}.{resource.group}"
        return [verb for verb, found in self.calls if found == kind and verb not in {"get", "list"}]

    def put(self, resource: names.Resource, body: Object) -> Object:
        """Store an object as the server would."""
        made = copy.deepcopy(body)
        version = str(next(self._versions))
        created = self._clock.now().strftime("%Y-%m-%dT%H:%M:%SZ")
        made["metadata"] = {
            "generation": 1,
            "creationTimestamp": created,
            "uid": f"uid-{version}",
            **made["metadata"],
            "resourceVersion": version,
        }
        known = (resource.path(), made["metadata"]["name"]) in self.objects
        self.objects[resource.path(), made["metadata"]["name"]] = made
        self._tell(resource, "MODIFIED" if known else "ADDED", made)
        return copy.deepcopy(made)

    def peek(self, resource: names.Resource, name: str) -> Object:
        """Return an object without a call."""
        return self.objects[resource.path(), name]

    def remove(self, resource: names.Resource, name: str) -> Object:
        """Take an object away."""
        gone = self.objects.pop((resource.path(), name))
        gone["metadata"]["resourceVersion"] = str(next(self._versions))
        self._tell(resource, "DELETED", gone)
        return gone

    def _tell(self, resource: names.Resource, change: str, body: Object) -> None:
        self.events.setdefault(resource, []).append((change, copy.deepcopy(body)))

    async def get(self, resource: names.Resource, name: str, _: str | None = None) -> Object:
        self._enter("get", resource)
        return copy.deepcopy(self._find(resource, name))

    async def pages(
        self, resource: names.Resource, namespace: str | None = None, *, page_size: int = 2, **selectors: str
    ) -> AsyncIterator[Objects]:
        found, _ = await self.list(resource, namespace, **selectors)
        for begin in range(0, len(found), page_size):
            self.largest_page = max(self.largest_page, len(found[begin : begin + page_size]))
            yield found[begin : begin + page_size]

    async def list(self, resource: names.Resource, _: str | None = None, **options: Any) -> Any:
        self._enter("list", resource)
        found = [copy.deepcopy(body) for (path, _), body in self.objects.items() if path == resource.path()]
        label, _, value = (options.get("label_selector") or "").partition("=")
        if value:
            found = [each for each in found if (each["metadata"].get("labels") or {}).get(label) == value]
        return found, str(next(self._versions))

    async def create(self, resource: names.Resource, body: Object, namespace: str | None = None) -> Object:
        self._enter("create", resource)
        if (resource.path(), body["metadata"]["name"]) in self.objects:
            raise apierrors.AlreadyExistsError(409, "AlreadyExists", "exists")
        metadata = {**body["metadata"], "namespace": namespace}
        return self._leave("create", resource, self.put(resource, {**body, "metadata": metadata}))

    async def replace(self, resource: names.Resource, body: Object, *, subresource: str) -> Object:
        self._enter("update", resource)
        assert subresource == "status"
        current = self._find(resource, body["metadata"]["name"])
        if current["metadata"]["resourceVersion"] != body["metadata"]["resourceVersion"]:
            raise apierrors.ConflictError(409, "Conflict", "changed")
        return self._leave("update", resource, self.put(resource, {**current, "status": body["status"]}))

    async def merge_patch(self, resource: names.Resource, name: str, patch: Object, _: str) -> Object:
        self._enter("patch", resource)
        current = self._find(resource, name)
        if patch.get("metadata", {}).get("uid", current["metadata"]["uid"]) != current["metadata"]["uid"]:
            raise apierrors.ConflictError(409, "Conflict", "another uid")
        spec = {**current["spec"], **patch.get("spec", {})}
        return self._leave("patch", resource, self.put(resource, {**current, "spec": spec}))

    async def delete(self, resource: names.Resource, name: str, _: str, **__: Any) -> None:
        self._enter("delete", resource)
        self._find(resource, name)
        self.remove(resource, name)

    def _find(self, resource: names.Resource, name: str) -> Object:
        found = self.objects.get((resource.path(), name))
        if found is None:
            raise apierrors.NotFoundError(404, "NotFound", f"{resource.plural} {name}")
        return found

    def _enter(self, verb: str, resource: names.Resource) -> None:
        key = (verb, f"{resource.plural}.{resource.group}")
        self.calls.append(key)
        if key in self.refuse:
            raise self.refuse[key]

    def _leave(self, verb: str, resource: names.Resource, body: Object) -> Object:
        key = (verb, f"{resource.plural}.{resource.group}")
        if key in self.lose:
            self.lose.discard(key)
            raise apierrors.unavailable("the answer was lost")
        return body


class World:
    """One tenant with one job type; `woken` is what a handler has asked to be looked at."""

    def __init__(self, running: int = 1, queued: int = 10) -> None:
        self.clock = FakeClock()
        self.api = FakeApi(self.clock)
        self.caches = caches.Caches()
        self.woken: list[queues.Key] = []
        self.books = Ledgers(cast("Any", self.api), now=self.clock.now)
        self.books.primed = True
        queue = queues.KeyedQueue(clock=self.clock)
        queue.add = lambda key, **_: self.woken.append(key)  # type: ignore[method-assign]
        self.ctx: Context = cast(
            "Context",
            SimpleNamespace(
                client=self.api,
                ledgers=self.books,
                caches=self.caches,
                queue=queue,
                clock=self.clock,
                settings=settings.OperatorSettings(),
                storage=None,
            ),
        )
        labels = {names.TENANT_LABEL: TENANT}
        self.keep(names.NAMESPACES, {"metadata": {"name": NAMESPACE, "labels": labels}})
        self.keep(names.JOB_TYPES, {"metadata": {"name": TYPE}, "spec": {"image": "x"}})
        row = {"jobType": "*", "maxRunning": running, "maxQueued": queued}
        spec = {"tenants": [TENANT], "jobs": [row]}
        self.quota = self.keep(names.TENANT_QUOTAS, {"metadata": {"name": "q"}, "spec": spec})

    def keep(self, resource: names.Resource, body: Object) -> Object:
        """Store an object of a cached kind and tell the caches of it."""
        made = self.api.put(resource, body)
        self.caches.put(resource.kind, made)
        return made

    def ledger(self, *entries: tuple[str, str, str], name: str = TYPE) -> Object:
        """Store a ledger of (uid, name, state)."""
        since = (self.clock.now() - timedelta(seconds=1)).astimezone(UTC)
        holders = {
            uid: {"name": job, "state": state, "since": since.isoformat()} for uid, job, state in entries
        }
        return self.api.put(
            names.QUOTA_LEDGERS,
            {
                "metadata": {"name": name, "namespace": NAMESPACE},
                "spec": {"jobType": name},
                "status": {"initializedTime": "2026-01-01T00:00:00Z", "holders": holders},
            },
        )

    def job(self, name: str, reason: str = "", job_type: str = TYPE, **spec: Any) -> Object:
        """Store a Job whose status says `reason`."""
        body: Object = {
            "metadata": {"name": name, "namespace": NAMESPACE, "uid": f"{name:0>8}"},
            "spec": {"jobType": job_type, **spec},
        }
        if reason:
            words = {"Succeeded": "True", "Failed": "False"}
            entry = {
                "type": "Succeeded",
                "status": words.get(reason, "Unknown"),
                "reason": reason,
                "message": "",
                "lastTransitionTime": stamp(self.clock.now()),
            }
            body["status"] = {"observedGeneration": 1, "conditions": [entry]}
        return self.api.put(names.JOBS, body)

    def holders(self, name: str = TYPE) -> dict[str, str]:
        """Return the states in the stored ledger by Job name."""
        status = self.api.peek(names.QUOTA_LEDGERS, name)["status"]
        return {entry["name"]: entry["state"] for entry in (status.get("holders") or {}).values()}

    def jobs_woken(self) -> list[str]:
        """Return the names of the Jobs that were woken, each once."""
        return sorted({name for kind, _, name in self.woken if kind == names.JOBS.kind})


def stamp(time: datetime) -> str:
    """Return a time as the API server writes it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ")
