"""The facade's door against a real API server: real TokenRequest tokens, real RoleBindings."""

import base64
import hashlib
import hmac
import json
import time
from dataclasses import dataclass
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.cluster import facade_requests as facades
from tests.controlplane.controlplane import ControlPlane
from tests.controlplane.plugin import MakeTenant, StartFacade
from tests.controlplane.processes import FacadeProcess
from tests.controlplane.tenants import Tenant

PATH = "/job-types"


@dataclass
class Door:
    """A facade, a tenant, and a service account that is a viewer in it."""

    cp: ControlPlane
    facade: FacadeProcess
    tenant: Tenant
    token: str
    actor: str

    def ask(self, path: str = PATH, **changes: Any) -> facades.Reply:
        sent = facades.headers(self.token, self.actor, self.tenant.name, **changes)
        return facades.send(self.facade, "GET", path, sent)


@pytest.fixture
def door(control_plane: ControlPlane, tenant: Tenant, start_facade: StartFacade) -> Door:
    token = control_plane.token(tenant.namespace, "ci")
    facades.bind(control_plane, tenant.namespace, "viewer", facades.account(tenant.namespace, "ci"))
    facade = start_facade(control_plane)
    return Door(control_plane, facade, tenant, token, f"system:serviceaccount:{tenant.namespace}:ci")


def test_a_service_account_token_is_let_in_and_everything_else_is_refused_and_audited(door: Door) -> None:
    welcome = facades.until(door.ask, 200)
    assert welcome.headers["x-actor"] == door.actor
    assert welcome.headers["x-tenant"] == door.tenant.name
    assert welcome.headers["x-roles"] == "viewer"
    assert welcome.headers["traceparent"].startswith("00-")

    refusals: list[tuple[dict[str, Any], int, str, str]] = [
        *(({f"x_{name}": None}, 401, "audit-header-missing", f"X-{name.capitalize()}") for name in HEADERS),
        *(({f"x_{name}": ""}, 401, "audit-header-missing", f"X-{name.capitalize()}") for name in HEADERS),
        *(({f"x_{name}": "   "}, 401, "audit-header-missing", f"X-{name.capitalize()}") for name in HEADERS),
        ({"authorization": None}, 401, "unauthenticated", ""),
        ({"x_actor": "system:serviceaccount:other:ci"}, 403, "forbidden", "actor-is-subject"),
        ({"x_roles": "admin"}, 403, "forbidden", "roles-are-granted"),
        ({"x_roles": "viewer,operator"}, 403, "forbidden", "roles-are-granted"),
        ({"x_tenant": "absent"}, 403, "forbidden", "tenant-member"),
        ({"x_tenant": "kube-system"}, 403, "forbidden", "tenant-member"),
    ]
    for changes, status, code, said in refusals:
        answer = door.ask(**changes)
        problem = answer.json()
        assert (answer.status, problem["code"]) == (status, code), changes
        assert said in problem["detail"]
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.headers["audit-id"] == problem["auditId"]

    written = facades.records(door.facade)
    by_status = [
        record["responseStatus"]["code"] for record in written if record["responseStatus"]["code"] != 503
    ]
    assert by_status.count(401) == 13
    assert by_status.count(403) >= 5
    assert len({record["auditID"] for record in written}) == len(written)
    text = door.facade.log_path.read_text()
    assert door.token not in text
    assert door.token.split(".")[2] not in text


HEADERS = ("actor", "tenant", "reason", "roles")


def test_tokens_that_must_not_be_believed(door: Door) -> None:
    facades.until(door.ask, 200)
    own = rsa.generate_private_key(65537, 2048)
    head, body = (
        jwt.get_unverified_header(door.token),
        jwt.decode(door.token, options={"verify_signature": False}),
    )
    jwk = jwt.algorithms.RSAAlgorithm.to_jwk(own.public_key(), as_dict=True)
    published = door.cp.request("GET", "/openid/v1/jwks")["keys"][0]
    lying = {
        "another audience": door.cp.token(door.tenant.namespace, "ci", "https://kubernetes.default.svc"),
        "signed by us": jwt.encode(body, own, "RS256", headers={"kid": head["kid"]}),
        "our key embedded": jwt.encode(body, own, "RS256", headers={"kid": head["kid"], "jwk": jwk}),
        "our key by URL": jwt.encode(
            body, own, "RS256", headers={"kid": "mine", "jku": "https://evil.example"}
        ),
        "no algorithm": _unsigned(body),
        "hmac with the public key": _hmac(body, head["kid"], jwt.PyJWK(published).key),
        "cut": door.token[:-10],
        "its last letter changed": door.token[:-20]
        + ("A" if door.token[-20] != "A" else "B")
        + door.token[-19:],
        "no token": "x",
    }
    for attack, token in lying.items():
        answer = door.ask(authorization=f"Bearer {token}")
        assert (answer.status, answer.json()["code"]) == (401, "unauthenticated"), attack
        assert "bearer" in answer.headers["www-authenticate"].lower()


def _part(content: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(content).encode()).rstrip(b"=").decode()


def _unsigned(body: Any) -> str:
    return f"{_part({'alg': 'none', 'typ': 'JWT'})}.{_part(body)}."


def _hmac(body: Any, key_id: str, public_key: Any) -> str:
    pem = public_key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    signed = f"{_part({'alg': 'HS256', 'kid': key_id})}.{_part(body)}"
    mac = hmac.new(pem, signed.encode(), hashlib.sha256).digest()
    return f"{signed}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}"


def test_an_expired_token_is_refused(
    control_plane: ControlPlane, tenant: Tenant, start_facade: StartFacade
) -> None:
    """The API server gives no token for under ten minutes, so one is signed as it would have been earlier."""
    actor = f"system:serviceaccount:{tenant.namespace}:ci"
    facade = start_facade(control_plane, {"MANIFESTRY_JWT_LEEWAY_SECONDS": "0"})
    sent = facades.headers(_expired(control_plane, tenant), actor, tenant.name)
    answer = facades.send(facade, "GET", PATH, sent)
    assert (answer.status, answer.json()["detail"]) == (401, "the token has expired")


def _expired(control_plane: ControlPlane, tenant: Tenant) -> str:
    """Sign a token as the API server would have an hour ago, with its own key."""
    key = control_plane._files.service_account_key.read_bytes()
    kid = control_plane.request("GET", "/openid/v1/jwks")["keys"][0]["kid"]
    fresh = jwt.decode(control_plane.token(tenant.namespace, "ci"), options={"verify_signature": False})
    hour = {name: fresh[name] - 7200 for name in ("iat", "nbf", "exp")}
    return jwt.encode({**fresh, **hour}, key, "RS256", headers={"kid": kid})


def test_the_token_of_a_deleted_account_ends_with_the_cache(door: Door) -> None:
    """One that the facade has seen within the minute lives on for the rest of it; another ends at once."""
    seen, unseen = door.token, [door.cp.token(door.tenant.namespace, "ci") for _ in range(30)]
    facades.until(door.ask, 200)
    door.cp.delete("v1/serviceaccounts", "ci", door.tenant.namespace)
    facades.until(lambda: door.ask(authorization=f"Bearer {unseen.pop()}"), 401)  # its caches lag, too
    assert door.ask(authorization=f"Bearer {seen}").status == 200


def test_a_revoked_role_binding_acts_at_once(door: Door) -> None:
    facades.until(door.ask, 200)
    facades.unbind(door.cp, door.tenant.namespace, "test-viewer")
    began = time.monotonic()
    refused = facades.until(door.ask, 403)
    assert time.monotonic() - began < 2
    assert "tenant-member" in refused.json()["detail"]


def test_groups_and_users_are_granted_as_kubernetes_would(door: Door, make_tenant: MakeTenant) -> None:
    rbac = {"apiGroup": "rbac.authorization.k8s.io"}
    group = f"system:serviceaccounts:{door.tenant.namespace}"
    other, another = make_tenant(), make_tenant()
    facades.bind(door.cp, other.namespace, "publisher", {**rbac, "kind": "Group", "name": group})
    facades.bind(door.cp, another.namespace, "admin", {**rbac, "kind": "User", "name": door.actor})
    facades.until(lambda: door.ask(x_tenant=other.name, x_roles="publisher"), 200)
    facades.until(lambda: door.ask(x_tenant=another.name, x_roles="admin"), 200)
    narrowed = door.ask(x_tenant=another.name, x_roles="reader")
    assert (narrowed.status, narrowed.headers["x-roles"]) == (200, "viewer")
    assert door.ask(x_tenant=other.name, x_roles="admin").status == 403


def test_two_namespaces_of_one_tenant_close_both(door: Door) -> None:
    facades.until(door.ask, 200)
    label = {"manifestry.dev/tenant": door.tenant.name}
    twin = f"{door.tenant.namespace}-twin"
    door.cp.create("v1/namespaces", {"metadata": {"name": twin, "labels": label}})
    try:
        facades.until(door.ask, 403)
        rows = {row["name"]: row for row in facades.send(door.facade, "GET", "/readyz").json()["checks"]}
        assert not rows["tenants"]["ok"]
        assert "1 tenant is claimed by several namespaces" in rows["tenants"]["reason"]
        assert door.tenant.name not in rows["tenants"]["reason"]
    finally:
        door.cp.patch("v1/namespaces", twin, {"metadata": {"labels": {"manifestry.dev/tenant": None}}})
    facades.until(door.ask, 200)
    door.cp.delete("v1/namespaces", twin)


def test_absent_and_foreign_tenants_get_the_same_answer(door: Door, make_tenant: MakeTenant) -> None:
    foreign = make_tenant()
    facades.until(door.ask, 200)
    answers = [door.ask(x_tenant=name).json() for name in (foreign.name, "t" * len(foreign.name))]
    details = {
        answer["detail"].replace(foreign.name, "T").replace("t" * len(foreign.name), "T")
        for answer in answers
    }
    assert len(details) == 1
    assert {answer["status"] for answer in answers} == {403}
