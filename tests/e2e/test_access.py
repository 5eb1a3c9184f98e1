"""Who may not, may not: nothing is executed, and the answer names the rule."""

from collections.abc import Callable

import pytest

from tests.controlplane.clusterapi import ClusterApi
from tests.e2e import conditions
from tests.e2e.teams import ARTIFACTS, Team

INLINE = {"name": "kept", "mediaType": "text/plain", "inline": {"text": "hello"}}


@pytest.fixture
def kept(team: Team, cluster: ClusterApi) -> Team:
    made = team.caller("publisher").call("POST", "/artifacts", INLINE)
    assert made.status in (201, 202), made.data
    cluster.wait_for(ARTIFACTS, "kept", team.namespace, conditions.has("Ready", "True"))
    return team


def test_a_viewer_cannot_delete_and_is_told_the_rule(kept: Team, cluster: ClusterApi) -> None:
    refused = kept.caller("viewer").call("DELETE", "/artifacts/kept")
    assert (refused.status, refused.json["code"]) == (403, "forbidden")
    assert "artifacts:delete" in refused.json["detail"]
    assert cluster.find(ARTIFACTS, "kept", kept.namespace)


@pytest.mark.parametrize("header", ["X-Actor", "X-Tenant", "X-Roles", "X-Reason", "Authorization"])
def test_a_missing_header_is_401_and_nothing_happens(kept: Team, cluster: ClusterApi, header: str) -> None:
    refused = kept.caller("publisher").without(header).call("DELETE", "/artifacts/kept")
    assert refused.status == 401
    assert refused.headers["audit-id"]
    assert refused.headers["traceparent"]
    assert cluster.find(ARTIFACTS, "kept", kept.namespace)


def test_another_tenants_object_is_404(kept: Team, make_team: Callable[[], Team]) -> None:
    other = make_team().caller("admin")
    for path in ("/artifacts/kept", "/artifacts/kept/content", "/artifacts/kept/manifest"):
        assert other.call("GET", path).status == 404
    assert other.call("DELETE", "/artifacts/kept").status == 404
    assert other.with_headers(X_Tenant=kept.tenant.name).call("GET", "/artifacts/kept").status == 403
