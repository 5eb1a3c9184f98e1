"""What answers look like, for the OpenAPI document; `representations` makes them from custom resources."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from manifestry_api.objects.schemas import ArtifactStatus, JobStatus
from manifestry_api.request.fields import Digest

Count = Annotated[int, Field(ge=0)]


class View(BaseModel):
    """Part of an answer; later versions may add members."""

    model_config = ConfigDict(alias_generator=to_camel, extra="forbid")


class Condition(View):
    """What the operator observed, as in Kubernetes."""

    type: str
    status: Literal["True", "False", "Unknown"]
    reason: str
    message: str
    last_transition_time: datetime | Literal[""]


class Common(View):
    """What every object has."""

    id: str
    tenant: str
    project: str | None = None
    created_at: datetime | None = None
    created_by: str | None = None
    resource_version: str | None = None
    links: dict[str, str]


class Ref(View):
    """Another artifact of the tenant."""

    name: str


class ManifestPointer(View):
    """Names the canonical manifest for ever."""

    digest: Digest
    size_bytes: Count


class ArtifactSummary(Common):
    """An artifact in a list."""

    status: ArtifactStatus
    media_type: str
    artifact_type: str | None = None
    file_name: str | None = None
    annotations: dict[str, str] | None = None
    labels: dict[str, str] | None = None
    deletion_policy: str | None = None
    subject_ref: Ref | None = None
    derived_from_refs: list[Ref] | None = None
    source: str
    digest: Digest | None = None
    size_bytes: Count | None = None
    manifest: ManifestPointer | None = None


class Expected(View):
    """What the payload was promised to be."""

    digest: Digest | None = None
    size_bytes: Count | None = None


class FileView(View):
    """One of several payloads."""

    name: str
    media_type: str
    source: str
    status: ArtifactStatus
    digest: Digest | None = None
    size_bytes: Count | None = None
    expected: Expected | None = None
    links: dict[str, str]


class ArtifactView(ArtifactSummary):
    """An artifact."""

    expected: Expected | None = None
    stored_at: datetime | None = None
    verified_at: datetime | None = None
    files: list[FileView] | None = None
    conditions: list[Condition]


class UploadView(View):
    """A resumable upload that has just begun."""

    id: str
    tenant: str
    artifact: str
    file: str | None = None
    offset: Count
    size_bytes: Count | None = None
    expires_after_seconds: Count
    links: dict[str, str]


class JobSummary(Common):
    """A job in a list."""

    status: JobStatus
    job_type: str
    priority: int | None = None
    queued_at: datetime | None = None
    started_at: datetime | None = None
    completed_at: datetime | None = None
    attempts: Count | None = None
    exit_code: int | None = None
    reason: str | None = None
    message: str | None = None


class JobView(JobSummary):
    """A job."""

    desired_state: Literal["Active", "Suspended", "Cancelled"]
    parameters: dict[str, Any] = Field(
        description="As they were sent; as the pod's texts where the job type is not there any more."
    )
    overrides: dict[str, Any] | None = None
    active_deadline_seconds: int | None = None
    backoff_limit: int | None = None
    ttl_seconds_after_finished: int | None = None
    pod_name: str | None = None
    effective: dict[str, Any] | None = None
    outputs: list[dict[str, Any]] | None = None
    logs: dict[str, Any] | None = None
    conditions: list[Condition]


class ArtifactPage(View):
    """A page of artifacts, newest first."""

    items: list[ArtifactSummary]
    token: str | None = Field(None, alias="continue")


class JobPage(View):
    """A page of jobs, newest first."""

    items: list[JobSummary]
    token: str | None = Field(None, alias="continue")


class DryRunView(View):
    """What `POST /jobs?dryRun=true` found out; nothing was created."""

    dry_run: Literal[True]
    accepted: bool = Field(description="Whether the submit gate lets one more job in now.")
    detail: str
    usage: dict[str, Any] | None = None


class JobTypeView(View):
    """A job type: what it runs and what it takes."""

    id: str
    status: Literal["ready", "pending", "failed"]
    created_at: datetime | None = None
    resource_version: str | None = None
    image: str
    command: list[str] | None = None
    args: list[str] | None = None
    resources: dict[str, Any] | None = None
    parameters_schema: dict[str, Any] | None = None
    allowed_overrides: list[str] | None = None
    backoff_limit: int | None = None
    active_deadline_seconds: int | None = None
    ttl_seconds_after_finished: int | None = None
    queue_name: str | None = None
    conditions: list[Condition]
    links: dict[str, str]


class JobTypePage(View):
    """The job types, by name."""

    items: list[JobTypeView]
    token: str | None = Field(None, alias="continue")


class JobQuotaView(View):
    """Usage and limits of one job type; an absent limit is unlimited, 0 is none."""

    tenant: str
    job_type: str
    running: Count
    queued: Count
    reserved: Count = Field(description="Accepted, but suspended or still being created.")
    max_running: Count | None = None
    max_queued: Count | None = None
    initialized: bool = Field(description="False while the ledger is being made; submits are then 503.")
    links: dict[str, str]


class StorageQuotaView(View):
    """Usage and limits of storage; an absent limit is unlimited, 0 is none."""

    used_bytes: Count = Field(description="What the stored artifacts refer to, each for itself.")
    reserved_bytes: Count = Field(description="Charged for bytes that are on their way.")
    max_bytes: Count | None = None
    artifacts: Count = Field(description="Those on their way, and the retained ones, included.")
    max_artifacts: Count | None = None
    retained_bytes: Count | None = Field(
        None, description="How many of the used bytes are retained of deleted artifacts; absent for none."
    )
    retained_artifacts: Count | None = Field(None, description="Of how many deleted artifacts.")


class QuotasView(View):
    """A tenant's quotas."""

    tenant: str
    items: list[JobQuotaView]
    storage: StorageQuotaView


class RetainedView(View):
    """The bytes that `deletionPolicy: Retain` keeps of one deleted artifact."""

    id: str = Field(description="`metadata.uid` of the artifact that was.")
    name: str | None = Field(None, description="Its name; absent where the record cannot be read.")
    tenant: str
    namespace_uid: str = Field(description="Of the tenant's namespace: the bytes' place in the store.")
    digests: list[Digest] = Field(description="Of the payloads and of the manifest.")
    size_bytes: Count = Field(description="As the storage quota counts them.")
    since: datetime = Field(description="When they were pinned, by the store's clock.")
    damaged: bool | None = Field(
        None, description="True where the record cannot be read; it stops the collection of the tenant."
    )


class RetainedPage(View):
    """What is retained of a tenant's deleted artifacts, by id; a page that is not the last may be short."""

    items: list[RetainedView]
    token: str | None = Field(None, alias="continue")


class QueuePosition(View):
    """One waiting job; position 1 is admitted next."""

    position: Annotated[int, Field(ge=1)]
    job_id: str
    priority: int
    queued_at: datetime
    links: dict[str, str]


class GarbageView(View):
    """A stored blob, and what the collector will do with it."""

    digest: Digest
    size_bytes: Count
    modified_at: datetime
    verdict: Literal["keep", "mark", "remove"]
    reason: Literal["Referenced", "Pinned", "Young", "Marked", "Unreferenced", "Expired"]
    message: str
    until: datetime | None = Field(None, description="When the reason ends to hold by itself.")
    referrers: list[str] | None = Field(None, description="Names of what refers to it, ten at most.")


class GoneTenantView(View):
    """The bytes of an earlier namespace with the same name."""

    tenant_uid: str
    gone_since: datetime
    garbage_from: datetime = Field(description="Until then they may be copied to the new namespace's uid.")


class GarbagePage(View):
    """A tenant's stored blobs in the order of their digests."""

    tenant: str
    grace_seconds: float
    gone_tenants: list[GoneTenantView] | None = Field(None, description="On the first page only.")
    items: list[GarbageView]
    token: str | None = Field(None, alias="continue")


class DamagedView(View):
    """Stored bytes that the scrub has set aside."""

    digest: Digest = Field(description="What they should hash to.")
    size_bytes: Count
    since: datetime = Field(description="When they were set aside.")
    until: datetime = Field(description="The collector removes them in its first run after this.")
    reason: Literal["DigestMismatch"] = Field(
        description="They were read twice, and did not match the digest."
    )


class DamagedPage(View):
    """What is set aside of a tenant."""

    tenant: str
    items: list[DamagedView]
    token: str | None = Field(None, alias="continue")


class RestoredView(View):
    """Bytes that were set aside, and are served again."""

    digest: Digest
    size_bytes: Count


class QueuePage(View):
    """The waiting jobs of one type, in the order in which they will be admitted."""

    tenant: str
    job_type: str
    items: list[QueuePosition]
    token: str | None = Field(None, alias="continue")


class LivenessView(View):
    """The process answers."""

    status: Literal["ok"]


class CheckView(View):
    """One check of readiness."""

    name: str
    ok: bool
    age_seconds: float | None = Field(description="Since it was last looked at; null before the first look.")
    reason: str = Field(description="Why it fails; empty when it does not.")


class ReadinessView(View):
    """Every check; `failed` when a vital one fails that was not excluded, `degraded` when another does."""

    status: Literal["ok", "degraded", "failed"]
    checks: list[CheckView]


class SlowCallView(View):
    """One of the slowest recent calls."""

    dependency: str
    operation: str
    status: int
    seconds: float
    age_seconds: float


class CallsView(View):
    """Calls to one dependency."""

    count: Count
    slow: Count


class SlowCallsView(View):
    """What took longer than the threshold."""

    threshold_seconds: float
    calls: dict[str, CallsView]
    slowest: list[SlowCallView]


Word = Literal["ok", "degraded"]


class HealthView(View):
    """How well the process serves."""

    status: Word
    database: Word = Field(description="The Kubernetes API.")
    queue: Word = Field(description="The operator, which runs the jobs.")
    object_store: Word
    checks: list[CheckView]
    slow_calls: SlowCallsView
