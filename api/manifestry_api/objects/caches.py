"""The facade's watch caches: made in one place, run for as long as the process serves."""

import dataclasses
from collections.abc import Iterator

from manifestry.adapters.kube import cluster, watches
from manifestry.core.kube import names
from manifestry_api.guard import deps


def build(client: cluster.KubeClient) -> deps.Caches:
    """Return the caches, empty until `run` of each."""
    return deps.Caches(
        artifacts=watches.Reflector(client, names.ARTIFACTS),
        jobs=watches.Reflector(client, names.JOBS),
        job_types=watches.Reflector(client, names.JOB_TYPES),
        tenant_quotas=watches.Reflector(client, names.TENANT_QUOTAS),
        quota_ledgers=watches.Reflector(client, names.QUOTA_LEDGERS),
        namespaces=watches.Reflector(client, names.NAMESPACES, label_selector=names.TENANT_LABEL),
        role_bindings=watches.Reflector(client, names.ROLE_BINDINGS),
    )


def each(caches: deps.Caches) -> Iterator[tuple[str, watches.Reflector]]:
    """Yield every cache with its name."""
    for field in dataclasses.fields(caches):
        yield field.name, getattr(caches, field.name)
