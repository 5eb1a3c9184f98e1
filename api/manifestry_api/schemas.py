"""What clients may send: bodies and query parameters, everything bounded, nothing unknown accepted."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from manifestry.core import pages, requests
from manifestry_api.fields import (
    Body,
    Digest,
    FileName,
    JobTypeName,
    MediaType,
    Name,
    Project,
    SizeBytes,
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
    annotations: (
        Annotated[dict[ShortText, Annotated[str, Field(max_length=1024)]], Field(max_length=32)] | None
    ) = None
    file_name: FileName | None = Field(None, description="Offered to whoever downloads the payload.")
    deletion_policy: Literal["Delete", "Retain"] | None = None
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


class ArtifactQuery(PageQuery):
    """Filters of `GET /artifacts`; all given ones must match."""

    project: str | None = Field(None, max_length=63)
    media_type: str | None = Field(None, max_length=255)
    name: str | None = Field(None, max_length=63)
    digest: str | None = Field(None, max_length=71)
    status: ArtifactStatus | None = None


class JobQuery(PageQuery):
    """Filters of `GET /jobs`; all given ones must match."""

    job_type: str | None = Field(None, max_length=63)
    status: JobStatus | None = None
    project: str | None = Field(None, max_length=63)


class SubmitQuery(_Query):
    """Switches of `POST /jobs`."""

    dry_run: bool = Field(False, description="Check everything, quota included, and create nothing.")


class LogQuery(_Query):
    """Which part of a job's log, and whether to stay."""

    follow: bool = Field(False, description="Stay until the container has ended; wait if it has not begun.")
    tail_lines: int | None = Field(
        None, ge=0, le=1_000_000, description="Begin so many lines before the end."
    )
    since_time: datetime | None = Field(None, description="RFC 3339; begin there.")
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
