"""Leader election by a Lease: at most one operator works, the next one takes over within seconds."""

import asyncio
import logging
import socket
import uuid
from typing import Any

from manifestry.adapters import clock as clocks
from manifestry.adapters.kube import apierrors, cluster, retries
from manifestry.core.kube import leases, names

_logger = logging.getLogger(__name__)


def default_identity() -> str:
    """Return an identity that no other process has: host name and a random id."""
    return f"{socket.gethostname()}_{uuid.uuid4()}"


class Election:
    """One candidate for one Lease.

    Losing is final for a process: it ends, and is a candidate again when it has been restarted. That is the
    only way to be sure that nothing of the old reign still runs.

    Args:
        client: the Kubernetes API.
        name: the Lease's name.
        namespace: its namespace.
        identity: ours; unique for each process.
        clock: time.
        terms: the three times.
    """

    def __init__(
        self,
        client: cluster.KubeClient,
        name: str,
        namespace: str,
        *,
        identity: str = "",
        clock: clocks.Clock | None = None,
        terms: leases.Terms | None = None,
    ) -> None:
        self._client = client
        self._name = name
        self._namespace = namespace
        self._clock = clock or clocks.SystemClock()
        self._terms = terms or leases.Terms()
        self._lease: dict[str, Any] | None = None
        self._stale = True
        self._changed_at = self._clock.monotonic()
        self._renewed_at = float("-inf")
        self.identity = identity or default_identity()
        self.is_leader = False
        self.transitions = 0

    @property
    def holder(self) -> str:
        """Return who was last seen to lead, "" for nobody."""
        return leases.holder(self._lease) if self._lease else ""

    async def acquire(self) -> None:
        """Wait until we lead; an API server that is away is waited for."""
        pause = retries.Backoff(self._terms.retry_seconds, self._terms.retry_seconds)
        while not await self._attempt(self._terms.renew_seconds):
            await self._clock.sleep(pause.delay(1))
        self.is_leader = True
        self.transitions += 1
        _logger.info("leadership won", extra={"identity": self.identity})

    async def renew_forever(self) -> None:
        """Keep the leadership; return when it is lost, and then stop at once."""
        while True:
            await self._clock.sleep(self._terms.retry_seconds)
            await self._attempt(self._terms.renew_seconds - self._since_renewal())
            if self.holder != self.identity or leases.must_stop(self._since_renewal(), self._terms):
                break
        self.is_leader = False
        _logger.error("leadership lost", extra={"identity": self.identity, "holder": self.holder})

    async def release(self) -> None:
        """Give the Lease up, so that the next one need not wait; without effect when it is not ours."""
        self.is_leader = False
        if self._lease is None or self.holder != self.identity:
            return
        try:
            async with asyncio.timeout(self._terms.retry_seconds):
                await self._client.replace(names.LEASES, leases.release(self._lease, self._clock.now()))
        except (apierrors.ApiError, TimeoutError) as error:
            _logger.warning("lease not released", extra={"error": str(error)})

    def _since_renewal(self) -> float:
        return self._clock.monotonic() - self._renewed_at

    async def _attempt(self, timeout_seconds: float) -> bool:
        """Take or renew the Lease; tell whether that worked. Failures are logged and tried again.

        A server that answers late must not make a leader miss the moment to stop.
        """
        begun = self._clock.monotonic()
        try:
            async with asyncio.timeout(timeout_seconds):
                held = await self._step()
        except (apierrors.ApiError, TimeoutError) as error:
            _logger.warning("lease not updated", extra={"error": f"{type(error).__name__}: {error}"})
            self._stale = True
            return False
        if held:
            self._renewed_at = begun
        return held

    async def _step(self) -> bool:
        if self._stale or not self.is_leader:
            self._see(await self._read())
        step = leases.decide(self._lease, self.identity, self._clock.monotonic() - self._changed_at)
        if step is leases.Step.WAIT or (self.is_leader and step is not leases.Step.RENEW):
            return False  # a leader takes nothing back: another one may have reigned meanwhile
        self._see(await self._write(step, self._lease or {}))
        return True

    async def _write(self, step: leases.Step, lease: dict[str, Any]) -> dict[str, Any]:
        now = self._clock.now()
        if step is leases.Step.CREATE:
            body = leases.create(self._name, self._namespace, self.identity, now, self._terms)
            return await self._client.create(names.LEASES, body)
        change = leases.take if step is leases.Step.TAKE else leases.renew
        return await self._client.replace(names.LEASES, change(lease, self.identity, now, self._terms))

    async def _read(self) -> dict[str, Any] | None:
        try:
            return await self._client.get(names.LEASES, self._name, self._namespace)
        except apierrors.NotFoundError:
            return None

    def _see(self, lease: dict[str, Any] | None) -> None:
        self._stale = False
        if lease is None or self._lease is None or _version(lease) != _version(self._lease):
            self._changed_at = self._clock.monotonic()
        if lease is not None and leases.holder(lease) not in {self.holder, self.identity}:
            _logger.info("leader observed", extra={"holder": leases.holder(lease)})
        self._lease = lease


def _version(lease: dict[str, Any]) -> Any:
    return lease["metadata"].get("resourceVersion")
