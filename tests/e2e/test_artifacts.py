"""An artifact through both doors, byte for byte."""

import base64
import hashlib
import os

from tests.controlplane.clusterapi import ClusterApi
from tests.e2e import conditions, teams
from tests.e2e.teams import ARTIFACTS, Team

PAYLOAD = os.urandom(20 << 20)
DIGEST = "sha256:" + hashlib.sha256(PAYLOAD).hexdigest()
SMALL = b"\x00\xffsmall\r\n" * 100


def test_an_upload_over_rest_reads_back_byte_for_byte(team: Team) -> None:
    rest = team.caller("publisher")
    made = rest.call("POST", "/artifacts", {"name": "big", "mediaType": "application/x-blob", "upload": {}})
    assert made.status in (201, 202), made.data
    assert made.headers["location"] == "/artifacts/big"
    repr_digest = f"sha-256=:{base64.b64encode(hashlib.sha256(PAYLOAD).digest()).decode()}:"
    put = rest.call(
        "PUT",
        "/artifacts/big/content",
        data=PAYLOAD,
        headers={"Content-Type": "application/x-blob", "Repr-Digest": repr_digest},
    )
    assert put.status in (200, 202), put.data
    got = rest.call("GET", "/artifacts/big/content")
    assert got.status == 200
    assert got.data == PAYLOAD
    assert got.headers["etag"] == f'"{DIGEST}"'
    part = rest.call("GET", "/artifacts/big/content", headers={"Range": "bytes=1000-1999"})
    assert (part.status, part.data) == (206, PAYLOAD[1000:2000])
    artifact = team.cluster.get(ARTIFACTS, "big", team.namespace)
    assert artifact["status"]["artifact"]["digest"] == DIGEST
    manifest = rest.call("GET", "/artifacts/big/manifest")
    assert "sha256:" + hashlib.sha256(manifest.data).hexdigest() == artifact["status"]["manifest"]["digest"]


def test_an_inline_artifact_by_kubectl_reads_back_over_rest(team: Team, cluster: ClusterApi) -> None:
    body = f"""
apiVersion: manifestry.dev/v1alpha1
kind: Artifact
metadata: {{name: small, namespace: {team.namespace}}}
spec:
  mediaType: application/octet-stream
  inline: {{data: {base64.b64encode(SMALL).decode()}}}
"""
    cluster.kubectl("apply", "-f", "-", stdin=body)
    cluster.kubectl("-n", team.namespace, "wait", "mart/small", "--for=condition=Ready", "--timeout=30s")
    assert team.caller("viewer").call("GET", "/artifacts/small/content").data == SMALL
    before = cluster.get(ARTIFACTS, "small", team.namespace)["metadata"]["resourceVersion"]
    assert "unchanged" in cluster.kubectl("apply", "-f", "-", stdin=body).stdout
    assert cluster.get(ARTIFACTS, "small", team.namespace)["metadata"]["resourceVersion"] == before


def test_a_wrong_digest_stops_the_artifact_and_nothing_else(team: Team, cluster: ClusterApi) -> None:
    for name, digest in (
        ("bad", "sha256:" + "0" * 64),
        ("good", "sha256:" + hashlib.sha256(SMALL).hexdigest()),
    ):
        spec = {
            "mediaType": "text/plain",
            "digest": digest,
            "inline": {"data": base64.b64encode(SMALL).decode()},
        }
        cluster.create(ARTIFACTS, teams.body(ARTIFACTS, name, spec), team.namespace)
    cluster.wait_for(ARTIFACTS, "good", team.namespace, conditions.has("Ready", "True"))
    bad = cluster.wait_for(ARTIFACTS, "bad", team.namespace, conditions.has("Stalled", "True"))
    assert conditions.condition(bad, "Ready")["reason"] == "DigestMismatch"
