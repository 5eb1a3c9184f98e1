"""Artifacts over REST: stored and read back byte for byte, guarded, paged, deleted."""

import hashlib
import json
import os
import urllib.parse
from base64 import b64decode, b64encode
from typing import Any

import pytest

from tests.cluster import rest
from tests.controlplane.audit import WriteFilter
from tests.controlplane.controlplane import ControlPlane
from tests.controlplane.plugin import MakeTenant
from tests.e2e.teams import ARTIFACTS, Team

pytest_plugins = ("tests.cluster.restfixtures",)

MIB = 1 << 20


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def digest_field(data: bytes) -> str:
    return f"sha-256=:{b64encode(hashlib.sha256(data).digest()).decode()}:"


@pytest.mark.parametrize(
    ("inline", "data"),
    [
        ({"text": "h\u00e4llo \u20ac\n"}, "h\u00e4llo \u20ac\n".encode()),
        ({"data": b64encode(bytes(range(256)) * 256).decode()}, bytes(range(256)) * 256),
        ({"text": ""}, b""),
    ],
)
def test_inline_bytes_come_back_as_they_were(team: Team, inline: dict[str, str], data: bytes) -> None:
    caller = team.caller("publisher")
    body = {"name": "small", "mediaType": "application/x-test", "inline": inline, "digest": digest_of(data)}
    made = caller.call("POST", "/artifacts", body, headers={"Prefer": "wait=20"})
    assert (made.status, made.headers["location"]) == (201, "/artifacts/small"), made.data
    assert (made.json["digest"], made.json["sizeBytes"]) == (digest_of(data), len(data))
    got = team.caller("viewer").call("GET", "/artifacts/small/content")
    assert (got.status, got.data) == (200, data)
    assert got.headers["etag"] == f'"{digest_of(data)}"'
    assert got.headers["content-type"] == "application/x-test"
    manifest = caller.call("GET", "/artifacts/small/manifest")
    assert digest_of(manifest.data) == made.json["manifest"]["digest"]
    assert manifest.json["layers"][0]["digest"] == digest_of(data)
    column = team.cluster.kubectl("get", "mart", "small", "-n", team.namespace).stdout
    assert "True" in column


def test_twenty_mebibytes_come_back_as_they_were(team: Team) -> None:
    caller, data = team.caller("publisher"), os.urandom(20 * MIB)
    created = caller.call("POST", "/artifacts", {"name": "big", "mediaType": "application/zip", "upload": {}})
    assert (created.status, created.json["status"]) == (202, "awaiting-upload")
    assert caller.call("GET", "/artifacts/big/content").status == 409
    headers = {"Content-Type": "application/zip", "Content-Digest": digest_field(data), "Prefer": "wait=30"}
    stored = caller.call("PUT", "/artifacts/big/content", data=data, headers=headers)
    assert (stored.status, stored.json["status"]) == (200, "ready"), stored.data
    viewer = team.caller("viewer")
    assert viewer.call("GET", "/artifacts/big/content").data == data
    part = viewer.call(
        "GET", "/artifacts/big/content", headers={"Range": f"bytes={15 * MIB}-{15 * MIB + 99}"}
    )
    assert (part.status, part.data) == (206, data[15 * MIB : 15 * MIB + 100])
    again = caller.call("PUT", "/artifacts/big/content", data=data, headers=headers)
    assert again.status == 200
    other = caller.call(
        "PUT", "/artifacts/big/content", data=data[:-1], headers={"Content-Type": "application/zip"}
    )
    assert (other.status, other.json["code"]) == (409, "conflict")
    spec = team.cluster.get(ARTIFACTS, "big", team.namespace)["spec"]
    assert spec["upload"] == {"digest": digest_of(data), "sizeBytes": len(data)}


def test_what_kubectl_applies_rest_reads(team: Team) -> None:
    body = {
        "apiVersion": "manifestry.dev/v1alpha1",
        "kind": "Artifact",
        "metadata": {"name": "by-kubectl", "namespace": team.namespace},
        "spec": {"mediaType": "text/plain", "fileName": "na\u00efve.txt", "inline": {"text": "hello"}},
    }
    team.cluster.kubectl("apply", "-f", "-", stdin=json.dumps(body))
    team.cluster.kubectl(
        "wait", "--for=condition=Ready", "mart/by-kubectl", "-n", team.namespace, "--timeout=20s"
    )
    got = team.caller("viewer").call("GET", "/artifacts/by-kubectl/content")
    assert got.data == b"hello"
    assert "filename*=UTF-8''na%C3%AFve.txt" in got.headers["content-disposition"]


def test_the_api_server_sees_the_caller(team: Team, control_plane: ControlPlane) -> None:
    caller, mark = team.caller("publisher"), control_plane.audit_mark()
    made = caller.call("POST", "/artifacts", {"mediaType": "text/plain", "inline": {"text": "x"}})
    name = made.json["id"]
    wanted = WriteFilter(resource="artifacts.manifestry.dev", verb="create", namespace=team.namespace)
    (write,) = control_plane.writes(wanted, since=mark)
    assert write.impersonated == caller.headers["X-Actor"]
    annotations = team.cluster.get(ARTIFACTS, name, team.namespace)["metadata"]["annotations"]
    assert annotations["manifestry.dev/actor"] == caller.headers["X-Actor"]
    assert annotations["manifestry.dev/audit-id"] == made.headers["audit-id"]
    assert annotations["manifestry.dev/traceparent"] == made.headers["traceparent"]


def test_a_viewer_deletes_nothing(team: Team) -> None:
    publisher = team.caller("publisher")
    publisher.call("POST", "/artifacts", {"name": "a", "mediaType": "text/plain", "inline": {"text": "x"}})
    refused = team.caller("viewer").call("DELETE", "/artifacts/a")
    assert (refused.status, refused.json["code"]) == (403, "forbidden")
    assert "artifacts:delete" in refused.json["detail"]
    assert "publisher" in refused.json["detail"]
    assert team.cluster.get(ARTIFACTS, "a", team.namespace)["metadata"].get("deletionTimestamp") is None


@pytest.mark.parametrize("header", ["X-Actor", "X-Tenant", "X-Reason", "X-Roles"])
def test_a_missing_header_executes_nothing(team: Team, header: str) -> None:
    caller = team.caller("publisher").without(header)
    for method, path, body in (
        ("POST", "/artifacts", {"name": "a", "mediaType": "text/plain", "inline": {"text": "x"}}),
        ("GET", "/artifacts", None),
        ("DELETE", "/artifacts/a", None),
        ("PUT", "/artifacts/a/content", {}),
    ):
        refused = caller.call(method, path, body)
        assert (refused.status, refused.json["code"]) == (401, "audit-header-missing")
        assert header in refused.json["detail"]
    assert team.cluster.list(ARTIFACTS, team.namespace) == []


def test_another_tenants_objects_are_not_there(
    product: rest.Installation, team: Team, make_tenant: MakeTenant
) -> None:
    body = {"name": "mine", "mediaType": "text/plain", "inline": {"text": "secret"}}
    team.caller("publisher").call("POST", "/artifacts", body, headers={"Prefer": "wait=20"})
    stranger = product.team(make_tenant()).caller("admin")
    for method, path in (
        ("GET", "/artifacts/mine"),
        ("GET", "/artifacts/mine/content"),
        ("HEAD", "/artifacts/mine/content"),
        ("GET", "/artifacts/mine/manifest"),
        ("PUT", "/artifacts/mine/content"),
        ("DELETE", "/artifacts/mine"),
        ("GET", f"/artifacts/{urllib.parse.quote(f'../{team.namespace}/artifacts/mine', safe='')}"),
    ):
        assert stranger.call(method, path).status == 404, path
    assert stranger.call("GET", "/artifacts").json["items"] == []
    assert team.cluster.find(ARTIFACTS, "mine", team.namespace) is not None


def test_deleting_is_final(team: Team) -> None:
    caller = team.caller("publisher")
    caller.call("POST", "/artifacts", {"name": "a", "mediaType": "text/plain", "inline": {"text": "x"}})
    assert caller.call("DELETE", "/artifacts/a").status == 204
    assert caller.call("GET", "/artifacts/a").status == 404
    team.cluster.wait_for(ARTIFACTS, "a", team.namespace, lambda found: found is None)


def test_pages_are_stable_while_artifacts_come_and_go(team: Team) -> None:
    caller = team.caller("publisher")

    def create(name: str) -> None:
        body = {"name": name, "mediaType": "text/plain", "inline": {"text": name}}
        assert caller.call("POST", "/artifacts", body, headers={"Prefer": "wait=0"}).status in {201, 202}

    for number in range(7):
        create(f"a{number}")
    seen: list[str] = []
    token = ""
    while True:
        page = caller.call("GET", f"/artifacts?limit=2&mediaType=text/plain{token}").json
        seen += [each["id"] for each in page["items"]]
        if "continue" not in page:
            break
        token = f"&continue={page['continue']}"
        create(f"new{len(seen)}")
    assert sorted(name for name in seen if name.startswith("a")) == [f"a{number}" for number in range(7)]
    assert len(seen) == len(set(seen))


def test_the_same_blob_is_stored_once_and_shared_by_nobody_else(
    product: rest.Installation, team: Team, make_tenant: MakeTenant
) -> None:
    data = os.urandom(1000)
    text: dict[str, Any] = {"mediaType": "application/x-test", "inline": {"data": b64encode(data).decode()}}
    assert b64decode(text["inline"]["data"]) == data
    caller = team.caller("publisher")
    made = caller.call("POST", "/artifacts", {"name": "one", **text}, headers={"Prefer": "wait=20"})
    assert made.status == 201
    by_digest = {"name": "two", "mediaType": "application/x-test", "object": {"digest": digest_of(data)}}
    assert caller.call("POST", "/artifacts", by_digest, headers={"Prefer": "wait=20"}).status == 201
    assert caller.call("GET", "/artifacts/two/content").data == data
    stranger = product.team(make_tenant()).caller("publisher")
    other = stranger.call("POST", "/artifacts", by_digest, headers={"Prefer": "wait=2"})
    assert other.status == 202
    assert stranger.call("GET", "/artifacts/two/content").status == 409
