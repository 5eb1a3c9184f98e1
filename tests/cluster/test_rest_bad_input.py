"""Bad input: each a typed error that names the field, nothing created."""

import base64
import json
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.cluster import rest
from tests.controlplane.audit import WriteFilter
from tests.controlplane.controlplane import ControlPlane
from tests.e2e.teams import ARTIFACTS, JOBS, Team

pytest_plugins = ("tests.cluster.restfixtures",)

JSON = {"Content-Type": "application/json"}
TEXT = {"mediaType": "text/plain", "inline": {"text": "hello"}}
OTHER_DIGEST = f"sha256:{'0' * 64}"
OVER_64_KIB = "x" * ((64 << 10) + 1)


@dataclass
class Case:
    """A request that must be refused.

    Args:
        where: the pointer of a bad field; None where no field is to blame.
    """

    path: str
    body: Any
    status: int
    code: str
    where: str | None
    headers: dict[str, str] = field(default_factory=lambda: JSON)

    def data(self) -> bytes:
        return self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()


def artifact(status: int, code: str, where: str | None, **changes: Any) -> Case:
    return Case("/artifacts", {**TEXT, **changes}, status, code, where)


def job(where: str | None, **changes: Any) -> Case:
    return Case("/jobs", rest.job(**changes), 422, "validation-failed", where)


CASES: dict[str, Case] = {
    "unknown job type": job("/jobType", jobType="none"),
    "job type that is no name": job("/jobType", jobType="../render"),
    "no job type": Case("/jobs", {"parameters": {}}, 422, "validation-failed", "/jobType"),
    "parameter below its minimum": job("/parameters/frames", parameters={"frames": 0}),
    "parameter of another type": job("/parameters/frames", parameters={"frames": "1"}),
    "number where a text must be": job("/parameters/title", parameters={"frames": 1, "title": 5}),
    "missing parameter": job("/parameters", parameters={}),
    "unknown parameter": job("/parameters", parameters={"frames": 1, "more": 1}),
    "override that is not allowed": job("/overrides/image", overrides={"image": "example.org/evil"}),
    "job name that is no DNS label": job("/name", name="Not_A_Label"),
    "job name that is too long": job("/name", name="a" * 53),
    "unknown job field": job("/bogus", bogus=1),
    "inputs, not served yet": job("/inputs", inputs=[]),
    "inline text over 64 KiB": artifact(413, "payload-too-large", "/inline", inline={"text": OVER_64_KIB}),
    "inline data over 64 KiB": artifact(
        413, "payload-too-large", "/inline", inline={"data": base64.b64encode(OVER_64_KIB.encode()).decode()}
    ),
    "inline text over 64 KiB in UTF-8": artifact(
        413, "payload-too-large", "/inline", inline={"text": "\u20ac" * 30_000}
    ),
    "inline data that is no base64": artifact(422, "validation-failed", "/inline/data", inline={"data": "@"}),
    "digest mismatch": artifact(422, "digest-mismatch", "/digest", digest=OTHER_DIGEST),
    "digest that is none": artifact(422, "validation-failed", "/digest", digest="sha256:abc"),
    "size mismatch": artifact(422, "validation-failed", "/sizeBytes", sizeBytes=4),
    "artifact name that is no DNS label": artifact(422, "validation-failed", "/name", name="a.b"),
    "artifact name with a traversal": artifact(422, "validation-failed", "/name", name="../../etc"),
    "artifact name with a line break": artifact(422, "validation-failed", "/name", name="a\r\nb"),
    "unknown artifact field": artifact(422, "validation-failed", "/bogus", bogus=1),
    "unknown nested field": artifact(
        422, "validation-failed", "/inline/bogus", inline={"text": "", "bogus": 1}
    ),
    "two sources": artifact(422, "validation-failed", "/upload", upload={}),
    "no source": Case("/artifacts", {"mediaType": "text/plain"}, 422, "validation-failed", ""),
    "no media type": Case("/artifacts", {"inline": {"text": ""}}, 422, "validation-failed", "/mediaType"),
    "media type that is none": artifact(422, "validation-failed", "/mediaType", mediaType="text"),
    "file name with a path": artifact(422, "validation-failed", "/fileName", fileName="../x"),
    "body over the limit": Case("/artifacts", b'{"a": "' + b"x" * (1 << 20), 413, "payload-too-large", None),
    "job body over the limit": Case("/jobs", b" " * ((1 << 20) + 1), 413, "payload-too-large", None),
    "wrong media type": Case(
        "/artifacts", TEXT, 415, "unsupported-media-type", None, {"Content-Type": "text/plain"}
    ),
    "a form": Case(
        "/jobs",
        b"a=b",
        415,
        "unsupported-media-type",
        None,
        {"Content-Type": "application/x-www-form-urlencoded"},
    ),
    "no JSON": Case("/jobs", b"{", 400, "bad-request", None),
    "a member twice": Case("/jobs", b'{"jobType": "a", "jobType": "b"}', 400, "bad-request", None),
    "a list": Case("/jobs", [], 422, "validation-failed", ""),
    "null": Case("/artifacts", None, 422, "validation-failed", ""),
}


@pytest.fixture
def team(working_team: Team) -> Team:
    return working_team


def test_bad_bodies_are_typed_name_the_field_and_create_nothing(
    team: Team, control_plane: ControlPlane
) -> None:
    caller, mark = team.caller("admin"), control_plane.audit_mark()
    for title, case in CASES.items():
        answer = caller.call("POST", case.path, data=case.data(), headers=case.headers)
        assert (answer.status, answer.json["code"]) == (case.status, case.code), (title, answer.data)
        assert answer.headers["content-type"] == "application/problem+json", title
        assert answer.json["detail"], title
        if case.where is not None:
            pointers = [each["pointer"] for each in answer.json["errors"]]
            assert case.where in pointers, (title, pointers)
    assert team.cluster.list(ARTIFACTS, team.namespace) == []
    assert team.cluster.list(JOBS, team.namespace) == []
    for resource in ("artifacts.manifestry.dev", "jobs.manifestry.dev"):
        wanted = WriteFilter(resource=resource, namespace=team.namespace)
        assert control_plane.writes(wanted, since=mark) == []


def test_an_upload_over_the_limit_leaves_nothing(
    control_plane: ControlPlane, product: rest.Installation, team: Team
) -> None:
    del product
    caller = team.caller("publisher")
    body = {"name": "a", "mediaType": "application/zip", "upload": {}, "sizeBytes": 10}
    assert caller.call("POST", "/artifacts", body).status == 202
    for data, headers, status, code in (
        (b"x" * 11, {"Content-Type": "application/zip"}, 422, "validation-failed"),
        (b"x" * 10, {"Content-Type": "text/plain"}, 415, "unsupported-media-type"),
        (
            b"x" * 10,
            {"Content-Type": "application/zip", "Content-Digest": "sha-256=:AAAA:"},
            400,
            "bad-request",
        ),
        (
            b"x" * 10,
            {"Content-Type": "application/zip", "Repr-Digest": f"sha-256=:{'A' * 43}=:"},
            422,
            "digest-mismatch",
        ),
    ):
        answer = caller.call("PUT", "/artifacts/a/content", data=data, headers=headers)
        assert (answer.status, answer.json["code"]) == (status, code), answer.data
    assert control_plane.get(ARTIFACTS, "a", team.namespace)["spec"]["upload"] == {}
    assert caller.call("GET", "/artifacts/a").json["status"] == "awaiting-upload"


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/jobs?limit=0", 422, "validation-failed"),
        ("/jobs?limit=501", 422, "validation-failed"),
        ("/jobs?bogus=1", 422, "validation-failed"),
        ("/artifacts?continue=nonsense", 400, "bad-request"),
        ("/artifacts/%00", 404, "not-found"),
        ("/artifacts/..%2F..%2F..%2Fapi%2Fv1%2Fsecrets", 404, "not-found"),
        ("/jobs/..%252f..%252fsecrets", 404, "not-found"),
        ("/nothing", 404, "not-found"),
    ],
)
def test_bad_addresses_are_typed(team: Team, path: str, status: int, code: str) -> None:
    answer = team.caller("viewer").call("GET", path)
    assert (answer.status, answer.json["code"]) == (status, code)
    assert answer.headers["content-type"] == "application/problem+json"
