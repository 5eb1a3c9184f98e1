"""Every source through both doors: kubectl applies, the operator fetches or copies, REST reads and sends."""

import asyncio
import json
import os
import time
from collections.abc import Iterator
from typing import Any

import pytest

from manifestry.core.blobs import digests
from manifestry.core.kube import names
from tests.cluster.artifacts.sources import (
    DATA,
    Object,
    Product,
    apply,
    artifact,
    installed,
    status_writes,
    wait,
)
from tests.component.fetching import originserver
from tests.controlplane.clusterapi import poll_until
from tests.controlplane.controlplane import ControlPlane
from tests.controlplane.tenants import Tenant
from tests.e2e.teams import ARTIFACTS, Team


@pytest.fixture(scope="module")
def product(control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    with installed(control_plane, tmp_path_factory.mktemp("sources")) as found:
        yield found


@pytest.fixture
def team(product: Product, tenant: Tenant) -> Team:
    return product.running.team(tenant)


def held(event: asyncio.Event) -> originserver.Answer:
    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345")
        await writer.drain()
        await event.wait()
        writer.write(b"67890")
        await writer.drain()

    return answer


def test_a_url_is_fetched_once(product: Product, team: Team, control_plane: ControlPlane) -> None:
    product.origin.answers |= {
        "/once": originserver.redirect("/once/data?sig=canary"),
        "/once/data?sig=canary": originserver.status(200, DATA),
    }
    body = artifact(team, "once", url={"url": product.origin.url("/once")}, sizeBytes=len(DATA))
    apply(team, body)
    found = wait(team, "once", "Stored", "Current")
    stored = found["status"]["artifact"]
    assert (stored["digest"], stored["sizeBytes"]) == (digests.of(DATA), len(DATA))
    assert team.caller("viewer").call("GET", "/artifacts/once/content").data == DATA
    assert product.requests("/once/data?sig=canary") == 1
    assert product.staged() == []
    assert status_writes(control_plane, team, "once") == 2  # Fetching, Stored
    mark = control_plane.audit_mark()
    assert "unchanged" in apply(team, body)
    label = {"metadata": {"labels": {"a": "b"}}}
    team.cluster.patch(ARTIFACTS, "once", label, team.namespace)
    edit = {"spec": {"annotations": {"stage": "review"}}}
    generation = team.cluster.patch(ARTIFACTS, "once", edit, team.namespace)["metadata"]["generation"]
    poll_until(
        lambda: (
            team.cluster.get(ARTIFACTS, "once", team.namespace)["status"]["observedGeneration"] == generation
        ),
        "the new manifest",
    )
    again = wait(team, "once", "Stored", "Current")
    assert again["status"]["artifact"] == stored
    assert again["status"]["manifest"] != found["status"]["manifest"]
    assert status_writes(control_plane, team, "once", since=mark) == 1
    assert product.requests("/once/data?sig=canary") == 1


def test_a_url_over_rest(product: Product, team: Team) -> None:
    product.origin.answers["/rest"] = originserver.status(200, DATA)
    caller = team.caller("publisher")
    body = {"name": "r", "mediaType": "application/zip", "url": {"url": product.origin.url("/rest")}}
    made = caller.call("POST", "/artifacts", body, headers={"Prefer": "wait=20"})
    assert (made.status, made.json["source"], made.json["digest"]) == (201, "url", digests.of(DATA)), (
        made.data
    )
    assert caller.call("GET", "/artifacts/r/content").data == DATA


def test_a_server_that_does_not_answer_is_asked_again(
    product: Product, team: Team, control_plane: ControlPlane
) -> None:
    product.origin.answers["/later"] = originserver.status(503)
    apply(team, artifact(team, "later", url={"url": product.origin.url("/later")}))
    wait(team, "later", "SourceUnavailable", "InProgress")
    poll_until(lambda: product.requests("/later") >= 3, "the third request")
    assert status_writes(control_plane, team, "later") == 2  # Fetching, SourceUnavailable
    product.origin.answers["/later"] = originserver.status(200, b"now")
    wait(team, "later", "Stored", "Current")
    assert status_writes(control_plane, team, "later") == 3


def test_a_missing_file_is_waited_for(product: Product, team: Team) -> None:
    apply(team, artifact(team, "missing", url={"url": product.origin.url("/missing")}))
    wait(team, "missing", "SourceNotFound", "InProgress")
    product.origin.answers["/missing"] = originserver.status(200, b"now")
    wait(team, "missing", "Stored", "Current")


def test_what_may_not_be_fetched_fails(product: Product, team: Team, control_plane: ControlPlane) -> None:
    origin = product.origin
    origin.answers |= {
        "/inside": originserver.redirect("https://169.254.169.254/latest/meta-data/"),
        "/api": originserver.redirect(control_plane.server),
        "/loop": originserver.redirect("/loop"),
        "/denied": originserver.status(403, b"canary"),
        "/big": originserver.status(200, b"x" * (4 * len(DATA) + 1)),
        "/data": originserver.status(200, DATA),
        "/packed": originserver.status(200, b"x", Content_Encoding="gzip"),
    }
    other = digests.of(b"other")
    refused: dict[str, tuple[Object, str]] = {
        "inside": ({"url": {"url": origin.url("/inside")}}, "InvalidSource"),
        "api": ({"url": {"url": origin.url("/api")}}, "InvalidSource"),
        "api-direct": ({"url": {"url": f"{control_plane.server}/api"}}, "InvalidSource"),
        "metadata": ({"url": {"url": "https://169.254.169.254/"}}, "InvalidSource"),
        "mapped": ({"url": {"url": "https://[::ffff:127.0.0.1]/"}}, "InvalidSource"),
        "decimal": ({"url": {"url": "https://2130706433/"}}, "InvalidSource"),
        "internal": ({"url": {"url": "https://kubernetes.default.svc/"}}, "InvalidSource"),
        "loop": ({"url": {"url": origin.url("/loop")}}, "InvalidSource"),
        "denied": ({"url": {"url": origin.url("/denied")}}, "InvalidSource"),
        "packed": ({"url": {"url": origin.url("/packed")}}, "InvalidSource"),
        "big": ({"url": {"url": origin.url("/big")}}, "TooLarge"),
        "size": ({"url": {"url": origin.url("/data")}, "sizeBytes": 5}, "SizeMismatch"),
        "digest": ({"url": {"url": origin.url("/data")}, "digest": other}, "DigestMismatch"),
    }
    before = product.requests("/data")
    apply(team, *(artifact(team, name, **spec) for name, (spec, _) in refused.items()))
    for name, (_, reason) in refused.items():
        found = wait(team, name, reason, "Failed")
        assert "canary" not in json.dumps(found["status"])
        assert "artifact" not in found["status"]
    assert product.staged() == []
    fetched, mark = product.requests("/data"), control_plane.audit_mark()
    assert fetched - before == 2
    product.running.operator.restart()
    poll_until(lambda: product.requests("/packed") == 2, "the next try of a server that answers otherwise")
    time.sleep(1)
    assert product.requests("/data") == fetched  # what is wrong for good is not fetched again
    assert status_writes(control_plane, team, since=mark) == 0


def test_slow_servers_hold_up_nobody(product: Product, team: Team) -> None:
    done = asyncio.Event()
    product.origin.answers["/held"] = held(done)
    slow = [artifact(team, f"slow{number}", url={"url": product.origin.url("/held")}) for number in range(30)]
    apply(team, *slow)
    for number in range(30):
        wait(team, f"slow{number}", "Fetching", "InProgress")
    assert product.requests("/held") == 4  # half of the slots: this is one tenant
    began = time.monotonic()
    apply(team, artifact(team, "quick", inline={"text": "hello"}))
    wait(team, "quick", "Stored", "Current")
    assert time.monotonic() - began < 5
    for body in slow[4:]:
        team.cluster.delete(ARTIFACTS, body["metadata"]["name"], team.namespace)
    assert len(product.staged()) == 4
    team.cluster.delete(ARTIFACTS, "slow0", team.namespace)
    poll_until(lambda: len(product.staged()) == 3, "the end of the fetch of a deleted artifact")
    product.origin.answers["/held"] = originserver.status(404)
    product.origin.tasks and next(iter(product.origin.tasks)).get_loop().call_soon_threadsafe(done.set)
    for number in (1, 2, 3):
        wait(team, f"slow{number}", "Stored", "Current")


def test_references_and_objects_are_copied_once(
    product: Product, team: Team, control_plane: ControlPlane
) -> None:
    config = {"metadata": {"name": "c"}, "data": {"k": "from a map"}}
    offer = {"manifestry.dev/artifact-source": "true"}
    secret = {"metadata": {"name": "s", "labels": offer}, "stringData": {"k": "hidden-canary"}}
    bodies = [
        artifact(team, "copied", configMapRef={"name": "c", "key": "k"}),
        artifact(team, "offered", secretRef={"name": "s", "key": "k"}),
        artifact(team, "same", object={"digest": digests.of(b"from a map")}),
    ]
    apply(team, *bodies)
    for body in bodies:
        wait(team, body["metadata"]["name"], "SourceNotFound", "InProgress")
    team.cluster.create(names.CONFIG_MAPS, config, team.namespace)
    team.cluster.create(names.SECRETS, secret, team.namespace)
    for body in bodies:
        wait(team, body["metadata"]["name"], "Stored", "Current")
    assert status_writes(control_plane, team) == 6
    viewer = team.caller("viewer")
    assert viewer.call("GET", "/artifacts/copied/content").data == b"from a map"
    assert viewer.call("GET", "/artifacts/offered/content").data == b"hidden-canary"
    mark = control_plane.audit_mark()
    assert apply(team, *bodies).count("unchanged") == 3
    team.cluster.patch(names.CONFIG_MAPS, "c", {"data": {"k": "changed"}}, team.namespace)
    time.sleep(1)
    assert status_writes(control_plane, team, since=mark) == 0
    assert viewer.call("GET", "/artifacts/copied/content").data == b"from a map"
    log = product.running.operator.log_path.read_text()
    assert "hidden-canary" not in log


def test_a_reference_over_rest(team: Team) -> None:
    team.cluster.create(names.CONFIG_MAPS, {"metadata": {"name": "c"}, "data": {"k": "text"}}, team.namespace)
    caller = team.caller("publisher")
    body = {"name": "a", "mediaType": "text/plain", "configMapRef": {"name": "c", "key": "k"}}
    made = caller.call("POST", "/artifacts", body, headers={"Prefer": "wait=20"})
    assert (made.status, made.json["digest"]) == (201, digests.of(b"text")), made.data
    body = {"name": "b", "mediaType": "text/plain", "secretRef": {"name": "c", "key": "k"}}
    refused = caller.call("POST", "/artifacts", body)
    assert (refused.status, refused.json["errors"][0]["pointer"]) == (422, "/secretRef")
    assert team.cluster.find(ARTIFACTS, "b", team.namespace) is None


def test_files_of_every_source_through_kubectl(
    product: Product, team: Team, control_plane: ControlPlane
) -> None:
    product.origin.answers["/file"] = originserver.status(200, DATA)
    team.cluster.create(names.CONFIG_MAPS, {"metadata": {"name": "c"}, "data": {"k": "text"}}, team.namespace)

    def file(name: str, **source: Any) -> Object:
        return {"name": name, "mediaType": "application/x-part", **source}

    body = artifact(
        team,
        "bundle",
        files=[
            file("inline.txt", inline={"text": "hello"}),
            file("map.txt", configMapRef={"name": "c", "key": "k"}),
            file("data.bin", url={"url": product.origin.url("/file")}, digest=digests.of(DATA)),
            file("sent.bin", upload={}),
        ],
    )
    apply(team, body)
    wait(team, "bundle", "AwaitingUpload", "InProgress")
    assert product.requests("/file") == 0  # nothing is fetched for what may never be complete
    caller, sent = team.caller("publisher"), os.urandom(3_000_000)
    path = "/artifacts/bundle/files/sent.bin/content"
    stored = caller.call("PUT", path, data=sent, headers={"Prefer": "wait=20"})
    assert (stored.status, stored.json["status"]) == (200, "ready"), stored.data
    found = wait(team, "bundle", "Stored", "Current")
    contents = {"inline.txt": b"hello", "map.txt": b"text", "data.bin": DATA, "sent.bin": sent}
    assert found["status"]["files"] == [
        {"name": name, "digest": digests.of(data), "sizeBytes": len(data)} for name, data in contents.items()
    ]
    viewer = team.caller("viewer")
    for name, data in contents.items():
        got = viewer.call("GET", f"/artifacts/bundle/files/{name}/content")
        assert (got.data == data, got.headers["content-type"]) == (True, "application/x-part")
    layers = viewer.call("GET", "/artifacts/bundle/manifest").json["layers"]
    assert [(each["digest"], each["size"]) for each in layers] == [
        (digests.of(data), len(data)) for data in contents.values()
    ]
    shown = viewer.call("GET", "/artifacts/bundle").json
    assert [each["source"] for each in shown["files"]] == ["inline", "configMapRef", "url", "upload"]
    mark = control_plane.audit_mark()
    assert "unchanged" in apply(team, body)
    time.sleep(1)
    assert status_writes(control_plane, team, since=mark) == 0


def test_files_over_rest(team: Team) -> None:
    caller = team.caller("publisher")
    parts = {f"part-{number}.bin": os.urandom(100_000 * number) for number in range(1, 6)}
    files = [{"name": name, "mediaType": "application/x-part", "upload": {}} for name in parts]
    made = caller.call(
        "POST", "/artifacts", {"name": "set", "mediaType": "application/x-set", "files": files}
    )
    assert (made.status, made.json["status"]) == (202, "awaiting-upload"), made.data
    for name, data in parts.items():
        path = f"/artifacts/set/files/{name}/content"
        seconds = 20 if name == list(parts)[-1] else 0
        headers = {"Content-Digest": digests.format_field(digests.of(data)), "Prefer": f"wait={seconds}"}
        assert caller.call("PUT", path, data=data, headers=headers).status == (200 if seconds else 202)
    wait(team, "set", "Stored", "Current")
    for name, data in parts.items():
        assert caller.call("GET", f"/artifacts/set/files/{name}/content").data == data
    changed = {"spec": {"files": [{**files[0], "name": "other"}, *files[1:]]}}
    refused = team.cluster.kubectl(
        "patch", "mart", "set", "-n", team.namespace, "--type=merge", "-p", json.dumps(changed), check=False
    )
    assert "immutable" in refused.stderr
