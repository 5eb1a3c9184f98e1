"""The door of the webhook's port: who gets in, by which tokens, and what is said about the others."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from manifestry.adapters.kube import apierrors, watchevents
from manifestry.core.access import webhookpaths
from manifestry_api.webhook import paths as webhook_paths
from manifestry_api.webhook import secretwatches
from manifestry_api.webhook.secrets import WebhookSecrets
from tests.unit.api import asgi, world

A, B, C = ("a" * 64, "b" * 64, "c" * 64)


def secret(current: str, previous: str = "") -> dict[str, Any]:
    return {"data": webhookpaths.render(webhookpaths.Tokens(current, previous, world.NOW))}


class Kubernetes:
    """A Secret that is there at the list, and events that the test feeds."""

    def __init__(self, *listed: Any) -> None:
        self.listed = list(listed)
        self.events: asyncio.Queue[watchevents.WatchEvent] = asyncio.Queue()
        self.error: Exception | None = None

    async def list(self, *_args: Any, field_selector: str, **_kwargs: Any) -> tuple[list[Any], str]:
        assert field_selector == "metadata.name=path"
        if self.error:
            raise self.error
        return self.listed, "1"

    async def watch(self, *_args: Any, **_kwargs: Any) -> AsyncIterator[watchevents.WatchEvent]:
        while True:
            yield await self.events.get()


def loader(kubernetes: Kubernetes | None = None) -> webhook_paths.PathLoader:
    return webhook_paths.PathLoader(kubernetes or Kubernetes(), "path", "ns")  # type: ignore[arg-type]


class Inside:
    """Keeps what has got in."""

    def __init__(self) -> None:
        self.scopes: list[Scope] = []
        self.refused = 0
        self.paths = loader()
        self.door = webhook_paths.Door(self, self.paths, "/inside", self._refuse)

    def _refuse(self) -> None:
        self.refused += 1

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scopes.append(scope)
        await PlainTextResponse("in")(scope, receive, send)

    async def knock(self, path: str) -> int:
        return (await asgi.call(self.door, "POST", path)).status


async def test_before_there_is_a_token_nobody_gets_in() -> None:
    inside = Inside()
    assert {await inside.knock(path) for path in ("/", "", "/validate/", "/inside")} == {404}
    assert inside.paths.reason == "there is no path yet"
    assert (inside.scopes, inside.refused) == ([], 4)


async def test_the_two_newest_tokens_get_in_and_the_application_does_not_see_them() -> None:
    inside = Inside()
    inside.paths.take(secret(A))
    assert [await inside.knock(f"/validate/{each}") for each in (A, B, C)] == [200, 404, 404]
    inside.paths.take(secret(B, A))
    assert [await inside.knock(f"/validate/{each}") for each in (A, B, C)] == [200, 200, 404]
    inside.paths.take(secret(C, B))
    assert [await inside.knock(f"/validate/{each}") for each in (A, B, C)] == [404, 200, 200]
    assert inside.paths.reason == ""
    assert {scope["path"] for scope in inside.scopes} == {"/inside"}
    assert not [scope for scope in inside.scopes if A in str(scope) or B in str(scope) or C in str(scope)]


@pytest.mark.parametrize("damaged", [{}, {"data": {}}, secret("x"), secret("")])
async def test_a_secret_without_a_token_leaves_what_is_in_use(damaged: Any) -> None:
    inside = Inside()
    inside.paths.take(damaged)
    assert await inside.knock("/validate/") == 404
    inside.paths.take(secret(A))
    inside.paths.take(damaged)
    assert inside.paths.reason == "Secret path has no usable token"
    assert await inside.knock(f"/validate/{A}") == 200
    inside.paths.take(secret(A))
    assert inside.paths.reason == ""


@pytest.mark.parametrize("path", ["/validate/\ud800", "/validate/" + "é" * 32, "/\x00", "/" + "a" * 16_000])
async def test_odd_paths_do_not_get_in(path: str) -> None:
    inside = Inside()
    inside.paths.take(secret(A))
    scope: Scope = {"type": "http", "method": "POST", "path": path, "headers": [], "client": None}
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    await inside.door(scope, None, send)  # type: ignore[arg-type]
    assert sent[0]["status"] == 404


async def test_many_knocks_are_one_line_with_their_number(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    inside = Inside()
    for _ in range(5):
        await inside.knock("/x")
    now[0] += webhook_paths.REPORT_SECONDS
    await inside.knock("/x")
    lines = [record for record in caplog.records if record.levelname == "WARNING"]
    assert [vars(line)["count"] for line in lines] == [1, 5]
    assert vars(lines[0])["lastClient"] == "192.0.2.1"


async def test_the_secret_is_followed_from_its_absence_on() -> None:
    kubernetes = Kubernetes()
    paths = loader(kubernetes)
    running = asyncio.create_task(paths.run())
    await asyncio.sleep(0.01)
    assert not paths.opens(f"/validate/{A}")
    kubernetes.events.put_nowait(watchevents.WatchEvent("ADDED", secret(A)))
    await asyncio.sleep(0.01)
    assert paths.opens(f"/validate/{A}")
    kubernetes.events.put_nowait(watchevents.WatchEvent("DELETED", secret(A)))
    kubernetes.events.put_nowait(watchevents.WatchEvent("MODIFIED", secret(B, A)))
    await asyncio.sleep(0.01)
    assert paths.opens(f"/validate/{B}")
    running.cancel()


async def test_a_secret_that_may_not_be_read_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secretwatches, "POLL_SECONDS", 0.01)
    kubernetes = Kubernetes()
    kubernetes.error = apierrors.ForbiddenError(403, "Forbidden", "no")
    paths = loader(kubernetes)
    running = asyncio.create_task(paths.run())
    await asyncio.sleep(0.05)
    assert paths.reason == "Secret path: 403 Forbidden"
    paths.take(secret(A))
    await asyncio.sleep(0.05)
    assert paths.reason == ""
    running.cancel()


def test_readiness_asks_for_certificate_and_path() -> None:
    ports = world.build().ports
    webhook = WebhookSecrets.of(ports.client, ports.settings, ports.namespace)
    assert webhook.reason == "there is no certificate yet"
    webhook.certificate._failure = ""
    assert webhook.reason == "there is no path yet"
    webhook.paths.take(secret(A))
    assert webhook.reason == ""
