"""What clients may send: bodies and query parameters, everything bounded, nothing unknown accepted."""

import re
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError

from manifestry.core.artifacts import requests
from manifestry.core.http import pages
from manifestry_api.request.fields import (
    Body,
    Digest,
    FileName,
    JobTypeName,
    LabelKey,
    LabelValue,
    MediaType,
    Name,
    Project,
    SizeBytes,
    must,
)

ShortText = Annotated[str, Field(min_length=1, max_length=253)]
Argument = Annotated[str, Field(max_length=4096)]
Seconds = Annotated[int, Field(ge=1, le=31_536_000)]  # a year
Quantity = Annotated[str, Field(min_length=1, max_length=32, examples=["500m", "1Gi"])]
JobStatus = Literal["queued", "running", "succeeded", "failed", "cancelled", "suspended"]
ArtifactStatus = Literal["awaiting-upload", "pending", "ready", "failed"]


class Inline(Body):
    """The payload itself, at most 64 KiB: `text` (UTF-8) or `data` (base64)."""

    text: str | None = Field(None, max_length=requests.INLINE_MAX_BYTES * 16)
    data: str | None = Field(None, max_length=requests.INLINE_MAX_BYTES * 16)


class Upload(Body):
    """The payload follows with `PUT /artifacts/{id}/content`."""

    expires_after_seconds: int | None = Field(None, ge=60, le=2_592_000)


class ObjectSource(Body):
    """Bytes that this tenant has already stored."""

    digest: Digest


class UrlSource(Body):
    """Bytes to be fetched over https."""

    url: str = Field(min_length=9, max_length=2048, examples=["https://example.com/data.csv"])


class KeyRef(Body):
    """One key of a ConfigMap or a Secret in the tenant's namespace."""

    name: ShortText
    key: ShortText


class Sources(Body):
    """Where the bytes come from: exactly one of these."""

    inline: Inline | None = None
    upload: Upload | None = None
    object: ObjectSource | None = None
    url: UrlSource | None = None
    config_map_ref: KeyRef | None = None
    secret_ref: KeyRef | None = None
    digest: Digest | None = Field(None, description="The digest that the payload must have.")
    size_bytes: SizeBytes | None = Field(None, description="The size that the payload must have.")


class File(Sources):
    """One of several payloads."""

    name: str = Field(min_length=1, max_length=255, pattern=r"^[A-Za-z0-9_+@=-][A-Za-z0-9._+@=-]*$")
    media_type: MediaType


class ArtifactRef(Body):
    """Another artifact of the tenant."""

    name: Name


Annotations = Annotated[
    dict[ShortText, Annotated[str, Field(max_length=1024)]],
    Field(max_length=32, description="Annotations of the manifest."),
]
Labels = Annotated[
    dict[LabelKey, LabelValue],
    Field(max_length=64, description="Labels of the custom resource, for `labelSelector`."),
]


class ArtifactUpdate(Body):
    """What may be changed; any other member of the representation must be as it is, or be left out."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"project": "apollo", "annotations": {"stage": "review"}}]}
    )

    project: Project | None = None
    artifact_type: MediaType | None = None
    annotations: Annotations | None = None
    labels: Labels | None = None
    file_name: FileName | None = Field(None, description="Offered to whoever downloads the payload.")
    deletion_policy: Literal["Delete", "Retain"] | None = None
    subject_ref: ArtifactRef | None = Field(None, description="The artifact that this one describes.")
    derived_from_refs: Annotated[list[ArtifactRef], Field(max_length=64)] | None = None


class ArtifactCreate(Sources):
    """A new artifact: what it is, and exactly one source."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"name": "greeting", "mediaType": "text/plain", "inline": {"text": "hello"}},
                {"project": "apollo", "mediaType": "application/zip", "fileName": "build.zip", "upload": {}},
            ]
        }
    )

    name: Name | None = Field(None, description="The id; made up by the server when it is absent.")
    project: Project | None = None
    media_type: MediaType
    artifact_type: MediaType | None = None
    annotations: Annotations | None = None
    labels: Labels | None = None
    file_name: FileName | None = Field(None, description="Offered to whoever downloads the payload.")
    deletion_policy: Literal["Delete", "Retain"] | None = None
    subject_ref: ArtifactRef | None = Field(None, description="The artifact that this one describes.")
    derived_from_refs: Annotated[list[ArtifactRef], Field(max_length=64)] | None = None
    files: Annotated[list[File], Field(min_length=1, max_length=64)] | None = None


class Resources(Body):
    """Requests and limits, as Kubernetes quantities."""

    requests: Annotated[dict[ShortText, Quantity], Field(max_length=16)] | None = None
    limits: Annotated[dict[ShortText, Quantity], Field(max_length=16)] | None = None


class Overrides(Body):
    """What the JobType's `allowedOverrides` lets a job set for itself."""

    image: str | None = Field(None, min_length=1, max_length=1024)
    command: Annotated[list[Argument], Field(max_length=64)] | None = None
    args: Annotated[list[Argument], Field(max_length=256)] | None = None
    env: (
        Annotated[
            dict[Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=253)], Argument],
            Field(max_length=128),
        ]
        | None
    ) = None
    resources: Resources | None = None


ParameterName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_.-]*$", max_length=63)]


class JobCreate(Body):
    """A new job: its type and what the type's `parametersSchema` asks for."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"jobType": "render", "project": "apollo", "parameters": {"frames": 24}}]
        }
    )

    name: Name | None = Field(None, description="The id; made up by the server when it is absent.")
    job_type: JobTypeName
    project: Project | None = None
    parameters: Annotated[dict[ParameterName, Any], Field(max_length=64)] | None = None
    overrides: Overrides | None = None
    priority: int | None = Field(None, ge=-1000, le=1000)
    active_deadline_seconds: Seconds | None = None
    backoff_limit: int | None = Field(None, ge=0, le=1000)
    ttl_seconds_after_finished: int | None = Field(None, ge=0, le=31_536_000)
    desired_state: Literal["Active", "Suspended"] | None = None


class _Query(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, alias_generator=to_camel)


class PageQuery(_Query):
    """One page of a list."""

    limit: int = Field(pages.LIMIT_DEFAULT, ge=1, le=pages.LIMIT_MAX, description="Items on a page.")
    token: str | None = Field(
        None,
        alias="continue",
        max_length=pages.TOKEN_MAX_LENGTH,
        description="`continue` of the page before, with the same filters. Lives for an hour.",
    )


_RFC_3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)", re.ASCII)
_TIME_MESSAGE = "must be an RFC 3339 time such as 2026-05-04T03:02:01Z ('+' is %2B in a query)"


def _in_utc(value: datetime) -> datetime:
    try:
        return value.astimezone(UTC)
    except OverflowError:  # a zone can push the first and the last day out of the calendar
        raise PydanticCustomError("must", "{text}", {"text": _TIME_MESSAGE}) from None


Time = Annotated[
    AwareDatetime,
    BeforeValidator(must(lambda value: _RFC_3339.fullmatch(value) is not None, _TIME_MESSAGE).func),
    AfterValidator(_in_utc),
]


class ListQuery(PageQuery):
    """Filters of every list of objects; all given ones must match."""

    project: str | None = Field(None, max_length=63, description="Exactly this project.")
    name: str | None = Field(None, max_length=63, description="The object of this id.")
    label_selector: str | None = Field(
        None, max_length=1024, description="As in Kubernetes: `a=b,c!=d,e in (f,g),h notin (i),j,!k`."
    )
    created_after: Time | None = Field(None, description="RFC 3339; created later than this.")


class ArtifactQuery(ListQuery):
    """Filters of `GET /artifacts`; all given ones must match."""

    media_type: str | None = Field(None, max_length=255, description="Exactly this media type.")
    digest: str | None = Field(None, max_length=71, description="Of the payload, or of one of its files.")
    status: ArtifactStatus | None = Field(None, description="The word that the answers show.")


class JobQuery(ListQuery):
    """Filters of `GET /jobs`; all given ones must match."""

    job_type: str | None = Field(None, max_length=63, description="Exactly this job type.")
    status: JobStatus | None = Field(None, description="The word that the answers show.")


class RetainedQuery(PageQuery):
    """Filters of `GET /retained`; all given ones must match."""

    name: str | None = Field(None, max_length=63, description="What the deleted artifact was called.")
    digest: str | None = Field(None, max_length=71, description="Of a payload, or of the manifest.")


class SubmitQuery(_Query):
    """Switches of `POST /jobs`."""

    dry_run: bool = Field(False, description="Check everything, quota included, and create nothing.")


class LogQuery(_Query):
    """Which part of a job's log, and whether to stay."""

    follow: bool = Field(False, description="Stay until the container has ended; wait if it has not begun.")
    tail_lines: int | None = Field(
        None, ge=0, le=1_000_000, description="Begin so many lines before the end."
    )
    since_time: Time | None = Field(None, description="RFC 3339; begin there.")
    container: str | None = Field(None, max_length=63, description="Default: the pod's first container.")
    attempt: int | None = Field(
        None, ge=1, le=10_000, description="The attempt's number; default: the latest."
    )
    offset: int | None = Field(
        None,
        ge=0,
        le=1 << 50,
        description="Bytes of this stream that the client already has, to go on after a broken connection.",
    )
