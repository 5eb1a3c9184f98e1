"""Which Artifacts a Job takes as inputs, for whoever must not pull them away under it.

References: CRD Job `spec.inputs`.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from manifestry.core.jobs import statuses


def in_use(job: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield namespace and name of each Artifact that a Job needs until it has ended; a key for an index."""
    if statuses.is_terminal(job):
        return
    namespace = str(job["metadata"].get("namespace", ""))
    for given in (job.get("spec") or {}).get("inputs") or ():
        name = (given.get("artifactRef") or {}).get("name")
        if name:
            yield namespace, name
