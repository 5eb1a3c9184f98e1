"""Changing an artifact's metadata: read, compare, write only over what was read; begin again if need be."""

import asyncio
import random
from collections.abc import Callable
from typing import Any

from starlette.requests import Request

from manifestry.adapters.kube import apierrors
from manifestry.core import errors
from manifestry.core.artifacts import changes
from manifestry_api.guard import deps
from manifestry_api.objects import answers, lookups, representations, schemas
from manifestry_api.request import bodies, refusals

ATTEMPTS = 10
PAUSE_SECONDS = 0.05  # on average, times the attempt's number: enough for others to come to an end

Wanted = Callable[[changes.Object, changes.Object, Any], dict[str, Any]]


async def apply(
    ports: deps.Ports, caller: deps.Caller, name: str, request: Request, wanted: Wanted
) -> lookups.Object:
    """Change an artifact as the request's body says.

    The order is RFC 9110's: what needs no body first (404, 412), then the body (400, 413, 422). A writer in
    between makes it begin again, `If-Match` included, so that of several with one entity tag one succeeds.

    Args:
        ports: the API server.
        caller: in whose name.
        name: the artifact's.
        request: its conditional headers and its body.
        wanted: `changes.patched` or `changes.replaced`.

    Returns:
        The artifact after the change, or as it was when nothing changes.

    Raises:
        Problem: not-found, precondition-failed, immutable-field, validation-failed, busy.
    """
    content: Any = None
    for attempt in range(ATTEMPTS):
        found = await lookups.find_live(ports, caller, ports.caches.artifacts, name)
        answers.check_preconditions(request, representations.etag(found))
        if attempt == 0:
            content = await bodies.parse(request, ports.settings.max_body_bytes)
        change = changes.resource_patch(found, _checked(found, caller, content, wanted))
        if not change:
            return found
        try:
            return await lookups.patch(ports, caller, ports.caches.artifacts, name, change)
        except apierrors.ConflictError:
            await asyncio.sleep(random.uniform(0, 2 * PAUSE_SECONDS * attempt))  # noqa: S311 - a pause
        except apierrors.InvalidError as error:
            raise lookups.in_rest_terms(refusals.from_api(error), found["spec"]) from None
    raise errors.Problem(errors.BUSY, "the artifact keeps changing", headers={"Retry-After": "1"})


def _checked(body: lookups.Object, caller: deps.Caller, content: Any, wanted: Wanted) -> dict[str, Any]:
    members = wanted(body, representations.artifact(body, caller.tenant), content)
    bodies.validate(changes.altered(body, members), schemas.ArtifactUpdate)
    changes.check_labels(changes.labels(body), members.get("labels") or {})
    return members
