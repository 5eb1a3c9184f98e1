"""What an administrator may set, read once from a mapping, all errors reported together."""

import os
from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator

from manifestry.core.fetching import addresses
from manifestry.core.kube import names

PREFIX = "MANIFESTRY_"


class SettingsError(ValueError):
    """The environment does not describe a working process; the message lists every bad variable."""


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", str_strip_whitespace=True)

    @classmethod
    def from_mapping(cls, env: Mapping[str, str]) -> Self:
        """Read the section's fields from `MANIFESTRY_<FIELD>` variables.

        Raises:
            SettingsError: one or more variables are not valid; values are never in the message.
        """
        values: dict[str, Any] = {
            name: env[PREFIX + name.upper()]
            for name in cls.model_fields
            if env.get(PREFIX + name.upper(), "") != ""
        }
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            lines = [
                f"{PREFIX}{str(e['loc'][0]).upper()}: {e['msg']}" for e in error.errors(include_input=False)
            ]
            raise SettingsError("; ".join(lines)) from None


def _dns_name(value: str) -> str:
    if not all(names.is_dns_label(part) for part in value.split(".")):
        raise ValueError("must be the name of a Kubernetes object: lower-case letters, digits, '-' and '.'")
    return value


class StoreSettings(_Section):
    """Where bytes are kept.

    References: docs/configuration.md "Storage"; obstore's own configuration keys for S3, GCS and Azure.
    """

    store_type: Literal["local", "s3", "gcs", "azure"] = "local"
    store_path: str = "/var/lib/manifestry"
    store_bucket: str = ""
    store_prefix: str = ""
    store_endpoint: str = ""
    store_region: str = "us-east-1"
    store_access_key_id: SecretStr | None = None
    store_secret_access_key: SecretStr | None = None
    store_allow_http: bool = False
    store_checksums: bool = True  # s3: a digest with each request, which the server compares and keeps
    store_timeout_seconds: float = Field(default=30.0, gt=0, le=600)
    # None: the larger of 64 MiB and 1 % of the volume, at most an eighth of it; see `store.local.room`
    store_reserve_bytes: int | None = Field(default=None, ge=0)
    gc_grace_seconds: float = Field(default=7200.0, ge=1, le=31_536_000)


class ClusterSettings(_Section):
    """How the Kubernetes API is reached; an empty kubeconfig means the pod's service account."""

    kubeconfig: str = ""
    namespace: str = "manifestry-system"
    kube_request_timeout_seconds: float = Field(default=30.0, gt=0, le=300)
    kube_pool_size: int = Field(default=64, ge=4, le=1024)

    @field_validator("namespace")
    @classmethod
    def _names(cls, value: str) -> str:
        return _dns_name(value)


class OperatorSettings(_Section):
    """The operator's own switches."""

    health_host: str = "0.0.0.0"  # noqa: S104 - a pod serves its probes on every address
    health_port: int = Field(default=8081, ge=0, le=65535)
    workers: int = Field(default=16, ge=1, le=256)
    resync_seconds: float = Field(default=60.0, ge=1, le=3600)
    gc_grace_seconds: float = Field(default=7200.0, ge=1, le=31_536_000)
    gc_tenant_grace_seconds: float = Field(default=604_800.0, ge=0, le=31_536_000)
    gc_period_seconds: float = Field(default=3600.0, ge=0, le=604_800)  # 0 = never
    scrub_bytes_per_second: int = Field(default=8 << 20, ge=0)  # 0 = never
    scrub_period_seconds: float = Field(default=86_400.0, ge=1, le=31_536_000)
    upload_expiry_seconds: int = Field(default=86_400, ge=1, le=30 * 86_400)
    lease_name: str = "manifestry-operator"
    leader_election: bool = True
    identity: str = ""
    webhook_secret: str = "manifestry-webhook-tls"  # noqa: S105 - a Secret's name
    webhook_path_secret: str = "manifestry-webhook-path"  # noqa: S105 - a Secret's name
    webhook_service: str = "manifestry-api"
    webhook_configuration: str = "manifestry"
    webhook_enabled: bool = True
    webhook_certificates: bool = True
    webhook_certificate_days: int = Field(default=90, ge=1, le=3650)
    fetch_enabled: bool = True
    fetch_allowed_cidrs: str = ""
    fetch_ca_file: str = ""
    fetch_max_bytes: int = Field(default=5 << 30, ge=1)
    fetch_timeout_seconds: float = Field(default=600.0, gt=0, le=86_400)
    fetch_concurrency: int = Field(default=8, ge=1, le=256)
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @field_validator(
        "lease_name", "webhook_secret", "webhook_path_secret", "webhook_service", "webhook_configuration"
    )
    @classmethod
    def _names(cls, value: str) -> str:
        return _dns_name(value)

    @field_validator("fetch_allowed_cidrs")
    @classmethod
    def _networks(cls, value: str) -> str:
        addresses.parse_networks(value)
        return value


class ApiSettings(_Section):
    """The facade's own switches."""

    api_host: str = "0.0.0.0"  # noqa: S104 - a pod serves on every address
    api_port: int = Field(default=8080, ge=0, le=65535)
    webhook_port: int = Field(default=9443, ge=0, le=65535)
    webhook_enabled: bool = True
    webhook_secret: str = "manifestry-webhook-tls"  # noqa: S105 - a Secret's name
    webhook_path_secret: str = "manifestry-webhook-path"  # noqa: S105 - a Secret's name
    jwt_audience: str = "manifestry"
    jwt_leeway_seconds: int = Field(default=30, ge=0, le=300)
    kubernetes_issuer: bool = True
    max_body_bytes: int = Field(default=1 << 20, ge=1024, le=16 << 20)
    max_upload_bytes: int = Field(default=5 << 30, ge=1)
    gc_grace_seconds: float = Field(default=7200.0, ge=1, le=31_536_000)
    gc_tenant_grace_seconds: float = Field(default=604_800.0, ge=0, le=31_536_000)
    max_upload_sessions: int = Field(default=64, ge=1, le=10_000)
    upload_expiry_seconds: int = Field(default=86_400, ge=1, le=30 * 86_400)
    download_redirect: bool = False
    wait_seconds: float = Field(default=5.0, ge=0, le=60)
    shutdown_seconds: float = Field(default=20.0, ge=0, le=300)
    lease_name: str = "manifestry-operator"
    webhook_configuration: str = "manifestry"
    slow_call_seconds: float = Field(default=1.0, gt=0)
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @field_validator("lease_name", "webhook_secret", "webhook_path_secret", "webhook_configuration")
    @classmethod
    def _names(cls, value: str) -> str:
        return _dns_name(value)


def environment() -> Mapping[str, str]:
    """Return the process's environment: the one place where it is read."""
    return os.environ
