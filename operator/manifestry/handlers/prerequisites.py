"""What must be there before the work begins.

Kopf never serves a kind that appears after its start, and a quota that is not in the caches yet would read as
unlimited.
"""

import json
import logging

from manifestry.adapters import clock as clocks
from manifestry.adapters.kube import apierrors, cluster
from manifestry.core.kube import names
from manifestry.handlers.runtime import caches

_logger = logging.getLogger(__name__)

KINDS = (names.ARTIFACTS, names.JOBS, names.JOB_TYPES, names.TENANT_QUOTAS, names.QUOTA_LEDGERS)
RETRY_SECONDS = 2.0


async def wait_for_kinds(client: cluster.KubeClient, clock: clocks.Clock) -> None:
    """Wait until the API server serves all of our kinds; say once which are missing."""
    reported: set[str] = set()
    while missing := await find_missing(client):
        if missing != reported:
            _logger.warning("waiting for kinds to be served", extra={"missing": sorted(missing)})
            reported = missing
        await clock.sleep(RETRY_SECONDS)


async def find_missing(client: cluster.KubeClient) -> set[str]:
    """Return the plurals that are not served; all of them when the API server does not answer."""
    wanted = {resource.plural for resource in KINDS}
    try:
        content = json.loads(await client.get_raw(f"/apis/{names.API_VERSION}"))
        return wanted - {entry["name"] for entry in content["resources"]}
    except (apierrors.ApiError, ValueError, KeyError, TypeError):
        return wanted


async def load_caches(client: cluster.KubeClient, cache: caches.Caches, clock: clocks.Clock) -> None:
    """Fill the caches from the API server; try until that has worked."""
    while True:
        try:
            for resource in caches.CACHED:
                await refresh(client, cache, resource)
        except apierrors.ApiError as error:
            _logger.warning("caches not loaded", extra={"error": str(error)})
            await clock.sleep(RETRY_SECONDS)
        else:
            return


async def refresh(client: cluster.KubeClient, cache: caches.Caches, resource: names.Resource) -> set[str]:
    """Correct the cache of one kind by a LIST; return the names of what that has changed."""
    selector = names.TENANT_LABEL if resource == names.NAMESPACES else None
    items, version = await client.list(resource, label_selector=selector)
    return cache.replace(resource.kind, items, version)
