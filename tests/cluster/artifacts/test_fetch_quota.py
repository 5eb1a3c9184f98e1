"""What is fetched is charged before it is stored, and never more than the quota, through both doors."""

import asyncio
import time
from collections.abc import Iterator

import pytest

from manifestry.core.kube import names
from tests.cluster.artifacts.sources import DATA, Product, apply, artifact, installed, wait
from tests.component.fetching import originserver
from tests.controlplane.clusterapi import poll_until
from tests.controlplane.controlplane import ControlPlane
from tests.controlplane.tenants import Tenant
from tests.e2e.teams import ARTIFACTS, LEDGERS, QUOTAS, Team


@pytest.fixture(scope="module")
def product(control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    with installed(control_plane, tmp_path_factory.mktemp("sources")) as found:
        yield found


@pytest.fixture
def team(product: Product, tenant: Tenant) -> Team:
    return product.running.team(tenant)


def limit(team: Team, max_bytes: int) -> None:
    quota = {
        "apiVersion": names.API_VERSION,
        "kind": "TenantQuota",
        "metadata": {"name": team.tenant.name},
        "spec": {"tenants": [team.tenant.name], "storage": {"maxBytes": max_bytes}},
    }
    team.cluster.apply(QUOTAS, quota)


def charged(team: Team) -> tuple[int, int]:
    """Return how many bytes are stored and how many are reserved by the ledger."""
    found = (team.cluster.find(LEDGERS, "storage.manifestry", team.namespace) or {}).get("status", {})
    reserved = sum(each.get("sizeBytes", 0) for each in (found.get("holders") or {}).values())
    return found.get("storage", {}).get("committedBytes", -1), reserved


def chunked(event: asyncio.Event | None, *pieces: bytes) -> originserver.Answer:
    """Send a body of unknown length; the last piece waits for the event."""

    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for number, piece in enumerate(pieces, start=1):
            if event is not None and number == len(pieces):
                await writer.drain()
                await event.wait()
            writer.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        writer.write(b"0\r\n\r\n")
        await writer.drain()

    return answer


def test_bytes_of_unknown_number_are_charged_before_they_are_stored(product: Product, team: Team) -> None:
    limit(team, 3 * len(DATA))
    poll_until(lambda: charged(team) == (0, 0), "the ledger")
    done = asyncio.Event()
    product.origin.answers["/stream"] = chunked(done, DATA, DATA, b"end")
    apply(team, artifact(team, "stream", url={"url": product.origin.url("/stream")}))
    poll_until(lambda: charged(team)[1] >= 2 * len(DATA), "the charge")
    staged = sum(path.stat().st_size for path in product.staged())
    assert staged <= charged(team)[1] <= 3 * len(DATA)
    assert team.caller("viewer").call("GET", "/quotas").json["storage"]["reservedBytes"] >= 2 * len(DATA)
    product.running.operator.restart(kill=True)
    poll_until(lambda: product.requests("/stream") == 2, "the next operator's fetch", 60)
    assert charged(team)[1] <= 3 * len(DATA), "not charged twice"
    next(iter(product.origin.tasks)).get_loop().call_soon_threadsafe(done.set)
    wait(team, "stream", "Stored", "Current")
    poll_until(lambda: charged(team) == (2 * len(DATA) + 3, 0), "the totals")
    for path in product.staged():  # the killed operator's, which the collector takes after a while
        path.unlink()


def test_one_byte_more_than_the_quota_is_never_stored(product: Product, team: Team) -> None:
    limit(team, len(DATA))
    poll_until(lambda: charged(team) == (0, 0), "the ledger")
    product.origin.answers["/more"] = chunked(asyncio.Event(), DATA, b"x", b"the end never comes")
    apply(team, artifact(team, "more", url={"url": product.origin.url("/more")}))
    wait(team, "more", "ExceedsMaxQuota", "Failed")
    poll_until(lambda: charged(team) == (0, 0), "what was charged is given back")
    poll_until(lambda: product.staged() == [], "the staged bytes' removal")
    time.sleep(1)
    assert product.requests("/more") == 1
    product.origin.answers["/more"] = chunked(None, DATA, b"x")
    limit(team, len(DATA) + 1)
    wait(team, "more", "Stored", "Current")
    poll_until(lambda: charged(team) == (len(DATA) + 1, 0), "the totals")


def test_fetched_bytes_over_the_quota_are_not_kept(product: Product, team: Team) -> None:
    product.origin.answers["/over"] = originserver.status(200, DATA)
    limit(team, 1000)
    apply(team, artifact(team, "small", inline={"text": "x"}))
    wait(team, "small", "Stored", "Current")
    apply(team, artifact(team, "over", url={"url": product.origin.url("/over")}))
    wait(team, "over", "ExceedsMaxQuota", "Failed")
    poll_until(lambda: product.staged() == [], "the staged bytes' removal")
    team.cluster.patch(ARTIFACTS, "over", {"metadata": {"labels": {"look": "again"}}}, team.namespace)
    time.sleep(1)
    assert (product.requests("/over"), product.staged()) == (1, [])
    team.cluster.patch(QUOTAS, team.tenant.name, {"spec": {"storage": {"maxBytes": 2 * len(DATA)}}})
    wait(team, "over", "Stored", "Current")
    assert product.requests("/over") == 2
