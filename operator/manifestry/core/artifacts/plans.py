"""What an Artifact's plan depends on and what it may ask for: values only."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from manifestry.core.artifacts.manifests import Descriptor
from manifestry.core.artifacts.sources import Evidence, Reference
from manifestry.core.kube.conditions import Condition

Body = Mapping[str, Any]
Status = dict[str, Any]


@dataclass(frozen=True)
class Tenant:
    """The owner of an artifact.

    Args:
        name: the tenant's name, from the namespace's label.
        uid: `metadata.uid` of the namespace, which is the prefix of its blobs.
    """

    name: str
    uid: str


@dataclass(frozen=True)
class Lookups:
    """What must be gathered before a plan can be made.

    Args:
        digests: blobs to look for in the tenant's store.
        references: ConfigMaps and Secrets to read.
        subject: name of the Artifact that this one describes, empty when there is none.
    """

    digests: frozenset[str] = frozenset()
    references: frozenset[Reference] = frozenset()
    subject: str = ""


@dataclass(frozen=True)
class Observed:
    """An Artifact and what is known about its surroundings.

    Args:
        tenant: None when the namespace belongs to no tenant, or to one that another claims too.
        subject: manifest of the Artifact in `spec.subjectRef`, None when it has none yet.
        quota: the condition QuotaReserved; None without a storage quota.
    """

    body: Body
    tenant: Tenant | None
    evidence: Evidence = field(default_factory=Evidence)
    subject: Descriptor | None = None
    quota: Condition | None = None

    @property
    def is_over_quota(self) -> bool:
        """Tell whether nothing may be stored, because there is no room."""
        return self.quota is not None and self.quota.status == "False"


@dataclass(frozen=True)
class PutBlob:
    """Publish these bytes in the tenant's store; harmless when they are there."""

    tenant_uid: str
    digest: str
    data: bytes = field(repr=False)


@dataclass(frozen=True)
class PublishStaged:
    """Make fetched bytes visible in the tenant's store; harmless when they are."""

    tenant_uid: str
    upload_id: str
    digest: str
    size_bytes: int


@dataclass(frozen=True)
class PutPin:
    """Keep the bytes after the Artifact's deletion."""

    tenant_uid: str
    artifact_uid: str
    content: bytes = field(repr=False)


@dataclass(frozen=True)
class DropPin:
    """Let the bytes go with the Artifact; harmless when they were never kept."""

    tenant_uid: str
    artifact_uid: str


@dataclass(frozen=True)
class DropFetched:
    """Forget what was fetched for this Artifact: it is not what the publisher said."""


Action = PutBlob | PublishStaged | DropFetched | PutPin | DropPin


@dataclass(frozen=True)
class Plan:
    """What to do, in this order: the actions, then the status.

    Args:
        status: the whole new status; None when it already stands so.
        again_seconds: when to look again; None when only a change of the object matters.
    """

    actions: tuple[Action, ...] = ()
    status: Status | None = None
    again_seconds: float | None = None
