"""One Secret of our own namespace, followed by name: roles can allow no more than that."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from manifestry.adapters.kube import apierrors, cluster, retries
from manifestry.core.kube import names

POLL_SECONDS = 1.0  # while there is no Secret yet, the first start of an installation waits for it


class SecretWatch:
    """Tells every state of a Secret, from its absence on; a deleted one is what it was.

    Args:
        client: the Kubernetes API.
        name: the Secret.
        namespace: our own.
        take: is given each state; must not fail.
        report: is given why the Secret cannot be read, without its content.
    """

    def __init__(
        self,
        client: cluster.KubeClient,
        name: str,
        namespace: str,
        *,
        take: Callable[[Mapping[str, Any]], None],
        report: Callable[[str], None],
    ) -> None:
        self._client = client
        self._name = name
        self._namespace = namespace
        self._take = take
        self._report = report
        self._backoff = retries.Backoff(base_seconds=POLL_SECONDS, cap_seconds=15.0)

    async def run(self) -> None:
        """Follow the Secret for ever."""
        failures = 0
        while True:
            try:
                await self._follow()
                failures = 0
            except apierrors.ApiError as error:
                failures += 1
                self._report(f"Secret {self._name}: {error.status} {error.reason}")
                await asyncio.sleep(self._backoff.delay(min(failures, 5)))

    async def _follow(self) -> None:
        selector = f"metadata.name={self._name}"
        secrets, version = await self._client.list(names.SECRETS, self._namespace, field_selector=selector)
        for secret in secrets:
            self._take(secret)
        events = self._client.watch(
            names.SECRETS, self._namespace, resource_version=version, field_selector=selector
        )
        async for event in events:
            if event.type in {"ADDED", "MODIFIED"}:
                self._take(event.object)
