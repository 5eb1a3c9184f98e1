"""KubeClient against a real kube-apiserver."""

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from manifestry.adapters.kube import apierrors, calls, cluster, kubeconfigs
from manifestry.core.kube import names
from tests.controlplane.controlplane import ControlPlane
from tests.controlplane.tenants import Tenant

AGENT = "manifestry-operator/test"


@pytest.fixture
async def client(control_plane: ControlPlane) -> AsyncIterator[cluster.KubeClient]:
    made = await cluster.KubeClient.connect(kubeconfig=str(control_plane.kubeconfig), user_agent=AGENT)
    yield made
    await made.close()


def config_map(name: str, namespace: str, **data: str) -> dict[str, object]:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": namespace, "labels": {"made-by": "test"}},
        "data": data,
    }


async def test_an_object_lives_its_life(client: cluster.KubeClient, tenant: Tenant) -> None:
    kind, ns = names.CONFIG_MAPS, tenant.namespace
    made = await client.create(kind, config_map("a", ns, x="1"))
    assert made["metadata"]["managedFields"][0]["manager"] == "manifestry-operator"
    assert (await client.get(kind, "a", ns))["data"] == {"x": "1"}
    replaced = await client.replace(kind, {**made, "data": {"x": "2"}})
    patched = await client.merge_patch(kind, "a", {"data": {"y": "3"}}, ns)
    assert patched["data"] == {"x": "2", "y": "3"}
    assert replaced["metadata"]["uid"] == patched["metadata"]["uid"]
    await client.delete(kind, "a", ns)
    with pytest.raises(apierrors.NotFoundError) as missing:
        await client.get(kind, "a", ns)
    assert (missing.value.status, missing.value.reason) == (404, "NotFound")


async def test_refusals_have_their_own_classes(client: cluster.KubeClient, tenant: Tenant) -> None:
    kind, ns = names.CONFIG_MAPS, tenant.namespace
    made = await client.create(kind, config_map("a", ns))
    with pytest.raises(apierrors.AlreadyExistsError):
        await client.create(kind, config_map("a", ns))
    await client.merge_patch(kind, "a", {"data": {"x": "1"}}, ns)
    with pytest.raises(apierrors.ConflictError):
        await client.replace(kind, made)
    stale = {"metadata": {"resourceVersion": made["metadata"]["resourceVersion"]}, "data": {"x": "2"}}
    with pytest.raises(apierrors.ConflictError):
        await client.merge_patch(kind, "a", stale, ns)
    with pytest.raises(apierrors.ConflictError):
        await client.delete(kind, "a", ns, uid="00000000-0000-0000-0000-000000000000")
    with pytest.raises(apierrors.InvalidError):
        await client.create(kind, config_map("NOT-A-NAME", ns))


async def test_a_dry_run_leaves_nothing(client: cluster.KubeClient, tenant: Tenant) -> None:
    await client.create(names.CONFIG_MAPS, config_map("dry", tenant.namespace), dry_run=True)
    with pytest.raises(apierrors.NotFoundError):
        await client.get(names.CONFIG_MAPS, "dry", tenant.namespace)


async def test_a_list_reads_all_pages(client: cluster.KubeClient, tenant: Tenant) -> None:
    ns = tenant.namespace
    for number in range(7):
        await client.create(names.CONFIG_MAPS, config_map(f"c{number}", ns))
    items, version = await client.list(names.CONFIG_MAPS, ns, label_selector="made-by=test", page_size=2)
    assert [item["metadata"]["name"] for item in items] == [f"c{number}" for number in range(7)]
    assert {(item["apiVersion"], item["kind"]) for item in items} == {("v1", "ConfigMap")}
    assert int(version) > 0
    only, _ = await client.list(names.CONFIG_MAPS, ns, field_selector="metadata.name=c3")
    assert len(only) == 1


async def test_a_watch_tells_changes_in_order(client: cluster.KubeClient, tenant: Tenant) -> None:
    kind, ns = names.CONFIG_MAPS, tenant.namespace
    _, version = await client.list(kind, ns)
    await client.create(kind, config_map("w", ns))
    await client.merge_patch(kind, "w", {"data": {"x": "1"}}, ns)
    await client.delete(kind, "w", ns)
    events = client.watch(kind, ns, resource_version=version, timeout_seconds=3)
    seen = [event async for event in events if event.type != "BOOKMARK"]
    assert [event.type for event in seen if event.object["metadata"]["name"] == "w"] == [
        "ADDED",
        "MODIFIED",
        "DELETED",
    ]


@pytest.mark.parametrize("name", ["../secrets", "a/b", "", "A", "a?x=1", "a" * 254, "-a", "a\n"])
async def test_a_name_that_is_no_name_never_reaches_the_server(client: cluster.KubeClient, name: str) -> None:
    with pytest.raises(ValueError, match="DNS"):
        await client.get(names.CONFIG_MAPS, name, "default")
    with pytest.raises(ValueError, match="DNS"):
        await client.get(names.CONFIG_MAPS, "a", name)


async def test_an_impersonated_write_has_only_that_persons_rights(
    client: cluster.KubeClient, tenant: Tenant
) -> None:
    nobody = calls.Impersonation("mallory", ("manifestry:viewer",))
    with pytest.raises(apierrors.ForbiddenError, match="mallory"):
        await client.create(names.CONFIG_MAPS, config_map("i", tenant.namespace), impersonate=nobody)
    with pytest.raises(apierrors.ForbiddenError, match="mallory"):
        await client.delete(names.CONFIG_MAPS, "i", tenant.namespace, impersonate=nobody)


async def test_reviews_and_raw_paths(client: cluster.KubeClient) -> None:
    body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": "nonsense"}}
    answer = await client.post_review(names.TOKEN_REVIEWS, body)
    assert not answer["status"].get("authenticated")
    assert await client.get_raw("/readyz") == b"ok"
    with pytest.raises(ValueError, match="'/'"):
        await client.get_raw("readyz")


async def test_a_log_that_cannot_be_read_says_so_on_entering(
    client: cluster.KubeClient, tenant: Tenant
) -> None:
    with pytest.raises(apierrors.NotFoundError):
        async with client.stream_log("nothing", tenant.namespace):
            pass


async def test_each_attempt_is_observed(control_plane: ControlPlane, tenant: Tenant) -> None:
    seen: list[tuple[str, str, int]] = []
    client = await cluster.KubeClient.connect(
        kubeconfig=str(control_plane.kubeconfig),
        user_agent=AGENT,
        observer=lambda verb, resource, status, _: seen.append((verb, resource, status)),
    )
    await client.create(names.CONFIG_MAPS, config_map("o", tenant.namespace))
    with pytest.raises(apierrors.NotFoundError):
        await client.get(names.LEASES, "o", tenant.namespace)
    await client.close()
    assert seen == [("create", "configmaps", 201), ("get", "leases.coordination.k8s.io", 404)]


async def test_someone_without_rights_is_told_so_at_once(control_plane: ControlPlane) -> None:
    kubeconfig = control_plane.kubeconfig_for("nobody-in-particular")
    client = await cluster.KubeClient.connect(kubeconfig=str(kubeconfig), user_agent=AGENT)
    async with asyncio.timeout(5):
        with pytest.raises(apierrors.ForbiddenError):
            await client.list(names.CONFIG_MAPS)
    await client.close()


async def test_a_missing_kubeconfig_is_a_clear_error() -> None:
    with pytest.raises(kubeconfigs.CredentialsError, match="/nowhere"):
        await cluster.KubeClient.connect(kubeconfig="/nowhere/kubeconfig", user_agent=AGENT)


async def test_a_read_outlives_a_restart_of_the_server_and_a_write_fails_clearly(
    make_control_plane: Callable[..., ControlPlane],
) -> None:
    control_plane = make_control_plane(crds=False)
    client = await cluster.KubeClient.connect(
        kubeconfig=str(control_plane.kubeconfig), user_agent=AGENT, request_timeout_seconds=20
    )
    await client.get(names.NAMESPACES, "default")
    control_plane.apiserver.kill()
    with pytest.raises(apierrors.UnavailableError) as refused:
        await client.create(names.CONFIG_MAPS, config_map("x", "default"))
    assert refused.value.status == 503
    await asyncio.to_thread(control_plane.apiserver.start)
    assert (await client.get(names.NAMESPACES, "default"))["metadata"]["name"] == "default"
    with pytest.raises(apierrors.GoneError):  # its watch cache begins after the restart
        async for _ in client.watch(names.CONFIG_MAPS, resource_version="1"):
            pass
    await client.close()
