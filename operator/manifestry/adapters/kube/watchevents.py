"""A watch's body: one JSON event a line, of unknown line lengths."""

import json
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

from manifestry.adapters.kube import apierrors

MAX_LINE_BYTES = 16 << 20  # an object is at most 3 MiB in etcd; more is not a Kubernetes API


class WatchEvent(NamedTuple):
    """One event of a watch: ADDED, MODIFIED, DELETED or BOOKMARK, and the object."""

    type: str
    object: dict[str, Any]


async def parse_events(chunks: AsyncIterator[bytes]) -> AsyncIterator[WatchEvent]:
    """Yield the events of a watch's body as they arrive.

    Raises:
        GoneError: the watch's resourceVersion is too old.
        ApiError: another ERROR event, or bytes that are no event.
    """
    buffer = bytearray()
    async for chunk in chunks:
        *lines, rest = chunk.split(b"\n")
        for line in lines:
            buffer += line
            if buffer:
                yield parse_event(bytes(buffer))
            buffer.clear()
        buffer += rest
        if len(buffer) > MAX_LINE_BYTES:
            raise apierrors.unavailable(f"a watch event is over {MAX_LINE_BYTES} bytes")


def parse_event(line: bytes) -> WatchEvent:
    """Return the event in one line.

    Raises:
        ApiError: it is an ERROR event, or no event.
    """
    try:
        content = json.loads(line)
        event = WatchEvent(content["type"], content["object"])
    except (ValueError, KeyError, TypeError) as error:
        raise apierrors.unavailable("a watch event cannot be read") from error
    if not isinstance(event.object, dict):
        raise apierrors.unavailable("a watch event carries no object")
    if event.type == "ERROR":
        raise apierrors.from_status(event.object)
    return event
