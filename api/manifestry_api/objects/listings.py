"""Lists of a tenant's objects from the watch caches: filtered, newest first, a page at a time."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from manifestry.adapters.kube import watches
from manifestry.core.http import pages
from manifestry.core.kube import selectors
from manifestry_api.guard import deps
from manifestry_api.objects import representations, schemas

Object = dict[str, Any]


def take(
    ports: deps.Ports,
    caller: deps.Caller,
    cache: watches.Reflector,
    query: schemas.ListQuery,
    matches: Callable[[Object], bool],
) -> pages.Page[Object]:
    """Return the page of the caller's objects that a query asks for.

    Args:
        ports: whose clock.
        caller: whose tenant.
        cache: of the objects' kind.
        query: the filters, and where the page begins.
        matches: what the query asks of this kind alone.

    Raises:
        Problem: bad-request (label selector, or a token that does not fit), gone.
    """
    wanted = Filter.parse(query)
    found = (body for body in of_tenant(cache, caller) if wanted.holds(body) and matches(body))
    filters = query.model_dump(by_alias=True, exclude={"limit", "token"}, exclude_none=True)
    scope = {"list": cache.resource.plural, "tenant": caller.tenant}
    return pages.take(
        found, pages.newest_first, pages.Query(query.limit, query.token, {**scope, **filters}), ports.clock()
    )


def of_tenant(cache: watches.Reflector, caller: deps.Caller) -> Iterator[Object]:
    """Yield the tenant's objects that are not being deleted; read them before you await."""
    found = cache.in_namespace(caller.namespace).values()
    return (body for body in found if not representations.is_deleting(body))


@dataclass(frozen=True)
class Filter:
    """What every list of objects can be asked for; None asks for nothing."""

    project: str | None = None
    name: str | None = None
    selector: selectors.Selector = ()
    created_after: datetime | None = None

    @classmethod
    def parse(cls, query: schemas.ListQuery) -> "Filter":
        """Return the filter of a query.

        Raises:
            Problem: bad-request, a label selector that cannot be read.
        """
        return cls(
            query.project, query.name, selectors.parse(query.label_selector or ""), query.created_after
        )

    def holds(self, body: Object) -> bool:
        """Tell whether an object is asked for."""
        metadata = body["metadata"]
        return (
            (self.name is None or metadata["name"] == self.name)
            and (self.project is None or (body.get("spec") or {}).get("project") == self.project)
            and selectors.matches(self.selector, metadata.get("labels"))
            and (self.created_after is None or _is_after(metadata, self.created_after))
        )


def _is_after(metadata: Object, moment: datetime) -> bool:
    try:
        return datetime.fromisoformat(str(metadata.get("creationTimestamp"))) > moment
    except (ValueError, TypeError):  # no time, or one without a zone: nothing the API server writes
        return False
