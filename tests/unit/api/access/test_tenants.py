"""Indexes over the watch caches: a change acts on the next request."""

import time

import pytest

from manifestry.core import errors
from manifestry.core.access import identities
from manifestry.core.access.permissions import Role
from manifestry_api.access import tenants
from tests.unit.api import asgi, world

WHO = identities.Identity(world.CI)


def test_a_second_namespace_with_the_label_closes_both_and_its_removal_opens_the_first() -> None:
    found = world.build()
    assert found.ports.tenants.find("acme") is not None
    found.add_tenant("acme", "ns-second")
    assert found.ports.tenants.find("acme") is None
    assert found.ports.tenants.of_namespace("ns-acme") is None
    found.namespaces.remove("ns-second")
    assert found.ports.tenants.find("acme") == identities.Tenant("acme", "ns-acme", "uid-ns-acme")
    assert found.ports.tenants.of_namespace("ns-acme") is not None
    assert found.ports.tenants.of_namespace("kube-system") is None


async def test_a_revoked_binding_acts_at_once() -> None:
    found = world.build()
    found.grant("viewer")
    assert (await asgi.call(found.app, "GET", "/job-types", world.headers())).status == 200
    found.role_bindings.remove("viewer-binding", "ns-acme")
    assert (await asgi.call(found.app, "GET", "/job-types", world.headers())).status == 403


def test_grants_of_one_namespace_say_nothing_about_another() -> None:
    found = world.build()
    index = tenants.GrantIndex(found.role_bindings)  # type: ignore[arg-type]
    found.grant("admin", "ns-other")
    assert index.roles(WHO, "ns-acme") == frozenset()
    assert index.roles(WHO, "ns-other") == {Role.ADMIN}


@pytest.mark.parametrize("broken", ["not synced", "stale"])
async def test_grants_that_cannot_be_trusted_refuse_everybody(broken: str) -> None:
    found = world.build()
    found.grant("viewer")
    if broken == "stale":
        found.role_bindings.last_contact = time.monotonic() - tenants.GRANTS_MAX_AGE_SECONDS - 1
    else:
        found.role_bindings.synced.clear()
    answer = await asgi.call(found.app, "GET", "/job-types", world.headers())
    assert (answer.status, answer.json()["code"]) == (503, errors.DEPENDENCY_UNAVAILABLE.code)
    assert answer.headers["retry-after"] == "1"


async def test_tenants_that_are_not_loaded_yet_are_503_not_403() -> None:
    found = world.build()
    found.namespaces.synced.clear()
    assert (await asgi.call(found.app, "GET", "/job-types", world.headers())).status == 503


async def test_headers_that_are_not_utf8_are_refused() -> None:
    found = world.build()
    pairs = [*world.headers().items()]
    raw = [(name, text) for name, text in pairs if name != "x-reason"]

    async def app(scope: dict[str, object], receive: object, send: object) -> None:
        scope["headers"] = [*scope["headers"], (b"x-reason", b"\xff")]  # type: ignore[misc]
        await found.app(scope, receive, send)  # type: ignore[arg-type]

    assert (await asgi.call(app, "GET", "/job-types", raw)).status == 400
