"""Keep the Secret with the webhook's path: made when it is not there, renewed when it is old."""

import logging
import secrets
from collections.abc import Callable
from dataclasses import dataclass

from manifestry.adapters import clock as clocks
from manifestry.adapters.kube import apierrors, cluster
from manifestry.core.access import webhookpaths
from manifestry.core.kube import names

_logger = logging.getLogger(__name__)


def fresh() -> str:
    """Return a new token."""
    return secrets.token_hex(webhookpaths.TOKEN_BYTES)


@dataclass(frozen=True)
class Kept:
    """The tokens, and the Secret's resourceVersion with which they were read or written."""

    tokens: webhookpaths.Tokens
    version: str


class PathSecret:
    """The Secret that facade and operator share.

    Args:
        client: the Kubernetes API.
        name: the Secret.
        namespace: our own.
        clock: tells how old a token is.
        make: returns a new token.
    """

    def __init__(
        self,
        client: cluster.KubeClient,
        name: str,
        namespace: str,
        clock: clocks.Clock,
        make: Callable[[], str] = fresh,
    ) -> None:
        self._client = client
        self._name = name
        self._namespace = namespace
        self._clock = clock
        self._make = make

    async def read(self) -> Kept:
        """Return what the Secret holds, after it was made where there is none that can be read."""
        try:
            found = await self._client.get(names.SECRETS, self._name, self._namespace)
        except apierrors.NotFoundError:
            return await self._write(webhookpaths.renew(None, self._make(), self._clock.now()), "")
        version, tokens = found["metadata"]["resourceVersion"], webhookpaths.parse(found)
        if tokens is not None:
            return Kept(tokens, version)
        _logger.warning("webhook path unusable", extra={"object": self._name})
        return await self._write(webhookpaths.renew(None, self._make(), self._clock.now()), version)

    async def renew(self, kept: Kept) -> None:
        """Put a new token before the current one when that is old."""
        tokens = webhookpaths.renew(kept.tokens, self._make(), self._clock.now())
        if tokens != kept.tokens:
            await self._write(tokens, kept.version)

    async def _write(self, tokens: webhookpaths.Tokens, version: str) -> Kept:
        data = webhookpaths.render(tokens)
        if version:
            patch = {"metadata": {"resourceVersion": version}, "data": data}
            written = await self._client.merge_patch(names.SECRETS, self._name, patch, self._namespace)
        else:
            metadata = {"name": self._name, "namespace": self._namespace}
            body = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": data}
            written = await self._client.create(names.SECRETS, body)
        _logger.info("webhook path renewed", extra={"object": self._name})
        return Kept(tokens, written["metadata"]["resourceVersion"])
