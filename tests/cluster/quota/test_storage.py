"""The storage quota through both doors: exactly what fits, no leaks, and no write for who has none."""

import contextlib
import functools
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import urllib3

from tests.cluster import rest
from tests.controlplane import processes
from tests.controlplane.audit import WriteFilter
from tests.controlplane.clusterapi import poll_until
from tests.controlplane.controlplane import ControlPlane
from tests.controlplane.tenants import Tenant
from tests.e2e.rest import Answer, Rest
from tests.e2e.teams import ARTIFACTS, LEDGERS, QUOTAS, Team, body

LEDGER = "storage.manifestry"
KIB = 1 << 10
MEDIA_TYPE = "application/octet-stream"
INLINE = {"mediaType": "text/plain", "inline": {"text": "hello"}}
NOWAIT = {"Prefer": "wait=0"}
WAIT = {"Prefer": "wait=20"}


@pytest.fixture(scope="module")
def product(
    control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[rest.Installation]:
    folder = tmp_path_factory.mktemp("product")
    with rest.installed(control_plane, folder, MANIFESTRY_RESYNC_SECONDS="2") as found:
        yield found


@pytest.fixture
def second(product: rest.Installation, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Give another facade on the same store; a test may kill it."""
    folder = tmp_path_factory.mktemp("second")
    store = product.facade.log_path.parent / "store"
    setup = processes.Setup(
        folder, {"MANIFESTRY_STORE_PATH": str(store), "MANIFESTRY_WEBHOOK_ENABLED": "false"}
    )
    facade = processes.facade(product.cp, setup)
    facade.launch()
    facade.wait_ready()
    yield facade
    facade.dispose()


@pytest.fixture
def team(product: rest.Installation, tenant: Tenant) -> Iterator[Team]:
    yield product.team(tenant)
    if product.cp.find(QUOTAS, tenant.name) is not None:
        product.cp.delete(QUOTAS, tenant.name)


def limit(team: Team, **storage: int) -> Rest:
    """Limit the tenant's storage; return a publisher once facade and operator know of it."""
    spec = {"tenants": [team.tenant.name], "storage": storage}
    found = body(QUOTAS, team.tenant.name, spec)
    if team.cluster.find(QUOTAS, team.tenant.name) is None:
        team.cluster.create(QUOTAS, found)
    else:
        team.cluster.patch(QUOTAS, team.tenant.name, {"spec": {"storage": storage}})
    caller = team.caller("publisher", "viewer")
    poll_until(lambda: {key: usage(caller).get(key) for key in storage} == storage, "the limits")
    team.ready(LEDGER)
    return caller


def usage(caller: Rest) -> dict[str, int]:
    found: dict[str, int] = caller.call("GET", "/quotas").json["storage"]
    return found


def ledger(team: Team) -> dict[str, Any]:
    found: dict[str, Any] = team.cluster.get(LEDGERS, LEDGER, team.namespace)["status"]
    return found


def post(caller: Rest, name: str, **changes: Any) -> Answer:
    wanted = {"name": name, "mediaType": MEDIA_TYPE, "upload": {}, **changes}
    return caller.call("POST", "/artifacts", wanted, headers=WAIT)


def put(caller: Rest, name: str, data: bytes) -> Answer:
    headers = {"Content-Type": MEDIA_TYPE, **WAIT}
    return caller.call("PUT", f"/artifacts/{name}/content", data=data, headers=headers)


def condition(team: Team, name: str, kind: str) -> tuple[str, str]:
    found = team.cluster.get(ARTIFACTS, name, team.namespace).get("status", {}).get("conditions", [])
    return next(((each["status"], each["reason"]) for each in found if each["type"] == kind), ("", ""))


def test_concurrent_uploads_over_the_limit_are_exactly_what_fits(team: Team, second: Any) -> None:
    caller = limit(team, maxBytes=100 * KIB)
    other = Rest(second.base_url, caller.headers)
    poll_until(lambda: usage(other).get("maxBytes") == 100 * KIB, "the limit at the second facade")
    for number in range(20):
        assert post(caller, f"u{number}").status == 202
    data = [bytes([number]) * 10 * KIB for number in range(20)]

    def send(number: int) -> Answer:
        return put((caller, other)[number % 2], f"u{number}", data[number])

    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(send, range(20)))
    assert Counter(answer.status for answer in answers) == {200: 10, 429: 10}
    refused = next(answer for answer in answers if answer.status == 429)
    assert refused.json["code"] == "quota-exceeded"
    assert int(refused.headers["retry-after"]) > 0
    numbers = refused.json["usage"]
    assert numbers["maxBytes"] == 100 * KIB
    assert numbers["usedBytes"] + numbers["reservedBytes"] == 100 * KIB
    assert {*numbers} == {"usedBytes", "reservedBytes", "maxBytes", "artifacts"}
    poll_until(lambda: usage(caller)["usedBytes"] == 100 * KIB, "the totals")
    found = usage(caller)
    assert (found["reservedBytes"], found["artifacts"]) == (0, 20)


def test_concurrent_files_of_one_artifact_are_exactly_what_fits(team: Team, second: Any) -> None:
    caller = limit(team, maxBytes=100 * KIB)
    other = Rest(second.base_url, caller.headers)
    poll_until(lambda: usage(other).get("maxBytes") == 100 * KIB, "the limit at the second facade")
    files = [{"name": f"f{number}", "mediaType": MEDIA_TYPE, "upload": {}} for number in range(8)]
    assert post(caller, "many", upload=None, files=files).status == 202

    def send(number: int) -> Answer:
        headers = {"Content-Type": MEDIA_TYPE, **NOWAIT}
        data, path = bytes([number]) * 20 * KIB, f"/artifacts/many/files/f{number}/content"
        return (caller, other)[number % 2].call("PUT", path, data=data, headers=headers)

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(send, range(8)))
    assert Counter(answer.status for answer in answers) == {202: 5, 429: 3}
    found = usage(caller)
    assert (found["usedBytes"], found["reservedBytes"], found["artifacts"]) == (0, 100 * KIB, 1)
    time.sleep(3)  # resyncs: what is recorded stays charged while the other files are awaited
    assert usage(caller)["reservedBytes"] == 100 * KIB
    limit(team, maxBytes=160 * KIB)
    poll_until(lambda: usage(other).get("maxBytes") == 160 * KIB, "the limit at the second facade")
    missing = [number for number, answer in enumerate(answers) if answer.status == 429]
    assert [send(number).status for number in missing] == [202, 202, 202]
    poll_until(lambda: condition(team, "many", "Ready") == ("True", "Stored"), "all files")
    poll_until(lambda: usage(caller)["usedBytes"] == 160 * KIB, "the totals")
    assert usage(caller)["reservedBytes"] == 0
    assert (ledger(team).get("holders") or {}) == {}


def test_concurrent_creations_over_the_count_are_exactly_what_fits(team: Team) -> None:
    caller = limit(team, maxArtifacts=5)

    def create(number: int) -> Answer:
        named = {"name": f"c{number}"} if number % 2 else {}
        wanted = {"mediaType": "text/plain", "inline": {"text": f"{number}"}, **named}
        return caller.call("POST", "/artifacts", wanted, headers=WAIT)

    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(create, range(20)))
    assert Counter(answer.status for answer in answers) == {201: 5, 429: 15}
    assert len(team.cluster.list(ARTIFACTS, team.namespace)) == 5
    made = next(answer.json["id"] for answer in answers if answer.status == 201)
    assert post(caller, made).status == 409, "a name that is taken is no matter of the quota"
    assert caller.call("DELETE", f"/artifacts/{made}").status in {204, 403}
    team.cluster.delete(ARTIFACTS, made, team.namespace)
    poll_until(lambda: usage(caller)["artifacts"] == 4, "room for one")
    assert create(77).status == 201


def test_inline_bytes_count_and_are_refused_before_anything_exists(team: Team) -> None:
    caller = limit(team, maxBytes=10)
    assert post(caller, "fits", upload=None, inline={"text": "0123456"}).status == 201
    refused = post(caller, "over", upload=None, inline={"text": "0123456"})
    numbers = refused.json["usage"]
    assert (refused.status, numbers["usedBytes"] + numbers["reservedBytes"]) == (429, 7)
    assert team.cluster.find(ARTIFACTS, "over", team.namespace) is None
    poll_until(lambda: usage(caller)["usedBytes"] == 7, "the totals")


def test_a_deletion_makes_room(team: Team) -> None:
    caller = limit(team, maxBytes=10 * KIB)
    assert post(caller, "old").status == 202
    assert put(caller, "old", b"a" * 10 * KIB).status == 200
    assert post(caller, "new").status == 202
    assert put(caller, "new", b"b").status == 429
    team.cluster.delete(ARTIFACTS, "old", team.namespace)
    poll_until(lambda: put(caller, "new", b"b").status == 200, "room")
    poll_until(lambda: usage(caller)["usedBytes"] == 1, "the totals")


def stream(caller: Rest, name: str, pieces: list[bytes], gate: threading.Event | None = None) -> int:
    """Send a body of unknown length; after the first piece wait for the gate."""

    def chunks() -> Iterator[bytes]:
        for number, piece in enumerate(pieces):
            if number == 1 and gate is not None:
                gate.wait(30)
            yield piece

    answer = caller.pool.request(
        "PUT",
        f"{caller.base_url}/artifacts/{name}/content",
        body=chunks(),
        headers={**caller.headers, "Content-Type": MEDIA_TYPE, **WAIT},
        timeout=60,
    )
    return answer.status


def test_a_stream_of_unknown_length_grows_until_there_is_no_room(team: Team) -> None:
    caller = limit(team, maxBytes=64 * KIB)
    for name in ("small", "large"):
        assert post(caller, name).status == 202
    assert stream(caller, "small", [b"s" * 5 * KIB, b"t" * 5 * KIB]) == 200
    poll_until(lambda: (usage(caller)["usedBytes"], usage(caller)["reservedBytes"]) == (10 * KIB, 0), "it")
    with contextlib.suppress(urllib3.exceptions.HTTPError):  # the answer may come before the last piece
        assert stream(caller, "large", [b"l" * KIB] * 60) == 429
    poll_until(lambda: usage(caller)["reservedBytes"] == 0, "what was reserved is given back")
    assert usage(caller)["artifacts"] == 2


def test_a_killed_facade_leaves_no_reservation_behind(team: Team, second: Any) -> None:
    caller = limit(team, maxBytes=100 * KIB)
    other = Rest(second.base_url, caller.headers)
    assert post(caller, "film").status == 202
    poll_until(lambda: condition(team, "film", "QuotaReserved") == ("True", "Reserved"), "the charge")
    gate = threading.Event()
    poll_until(lambda: usage(other).get("maxBytes") == 100 * KIB, "the limit at the second facade")
    with ThreadPoolExecutor(1) as pool:
        sending = pool.submit(stream, other, "film", [b"x" * KIB, b"y" * KIB], gate)
        poll_until(lambda: usage(caller)["reservedBytes"] > 0, "the reservation")
        second.kill()
        gate.set()
        assert isinstance(sending.exception(30), urllib3.exceptions.HTTPError)
    held = usage(caller)["reservedBytes"]
    time.sleep(5)
    assert usage(caller)["reservedBytes"] == held, "nobody can know yet that it is dead"
    for key, found in ledger(team)["holders"].items():
        change = {"holders": {key: {**found, "since": "2020-01-01T00:00:00.000000Z"}}}
        team.cluster.patch(LEDGERS, LEDGER, {"status": change}, team.namespace, subresource="status")
    poll_until(lambda: usage(caller)["reservedBytes"] == 0, "the repair")
    assert usage(caller)["artifacts"] == 1
    assert put(caller, "film", b"z" * 100 * KIB).status == 200


def test_a_resumable_upload_keeps_its_reservation_until_it_ends(team: Team) -> None:
    caller = limit(team, maxBytes=100 * KIB)
    assert post(caller, "film").status == 202

    def begin(size_bytes: int) -> Answer:
        headers = {"Upload-Length": str(size_bytes), "Upload-Complete": "?0"}
        return caller.call("POST", "/artifacts/film/uploads", headers=headers)

    assert begin(101 * KIB).json["code"] == "quota-exceeded"
    made = begin(60 * KIB)
    assert made.status == 201, made.data
    time.sleep(5)  # resyncs
    assert usage(caller)["reservedBytes"] == 60 * KIB
    assert caller.call("DELETE", made.headers["location"]).status == 204
    poll_until(lambda: usage(caller)["reservedBytes"] == 0, "the abort")
    made = begin(100 * KIB)
    piece = {"Upload-Offset": "0", "Upload-Complete": "?1", "Content-Type": "application/partial-upload"}
    data = b"f" * 100 * KIB
    assert caller.call("PATCH", made.headers["location"], data=data, headers={**piece, **WAIT}).status == 200
    poll_until(lambda: usage(caller)["usedBytes"] == 100 * KIB, "the totals")
    assert usage(caller)["reservedBytes"] == 0


def has_verdict(team: Team, name: str) -> bool:
    return condition(team, name, "QuotaReserved")[0] != ""


def test_what_came_by_kubectl_waits_for_room_and_is_woken(team: Team) -> None:
    caller = limit(team, maxBytes=10, maxArtifacts=3)
    for name, text in (("first", "01234567"), ("second", "0123"), ("third", "0" * 11)):
        spec = {"mediaType": "text/plain", "inline": {"text": text}}
        team.cluster.create(ARTIFACTS, body(ARTIFACTS, name, spec), team.namespace)
        poll_until(functools.partial(has_verdict, team, name), "a verdict")
    assert condition(team, "first", "Ready") == ("True", "Stored")
    assert condition(team, "first", "QuotaReserved") == ("True", "Reserved")
    assert condition(team, "second", "QuotaReserved") == ("False", "WaitingForQuota")
    assert condition(team, "second", "Ready") == ("Unknown", "WaitingForQuota")
    assert condition(team, "second", "Reconciling")[0] == "True"
    assert condition(team, "third", "QuotaReserved") == ("False", "ExceedsMaxQuota")
    assert condition(team, "third", "Stalled") == ("True", "ExceedsMaxQuota")
    assert "manifest" not in team.cluster.get(ARTIFACTS, "second", team.namespace)["status"]
    team.cluster.delete(ARTIFACTS, "first", team.namespace)
    poll_until(lambda: condition(team, "second", "Ready") == ("True", "Stored"), "the wake")
    team.cluster.patch(QUOTAS, team.tenant.name, {"spec": {"storage": {"maxBytes": 15}}})
    poll_until(lambda: condition(team, "third", "Ready") == ("True", "Stored"), "the greater quota")
    poll_until(lambda: usage(caller)["usedBytes"] == 15, "the totals")


def test_a_quota_that_is_lifted_lets_everybody_in_and_forgets(team: Team) -> None:
    limit(team, maxBytes=5)
    spec = {"mediaType": "text/plain", "inline": {"text": "0123456789"}}
    team.cluster.create(ARTIFACTS, body(ARTIFACTS, "ten", spec), team.namespace)
    poll_until(lambda: condition(team, "ten", "Ready")[1] == "ExceedsMaxQuota", "the refusal")
    team.cluster.delete(QUOTAS, team.tenant.name)
    poll_until(lambda: condition(team, "ten", "Ready") == ("True", "Stored"), "the storing")
    poll_until(lambda: team.cluster.find(LEDGERS, LEDGER, team.namespace) is None, "no ledger")
    caller = limit(team, maxBytes=5)
    poll_until(lambda: usage(caller)["usedBytes"] == 10, "what was stored meanwhile")
    assert post(caller, "more", upload=None, inline={"text": "1"}).status == 429
    over = next(
        each
        for each in team.cluster.get(QUOTAS, team.tenant.name)["status"]["conditions"]
        if each["type"] == "OverLimit"
    )
    assert over["status"] in {"True", "False"}  # written seldom


def test_a_tenant_without_a_limit_costs_no_write(product: rest.Installation, team: Team) -> None:
    caller = team.caller("publisher", "viewer")
    mark = product.cp.audit_mark()
    assert post(caller, "a").status == 202
    assert put(caller, "a", b"a").status == 200
    assert post(caller, "b", upload=None, inline={"text": "b"}).status == 201
    team.cluster.delete(ARTIFACTS, "a", team.namespace)
    time.sleep(3)  # a resync
    wanted = WriteFilter(namespace=team.namespace, resource="quotaledgers", name=LEDGER)
    assert product.cp.writes(wanted, since=mark) == []
    assert team.cluster.find(LEDGERS, LEDGER, team.namespace) is None
    assert usage(caller) == {"usedBytes": 1, "reservedBytes": 0, "artifacts": 1}


def test_the_api_server_keeps_the_shape_of_the_ledger(team: Team) -> None:
    limit(team, maxBytes=5)
    found = team.cluster.get(LEDGERS, LEDGER, team.namespace)
    assert found["spec"] == {"storage": {}}
    for spec, name in (
        ({"storage": {}}, "other"),
        ({}, "empty"),
        ({"jobType": "both", "storage": {}}, "both"),
    ):
        made = {
            "apiVersion": "manifestry.dev/v1alpha1",
            "kind": "QuotaLedger",
            "metadata": {"name": name},
            "spec": spec,
        }
        with pytest.raises(Exception, match="must be set"):
            team.cluster.create(LEDGERS, made, team.namespace)


def test_a_quotas_status_says_what_is_stored(team: Team) -> None:
    team.cluster.create(ARTIFACTS, body(ARTIFACTS, "early", INLINE), team.namespace)
    poll_until(lambda: condition(team, "early", "Ready") == ("True", "Stored"), "the storing")
    limit(team, maxBytes=100)
    name = team.tenant.name
    # The summary is written with the quota's first conditions, then once a minute; a new generation is news.
    team.cluster.patch(QUOTAS, name, {"spec": {"storage": {"maxBytes": 101}}})
    stored = {"usedBytes": 5, "artifacts": 1}
    poll_until(lambda: team.cluster.get(QUOTAS, name)["status"].get("storage") == stored, "the summary")
    assert team.cluster.get(QUOTAS, name)["status"]["tenants"] == [{"tenant": name, "storage": stored}]
