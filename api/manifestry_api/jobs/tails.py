"""One follower of one job's log: find the container, open its log, go on where the client was, end honestly.

The answer ends regularly only when the container has ended; whatever else stops the stream (the kubelet, the
API server, our own shutdown) breaks the connection, and the client comes back with `offset`.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace

from manifestry.adapters.kube import apierrors, cluster, watches
from manifestry.core import errors
from manifestry.core.jobs import podlogs, statuses
from manifestry.core.kube import names
from manifestry_api.guard import deps
from manifestry_api.objects import lookups
from manifestry_api.wire import streams

HEADERS_WITHIN_SECONDS = 5.0  # a follower of a queued job gets its headers then, and waits in the body
SETTLE_SECONDS = 15.0  # how far the kubelet's status may be behind the end of the log


@dataclass(frozen=True)
class Asked:
    """What the client wants.

    Args:
        wanted: attempt, container, follow.
        offset_bytes: what the client already has of this stream.
        tail_lines: begin so many lines before the end.
        since_time: RFC 3339; begin there.
    """

    wanted: podlogs.Wanted
    offset_bytes: int = 0
    tail_lines: int | None = None
    since_time: str | None = None


class Tail:
    """The log of a job, from `prepare` to `close`."""

    def __init__(self, ports: deps.Ports, namespace: str, job: lookups.Object, asked: Asked) -> None:
        self._ports = ports
        self._namespace = namespace
        self._job = job
        self._asked = asked
        self._opened = contextlib.AsyncExitStack()
        self._stream: AsyncIterator[bytes] | None = None
        self.target: podlogs.Target | None = None

    async def prepare(self, within_seconds: float = HEADERS_WITHIN_SECONDS) -> None:
        """Open the log if that is possible soon; what is refused until then is a typed error.

        Raises:
            Problem: there is no such log, or not yet.
            ApiError: the API server or the kubelet refuses.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_seconds):
                self.target = await self._find()
        if self.target is not None:
            await self._open(self.target)

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the log from the client's offset on.

        Raises:
            StreamAbortedError: it cannot be followed to its end here; the client resumes.
        """
        try:
            if self._stream is None or self.target is None:
                self.target = await self._find()
                self._stream = await self._open(self.target)
            async for chunk in streams.skipped(self._stream, self._asked.offset_bytes):
                yield chunk
            await self._confirm_end(self.target)
        except (errors.Problem, apierrors.ApiError) as error:
            raise streams.StreamAbortedError(str(error)) from error

    async def close(self) -> None:
        """Let go of the kubelet's stream."""
        await self._opened.aclose()

    async def _find(self) -> podlogs.Target:
        pods, _ = await self._ports.client.list(
            names.PODS, self._namespace, label_selector=selector(self._job)
        )
        found = self._choose(pods)
        return found if found is not None else await self._await_target()

    def _choose(self, pods: list[lookups.Object]) -> podlogs.Target | None:
        body, is_gone = self._job_now()
        word, ended = statuses.rest_status(body), is_gone or statuses.is_terminal(body)
        return podlogs.choose(word, ended, pods, self._asked.wanted)

    def _job_now(self) -> tuple[lookups.Object, bool]:
        cache, metadata = self._ports.caches.jobs, self._job["metadata"]
        found = cache.items.get((metadata["namespace"], metadata["name"]))
        is_same = found is not None and found["metadata"].get("uid") == metadata["uid"]
        if found is not None and is_same:
            return found, False
        return self._job, cache.synced.is_set()

    async def _await_target(self) -> podlogs.Target:
        """Wait for the container to start: by watch on the job's pods and on the job itself."""
        changed = asyncio.Event()
        async with pod_mirror(self._ports.client, self._namespace, selector(self._job)) as mirror:
            mirror.subscribe(lambda _change, _pod: changed.set())
            leave = self._ports.caches.jobs.subscribe(lambda _change, body: self._noticed(body, changed))
            try:
                await mirror.synced.wait()
                while (found := self._choose(list(mirror.items.values()))) is None:
                    await changed.wait()
                    changed.clear()
                return found
            finally:
                leave()

    def _noticed(self, body: lookups.Object, changed: asyncio.Event) -> None:
        if body["metadata"].get("uid") == self._job["metadata"]["uid"]:
            changed.set()

    async def _open(self, target: podlogs.Target) -> AsyncIterator[bytes]:
        await self._check_offset(target)
        context = self._ports.client.stream_log(
            target.pod,
            self._namespace,
            container=target.container,
            follow=self._asked.wanted.follow and not target.ended,
            tail_lines=self._asked.tail_lines,
            since_time=self._asked.since_time,
        )
        try:
            self._stream = await self._opened.enter_async_context(context)
        except apierrors.ApiError as error:
            raise _refused(error) from error
        return self._stream

    async def _check_offset(self, target: podlogs.Target) -> None:
        """Refuse to go on in a log that has become shorter: the kubelet has rotated it away.

        Otherwise the first bytes after the rotation would be skipped in silence.
        """
        if not self._asked.offset_bytes:
            return
        held = 0
        log = self._ports.client.stream_log(
            target.pod,
            self._namespace,
            container=target.container,
            since_time=self._asked.since_time,
            limit_bytes=self._asked.offset_bytes,
        )
        async with log as chunks:
            async for chunk in chunks:
                held += len(chunk)
        if held < self._asked.offset_bytes:
            detail = f"`offset` must not be beyond the {held} bytes that the log has; begin again without it"
            raise errors.Problem(
                errors.RANGE_NOT_SATISFIABLE,
                detail,
                (errors.FieldError("query:offset", detail),),
                headers={"Content-Range": f"bytes */{held}"},
            )

    async def _confirm_end(self, target: podlogs.Target) -> None:
        """Make sure that the container has ended, not only its stream: a kubelet's restart looks the same."""
        if not self._asked.wanted.follow or target.ended:
            return
        async with pod_mirror(self._ports.client, self._namespace, selector(self._job)) as mirror:
            changed = asyncio.Event()
            mirror.subscribe(lambda _change, _pod: changed.set())
            try:
                async with asyncio.timeout(SETTLE_SECONDS):
                    await mirror.synced.wait()
                    while not _has_ended(mirror, (self._namespace, target.pod), target.container):
                        await changed.wait()
                        changed.clear()
            except TimeoutError:
                raise streams.StreamAbortedError("the log ended before its container") from None


def selector(job: lookups.Object) -> str:
    """Return the label selector of a job's pods."""
    return f"{names.JOB_UID_LABEL}={job['metadata']['uid']}"


@contextlib.asynccontextmanager
async def pod_mirror(
    client: cluster.KubeClient, namespace: str, label_selector: str
) -> AsyncIterator[watches.Reflector]:
    """Yield a running mirror of a few pods."""
    mirror = watches.Reflector(client, names.PODS, namespace=namespace, label_selector=label_selector)
    running = asyncio.create_task(mirror.run(), name="log-pods")
    try:
        yield mirror
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


def pinned(asked: Asked, target: podlogs.Target | None) -> Asked:
    """Return the request with the attempt and container that were chosen, for `Content-Location`."""
    if target is None:
        return asked
    wanted = replace(asked.wanted, attempt=target.attempt, container=target.container)
    return replace(asked, wanted=wanted)


def _has_ended(mirror: watches.Reflector, key: tuple[str, str], container: str) -> bool:
    pod = mirror.items.get(key)
    return pod is None or podlogs.container_state(pod, container) == "terminated"


def _refused(error: apierrors.ApiError) -> Exception:
    """The kubelet answers 400 for a container that is not there yet, and 404 for one that is gone."""
    if error.status == 400:
        return errors.Problem(errors.CONFLICT, f"there is no log yet: {error.message[:256]}")
    if error.status == 404:
        return errors.Problem(errors.NOT_FOUND, "there is no log: its pod is gone")
    return error
