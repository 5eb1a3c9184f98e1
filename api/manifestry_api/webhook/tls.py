"""The webhook's certificate: watched in its Secret, taken up without a restart, never written to a disk.

The operator (or cert-manager) makes and rotates the Secret. A broken pair in it never replaces a good one.
"""

import asyncio
import base64
import binascii
import logging
import os
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any

from cryptography import x509

from manifestry.adapters.kube import cluster
from manifestry_api.webhook import secretwatches

logger = logging.getLogger(__name__)


def new_context() -> ssl.SSLContext:
    """Return a server context without a certificate; `load_cert_chain` may be called again and again."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context


@contextmanager
def _memory_file(data: bytes) -> Iterator[str]:
    """Yield a path that only lives in memory: `ssl` reads key pairs from files alone."""
    descriptor = os.memfd_create("webhook-tls", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, data)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def load_pair(context: ssl.SSLContext, pem: bytes) -> None:
    """Put certificate chain and key into `context`, after a scratch context has proved them.

    Raises:
        ssl.SSLError: the two do not fit, or are not PEM.
    """
    with _memory_file(pem) as path:
        new_context().load_cert_chain(path)
        context.load_cert_chain(path)


class CertificateLoader:
    """Keeps an SSL context at what the Secret says.

    Args:
        client: the Kubernetes API.
        name: the Secret.
        namespace: our own.
    """

    def __init__(self, client: cluster.KubeClient, name: str, namespace: str) -> None:
        self._name = name
        self._watch = secretwatches.SecretWatch(client, name, namespace, take=self.take, report=self._fail)
        self._expires: datetime | None = None
        self._failure = "there is no certificate yet"
        self.context = new_context()
        self.loaded = asyncio.Event()

    @property
    def reason(self) -> str:
        """Return why the webhook cannot be served well, empty when it can."""
        if self._expires is not None and self._expires < datetime.now(UTC):
            return f"the certificate expired at {self._expires.isoformat()}"
        return self._failure

    async def run(self) -> None:
        """Follow the Secret for ever."""
        await self._watch.run()

    def take(self, secret: Mapping[str, Any]) -> None:
        """Take up a Secret's pair; a bad one leaves the pair that is in use."""
        try:
            chain, key = (_decoded(secret, part) for part in ("tls.crt", "tls.key"))
            load_pair(self.context, chain + b"\n" + key)
            self._expires = x509.load_pem_x509_certificate(chain).not_valid_after_utc
        except (ssl.SSLError, ValueError, KeyError) as error:
            self._failure = f"Secret {self._name} has no usable pair ({type(error).__name__})"
            logger.warning("webhook certificate not usable", extra={"reason": self._failure})
            return
        self._failure = ""
        self.loaded.set()
        logger.info("webhook certificate loaded", extra={"expires": self._expires.isoformat()})

    def _fail(self, reason: str) -> None:
        if not self.loaded.is_set():
            self._failure = reason


def _decoded(secret: Mapping[str, Any], part: str) -> bytes:
    with suppress(binascii.Error):
        return base64.b64decode((secret.get("data") or {})[part], validate=True)
    raise ValueError(f"`{part}` must be base64")
