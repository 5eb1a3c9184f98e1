"""Keep the webhook's Secrets fresh, and its CA and its path known to the API server."""

import base64
import binascii
import logging
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from manifestry import settings as configuration
from manifestry.adapters import clock as clocks
from manifestry.adapters.kube import apierrors, cluster
from manifestry.adapters.webhook import certificates
from manifestry.adapters.webhook import paths as webhook_paths
from manifestry.core.access import webhookpaths as paths
from manifestry.core.kube import names

_logger = logging.getLogger(__name__)

PROPAGATION_SECONDS = 5.0  # until every API server has seen a new caBundle


class WebhookKeeper:
    """Makes and rotates the webhook's certificate and its path; run by the leader only, but two do no harm.

    References: https://kubernetes.io/docs/reference/access-authn-authz/extensible-admission-controllers/
    """

    def __init__(
        self,
        client: cluster.KubeClient,
        operator: configuration.OperatorSettings,
        namespace: str,
        clock: clocks.Clock | None = None,
    ) -> None:
        self._client = client
        self._settings = operator
        self._namespace = namespace
        self._clock = clock or clocks.SystemClock()
        self._paths = webhook_paths.PathSecret(client, operator.webhook_path_secret, namespace, self._clock)

    async def ensure(self) -> None:
        """Bring both Secrets, every `caBundle` and every path up to date; without effect when they are.

        A new path is made only after a run that found the configuration as it must be: then no API server
        uses any but the two newest.
        """
        kept = await self._paths.read()
        path = paths.path(paths.published(kept.tokens, self._clock.now()))
        if self._settings.webhook_certificates:
            published = await self._ensure_certificate(path)
        else:
            published = await self._publish({}, path)
        if not published:
            await self._paths.renew(kept)

    async def _ensure_certificate(self, path: str) -> bool:
        """Bring the certificate up to date; tell whether the configuration had to be changed.

        A new CA is published before anybody serves with it, and the old one stays in the bundle until it
        expires, so there is no moment in which calls fail. After a crash in between the next run repeats.
        """
        secret = await self._find(names.SECRETS, self._settings.webhook_secret, self._namespace)
        current = _parse(secret) if secret else None
        wanted = self._renew(current)
        published = await self._publish({"caBundle": base64.b64encode(wanted.trusted).decode()}, path)
        if wanted != current:
            if published and secret is not None:
                await self._clock.sleep(PROPAGATION_SECONDS)
            await self._write(wanted, secret)
        return published

    async def resync(self, _: object) -> None:
        """Do `ensure`, in the shape of a resync."""
        await self.ensure()

    async def _write(self, wanted: certificates.Bundle, secret: dict[str, Any] | None) -> None:
        body = _render(self._settings.webhook_secret, self._namespace, wanted)
        if secret is None:
            await self._client.create(names.SECRETS, body)
        else:
            version = {"resourceVersion": secret["metadata"]["resourceVersion"]}
            patch = {"metadata": version, "data": body["data"]}
            await self._client.merge_patch(
                names.SECRETS, self._settings.webhook_secret, patch, self._namespace
            )
        expires = certificates.expiry(wanted.serving.certificate).isoformat()
        _logger.info("webhook certificate renewed", extra={"expires": expires})

    def _renew(self, current: certificates.Bundle | None) -> certificates.Bundle:
        service = f"{self._settings.webhook_service}.{self._namespace}.svc"
        hosts = (service, f"{service}.cluster.local")
        lifetime = timedelta(days=self._settings.webhook_certificate_days)
        if current is not None:
            try:
                return certificates.rotate(current, hosts, self._clock.now(), lifetime)
            except ValueError as error:
                _logger.warning("webhook certificate unusable", extra={"error": str(error)})
        return certificates.issue(hosts, self._clock.now(), lifetime)

    async def _publish(self, trust: Mapping[str, str], path: str) -> bool:
        """Write CA and path into the configuration, together; tell whether that changed anything.

        Args:
            trust: `caBundle`; empty where somebody else writes it.
            path: at which the API server is to call.
        """
        name = self._settings.webhook_configuration
        found = await self._find(names.VALIDATING_WEBHOOKS, name)
        if found is None:
            _logger.warning("webhook configuration missing", extra={"object": name})
            return False
        hooks = [_with(hook, trust, path) for hook in found.get("webhooks") or ()]
        if hooks == (found.get("webhooks") or []):
            return False
        patch = {
            "metadata": {"resourceVersion": found["metadata"]["resourceVersion"]},
            "webhooks": hooks,
        }
        await self._client.merge_patch(names.VALIDATING_WEBHOOKS, name, patch)
        _logger.info("webhook configuration published", extra={"object": name})
        return True

    async def _find(
        self, resource: names.Resource, name: str, namespace: str | None = None
    ) -> dict[str, Any] | None:
        try:
            return await self._client.get(resource, name, namespace)
        except apierrors.NotFoundError:
            return None


def _with(hook: dict[str, Any], trust: Mapping[str, str], path: str) -> dict[str, Any]:
    client = hook.get("clientConfig") or {}
    service = client.get("service")
    if not service:  # a URL is served by somebody else, with another certificate
        return hook
    return {**hook, "clientConfig": {**client, **trust, "service": {**service, "path": path}}}


def _parse(secret: dict[str, Any]) -> certificates.Bundle | None:
    try:
        data = {key: base64.b64decode(value) for key, value in (secret.get("data") or {}).items()}
        return certificates.Bundle(
            certificates.Pair(_first(data["ca.crt"]), data["ca.key"]),
            certificates.Pair(data["tls.crt"], data["tls.key"]),
            data["ca.crt"],
        )
    except (KeyError, binascii.Error):
        return None


def _first(bundle: bytes) -> bytes:
    """Return the first certificate of a bundle: the one that signs."""
    end = b"-----END CERTIFICATE-----\n"
    head, mark, _ = bundle.partition(end)
    return head + mark


def _render(name: str, namespace: str, bundle: certificates.Bundle) -> dict[str, Any]:
    content = {
        "ca.crt": bundle.trusted,
        "ca.key": bundle.authority.key,
        "tls.crt": bundle.serving.certificate,
        "tls.key": bundle.serving.key,
    }
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": namespace},
        "type": "kubernetes.io/tls",
        "data": {key: base64.b64encode(value).decode() for key, value in content.items()},
    }
