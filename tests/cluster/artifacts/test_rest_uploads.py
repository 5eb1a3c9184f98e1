"""Resumable uploads through real processes: killed, restarted, continued elsewhere, limited, collected."""

import contextlib
import http.client
import os
import random
import threading
import time
import urllib.parse
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import urllib3

from tests.cluster import rest
from tests.cluster.artifacts.test_rest_artifacts import digest_field, digest_of
from tests.controlplane import processes
from tests.controlplane.clusterapi import poll_until
from tests.controlplane.controlplane import ControlPlane
from tests.controlplane.plugin import MakeTenant
from tests.controlplane.tenants import Tenant
from tests.e2e import conditions
from tests.e2e.rest import Answer, Rest
from tests.e2e.teams import ARTIFACTS, Team
from tests.seaweed.server import S3Server

MIB = 1 << 20
PARTIAL = {"Content-Type": "application/partial-upload"}
ENV = {
    "MANIFESTRY_MAX_UPLOAD_SESSIONS": "3",
    "MANIFESTRY_UPLOAD_EXPIRY_SECONDS": "20",  # so the operator looks every 10 s
    "MANIFESTRY_RESYNC_SECONDS": "1",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("uploads")


@pytest.fixture(scope="module")
def product(control_plane: ControlPlane, folder: Path) -> Iterator[rest.Installation]:
    with rest.installed(control_plane, folder, **ENV) as found:
        yield found


@pytest.fixture
def team(product: rest.Installation, tenant: Tenant) -> Team:
    return product.team(tenant)


def begin(caller: Rest, name: str = "a", **headers: str) -> str:
    body = {"name": name, "mediaType": "application/x-blob", "upload": {}}
    made = caller.call("POST", "/artifacts", body)
    assert made.status in {202, 409}, made.data
    begun = caller.call("POST", f"/artifacts/{name}/uploads", headers=headers)
    assert begun.status == 201, begun.data
    return begun.headers["location"]


def patch(caller: Rest, path: str, offset: int, data: bytes, *, last: bool = False, **headers: str) -> Answer:
    stated = {"Upload-Offset": str(offset), "Upload-Complete": "?1" if last else "?0"}
    return caller.call("PATCH", path, data=data, headers={**PARTIAL, **stated, **headers})


def offset_of(caller: Rest, path: str) -> int:
    found = caller.call("HEAD", path)
    assert found.status == 204, found.status
    return int(found.headers["upload-offset"])


def finish(caller: Rest, path: str, data: bytes) -> Answer:
    """Go on where the upload is, with the rest in one piece."""
    offset = offset_of(caller, path)
    done = patch(caller, path, offset, data[offset:], last=True, Prefer="wait=30")
    assert (done.status, done.json["status"]) == (200, "ready"), done.data
    assert done.headers["upload-complete"] == "?1"
    return done


def open_piece(caller: Rest, path: str, offset: int, size: int) -> http.client.HTTPConnection:
    """Return a connection whose piece is still to be sent."""
    url = urllib.parse.urlsplit(caller.base_url)
    connection = http.client.HTTPConnection(str(url.hostname), url.port, timeout=30)
    connection.putrequest("PATCH", path)
    stated = {"Upload-Offset": str(offset), "Upload-Complete": "?1", "Content-Length": str(size)}
    for name, value in {**caller.headers, **PARTIAL, **stated}.items():
        connection.putheader(name, value)
    connection.endheaders()
    return connection


def peak_mib(process: processes.FacadeProcess) -> float:
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def measured(caller: Rest, process: processes.FacadeProcess, size: int) -> float:
    """Upload one piece of `size` zeros and return by how many MiB the facade's peak of memory rose."""
    begin(caller, "warm")
    path = begin(caller)
    Path(f"/proc/{process.pid}/clear_refs").write_text("5")
    before, started = peak_mib(process), time.monotonic()
    piece = open_piece(caller, path, 0, size)
    for _ in range(size // MIB):
        piece.send(bytes(MIB))
    answer = piece.getresponse()
    body = answer.read()
    piece.close()
    assert answer.status in {200, 202}, body
    assert answer.getheader("Upload-Offset") == str(size)
    rise = peak_mib(process) - before
    seconds = time.monotonic() - started
    print(f"{size // MIB} MiB in {seconds:.1f} s, {size / MIB / seconds:.0f} MiB/s, memory +{rise:.1f} MiB")
    return rise


def test_a_gibibyte_takes_little_memory(product: rest.Installation, team: Team) -> None:
    assert measured(team.caller("publisher"), product.facade, 1024 * MIB) <= 64


def test_a_quarter_of_a_gibibyte_over_s3_takes_little_memory(
    control_plane: ControlPlane,
    product: rest.Installation,
    tenant: Tenant,
    s3: S3Server,
    start_facade: Callable[..., Any],
) -> None:
    facade = start_facade(control_plane, env={**ENV, **s3.apart()}, register=False)
    caller = Team(tenant, control_plane, facade.base_url).caller("publisher")
    assert measured(caller, facade, 256 * MIB) <= 64


def test_pieces_become_the_payload(team: Team) -> None:
    caller, data = team.caller("publisher"), os.urandom(5 * MIB)
    path = begin(caller, **{"Upload-Length": str(len(data)), "Repr-Digest": digest_field(data)})
    for start in (0, MIB):
        piece = data[start : start + MIB]
        taken = patch(caller, path, start, piece, last=False, **{"Content-Digest": digest_field(piece)})
        assert (taken.status, taken.headers["upload-offset"]) == (204, str(start + MIB))
    assert caller.call("GET", "/artifacts/a/content").status == 409
    done = finish(caller, path, data)
    assert done.json["digest"] == digest_of(data)
    assert team.caller("viewer").call("GET", "/artifacts/a/content").data == data
    spec = team.cluster.get(ARTIFACTS, "a", team.namespace)["spec"]
    assert spec["upload"] == {"digest": digest_of(data), "sizeBytes": len(data)}
    found = caller.call("HEAD", path)
    assert (found.headers["upload-complete"], found.headers["upload-offset"]) == ("?1", str(len(data)))


def test_a_facade_killed_in_the_middle_of_a_piece(product: rest.Installation, team: Team) -> None:
    caller, data = team.caller("publisher"), os.urandom(24 * MIB)
    path = begin(caller)
    assert patch(caller, path, 0, data[: 2 * MIB]).status == 204
    piece = open_piece(caller, path, 2 * MIB, len(data) - 2 * MIB)
    piece.send(data[2 * MIB : 14 * MIB])
    time.sleep(0.3)
    product.facade.kill()
    piece.close()
    product.facade.start()
    offset = offset_of(caller, path)
    assert 2 * MIB <= offset <= 14 * MIB
    print("resumed at", offset, "of", 14 * MIB, "sent")
    assert team.cluster.get(ARTIFACTS, "a", team.namespace)["spec"]["upload"] == {}
    finish(caller, path, data)
    assert caller.call("GET", "/artifacts/a/content").data == data


def test_what_was_acknowledged_outlives_any_number_of_kills(product: rest.Installation, team: Team) -> None:
    caller, data = team.caller("publisher"), os.urandom(16 * MIB)
    path = begin(caller)
    acknowledged, ended = [0], threading.Event()

    def upload() -> None:
        offset = 0
        while not ended.is_set():
            with contextlib.suppress(urllib3.exceptions.HTTPError, AssertionError):
                offset = offset_of(caller, path)
                assert offset >= acknowledged[0], "an acknowledged byte is gone"
                while offset < len(data):
                    size = random.randint(1, 400_000)
                    taken = patch(caller, path, offset, data[offset : offset + size])
                    assert taken.status == 204
                    acknowledged[0] = offset = int(taken.headers["upload-offset"])
                    time.sleep(0.02)
                ended.set()

    worker = threading.Thread(target=upload)
    worker.start()
    kills = 0
    while not ended.wait(random.uniform(0.2, 1.0)) and kills < 3:
        before = acknowledged[0]
        product.facade.kill()
        product.facade.start()
        kills += 1
        assert offset_of(caller, path) >= before
    worker.join(60)
    assert kills >= 1
    finish(caller, path, data)
    assert caller.call("GET", "/artifacts/a/content").data == data


def test_another_replica_goes_on(
    product: rest.Installation, team: Team, control_plane: ControlPlane, folder: Path
) -> None:
    second = processes.facade(control_plane, processes.Setup(folder, ENV))
    try:
        second.start()
        caller, data = team.caller("publisher"), os.urandom(3 * MIB)
        path = begin(caller)
        assert patch(caller, path, 0, data[:MIB]).status == 204
        other = Rest(second.base_url, caller.headers)
        poll_until(lambda: other.call("GET", "/artifacts?limit=1").status == 200, "the grant is seen")
        assert patch(other, path, MIB, data[MIB : 2 * MIB]).status == 204
        stale = patch(caller, path, MIB, data[MIB:])
        assert (stale.status, stale.headers["upload-offset"]) == (409, str(2 * MIB))
        finish(other, path, data)
        assert caller.call("HEAD", path).headers["upload-complete"] == "?1"
        assert caller.call("GET", "/artifacts/a/content").data == data
    finally:
        second.dispose()


def test_of_two_replicas_at_one_offset_one_wins(
    product: rest.Installation, team: Team, control_plane: ControlPlane, folder: Path
) -> None:
    second = processes.facade(control_plane, processes.Setup(folder, ENV))
    try:
        second.start()
        caller = team.caller("publisher")
        other = Rest(second.base_url, caller.headers)
        poll_until(lambda: other.call("GET", "/artifacts?limit=1").status == 200, "the grant is seen")
        path, data = begin(caller), b""
        for _ in range(5):
            bodies = [os.urandom(random.randint(1, 2 * MIB)) for _ in range(6)]
            answers: dict[int, Answer] = {}

            def send(number: int, body: bytes, offset: int, into: dict[int, Answer] = answers) -> None:
                into[number] = patch((caller, other)[number % 2], path, offset, body)

            threads = [
                threading.Thread(target=send, args=(number, body, len(data)))
                for number, body in enumerate(bodies)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            won = [number for number, answer in answers.items() if answer.status == 204]
            assert sorted(answer.status for answer in answers.values()) == [204] + [409] * 5
            data += bodies[won[0]]
            assert offset_of(other, path) == len(data)
        finish(caller, path, data)
        assert caller.call("GET", "/artifacts/a/content").data == data
    finally:
        second.dispose()


def test_an_operator_that_restarts_is_not_noticed(product: rest.Installation, team: Team) -> None:
    caller, data = team.caller("publisher"), os.urandom(3 * MIB)
    path = begin(caller)
    assert patch(caller, path, 0, data[:MIB]).status == 204
    product.operator.kill()
    assert patch(caller, path, MIB, data[MIB : 2 * MIB]).status == 204
    processes.release_lease(product.cp)
    product.operator.start()
    assert offset_of(caller, path) == 2 * MIB
    finish(caller, path, data)
    assert caller.call("GET", "/artifacts/a/content").data == data


def test_a_wrong_offset_is_told_the_right_one(team: Team) -> None:
    caller = team.caller("publisher")
    path = begin(caller, **{"Upload-Length": "100"})
    assert patch(caller, path, 0, bytes(60)).status == 204
    for offset in (0, 59, 61):
        refused = patch(caller, path, offset, bytes(10))
        assert (refused.status, refused.headers["upload-offset"]) == (409, "60")
    for offset, size in ((60, 41), (101, 0)):
        refused = patch(caller, path, offset, bytes(size))
        assert (refused.status, refused.headers["upload-offset"]) == (416, "60")


def test_other_bytes_than_promised_are_never_visible(team: Team, folder: Path) -> None:
    caller, data = team.caller("publisher"), os.urandom(MIB)
    path = begin(caller, **{"Repr-Digest": digest_field(data)})
    wrong = data[:-1] + bytes([data[-1] ^ 1])
    refused = patch(caller, path, 0, wrong, last=True)
    assert (refused.status, refused.json["code"]) == (422, "digest-mismatch")
    assert caller.call("GET", "/artifacts/a/content").status == 409
    assert caller.call("HEAD", path).status == 404
    assert team.cluster.get(ARTIFACTS, "a", team.namespace)["spec"]["upload"] == {}
    blobs = folder / "store" / "tenants" / team.tenant.uid / "blobs"
    assert [path for path in blobs.rglob("*") if path.is_file()] == []
    finish(caller, begin(caller), data)


def test_a_tenant_has_only_so_many(product: rest.Installation, team: Team, make_tenant: MakeTenant) -> None:
    caller = team.caller("publisher")
    paths = [begin(caller) for _ in range(3)]
    refused = caller.call("POST", "/artifacts/a/uploads")
    assert (refused.status, refused.json["code"]) == (429, "quota-exceeded")
    assert refused.json["usage"] == {"sessions": 3, "maxSessions": 3}
    begin(product.team(make_tenant()).caller("publisher"))  # another tenant has its own
    assert caller.call("DELETE", paths[0]).status == 204
    assert caller.call("HEAD", paths[0]).status == 404
    begin(caller)


def test_another_tenants_session_is_not_there(
    product: rest.Installation, team: Team, make_tenant: MakeTenant
) -> None:
    caller = team.caller("publisher")
    path = begin(caller)
    stranger = product.team(make_tenant()).caller("admin")
    assert stranger.call("HEAD", path).status == 404
    assert stranger.call("DELETE", path).status == 404
    assert patch(stranger, path, 0, b"x").status == 404
    assert team.caller("viewer").call("HEAD", path).status == 403
    assert offset_of(caller, path) == 0


def test_an_abandoned_upload_is_collected(team: Team, folder: Path) -> None:
    caller, uploads = team.caller("publisher"), folder / "store" / "uploads"
    path = begin(caller)
    session_id = path.rpartition("/")[2]
    assert patch(caller, path, 0, b"hello").status == 204
    plain = str(uuid.uuid4())  # an hour begins when the operator sees it first: tests/component/artifacts
    (uploads / plain).write_bytes(b"of a facade that was killed")
    long_ago = time.time() - 3700
    for file in (plain, session_id, f"{session_id}.json"):
        os.utime(uploads / file, (long_ago, long_ago))
    poll_until(lambda: caller.call("HEAD", path).status == 404, "the session is collected", 30)
    assert (uploads / plain).exists()
    assert not list(uploads.glob(f"{session_id}*"))
    assert not list((folder / "store" / "sessions" / team.tenant.uid).iterdir())
    finish(caller, begin(caller), b"hello")


def test_the_same_over_s3(
    control_plane: ControlPlane,
    product: rest.Installation,
    tenant: Tenant,
    s3: S3Server,
    start_facade: Callable[..., Any],
) -> None:
    facade = start_facade(control_plane, env={**ENV, **s3.apart()}, register=False)
    team = Team(tenant, control_plane, facade.base_url)
    caller, data = team.caller("publisher"), os.urandom(21 * MIB)
    path = begin(caller)
    assert patch(caller, path, 0, data[:MIB]).status == 204
    piece = open_piece(caller, path, MIB, len(data) - MIB)
    piece.send(data[MIB : 18 * MIB])
    time.sleep(1)
    facade.kill()
    piece.close()
    facade.start()
    offset = offset_of(caller, path)
    assert MIB <= offset <= 18 * MIB
    print("resumed at", offset, "of", 18 * MIB, "sent")
    done = patch(caller, path, offset, data[offset:], last=True, Prefer="wait=0")
    assert (done.status, done.headers["upload-complete"]) == (202, "?1"), done.data
    # Its operator would look into the same bucket; this one looks elsewhere, and so says that it waits.
    spec = control_plane.wait_for(
        ARTIFACTS, "a", team.namespace, lambda found: bool(found and found["spec"]["upload"])
    )["spec"]
    assert spec["upload"] == {"digest": digest_of(data), "sizeBytes": len(data)}
    assert (
        conditions.condition(control_plane.get(ARTIFACTS, "a", team.namespace), "Ready")["status"] != "True"
    )
