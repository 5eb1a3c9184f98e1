"""The short way to the routes that are called most: guard, route, answer, and nothing of FastAPI in between.

FastAPI looks through every router for each request, and then solves dependencies that are the same four
objects each time: that takes three times as long as the download route itself. A shortcut calls the very same
function behind the very same requirement; which routes have one is said where they are declared.
"""

import inspect
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from manifestry_api.guard import deps

_GIVEN = frozenset({"request", "ports", "caller"})


@dataclass(frozen=True)
class Shortcut:
    """One route and its requirement."""

    route: APIRoute
    requirement: deps.Requirement

    def match(self, scope: Scope) -> dict[str, str] | None:
        """Return the placeholders' values when the route is meant, as the router itself would."""
        if scope["method"] not in (self.route.methods or ()):
            return None
        found = self.route.path_regex.match(scope["path"])
        return None if found is None else found.groupdict()


class Shortcuts:
    """Pure ASGI middleware, the innermost: serves the requests that have a shortcut.

    Args:
        app: serves all others.
        shortcuts: the routes.
    """

    def __init__(self, app: ASGIApp, shortcuts: Iterable[Shortcut]) -> None:
        self._app = app
        self._shortcuts = tuple(shortcuts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "http":
            for shortcut in self._shortcuts:
                if (values := shortcut.match(scope)) is not None:
                    await _serve(shortcut, values, scope, receive, send)
                    return
        await self._app(scope, receive, send)


def of(router: APIRouter, endpoints: Iterable[object]) -> Iterator[Shortcut]:
    """Yield the shortcuts to the routes of `endpoints`.

    Raises:
        TypeError: a route needs more than its path, the request, the ports and the caller.
    """
    wanted = tuple(endpoints)
    for route in router.routes:
        if isinstance(route, APIRoute) and route.endpoint in wanted:
            names = inspect.signature(route.endpoint).parameters.keys()
            if names != _GIVEN | route.param_convertors.keys():
                raise TypeError(f"route {route.path} cannot have a shortcut")
            yield Shortcut(route, deps.requirements(route.dependant)[0])


async def _serve(
    shortcut: Shortcut, values: dict[str, str], scope: Scope, receive: Receive, send: Send
) -> None:
    scope["route"], scope["path_params"] = shortcut.route, values
    request = Request(scope, receive, send)
    arguments: dict[str, Any] = {
        **values,
        "request": request,
        "ports": await deps.get_ports(request),
        "caller": await shortcut.requirement(request),
    }
    answer = await shortcut.route.endpoint(**arguments)
    await answer(scope, receive, send)
