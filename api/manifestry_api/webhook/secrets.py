"""What the webhook cannot be served without: its certificate and its secret path, both from Secrets."""

from dataclasses import dataclass
from typing import Self

from manifestry.adapters.kube import cluster
from manifestry.settings import ApiSettings
from manifestry_api.webhook import paths as webhook_paths
from manifestry_api.webhook import tls


@dataclass(frozen=True)
class WebhookSecrets:
    """Both, followed as they change."""

    certificate: tls.CertificateLoader
    paths: webhook_paths.PathLoader

    @classmethod
    def of(cls, client: cluster.KubeClient, settings: ApiSettings, namespace: str) -> Self:
        """Return both, empty until `run` of each."""
        return cls(
            tls.CertificateLoader(client, settings.webhook_secret, namespace),
            webhook_paths.PathLoader(client, settings.webhook_path_secret, namespace),
        )

    @property
    def reason(self) -> str:
        """Return why the webhook cannot be served well, empty when it can."""
        return self.certificate.reason or self.paths.reason
