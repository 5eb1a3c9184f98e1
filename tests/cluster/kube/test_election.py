"""Leader election against a real kube-apiserver."""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable

import pytest

from manifestry.adapters.kube import cluster, election
from manifestry.core.kube import leases, names
from tests.controlplane.controlplane import ControlPlane
from tests.controlplane.tenants import Tenant

QUICK = leases.Terms(duration_seconds=3, renew_seconds=2.0, retry_seconds=0.3)


@pytest.fixture
async def client(control_plane: ControlPlane) -> AsyncIterator[cluster.KubeClient]:
    made = await cluster.KubeClient.connect(
        kubeconfig=str(control_plane.kubeconfig), user_agent="manifestry-operator/test"
    )
    yield made
    await made.close()


def candidate(client: cluster.KubeClient, tenant: Tenant, identity: str) -> election.Election:
    return election.Election(client, "leader", tenant.namespace, identity=identity, terms=QUICK)


async def test_one_of_five_wins_and_the_lease_says_who(client: cluster.KubeClient, tenant: Tenant) -> None:
    candidates = [candidate(client, tenant, f"c{number}") for number in range(5)]
    tasks = [asyncio.create_task(each.acquire()) for each in candidates]
    done, waiting = await asyncio.wait(tasks, timeout=1.5)
    assert len(done) == 1
    leader = next(each for each in candidates if each.is_leader)
    assert {each.holder for each in candidates} == {leader.identity}
    spec = (await client.get(names.LEASES, "leader", tenant.namespace))["spec"]
    assert spec["holderIdentity"] == leader.identity
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", spec["renewTime"])
    for task in waiting:
        task.cancel()


async def test_a_released_lease_is_taken_at_once(client: cluster.KubeClient, tenant: Tenant) -> None:
    first, second = candidate(client, tenant, "first"), candidate(client, tenant, "second")
    await first.acquire()
    waiting = asyncio.create_task(second.acquire())
    await asyncio.sleep(0.1)
    started = time.monotonic()
    await first.release()
    await asyncio.wait_for(waiting, 2)
    assert time.monotonic() - started < QUICK.duration_seconds / 2
    spec = (await client.get(names.LEASES, "leader", tenant.namespace))["spec"]
    assert (spec["holderIdentity"], spec["leaseTransitions"]) == ("second", 1)


async def test_a_dead_leader_is_replaced_after_the_duration(
    client: cluster.KubeClient, tenant: Tenant
) -> None:
    first, second = candidate(client, tenant, "first"), candidate(client, tenant, "second")
    await first.acquire()
    started = time.monotonic()
    await asyncio.wait_for(second.acquire(), 10)
    assert time.monotonic() - started >= QUICK.duration_seconds
    async with asyncio.timeout(5):
        await first.renew_forever()  # the dead one wakes, sees another holder, and returns
    assert not first.is_leader
    await first.release()
    assert (await client.get(names.LEASES, "leader", tenant.namespace))["spec"]["holderIdentity"] == "second"


async def test_a_leader_renews_and_keeps_others_out(client: cluster.KubeClient, tenant: Tenant) -> None:
    first, second = candidate(client, tenant, "first"), candidate(client, tenant, "second")
    await first.acquire()
    renewing, waiting = asyncio.create_task(first.renew_forever()), asyncio.create_task(second.acquire())
    done, _ = await asyncio.wait([renewing, waiting], timeout=QUICK.duration_seconds * 1.5)
    assert done == set()
    renewing.cancel()
    waiting.cancel()


async def test_a_leader_stops_when_the_lease_was_deleted(client: cluster.KubeClient, tenant: Tenant) -> None:
    first = candidate(client, tenant, "first")
    await first.acquire()
    await client.delete(names.LEASES, "leader", tenant.namespace)
    await asyncio.wait_for(first.renew_forever(), 5)
    assert not first.is_leader


async def test_a_leader_without_a_server_stops_before_the_next_may_begin(
    make_control_plane: Callable[..., ControlPlane],
) -> None:
    control_plane = make_control_plane(crds=False)
    client = await cluster.KubeClient.connect(
        kubeconfig=str(control_plane.kubeconfig), user_agent="manifestry-operator/test"
    )
    leader = election.Election(client, "leader", "default", identity="first", terms=QUICK)
    await leader.acquire()
    await asyncio.to_thread(control_plane.apiserver.pause)
    started = time.monotonic()
    await asyncio.wait_for(leader.renew_forever(), 10)
    assert time.monotonic() - started < QUICK.duration_seconds + 0.5
    control_plane.apiserver.resume()
    await client.close()
