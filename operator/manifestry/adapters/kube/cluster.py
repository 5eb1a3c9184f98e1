"""The one async Kubernetes client: dict bodies in and out, every call bounded in time, size and attempts."""

import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Literal, Self

import aiohttp

from manifestry.adapters.kube import apierrors, calls, kubeconfigs, transport, watchevents
from manifestry.adapters.kube.calls import Impersonation, Object, Objects
from manifestry.adapters.kube.transport import Observer
from manifestry.adapters.kube.watchevents import WatchEvent
from manifestry.core.kube import names

Propagation = Literal["Background", "Foreground", "Orphan"]

LARGER_PAGES = 4
MERGE_PATCH = "application/merge-patch+json"
WATCH_INACTIVITY_SECONDS = 70.0  # the server sends a bookmark about every 60 s
LOG_INACTIVITY_SECONDS = 30.0  # without follow the kubelet sends what it has at once


class KubeClient:
    """Talks to one API server as one identity, or as whom a call impersonates."""

    def __init__(self, channel: transport.Transport, field_manager: str) -> None:
        self._transport = channel
        self._field_manager = field_manager

    @classmethod
    async def connect(
        cls,
        *,
        kubeconfig: str | None = None,
        pool_size: int = 64,
        request_timeout_seconds: float = 30.0,
        user_agent: str,
        trace_configs: Sequence[aiohttp.TraceConfig] = (),
        observer: Observer | None = None,
    ) -> Self:
        """Read the credentials and open the pools; nothing is sent yet.

        Args:
            kubeconfig: a path; None or empty means the pod's service account.
            pool_size: connections for short calls; streams have a pool of their own.
            request_timeout_seconds: the whole call's deadline, retries included.
            user_agent: `name/version`; the name is also the field manager.
            trace_configs: aiohttp's hooks, for traceparent and spans.
            observer: called with (verb, resource, status or 0, seconds) after each attempt.

        Raises:
            CredentialsError: there is no usable configuration.
        """
        channel = transport.Transport(
            await kubeconfigs.Credentials.load(kubeconfig),
            pool_size=pool_size,
            request_timeout_seconds=request_timeout_seconds,
            user_agent=user_agent,
            trace_configs=trace_configs,
            observer=observer,
        )
        return cls(channel, user_agent.partition("/")[0])

    async def close(self) -> None:
        """Close all connections."""
        await self._transport.close()

    @property
    def session(self) -> aiohttp.ClientSession:
        """Return the session of the short calls; it stays ours to close."""
        return self._transport.session

    @property
    def base_url(self) -> str:
        """Return the API server's URL without a trailing slash."""
        return self._transport.server

    def new_session(
        self, pool_size: int = 32, trace_configs: Sequence[aiohttp.TraceConfig] = ()
    ) -> aiohttp.ClientSession:
        """Return another session with the same credentials, for a library that will close it (kopf)."""
        return self._transport.new_session(pool_size, trace_configs)

    async def get(self, resource: names.Resource, name: str, namespace: str | None = None) -> Object:
        """Read one object.

        Raises:
            NotFoundError: there is none.
        """
        return await self._json("get", "GET", resource, namespace, name)

    async def list(
        self,
        resource: names.Resource,
        namespace: str | None = None,
        *,
        label_selector: str | None = None,
        field_selector: str | None = None,
        page_size: int = 500,
    ) -> tuple[Objects, str]:
        """Read all objects, page by page, each with `apiVersion` and `kind`.

        Returns:
            The objects and the collection's resourceVersion, from which a watch may begin.

        Raises:
            GoneError: the snapshot expired twice between two pages.
        """
        query = calls.selectors(label_selector, field_selector)
        try:
            return await self._collect(resource, namespace, query, page_size)
        except apierrors.GoneError:  # the first page's snapshot was compacted: once more, in fewer pieces
            return await self._collect(resource, namespace, query, page_size * LARGER_PAGES)

    async def pages(
        self,
        resource: names.Resource,
        namespace: str | None = None,
        *,
        label_selector: str | None = None,
        field_selector: str | None = None,
        page_size: int = 500,
    ) -> AsyncGenerator[Objects, None]:
        """Read all objects as they are at the first page, live, and yield them page by page.

        Raises:
            apierrors.GoneError: the reader was so slow that the snapshot has expired.
        """
        query = calls.selectors(label_selector, field_selector)
        async for page in self._pages(resource, namespace, query, page_size):
            yield [calls.typed(item, resource) for item in page.get("items") or ()]

    async def _collect(
        self, resource: names.Resource, namespace: str | None, query: Mapping[str, str], page_size: int
    ) -> tuple[Objects, str]:
        items: Objects = []
        version = ""
        async for page in self._pages(resource, namespace, query, page_size):
            items.extend(calls.typed(item, resource) for item in page.get("items") or ())
            version = page["metadata"]["resourceVersion"]
        return items, version

    async def _pages(
        self, resource: names.Resource, namespace: str | None, query: Mapping[str, str], page_size: int
    ) -> AsyncGenerator[Object, None]:
        """Yield the pages; one that is too large to be read is asked for again in smaller ones.

        Objects may be as large as etcd takes them, so a page of some hundred has no useful bound: without
        this, a few large objects of one tenant would keep everybody's from being listed.
        """
        token = ""
        while True:
            asked = {**query, "limit": str(page_size)} | ({"continue": token} if token else {})
            try:
                page = await self._json("list", "GET", resource, namespace, query=asked)
            except transport.OversizeError:
                if page_size == 1:
                    raise
                page_size = max(1, page_size // 8)
                continue
            yield page
            token = page["metadata"].get("continue") or ""
            if not token:
                return

    async def watch(
        self,
        resource: names.Resource,
        namespace: str | None = None,
        *,
        resource_version: str,
        label_selector: str | None = None,
        field_selector: str | None = None,
        timeout_seconds: int = 300,
    ) -> AsyncGenerator[WatchEvent, None]:
        """Follow changes after `resource_version`, bookmarks included, until the server ends the watch.

        Raises:
            apierrors.GoneError: `resource_version` is too old; list again.
            ApiError: refused, or nothing came for WATCH_INACTIVITY_SECONDS.
        """
        query = {
            **calls.selectors(label_selector, field_selector),
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": resource_version,
            "timeoutSeconds": str(timeout_seconds),
        }
        call = calls.call("watch", "GET", resource, namespace, query=query)
        async with self._transport.stream(call, inactivity_seconds=WATCH_INACTIVITY_SECONDS) as content:
            async for event in watchevents.parse_events(content):
                yield event

    async def create(
        self,
        resource: names.Resource,
        body: Object,
        namespace: str | None = None,
        *,
        dry_run: bool = False,
        impersonate: Impersonation | None = None,
    ) -> Object:
        """Create an object; the namespace may also stand in the body.

        Raises:
            AlreadyExistsError: the name is taken.
            InvalidError: the schema refuses it.
        """
        namespace = namespace or body["metadata"].get("namespace")
        query = self._write_query(dry_run)
        return await self._json(
            "create", "POST", resource, namespace, query=query, body=body, impersonate=impersonate
        )

    async def replace(
        self,
        resource: names.Resource,
        body: Object,
        *,
        subresource: str | None = None,
        impersonate: Impersonation | None = None,
    ) -> Object:
        """Write the whole object; `metadata.resourceVersion` in it is the precondition.

        Raises:
            ConflictError: the object has changed.
        """
        metadata = body["metadata"]
        return await self._json(
            "update",
            "PUT",
            resource,
            metadata.get("namespace"),
            metadata["name"],
            subresource=subresource,
            query=self._write_query(),
            body=body,
            impersonate=impersonate,
        )

    async def merge_patch(
        self,
        resource: names.Resource,
        name: str,
        patch: Object,
        namespace: str | None = None,
        *,
        subresource: str | None = None,
        impersonate: Impersonation | None = None,
        dry_run: bool = False,
    ) -> Object:
        """Change some fields; a `metadata.resourceVersion` in the patch is a precondition.

        Raises:
            ConflictError: the precondition does not hold.
        References: RFC 7396.
        """
        return await self._json(
            "patch",
            "PATCH",
            resource,
            namespace,
            name,
            subresource=subresource,
            query=self._write_query(dry_run),
            body=patch,
            content_type=MERGE_PATCH,
            impersonate=impersonate,
        )

    async def delete(
        self,
        resource: names.Resource,
        name: str,
        namespace: str | None = None,
        *,
        propagation: Propagation = "Background",
        uid: str | None = None,
        resource_version: str | None = None,
        impersonate: Impersonation | None = None,
    ) -> None:
        """Delete an object, if it is still the one with `uid` and `resource_version`.

        Raises:
            NotFoundError: there is none.
            ConflictError: a precondition does not hold.
        """
        wanted = {"uid": uid, "resourceVersion": resource_version}
        preconditions = {key: value for key, value in wanted.items() if value}
        body: Object = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": propagation}
        if preconditions:
            body["preconditions"] = preconditions
        await self._json("delete", "DELETE", resource, namespace, name, body=body, impersonate=impersonate)

    def stream_log(
        self,
        pod: str,
        namespace: str,
        *,
        container: str | None = None,
        follow: bool = False,
        tail_lines: int | None = None,
        since_time: str | None = None,
        timestamps: bool = False,
        limit_bytes: int | None = None,
    ) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """Open a container's log; yields chunks as they arrive, not lines.

        Args:
            pod: the pod's name.
            namespace: its namespace.
            container: which one; None where there is only one.
            follow: stay until the container ends.
            tail_lines: begin so many lines before the end.
            since_time: RFC 3339; begin there.
            timestamps: put an RFC 3339 time before each line.
            limit_bytes: end after so many bytes.

        Raises:
            ApiError: on entering; a container that is not yet running is a 400.
        """
        wanted: Mapping[str, Any] = {
            "container": container,
            "follow": "true" if follow else None,
            "tailLines": tail_lines,
            "sinceTime": since_time,
            "timestamps": "true" if timestamps else None,
            "limitBytes": limit_bytes,
        }
        query = {key: str(value) for key, value in wanted.items() if value is not None}
        call = calls.call("log", "GET", names.PODS, namespace, pod, subresource="log", query=query)
        return self._transport.stream(call, inactivity_seconds=None if follow else LOG_INACTIVITY_SECONDS)

    async def post_review(self, resource: names.Resource, body: Object) -> Object:
        """Ask a question that is sent by POST and changes nothing: TokenReview, SubjectAccessReview."""
        return await self._json("review", "POST", resource, None, body=body)

    async def get_raw(self, path: str) -> bytes:
        """Read a path outside of the resources, such as `/readyz` or `/openid/v1/jwks`."""
        if not path.startswith("/"):
            raise ValueError("`path` must begin with '/'")
        return await self._transport.send(transport.Call("get", path.partition("?")[0], "GET", path))

    async def _json(
        self,
        verb: str,
        method: str,
        resource: names.Resource,
        namespace: str | None,
        name: str | None = None,
        **options: Any,
    ) -> Object:
        answer = await self._transport.send(calls.call(verb, method, resource, namespace, name, **options))
        try:
            content: Object = json.loads(answer)
        except ValueError as error:
            raise apierrors.unavailable(f"{method} {resource.plural}: the answer is not JSON") from error
        return content

    def _write_query(self, dry_run: bool = False) -> dict[str, str]:
        query = {"fieldManager": self._field_manager}
        return {**query, "dryRun": "All"} if dry_run else query
