"""The ledger against a real API server: compare-and-swap, batching, the webhook's decision, repair."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest

from manifestry.adapters.kube import cluster
from manifestry.adapters.quota.books import ContentionError, NotReadyError
from manifestry.adapters.quota.ledgers import Ledgers, World
from manifestry.core.jobs import admission
from manifestry.core.kube import names
from manifestry.core.quota import holders, ledgers, quotas
from tests.controlplane import audit
from tests.controlplane.controlplane import ControlPlane
from tests.controlplane.tenants import Tenant

TYPE = "render"


@pytest.fixture
async def client(control_plane: ControlPlane) -> AsyncIterator[cluster.KubeClient]:
    made = await cluster.KubeClient.connect(
        kubeconfig=str(control_plane.kubeconfig), user_agent="manifestry-test/0"
    )
    yield made
    await made.close()


def request(number: int, name: str | None = None, *, dry_run: bool = False) -> admission.Request:
    return admission.Request(
        "r", f"uid-{number}", name or f"job-{number}", "ns", dry_run=dry_run, spec={"jobType": TYPE}
    )


def nothing() -> World:
    return World({}, frozenset())


async def prepared(client: cluster.KubeClient, tenant: Tenant) -> Ledgers:
    books = Ledgers(client)
    await books.ensure(tenant.namespace, TYPE)
    with pytest.raises(NotReadyError):
        await reserve(books, tenant, request(0), quotas.UNLIMITED)

    async def observe(_: object) -> World:
        return nothing()

    await books.repair(tenant.namespace, observe, lambda _: quotas.UNLIMITED)
    return books


async def reserve(
    books: Ledgers, tenant: Tenant, asked: admission.Request, limits: quotas.Limits
) -> admission.Decision:
    decide = admission.reserve(asked, tenant.name, limits, datetime.now(UTC))
    return await books.transact(tenant.namespace, TYPE, decide)


async def test_without_a_ledger_nothing_is_decided(client: cluster.KubeClient, tenant: Tenant) -> None:
    with pytest.raises(NotReadyError):
        await reserve(Ledgers(client), tenant, request(1), quotas.UNLIMITED)


async def test_two_hundred_creates_at_limit_ten_by_three_processes(
    client: cluster.KubeClient, tenant: Tenant, control_plane: ControlPlane
) -> None:
    await prepared(client, tenant)
    books = [Ledgers(client) for _ in range(3)]
    limits = quotas.Limits(4, 6)
    mark = control_plane.audit_mark()
    decisions = await asyncio.gather(
        *(reserve(books[number % 3], tenant, request(number), limits) for number in range(200))
    )
    assert [decision.code for decision in decisions].count(200) == 10
    assert {decision.code for decision in decisions} == {200, 429}
    assert (await books[0].read(tenant.namespace, TYPE)).usage == quotas.Usage(reserved=10)
    writes = control_plane.writes(audit.WriteFilter(namespace=tenant.namespace), since=mark)
    assert len(writes) <= 12, "200 decisions must share their writes"


async def test_a_hundred_creates_of_one_name_are_one_charge(
    client: cluster.KubeClient, tenant: Tenant
) -> None:
    books = await prepared(client, tenant)
    limits = quotas.Limits(1, 0)
    decisions = await asyncio.gather(
        *(reserve(books, tenant, request(number, "same"), limits) for number in range(100))
    )
    assert {decision.code for decision in decisions} == {200}
    assert (await books.read(tenant.namespace, TYPE)).usage == quotas.Usage(reserved=1)


async def test_a_dry_run_and_a_refusal_leave_the_resource_version(
    client: cluster.KubeClient, tenant: Tenant
) -> None:
    books = await prepared(client, tenant)
    before = await client.get(names.QUOTA_LEDGERS, TYPE, tenant.namespace)
    assert (await reserve(books, tenant, request(1, dry_run=True), quotas.Limits(1, 0))).allowed
    assert (await reserve(books, tenant, request(2), quotas.Limits(0, 0))).code == 429
    after = await client.get(names.QUOTA_LEDGERS, TYPE, tenant.namespace)
    assert after["metadata"]["resourceVersion"] == before["metadata"]["resourceVersion"]


async def test_a_refusal_never_rests_on_an_old_copy(client: cluster.KubeClient, tenant: Tenant) -> None:
    ours, other = await prepared(client, tenant), Ledgers(client)
    limits = quotas.Limits(1, 0)
    assert (await reserve(ours, tenant, request(1), limits)).allowed
    await other.transact(tenant.namespace, TYPE, lambda ledger: ledgers.release(ledger, "uid-1"))
    assert (await reserve(ours, tenant, request(2), limits)).allowed


async def test_repair_starts_again_when_the_ledger_has_changed(
    client: cluster.KubeClient, tenant: Tenant
) -> None:
    books, other = await prepared(client, tenant), Ledgers(client)
    old = datetime.now(UTC) - timedelta(seconds=300)
    decide = admission.reserve(request(1), tenant.name, quotas.UNLIMITED, old)
    await books.transact(tenant.namespace, TYPE, decide)
    rounds = []

    async def observe(_: object) -> World:
        rounds.append(1)
        if len(rounds) == 1:
            await reserve(other, tenant, request(2), quotas.UNLIMITED)
        return nothing()

    reports = await books.repair(tenant.namespace, observe, lambda _: quotas.UNLIMITED)
    assert reports[TYPE].released == {"uid-1": "expired"}
    assert len(rounds) == 2
    assert (await books.read(tenant.namespace, TYPE)).holders.keys() == {"uid-2"}


async def test_one_callers_defect_fails_that_caller_only(client: cluster.KubeClient, tenant: Tenant) -> None:
    books = await prepared(client, tenant)

    def broken(ledger: holders.Ledger) -> tuple[holders.Ledger, None]:
        raise ZeroDivisionError

    results = await asyncio.gather(
        books.transact(tenant.namespace, TYPE, broken),
        reserve(books, tenant, request(1), quotas.UNLIMITED),
        return_exceptions=True,
    )
    assert isinstance(results[0], ZeroDivisionError)
    assert results[1] == admission.ALLOWED


async def test_endless_contention_ends_at_the_deadline(client: cluster.KubeClient, tenant: Tenant) -> None:
    await prepared(client, tenant)
    books = Ledgers(client, deadline_seconds=0.5)
    stop = asyncio.Event()

    async def disturb() -> None:
        count = 0
        while not stop.is_set():
            count += 1
            label = {"metadata": {"labels": {"count": str(count)}}}
            await client.merge_patch(names.QUOTA_LEDGERS, TYPE, label, tenant.namespace)

    real = client.replace

    async def late(*args: object, **options: object) -> dict[str, object]:
        await asyncio.sleep(0.05)
        return await real(*args, **options)  # type: ignore[arg-type]

    client.replace = late  # type: ignore[method-assign]
    noise = asyncio.create_task(disturb())
    try:
        with pytest.raises(ContentionError):
            await reserve(books, tenant, request(1), quotas.UNLIMITED)
    finally:
        stop.set()
        await noise
        await books.close()


async def test_an_entry_without_a_job_is_dropped_by_the_next_repair(
    client: cluster.KubeClient, tenant: Tenant
) -> None:
    books = await prepared(client, tenant)
    entry = {"name": "x", "state": "Queued", "since": "2026-01-01T00:00:00Z"}
    await client.merge_patch(
        names.QUOTA_LEDGERS,
        TYPE,
        {"status": {"holders": {"ghost": entry}}},
        tenant.namespace,
        subresource="status",
    )

    async def observe(_: object) -> World:
        return nothing()

    reports = await books.repair(tenant.namespace, observe, lambda _: quotas.UNLIMITED)
    assert reports[TYPE].released == {"ghost": "absent"}
