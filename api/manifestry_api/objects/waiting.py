"""Waiting for the operator, as long as the client prefers: by watch, never by polling.

References: RFC 7240 (Prefer).
"""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from manifestry.adapters.kube import watches
from manifestry_api.guard import deps

WAIT_MAX_SECONDS = 60
SEEN_SECONDS = 2.0  # how long a write may take to come back by watch before we answer without it
Object = dict[str, Any]


@dataclass(frozen=True)
class Preference:
    """How long to wait.

    Args:
        wait_seconds: the bound.
        applied: what `Preference-Applied` says; empty when the client had no preference.
    """

    wait_seconds: float
    applied: str = ""

    @property
    def headers(self) -> dict[str, str]:
        """Return the headers of the answer."""
        return {"Preference-Applied": self.applied} if self.applied else {}


def preference(fields: Iterable[str], default_seconds: float) -> Preference:
    """Read the `Prefer` fields; what is not understood is ignored, as RFC 7240 section 2 wants it."""
    stated = _stated(fields)
    if "respond-async" in stated and "wait" not in stated:
        return Preference(0.0, "respond-async")
    text = stated.get("wait", "").strip('"')
    if not (text.isascii() and text.isdigit()):
        return Preference(default_seconds)
    seconds = min(int(text[:6]), WAIT_MAX_SECONDS)
    return Preference(float(seconds), f"wait={seconds}")


def _stated(fields: Iterable[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for part in ",".join(fields).split(","):
        name, _, value = part.partition(";")[0].partition("=")
        found.setdefault(name.strip().lower(), value.strip())
    return found


async def until(
    ports: deps.Ports,
    cache: watches.Reflector,
    body: Object,
    holds: Callable[[Object], bool],
    seconds: float,
) -> Object:
    """Return the object once `holds`, or as it is when time is up, it is deleted or we shut down.

    Args:
        ports: whose shutdown ends the wait.
        cache: watches the object's kind.
        body: the object as just written.
        holds: what to wait for.
        seconds: the bound.
    """
    metadata = body["metadata"]
    key = (metadata["namespace"], metadata["name"])
    cache.observe(body)
    if seconds > 0 and not ports.shutdown.is_set():
        await _first(cache.wait_for(key, holds, seconds), ports.shutdown)
    return newest(cache, body)


async def until_gone(cache: watches.Reflector, body: Object, is_deleting: Callable[[Object], bool]) -> None:
    """Wait a moment until the watch has seen the deletion, so that the client's next read does not."""
    key = (body["metadata"]["namespace"], body["metadata"]["name"])
    if key in cache.items:
        await cache.wait_for(key, is_deleting, SEEN_SECONDS)


def newest(cache: watches.Reflector, body: Object) -> Object:
    """Return the cached object if it is the same one (by uid), else `body`."""
    metadata = body["metadata"]
    found = cache.items.get((metadata["namespace"], metadata["name"]))
    return found if found is not None and found["metadata"].get("uid") == metadata.get("uid") else body


async def _first(wait: Any, stop: asyncio.Event) -> None:
    tasks = [asyncio.ensure_future(wait), asyncio.ensure_future(stop.wait())]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
