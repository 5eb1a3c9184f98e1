"""The webhook's Secrets, caBundle and path are brought up to date, and left alone when they are."""

import base64
from datetime import timedelta
from typing import Any

import pytest

from manifestry import settings
from manifestry.adapters.kube import apierrors
from manifestry.adapters.webhook import certificates, tls
from manifestry.core.access import webhookpaths
from manifestry.core.kube import names
from tests.unit.adapters.fakeclock import FakeClock

SERVICE = {"service": {"name": "manifestry-api", "namespace": "sys"}}
TLS, PATH = "manifestry-webhook-tls", "manifestry-webhook-path"


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
        self.writes.append(f"create {body['metadata']['name']}")
        made = {**body, "metadata": {**body["metadata"], "resourceVersion": "1"}}
        self.objects[resource.kind, body["metadata"]["name"]] = made
        return made

    async def merge_patch(
        self, resource: names.Resource, name: str, patch: dict[str, Any], _: str | None = None
    ) -> dict[str, Any]:
        self.writes.append(f"patch {name}")
        found = self.objects[resource.kind, name]
        assert patch["metadata"]["resourceVersion"] == found["metadata"]["resourceVersion"]
        version = str(int(found["metadata"]["resourceVersion"]) + 1)
        merged = {**found, **patch, "metadata": {**found["metadata"], "resourceVersion": version}}
        self.objects[resource.kind, name] = merged
        return merged


class World:
    def __init__(self, *hooks: dict[str, Any], **chosen: Any) -> None:
        self.client, self.clock = FakeClient(), FakeClock()
        self.keeper = tls.WebhookKeeper(
            self.client,  # type: ignore[arg-type]
            settings.OperatorSettings(**chosen),
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
        data = self.client.objects["Secret", TLS]["data"]
        return {key: base64.b64decode(value) for key, value in data.items()}

    def paths(self) -> list[str | None]:
        """Return the path of each webhook that is called by its Service."""
        hooks = self.client.objects["ValidatingWebhookConfiguration", "manifestry"]["webhooks"]
        return [h["clientConfig"]["service"].get("path") for h in hooks if "service" in h["clientConfig"]]

    def accepted(self) -> list[str]:
        """Return the paths that a facade accepts, the newest first."""
        tokens = webhookpaths.accepted(self.client.objects["Secret", PATH])
        return [webhookpaths.path(token) for token in tokens]


async def test_a_new_cluster_gets_its_secrets_and_one_write_of_authority_and_path() -> None:
    world = World({"name": "jobs", "clientConfig": SERVICE})
    assert await world.ensure() == [f"create {PATH}", "patch manifestry", f"create {TLS}"]
    assert sorted(world.secret()) == ["ca.crt", "ca.key", "tls.crt", "tls.key"]
    assert world.bundles() == [world.secret()["ca.crt"]]
    assert world.paths() == world.accepted()


async def test_nothing_is_written_when_nothing_is_due() -> None:
    world = World({"name": "jobs", "clientConfig": SERVICE})
    await world.ensure()
    assert await world.ensure() == []


async def test_a_webhook_by_url_is_left_alone() -> None:
    world = World({"name": "a", "clientConfig": {"url": "https://x"}}, {"name": "b", "clientConfig": SERVICE})
    await world.ensure()
    assert world.bundles() == [None, world.secret()["ca.crt"]]
    assert world.client.objects["ValidatingWebhookConfiguration", "manifestry"]["webhooks"][0] == {
        "name": "a",
        "clientConfig": {"url": "https://x"},
    }


async def test_a_bundle_and_a_path_that_somebody_removed_come_back() -> None:
    world = World({"name": "jobs", "clientConfig": SERVICE})
    await world.ensure()
    world.client.objects["ValidatingWebhookConfiguration", "manifestry"]["webhooks"] = [
        {"name": "jobs", "clientConfig": SERVICE}
    ]
    assert await world.ensure() == ["patch manifestry"]
    assert world.bundles() == [world.secret()["ca.crt"]]
    assert world.paths() == world.accepted()


async def test_what_else_is_in_the_configuration_stays() -> None:
    service = {**SERVICE["service"], "port": 443, "path": "/admission/jobs"}
    hook = {"name": "jobs", "failurePolicy": "Fail", "clientConfig": {"service": service}}
    world = World(hook)
    await world.ensure()
    (found,) = world.client.objects["ValidatingWebhookConfiguration", "manifestry"]["webhooks"]
    assert found["failurePolicy"] == "Fail"
    assert found["clientConfig"]["service"] == {**service, "path": world.accepted()[0]}


async def test_without_a_configuration_there_is_still_a_certificate(
    caplog: pytest.LogCaptureFixture,
) -> None:
    world = World()
    assert await world.ensure() == [f"create {PATH}", f"create {TLS}"]
    assert "webhook configuration missing" in caplog.messages


async def test_a_new_authority_is_trusted_before_anybody_serves_with_it() -> None:
    world = World({"name": "jobs", "clientConfig": SERVICE})
    await world.ensure()
    old = world.secret()
    world.clock.seconds = timedelta(days=61).total_seconds()
    assert await world.ensure() == [f"patch {TLS}", f"patch {PATH}"]
    assert world.secret()["ca.crt"] == old["ca.crt"]
    world.clock.seconds = timedelta(days=241).total_seconds()
    assert await world.ensure() == ["patch manifestry", "pause", f"patch {TLS}"]
    assert old["ca.crt"] in world.secret()["ca.crt"]
    assert world.bundles() == [world.secret()["ca.crt"]]
    assert await world.ensure() == [f"patch {PATH}"]
    assert await world.ensure() == []


async def test_a_new_path_is_accepted_before_anybody_is_told_to_call_it() -> None:
    world = World({"name": "jobs", "clientConfig": SERVICE})
    await world.ensure()
    (first,) = world.accepted()
    world.clock.seconds = webhookpaths.LIFETIME.total_seconds()
    assert await world.ensure() == [f"patch {PATH}"]
    second, previous = world.accepted()
    assert (previous, world.paths()) == (first, [first])
    world.clock.seconds += webhookpaths.KNOWN_AFTER.total_seconds() - 1
    assert await world.ensure() == []
    world.clock.seconds += 1
    assert await world.ensure() == ["patch manifestry"]
    assert world.paths() == [second]
    assert world.accepted() == [second, first]
    assert await world.ensure() == []


async def test_no_path_is_dropped_while_the_configuration_may_have_it() -> None:
    """The operator was away from the moment it had made a path until that one was old."""
    world = World({"name": "jobs", "clientConfig": SERVICE})
    await world.ensure()
    world.clock.seconds = webhookpaths.LIFETIME.total_seconds()
    await world.ensure()
    world.clock.seconds += 10 * webhookpaths.LIFETIME.total_seconds()
    assert await world.ensure() == ["patch manifestry"]
    assert world.paths()[0] in world.accepted()
    assert await world.ensure() == [f"patch {PATH}"]
    assert world.paths()[0] in world.accepted()


async def test_a_certificate_that_is_brought_has_a_path_all_the_same() -> None:
    brought = {**SERVICE, "caBundle": "eA=="}
    world = World({"name": "jobs", "clientConfig": brought}, webhook_certificates=False)
    assert await world.ensure() == [f"create {PATH}", "patch manifestry"]
    assert world.paths() == world.accepted()
    assert world.bundles() == [b"x"]
    assert await world.ensure() == []


@pytest.mark.parametrize("key", ["current", "made"])
async def test_a_damaged_path_is_made_anew(key: str, caplog: pytest.LogCaptureFixture) -> None:
    world = World({"name": "jobs", "clientConfig": SERVICE})
    await world.ensure()
    old = world.accepted()
    world.client.objects["Secret", PATH]["data"][key] = "%%%"
    assert await world.ensure() == [f"patch {PATH}", "patch manifestry"]
    assert "webhook path unusable" in caplog.messages
    assert world.paths() == world.accepted() != old
    assert await world.ensure() == []


async def test_paths_are_not_alike_and_are_in_no_log_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    seen = set()
    for _ in range(3):
        world = World({"name": "jobs", "clientConfig": SERVICE})
        for _ in range(3):
            world.clock.seconds += webhookpaths.LIFETIME.total_seconds()
            await world.ensure()
            seen |= {*world.accepted()}
    assert len(seen) == 6  # in each world a first one, and one after it
    lines = " ".join(str(vars(record)) for record in caplog.records)
    assert "webhook path renewed" in lines
    assert not [path for path in seen if path.removeprefix(webhookpaths.PREFIX) in lines]


@pytest.mark.parametrize("key", ["ca.crt", "ca.key", "tls.crt", "tls.key"])
@pytest.mark.parametrize("value", [None, "bm9uc2Vuc2U=", "%%%"])
async def test_a_damaged_secret_is_made_anew(key: str, value: str | None) -> None:
    world = World({"name": "jobs", "clientConfig": SERVICE})
    await world.ensure()
    data = world.client.objects["Secret", TLS]["data"]
    if value is None:
        del data[key]
    else:
        data[key] = value
    assert f"patch {TLS}" in await world.ensure()
    certificates.expiry(world.secret()["tls.crt"])
    assert await world.ensure() == []
