"""The whole way over S3: operator, facade and a real SeaweedFS, with nothing on a local disk."""

import hashlib
import os
from collections.abc import Callable
from typing import Any

import pytest

from tests.controlplane.controlplane import ControlPlane
from tests.controlplane.tenants import Tenant
from tests.e2e import conditions, teams
from tests.e2e.teams import ARTIFACTS, Team
from tests.seaweed.server import S3Server

PAYLOAD = os.urandom(12 << 20)


@pytest.fixture
def remote(
    control_plane: ControlPlane,
    tenant: Tenant,
    s3: S3Server,
    start_operator: Callable[..., Any],
    start_facade: Callable[..., Any],
) -> Team:
    env = s3.apart()
    start_operator(control_plane, env=env)
    facade = start_facade(control_plane, env=env)
    facade.wait_complete()
    return Team(tenant, control_plane, facade.base_url)


def test_an_upload_to_s3_reads_back_byte_for_byte(remote: Team) -> None:
    rest = remote.caller("publisher")
    made = rest.call("POST", "/artifacts", {"name": "far", "mediaType": "application/x-blob", "upload": {}})
    assert made.status in (201, 202), made.data
    put = rest.call("PUT", "/artifacts/far/content", data=PAYLOAD)
    assert put.status in (200, 202), put.data
    artifact = remote.cluster.wait_for(
        ARTIFACTS, "far", remote.namespace, conditions.has("Ready", "True"), timeout_seconds=30
    )
    assert artifact["status"]["artifact"]["digest"] == "sha256:" + hashlib.sha256(PAYLOAD).hexdigest()
    assert rest.call("GET", "/artifacts/far/content").data == PAYLOAD
    part = rest.call("GET", "/artifacts/far/content", headers={"Range": "bytes=5000000-6999999"})
    assert (part.status, part.data) == (206, PAYLOAD[5_000_000:7_000_000])


def test_an_inline_artifact_is_stored_on_s3(remote: Team) -> None:
    body = teams.body(ARTIFACTS, "near", {"mediaType": "text/plain", "inline": {"text": "over there"}})
    remote.cluster.create(ARTIFACTS, body, remote.namespace)
    remote.cluster.wait_for(ARTIFACTS, "near", remote.namespace, conditions.has("Ready", "True"))
    rest = remote.caller("viewer")
    assert rest.call("GET", "/artifacts/near/content").data == b"over there"
    manifest = rest.call("GET", "/artifacts/near/manifest").json
    assert manifest["mediaType"] == "application/vnd.oci.image.manifest.v1+json"
