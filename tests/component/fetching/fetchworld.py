"""A server to fetch from, one that may not be, a resolver and a store."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from manifestry.adapters.fetching import fetches
from manifestry.adapters.store.local import blobs
from manifestry.core.fetching import addresses
from manifestry.core.fetching.fetches import FetchError, Order
from tests.component.fetching import originserver
from tests.component.fetching.originserver import Origin
from tests.controlplane.certificates import Authority

DATA = bytes(range(256)) * 8192  # 2 MiB
MIB = 1 << 20
ALLOWED, PRIVATE = "127.0.0.2", "127.0.0.1"
NAME = "origin.example"


@dataclass
class Names:
    """A resolver that answers differently each time."""

    answers: list[Sequence[str]] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    async def __call__(self, host: str, _: int) -> Sequence[str]:
        self.asked.append(host)
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


@dataclass
class World:
    """A server that may be fetched from, one on the same port that may not, a resolver, a store."""

    root: Path
    store: blobs.LocalStore
    origin: Origin
    private: Origin
    names: Names
    ca_file: Path

    def fetcher(self, allowed: str = f"{ALLOWED}/32", **bounds: float) -> fetches.Fetcher:
        found = fetches.Bounds(
            int(bounds.get("max_bytes", 8 * MIB)),
            bounds.get("total_seconds", 10),
            bounds.get("idle_seconds", 5),
        )
        policy = addresses.Policy(addresses.parse_networks(allowed))
        return fetches.Fetcher(policy, tls=fetches.Trust(str(self.ca_file)), bounds=found, resolve=self.names)

    async def fetch(self, order: Order | str, fetcher: fetches.Fetcher | None = None) -> str:
        wanted = order if isinstance(order, Order) else Order(order)
        return (await (fetcher or self.fetcher()).fetch(wanted, self.store)).digest

    async def refused(
        self, order: Order | str, fetcher: fetches.Fetcher | None = None
    ) -> tuple[str, str, str]:
        with pytest.raises(FetchError) as error:
            await self.fetch(order, fetcher)
        assert self.staged() == []
        failure = error.value.failure
        return failure.reason, failure.retry, failure.message

    def staged(self) -> list[Path]:
        return [path for path in self.root.rglob("*") if path.is_file()]


@asynccontextmanager
async def opened(tmp_path: Path, authority: Authority) -> AsyncIterator[World]:
    """Start the servers and open a store, in a folder."""
    ca_file = tmp_path / "ca.crt"
    ca_file.write_bytes(authority.certificate_pem)
    root = tmp_path / "store"
    store = blobs.LocalStore(root, timeout_seconds=5)
    async with AsyncExitStack() as stack:
        origin = await stack.enter_async_context(
            originserver.serving(authority, tmp_path, address=ALLOWED, names=(NAME, "other.example"))
        )
        private = await stack.enter_async_context(
            originserver.serving(authority, tmp_path, address=PRIVATE, names=(NAME,), port=origin.port)
        )
        yield World(root, store, origin, private, Names([[ALLOWED]]), ca_file)
    await store.close()
