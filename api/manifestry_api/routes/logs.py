"""A job's output as plain text: live from the kubelet, resumable by byte offset."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Annotated
from urllib.parse import urlencode

from fastapi import Depends, Query
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response

from manifestry.core import errors
from manifestry.core.access import permissions
from manifestry.core.jobs import podlogs
from manifestry_api.guard import deps
from manifestry_api.jobs import tails
from manifestry_api.objects import answers, lookups, schemas
from manifestry_api.wire import streams

router = deps.api_router(tags=["logs"])

Reader = Annotated[deps.Caller, Depends(deps.require(permissions.Action.JOBS_LOGS))]

MEDIA_TYPE = "text/plain; charset=utf-8"
FOLLOWERS_MAX_COUNT = 480  # each holds a connection to the API server; the client's pool has 512 for streams
RETRY_AFTER_SECONDS = 5
_LOG: answers.Documented = {
    200: {
        "description": "The log, chunked. Without its last chunk it is incomplete: ask again with `offset`.",
        "content": {"text/plain": {"schema": {"type": "string"}}},
        "headers": {
            "Content-Location": answers.header(
                "This attempt's log.", "/jobs/render-1/logs?attempt=1&container=job"
            )
        },
    },
    **answers.refusal(409, "The job has no log yet, and `follow` is false"),
    **answers.refusal(416, "The log is shorter than `offset`: it was rotated; begin again without it"),
}
_RESUME = answers.parameter("Last-Event-ID", "The same as `offset`.", type="string", pattern="^[0-9]{1,15}$")


class Followers:
    """Counts the open streams, so that followers cannot use up the process's connections."""

    def __init__(self, max_count: int = FOLLOWERS_MAX_COUNT) -> None:
        self._free = max_count

    def enter(self) -> None:
        """Take a place.

        Raises:
            Problem: busy.
        """
        if self._free <= 0:
            detail = "there must not be more log streams at once; try again or ask another replica"
            raise errors.Problem(errors.BUSY, detail, headers={"Retry-After": str(RETRY_AFTER_SECONDS)})
        self._free -= 1

    def leave(self) -> None:
        """Give the place back."""
        self._free += 1


def followers_of(connection: HTTPConnection) -> Followers:
    """Return the application's counter, made at its first use."""
    state = connection.app.state
    if not hasattr(state, "log_followers"):
        state.log_followers = Followers()
    found: Followers = state.log_followers
    return found


@router.get(
    "/jobs/{name}/logs",
    response_class=Response,
    responses=_LOG,
    openapi_extra={"parameters": [_RESUME]},
)
async def get_log(
    name: str,
    request: Request,
    ports: deps.PortsDep,
    caller: Reader,
    query: Annotated[schemas.LogQuery, Query()],
) -> Response:
    """Read or follow a job's log; `follow=true` waits for a queued job and ends with the container."""
    asked = _asked(query, request.headers.get("last-event-id"))
    found = await lookups.find(ports, caller, ports.caches.jobs, name)
    followers = followers_of(request)
    followers.enter()
    tail = tails.Tail(ports, caller.namespace, found, asked)
    closing = _closer(tail, followers)
    try:
        await _prepare(tail, ports.shutdown)
    except BaseException:
        await closing()
        raise
    return streams.StreamedResponse(
        tail.chunks(),
        headers=_headers(name, tails.pinned(asked, tail.target)),
        close=closing,
        abort=ports.shutdown,
    )


def _closer(tail: tails.Tail, followers: Followers) -> Callable[[], Awaitable[None]]:
    async def close() -> None:
        try:
            await tail.close()
        finally:
            followers.leave()

    return close


async def _prepare(tail: tails.Tail, shutdown: asyncio.Event) -> None:
    if shutdown.is_set():
        detail = "this replica is shutting down"
        raise errors.Problem(errors.BUSY, detail, headers={"Retry-After": "1"})
    await tail.prepare()


def _asked(query: schemas.LogQuery, last_event_id: str | None) -> tails.Asked:
    offset = query.offset if query.offset is not None else _offset(last_event_id)
    if offset and query.tail_lines is not None:
        message = "`tailLines` must not be set together with `offset`: the tail moves while the log grows"
        raise errors.invalid("query:tailLines", message)
    wanted = podlogs.Wanted(query.attempt, query.container, query.follow)
    since = _rfc3339(query.since_time) if query.since_time is not None else None
    return tails.Asked(wanted, offset, query.tail_lines, since)


def _offset(text: str | None) -> int:
    if text is None:
        return 0
    if not (text.isascii() and text.isdigit() and len(text) <= 15):
        raise errors.Problem(errors.BAD_REQUEST, "header `Last-Event-ID` must be a number of bytes")
    return int(text)


def _rfc3339(time: datetime) -> str:
    return time.isoformat(timespec="seconds").replace("+00:00", "Z")


def _headers(name: str, asked: tails.Asked) -> dict[str, str]:
    wanted = {"attempt": asked.wanted.attempt, "container": asked.wanted.container}
    query = urlencode({key: value for key, value in wanted.items() if value is not None})
    located = {"Content-Location": f"/jobs/{name}/logs?{query}"} if query else {}
    return {
        "Content-Type": MEDIA_TYPE,
        "Cache-Control": "no-store",
        "X-Content-Type-Options": "nosniff",
        "X-Accel-Buffering": "no",
        **located,
    }
