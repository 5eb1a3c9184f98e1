"""Route x role x state, generated from the application: a new route cannot land unguarded.

The gate is the real one; behind it stands a wall that answers 412, so that "admitted" is one fixed answer
and no route needs a backend.
"""

import functools
from typing import Any

import pytest
from fastapi.routing import APIRoute, iter_route_contexts

from manifestry.core import errors
from manifestry.core.access import audit, permissions
from manifestry_api import openapi
from manifestry_api.guard import deps
from tests.unit.api import asgi, world

PUBLIC = {"/livez", "/readyz", "/healthz", "/metrics", "/openapi.json", "/docs", "/docs/style.css"}
ADMITTED = 412


class Wall:
    """Lets the real gate decide, then stops whoever it has admitted."""

    def __init__(self, gate: deps.Gate) -> None:
        self._gate = gate

    async def admit(self, connection: Any, action: permissions.Action) -> deps.Caller:
        await self._gate.admit(connection, action)
        raise errors.Problem(errors.PRECONDITION_FAILED, "admitted")


def guarded() -> list[tuple[str, str, permissions.Action]]:
    actions = openapi.guarded_actions(world.build().app)
    return sorted((method, path, action) for (method, path), action in actions.items())


ROUTES = guarded()


@functools.cache
def shared() -> world.World:
    found = world.build()
    found.ports.gate = Wall(found.ports.gate)
    found.add_tenant("other", "ns-other")
    return found


def made(role: str) -> world.World:
    found = shared()
    found.records.all.clear()
    for namespace, name in list(found.role_bindings.items):
        found.role_bindings.remove(name, namespace)
    found.grant(role)
    return found


def concrete(path: str) -> str:
    return "/".join("x" if part.startswith("{") else part for part in path.split("/"))


def test_every_route_is_either_public_by_name_or_guarded() -> None:
    app = world.build().app
    guarded_paths = {path for _, path, _ in ROUTES}
    for context in iter_route_contexts(app.routes):
        assert isinstance(context.original_route, APIRoute), context.path
        if context.path not in PUBLIC:
            assert isinstance(context.original_route, deps.GuardedRoute), context.path
            assert context.path in guarded_paths
    assert not guarded_paths & PUBLIC


def test_a_route_without_an_action_does_not_start() -> None:
    router = deps.api_router(tags=["x"])
    with pytest.raises(TypeError, match="exactly one"):

        @router.get("/x")
        async def route() -> None: ...


@pytest.mark.parametrize(("method", "path", "action"), ROUTES)
@pytest.mark.parametrize("role", permissions.Role)
async def test_each_role_is_admitted_exactly_where_the_table_says(
    method: str, path: str, action: permissions.Action, role: permissions.Role
) -> None:
    answer = await asgi.call(made(role).app, method, concrete(path), world.headers(role))
    allowed = isinstance(permissions.decide(action, [role]), permissions.Allowed)
    assert answer.status == (ADMITTED if allowed else 403)
    if not allowed:
        assert action.value in answer.json()["detail"]
    assert answer.received_count == 0


STATES: dict[str, tuple[dict[str, str | None], int, str]] = {
    "no credentials": ({"authorization": None}, 401, "unauthenticated"),
    "basic credentials": ({"authorization": "Basic YTpi"}, 401, "unauthenticated"),
    "empty token": ({"authorization": "Bearer "}, 401, "unauthenticated"),
    "expired token": ({"authorization": "Bearer expired"}, 401, "unauthenticated"),
    "reserved subject": ({"authorization": "Bearer system:admin"}, 401, "unauthenticated"),
    "no actor": ({"x_actor": None}, 401, "audit-header-missing"),
    "blank actor": ({"x_actor": "  "}, 401, "audit-header-missing"),
    "no tenant": ({"x_tenant": None}, 401, "audit-header-missing"),
    "no reason": ({"x_reason": None}, 401, "audit-header-missing"),
    "no roles": ({"x_roles": None}, 401, "audit-header-missing"),
    "empty roles": ({"x_roles": ","}, 401, "audit-header-missing"),
    "another actor": ({"x_actor": "somebody-else"}, 403, "forbidden"),
    "a tenant that is not the caller's": ({"x_tenant": "other"}, 403, "forbidden"),
    "a tenant that does not exist": ({"x_tenant": "absent"}, 403, "forbidden"),
    "a caller without grants": ({"authorization": "Bearer bob", "x_actor": "bob"}, 403, "forbidden"),
    "an unknown role": ({"x_roles": "root"}, 403, "forbidden"),
    "an over-long reason": ({"x_reason": "x" * 513}, 400, "bad-request"),
}


@pytest.mark.parametrize(("method", "path", "action"), ROUTES)
@pytest.mark.parametrize("state", STATES)
async def test_each_state_is_refused_on_every_route_before_the_body_is_read(
    method: str, path: str, action: permissions.Action, state: str
) -> None:
    changes, status, code = STATES[state]
    found = made("admin")
    answer = await asgi.call(found.app, method, concrete(path), world.headers("admin", **changes))
    problem = answer.json()
    assert (answer.status, problem["code"]) == (status, code)
    assert answer.received_count == 0
    (record,) = found.records.all
    assert record["auditID"] == problem["auditId"] == answer.headers["audit-id"]
    assert record["responseStatus"]["code"] == status


@pytest.mark.parametrize(("method", "path", "action"), ROUTES)
def test_the_audit_record_of_each_route_names_its_object(
    method: str, path: str, action: permissions.Action
) -> None:
    reference = audit.object_reference(concrete(path), "ns-acme")
    assert reference is not None
    assert ("name" in reference) == ("{" in path)


@pytest.mark.parametrize(("method", "path", "action"), ROUTES)
async def test_a_granted_role_that_is_not_claimed_does_not_help(
    method: str, path: str, action: permissions.Action
) -> None:
    answer = await asgi.call(made("admin").app, method, concrete(path), world.headers("viewer"))
    assert answer.status == (ADMITTED if permissions.Role.VIEWER in permissions.TABLE[action] else 403)


@pytest.mark.parametrize(("method", "path", "action"), ROUTES)
async def test_roles_cannot_be_widened(method: str, path: str, action: permissions.Action) -> None:
    answer = await asgi.call(made("viewer").app, method, concrete(path), world.headers("viewer,admin"))
    assert (answer.status, answer.json()["code"]) == (403, "forbidden")
