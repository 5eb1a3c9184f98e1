"""The webhook's Secret and caBundle are brought up to date, and left alone when they are."""

import base64
from datetime import timedelta
from typing import Any

import pytest

from manifestry import settings
from manifestry.adapters import apierrors, certificates, webhooktls
from manifestry.core import names
from tests.unit.adapters.fakeclock import FakeClock

SERVICE = {"service": {"name": "manifestry-api", "namespace": "sys"}}


class FakeClient:
    """Keeps objects by kind and name, and counts the writes in order."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str], dict[str, Any]] = {}
        self.writes: list[str] = []

    async def get(self, resource: names.Resource, name: str, _: str | None = None) -> dict[str, Any]:
        try:
            return self.objects[resource.kind, name]
        except KeyError:
            raise apierrors.NotFoundError(404, "NotFound", name) from None

    async def create(self, resource: names.Resource, body: dict[str, Any]) -> dict[str, Any]:
        self.writes.append(f"create {resource.kind}")
        made = {**body, "metadata": {**body["metadata"], "resourceVersion": "1"}}
        self.objects[resource.kind, body["metadata"]["name"]] = made
        return made

    async def merge_patch(
        self, resource: names.Resource, name: str, patch: dict[str, Any], _: str | None = None
    ) -> dict[str, Any]:
        self.writes.append(f"patch {resource.kind}")
        found = self.objects[resource.kind, name]
        assert patch["metadata"]["resourceVersion"] == found["metadata"]["resourceVersion"]
        version = str(int(found["metadata"]["resourceVersion"]) + 1)
        merged = {**found, **patch, "metadata": {**found["metadata"], "resourceVersion": version}}
        self.objects[resource.kind, name] = merged
        return merged


class World:
    def __init__(self, *hooks: dict[str, Any]) -> None:
        self.client, self.clock = FakeClient(), FakeClock()
        self.keeper = webhooktls.WebhookCertificates(
            self.client,  # type: ignore[arg-type]
            settings.OperatorSettings(),
            "sys",
            self.clock,
        )
        if hooks:
            self.client.objects["ValidatingWebhookConfiguration", "manifestry"] = {
                "metadata": {"name": "manifestry", "resourceVersion": "1"},
                "webhooks": list(hooks),
            }

    async def ensure(self) -> list[str]:
        self.client.writes.clear()
        self.clock.sleep = self._skip  # type: ignore[method-assign]
        await self.keeper.ensure()
        return list(self.client.writes)

    async def _skip(self, seconds: float) -> None:
        assert seconds > 0
        self.client.writes.append("pause")

    def bundles(self) -> list[bytes | None]:
        hooks = self.client.objects["ValidatingWebhookConfiguration", "manifestry"]["webhooks"]
        found = (hook["clientConfig"].get("caBundle") for hook in hooks)
        return [base64.b64decode(bundle) if bundle else None for bundle in found]

    def secret(self) -> dict[str, bytes]:
        data = self.client.objects["Secret", "manifestry-webhook-tls"]["data"]
        return {key: base64.b64decode(value) for key, value in data.items()}


async def test_a_new_cluster_gets_a_secret_and_its_authority() -> None:
    world = World({"name": "jobs", "clientConfig": SERVICE})
    assert await world.ensure() == ["patch ValidatingWebhookConfiguration", "create Secret"]
    assert sorted(world.secret()) == ["ca.crt", "ca.key", "tls.crt", "tls.key"]
    assert world.bundles() == [world.secret()["ca.crt"]]


async def test_nothing_is_written_when_nothing_is_due() -> None:
    world = World({"name": "jobs", "clientConfig": SERVICE})
    await world.ensure()
    assert await world.ensure() == []


async def test_a_webhook_by_url_is_left_alone() -> None:
    world = World({"name": "a", "clientConfig": {"url": "https://x"}}, {"name": "b", "clientConfig": SERVICE})
    await world.ensure()
    assert world.bundles() == [None, world.secret()["ca.crt"]]


async def test_a_bundle_that_somebody_removed_comes_back() -> None:
    world = World({"name": "jobs", "clientConfig": SERVICE})
    await world.ensure()
    world.client.objects["ValidatingWebhookConfiguration", "manifestry"]["webhooks"] = [
        {"name": "jobs", "clientConfig": SERVICE}
    ]
    assert await world.ensure() == ["patch ValidatingWebhookConfiguration"]


async def test_without_a_configuration_there_is_still_a_certificate(
    caplog: pytest.LogCaptureFixture,
) -> None:
    world = World()
    assert await world.ensure() == ["create Secret"]
    assert "webhook configuration missing" in caplog.messages


async def test_a_new_authority_is_trusted_before_anybody_serves_with_it() -> None:
    world = World({"name": "jobs", "clientConfig": SERVICE})
    await world.ensure()
    old = world.secret()
    world.clock.seconds = timedelta(days=61).total_seconds()
    assert await world.ensure() == ["patch Secret"]
    assert world.secret()["ca.crt"] == old["ca.crt"]
    world.clock.seconds = timedelta(days=241).total_seconds()
    assert await world.ensure() == ["patch ValidatingWebhookConfiguration", "pause", "patch Secret"]
    assert old["ca.crt"] in world.secret()["ca.crt"]
    assert world.bundles() == [world.secret()["ca.crt"]]
    assert await world.ensure() == []


@pytest.mark.parametrize("key", ["ca.crt", "ca.key", "tls.crt", "tls.key"])
@pytest.mark.parametrize("value", [None, "bm9uc2Vuc2U=", "%%%"])
async def test_a_damaged_secret_is_made_anew(key: str, value: str | None) -> None:
    world = World({"name": "jobs", "clientConfig": SERVICE})
    await world.ensure()
    data = world.client.objects["Secret", "manifestry-webhook-tls"]["data"]
    if value is None:
        del data[key]
    else:
        data[key] = value
    assert "patch Secret" in await world.ensure()
    certificates.expiry(world.secret()["tls.crt"])
    assert await world.ensure() == []
