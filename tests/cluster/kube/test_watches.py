"""Reflector against a real kube-apiserver: no ghosts, no gaps, read-your-writes."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from manifestry.adapters.kube import cluster, watches
from manifestry.core.kube import names
from tests.controlplane.controlplane import ControlPlane
from tests.controlplane.tenants import Tenant

KIND = names.CONFIG_MAPS


def body(name: str, namespace: str, value: str = "") -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": namespace, "labels": {"t": "1"}}, "data": {"x": value}}


@asynccontextmanager
async def mirrored(
    control_plane: ControlPlane, namespace: str | None, **options: Any
) -> AsyncIterator[tuple[cluster.KubeClient, watches.Reflector]]:
    client = await cluster.KubeClient.connect(
        kubeconfig=str(control_plane.kubeconfig), user_agent="manifestry-operator/test"
    )
    mirror = watches.Reflector(client, KIND, namespace=namespace, **options)
    task = asyncio.create_task(mirror.run())
    await asyncio.wait_for(mirror.synced.wait(), 20)
    yield client, mirror
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await client.close()


async def eventually(condition: Callable[[], bool], seconds: float = 20) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.02)


async def test_the_mirror_follows_the_world(control_plane: ControlPlane, tenant: Tenant) -> None:
    ns = tenant.namespace
    async with mirrored(control_plane, ns, label_selector="t=1") as (client, mirror):
        seen: list[tuple[str, str]] = []
        mirror.subscribe(lambda change, item: seen.append((change, item["metadata"]["name"])))
        await client.create(KIND, body("a", ns))
        await client.create(KIND, {**body("other", ns), "metadata": {"name": "other", "namespace": ns}})
        changed = await client.merge_patch(KIND, "a", {"data": {"x": "2"}}, ns)
        found = await mirror.wait_for((ns, "a"), lambda item: item["data"]["x"] == "2", 5)
        assert found is not None
        assert found["metadata"]["resourceVersion"] == changed["metadata"]["resourceVersion"]
        assert "managedFields" not in found["metadata"]
        await client.delete(KIND, "a", ns)
        await eventually(lambda: (ns, "a") not in mirror.items)
        assert seen == [("ADDED", "a"), ("MODIFIED", "a"), ("DELETED", "a")]


async def test_what_was_just_written_is_read(control_plane: ControlPlane, tenant: Tenant) -> None:
    ns = tenant.namespace
    async with mirrored(control_plane, ns) as (client, mirror):
        made = await client.create(KIND, body("a", ns, "1"))
        mirror.observe(made)
        assert mirror.items[ns, "a"]["data"] == {"x": "1"}
        newer = await client.merge_patch(KIND, "a", {"data": {"x": "2"}}, ns)
        await mirror.wait_for((ns, "a"), lambda item: item["data"]["x"] == "2", 5)
        mirror.observe(made)
        assert mirror.items[ns, "a"]["metadata"]["resourceVersion"] == newer["metadata"]["resourceVersion"]


async def test_an_object_observed_after_its_deletion_is_no_ghost(
    control_plane: ControlPlane, tenant: Tenant
) -> None:
    ns = tenant.namespace
    async with mirrored(control_plane, ns) as (client, mirror):
        made = await client.create(KIND, body("a", ns))
        await client.delete(KIND, "a", ns)
        await client.create(KIND, body("marker", ns))
        await mirror.wait_for((ns, "marker"), lambda _: True, 5)
        mirror.observe(made)
        assert (ns, "a") not in mirror.items


async def test_waiting_ends_with_the_deletion_or_the_deadline(
    control_plane: ControlPlane, tenant: Tenant
) -> None:
    ns = tenant.namespace
    async with mirrored(control_plane, ns) as (client, mirror):
        await client.create(KIND, body("a", ns))
        await mirror.wait_for((ns, "a"), lambda _: True, 5)
        waiting = asyncio.create_task(mirror.wait_for((ns, "a"), lambda item: item["data"] is None, 30))
        await asyncio.sleep(0)
        await client.delete(KIND, "a", ns)
        assert await asyncio.wait_for(waiting, 5) is None
        assert await mirror.wait_for((ns, "never"), lambda _: True, 0.05) is None


async def test_the_mirror_survives_a_restart_and_tells_what_vanished(
    make_control_plane: Callable[..., ControlPlane],
) -> None:
    control_plane, ns = make_control_plane(crds=False), "default"
    async with mirrored(control_plane, None) as (client, mirror):
        for name in ("stays", "goes", "changes"):
            await client.create(KIND, body(name, ns))
            await mirror.wait_for((ns, name), lambda _: True, 5)
        gone: list[str] = []
        mirror.subscribe(
            lambda change, item: gone.append(item["metadata"]["name"]) if change == "DELETED" else None
        )
        await asyncio.to_thread(control_plane.apiserver.kill)
        await eventually(lambda: mirror.failure is not None)
        stale = mirror.last_contact
        mirror._version = "1"  # what a compaction does: the next watch is answered 410
        await asyncio.to_thread(control_plane.apiserver.start)
        await asyncio.to_thread(control_plane.delete, "v1/configmaps", "goes", ns)
        await asyncio.to_thread(control_plane.patch, "v1/configmaps", "changes", {"data": {"x": "new"}}, ns)
        await eventually(lambda: (ns, "goes") not in mirror.items, 40)
        await mirror.wait_for((ns, "changes"), lambda item: item["data"]["x"] == "new", 20)
        assert (ns, "stays") in mirror.items
        assert gone == ["goes"]
        assert mirror.last_contact > stale
        assert mirror.failure is None


async def test_a_missing_permission_is_reported_and_does_not_spin(control_plane: ControlPlane) -> None:
    calls: list[int] = []
    client = await cluster.KubeClient.connect(
        kubeconfig=str(control_plane.kubeconfig_for("without-rights")),
        user_agent="manifestry-operator/test",
        observer=lambda *attempt: calls.append(attempt[2]),
    )
    mirror = watches.Reflector(client, KIND)
    task = asyncio.create_task(mirror.run())
    await eventually(lambda: mirror.failure is not None, 5)
    await asyncio.sleep(1)
    assert mirror.failure is not None
    assert "without-rights" in mirror.failure
    assert calls == [403]
    assert not mirror.synced.is_set()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await client.close()
