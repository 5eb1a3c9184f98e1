"""One status write for the kinds that only have conditions: skipped when equal, refused when stale."""

from collections.abc import Iterable, Mapping
from typing import Any

from manifestry.adapters.kube import apierrors
from manifestry.core.kube import bodies, conditions, names
from manifestry.handlers.runtime.registry import Context

CONFLICT_RETRY_SECONDS = 0.2


async def write(
    ctx: Context,
    resource: names.Resource,
    body: Mapping[str, Any],
    wanted: Iterable[conditions.Condition],
    **fields: Any,
) -> float | None:
    """Write an object's conditions and further status fields; one that is None is taken away.

    Returns:
        None, or the seconds after which to look again when somebody else has written.
    """
    current, generation = bodies.status_of(body), body["metadata"].get("generation", 1)
    merged = conditions.merge(current.get("conditions"), wanted, generation, ctx.clock.now())
    wanted_fields = {**current, **fields, "observedGeneration": generation, "conditions": merged}
    status = {name: value for name, value in wanted_fields.items() if value is not None}
    if status == current:
        return None
    try:
        await ctx.client.replace(resource, {**body, "status": status}, subresource="status")
    except apierrors.NotFoundError:
        return None
    except apierrors.ConflictError:
        return CONFLICT_RETRY_SECONDS
    return None
