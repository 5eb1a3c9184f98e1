"""Metadata over REST against a real API server: who wins, what is refused, what both doors agree on."""

import base64
import functools
import json
import threading
import urllib.parse
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.cluster import rest
from tests.controlplane import webhooks
from tests.controlplane.apirequests import ApiFailure
from tests.controlplane.clusterapi import poll_until
from tests.controlplane.plugin import MakeTenant
from tests.e2e.rest import Answer, Rest
from tests.e2e.teams import ARTIFACTS, JOBS, Team, body

pytest_plugins = ("tests.cluster.restfixtures",)

TEXT = {"mediaType": "text/plain", "inline": {"text": "hello"}}
MERGE = {"Content-Type": "application/merge-patch+json"}
AT_ONCE = {"Prefer": "respond-async"}
WRITERS = 12


def ready(caller: Rest, name: str, **changes: Any) -> Answer:
    """Create an artifact and wait until the operator is done with it."""
    made = caller.call("POST", "/artifacts", {"name": name, **TEXT, **changes}, headers={"Prefer": "wait=30"})
    assert made.status == 201, made.data
    return made


def patch(caller: Rest, name: str, change: Any, **headers: str) -> Answer:
    sent = {**MERGE, **{key.replace("_", "-"): value for key, value in headers.items()}}
    return caller.call("PATCH", f"/artifacts/{name}", change, headers=sent)


def together(acts: list[Callable[[], Answer]]) -> list[Answer]:
    """Do all at the same moment."""
    barrier = threading.Barrier(len(acts))

    def act(index: int) -> Answer:
        barrier.wait(20)
        return acts[index]()

    with ThreadPoolExecutor(len(acts)) as pool:
        return list(pool.map(act, range(len(acts))))


def test_one_of_many_with_the_same_tag_wins(team: Team) -> None:
    caller = team.caller("publisher")
    tag = ready(caller, "a").headers["etag"]
    condition = {"If-Match": tag, **AT_ONCE}

    def change(number: int) -> Callable[[], Answer]:
        method, media_type = ("PUT", {}) if number % 2 else ("PATCH", MERGE)
        wanted = {"annotations": {"writer": str(number)}}
        return lambda: caller.call(method, "/artifacts/a", wanted, headers={**condition, **media_type})

    answers = together([change(number) for number in range(WRITERS)])
    assert sorted(answer.status for answer in answers)[1:] == [412] * (WRITERS - 1)
    (winner,) = [answer for answer in answers if answer.status in {200, 202}]
    stored = team.cluster.get(ARTIFACTS, "a", team.namespace)["spec"]["annotations"]
    assert winner.json["annotations"] == stored
    deletions = together(
        [lambda: caller.call("DELETE", "/artifacts/a", headers={"If-Match": tag}) for _ in range(3)]
    )
    assert {answer.status for answer in deletions} == {412}
    current = caller.call("GET", "/artifacts/a").headers["etag"]
    assert caller.call("DELETE", "/artifacts/a", headers={"If-Match": current}).status in {204, 412}


def test_changes_without_a_condition_all_count(team: Team) -> None:
    caller = team.caller("publisher")
    ready(caller, "a")
    answers = together(
        [
            functools.partial(patch, caller, "a", {"annotations": {f"w{number}": "x"}}, **AT_ONCE)
            for number in range(WRITERS)
        ]
    )
    assert {answer.status for answer in answers} <= {200, 202}, [answer.data for answer in answers]
    stored = team.cluster.get(ARTIFACTS, "a", team.namespace)["spec"]["annotations"]
    assert stored == {f"w{number}": "x" for number in range(WRITERS)}


def test_the_manifest_follows_the_metadata(
    product: rest.Installation, team: Team, make_tenant: MakeTenant
) -> None:
    caller, viewer = team.caller("publisher"), team.caller("viewer")
    old = ready(caller, "a", annotations={"stage": "draft"}).json["manifest"]["digest"]
    changed = patch(caller, "a", {"annotations": {"stage": "final"}, "project": "gemini"}, Prefer="wait=30")
    assert (changed.status, changed.json["status"]) == (200, "ready"), changed.data
    digest = changed.json["manifest"]["digest"]
    assert digest != old
    got = viewer.call("GET", f"/manifests/{digest}")
    assert (got.status, got.headers["etag"]) == (200, f'"{digest}"')
    assert got.json["annotations"]["stage"] == "final"
    assert got.data == viewer.call("GET", "/artifacts/a/manifest").data
    assert viewer.call("GET", f"/manifests/{old}").status == 404
    payload = changed.json["digest"]
    assert viewer.call("GET", f"/manifests/{payload}").status == 404
    stranger = product.team(make_tenant()).caller("admin")
    assert stranger.call("GET", f"/manifests/{digest}").status == 404
    metadata = team.cluster.get(ARTIFACTS, "a", team.namespace)["metadata"]
    assert metadata["labels"] == {"manifestry.dev/project": "gemini"}
    assert viewer.call("PATCH", "/artifacts/a", {}, headers=MERGE).status == 403


IMMUTABLE: list[tuple[dict[str, Any], str]] = [
    ({"mediaType": "a/b"}, "/mediaType"),
    ({"inline": {"text": "other"}}, "/inline/text"),
    ({"inline": None, "upload": {}}, "/inline"),
    ({"digest": f"sha256:{'0' * 64}"}, "/digest"),
    ({"sizeBytes": 4}, "/sizeBytes"),
]


def test_what_is_immutable_is_so_at_both_doors(team: Team) -> None:
    caller = team.caller("publisher")
    digest = ready(caller, "a").json["digest"]
    assert patch(caller, "a", {}).status == 200
    ready(caller, "b", digest=digest, sizeBytes=5)
    before = team.cluster.get(ARTIFACTS, "b", team.namespace)["metadata"]["resourceVersion"]
    for change, pointer in IMMUTABLE:
        refused = patch(caller, "b", change)
        assert (refused.status, refused.json["code"]) == (422, "immutable-field"), refused.data
        assert refused.json["errors"][0]["pointer"] == pointer
        with pytest.raises(ApiFailure) as caught:
            team.cluster.patch(ARTIFACTS, "b", {"spec": change}, team.namespace)
        assert caught.value.status == 422
    assert team.cluster.get(ARTIFACTS, "b", team.namespace)["metadata"]["resourceVersion"] == before


def test_what_was_read_can_be_put_back(team: Team) -> None:
    caller = team.caller("publisher")
    ready(caller, "a", project="apollo", annotations={"x": "1"}, labels={"tier": "web"})
    read = caller.call("GET", "/artifacts/a")
    condition = {"If-Match": read.headers["etag"], "Prefer": "wait=30"}
    same = caller.call("PUT", "/artifacts/a", read.json, headers=condition)
    assert (same.status, same.headers["etag"]) == (200, read.headers["etag"])
    changed = caller.call("PUT", "/artifacts/a", {**read.json, "fileName": "x.txt"}, headers=condition)
    assert (changed.status, changed.json["fileName"]) == (200, "x.txt"), changed.data
    assert caller.call("PUT", "/artifacts/a", read.json, headers=condition).status == 412
    stale = caller.call("PUT", "/artifacts/a", read.json)
    assert (stale.status, stale.json["code"]) == (412, "precondition-failed")
    nothing = caller.call("PUT", "/artifacts/a", {}, headers={"If-Match": changed.headers["etag"]})
    assert nothing.status in {200, 202}, nothing.data
    spec = team.cluster.get(ARTIFACTS, "a", team.namespace)["spec"]
    assert spec == TEXT
    assert nothing.json["labels"] == {"tier": "web"}


def test_what_kubectl_changes_rest_sees(team: Team) -> None:
    caller = team.caller("publisher")
    tag = ready(caller, "a").headers["etag"]
    team.cluster.kubectl("label", "mart/a", "tier=web", "-n", team.namespace)
    wanted = json.dumps({"spec": {"project": "gemini", "fileName": "x.txt"}})
    team.cluster.kubectl("patch", "mart/a", "--type=merge", "-p", wanted, "-n", team.namespace)

    def sees() -> bool:
        return str(caller.call("GET", "/artifacts/a").json.get("fileName")) == "x.txt"

    poll_until(sees, "the change by kubectl")
    read = caller.call("GET", "/artifacts/a")
    assert read.headers["etag"] != tag
    assert (read.json["project"], read.json["labels"]) == ("gemini", {"tier": "web"})
    assert names(caller, "labelSelector=tier%3Dweb&project=gemini") == ["a"]
    assert patch(caller, "a", {"project": "x"}, If_Match=tag).status == 412
    team.cluster.kubectl("label", "mart/a", "manifestry.dev/protected=true", "-n", team.namespace)
    assert caller.call("DELETE", "/artifacts/a").status == 409
    team.cluster.kubectl("label", "mart/a", "manifestry.dev/protected-", "-n", team.namespace)
    team.cluster.kubectl("delete", "mart/a", "-n", team.namespace)
    poll_until(lambda: caller.call("GET", "/artifacts/a").status == 404, "the deletion by kubectl")
    assert names(caller, "") == []
    assert patch(caller, "a", {}).status == 404


def names(caller: Rest, query: str) -> list[str]:
    answer = caller.call("GET", f"/artifacts?{query}")
    assert answer.status == 200, answer.data
    return sorted(each["id"] for each in answer.json["items"])


SELECTORS = [
    "", "tier", "!tier", "tier=web", "tier==web", "tier!=web", "tier = web", "tier=", "tier!=", "empty=",
    "empty", "tier in (web)", "tier in (web,db)", "tier notin (web)", "tier notin (web,db)", "tier in ()",
    "empty in ()", "empty in (,x)", "tier notin ()", "tier in (web,)", "example.org/x", "!example.org/x",
    "example.org/x=1", "tier,env", "tier,!env", "tier=web,env=prod", "tier in (web,db),env notin (prod)",
    "size>3", "size<3", "size>2,size<10", "tier>1", "in", "!in", "in in (x)", "notin notin (in)",
    " tier  in  ( web , db ) ", "manifestry.dev/project=apollo", "tier!=web,tier!=db", "none!=x",
    "none notin (x)", "size>03",
    # no selectors:
    ",", "tier,", ",tier", "=web", "tier=web=db", "tier===web", "tier in web", "tier in (web", "tier web",
    "!!tier", "!tier=web", "tier!", "tier=!web", "tier in (a b)", "size>x", "size>", "size>-1", "-tier",
    "tier=-x", "a/b/c", "UPPER.example/x", "tier=a/b", "tier in ((a))", "(", ")", "tier=\u00e9", "\u00e9",
    "tier='web'", f"{'x' * 64}", f"tier={'x' * 64}", "size>99999999999999999999",
]  # fmt: skip


def test_a_label_selector_means_what_it_means_to_kubernetes(team: Team) -> None:
    caller = team.caller("publisher")
    for name, labels in {
        "one": {"tier": "web", "env": "prod", "size": "3"}, "two": {"tier": "db", "example.org/x": "1"},
        "three": {"empty": "", "size": "10"}, "four": {}, "five": {"in": "x", "notin": "in", "tier": "1"},
    }.items():  # fmt: skip
        made = caller.call(
            "POST",
            "/artifacts",
            {"name": name, "project": "apollo", "labels": labels, **TEXT},
            headers=AT_ONCE,
        )
        assert made.status in {201, 202}, made.data
    answered = 0
    for selector in SELECTORS:
        query = f"labelSelector={urllib.parse.quote(selector, safe='')}"
        answer = caller.call("GET", f"/artifacts?{query}")
        wanted = by_kubernetes(team, selector)
        assert answer.status == (400 if wanted is None else 200), (selector, answer.data)
        if wanted is None:
            assert answer.json["errors"][0]["parameter"] == "labelSelector"
        else:
            assert {each["id"] for each in answer.json["items"]} == wanted, selector
            answered += 1
    assert answered == SELECTORS.index(",")


def by_kubernetes(team: Team, selector: str) -> set[str] | None:
    try:
        found = team.cluster.list(ARTIFACTS, team.namespace, label_selector=selector)
    except ApiFailure as failure:
        if failure.status != 400:
            raise
        return None
    return {each["metadata"]["name"] for each in found}


def test_created_after_is_by_the_servers_time(team: Team) -> None:
    caller = team.caller("publisher")
    times = {}
    for name in ("a", "b"):
        times[name] = ready(caller, name).json["createdAt"]
        threading.Event().wait(1.1)  # creation times have seconds
    assert times["a"] < times["b"]
    assert names(caller, f"createdAfter={times['a']}") == ["b"]
    assert names(caller, f"createdAfter={times['a'].replace('Z', '%2B00:00')}") == ["b"]
    assert names(caller, f"createdAfter={times['b']}") == []
    assert names(caller, f"createdAfter={times['a'].replace('Z', '%2B01:00')}") == ["a", "b"]


def test_pages_are_stable_while_others_create_and_delete(team: Team) -> None:
    caller = team.caller("publisher")
    stable = {f"stay-{number:02}" for number in range(25)}

    def create(name: str) -> None:
        made = caller.call("POST", "/artifacts", {"name": name, **TEXT}, headers=AT_ONCE)
        assert made.status in {201, 202}

    def churn(stop: threading.Event) -> None:
        number = 0
        while not stop.is_set():
            create(f"a-churn-{number}")
            create(f"z-churn-{number}")
            caller.call("DELETE", f"/artifacts/a-churn-{number - 2}")
            caller.call("DELETE", f"/artifacts/z-churn-{number - 1}")
            number += 1

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(create, sorted(stable)))
    stop = threading.Event()
    churning = threading.Thread(target=churn, args=(stop,))
    churning.start()
    try:
        for limit in (3, 7):
            seen, token = [], ""
            while True:
                page = caller.call("GET", f"/artifacts?limit={limit}{token}").json
                seen += [each["id"] for each in page["items"]]
                if "continue" not in page:
                    break
                token = f"&continue={page['continue']}"
            assert len(seen) == len(set(seen))
            assert stable <= set(seen)
    finally:
        stop.set()
        churning.join()


def test_a_page_token_is_for_its_filters_and_its_hour(team: Team) -> None:
    caller = team.caller("publisher")
    for name in ("a", "b"):
        caller.call("POST", "/artifacts", {"name": name, **TEXT}, headers=AT_ONCE)
    token = caller.call("GET", "/artifacts?limit=1&mediaType=text/plain").json["continue"]
    path = f"/artifacts?limit=1&mediaType=text/plain&continue={token}"
    assert caller.call("GET", path).status == 200
    for query in (
        "",
        "mediaType=a/b",
        "mediaType=text/plain&labelSelector=x",
        "mediaType=text/plain&project=p",
    ):
        other = caller.call("GET", f"/artifacts?limit=1&{query}&continue={token}")
        assert (other.status, other.json["code"]) == (400, "bad-request"), query
    assert caller.call("GET", f"/jobs?continue={token}").status == 400
    content = json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
    content[1] -= 3601
    old = base64.urlsafe_b64encode(json.dumps(content).encode()).decode()
    expired = caller.call("GET", f"/artifacts?limit=1&mediaType=text/plain&continue={old}")
    assert (expired.status, expired.json["code"]) == (410, "gone")


def test_an_artifact_in_use_is_not_deleted(product: rest.Installation, team: Team) -> None:
    caller = team.caller("admin")
    ready(caller, "a")
    inputs = [{"name": "x", "artifactRef": {"name": "a"}, "path": "/data/x"}]
    job = body(JOBS, "user", {"jobType": rest.JOB_TYPE, "inputs": inputs})
    product.operator.pause()  # it would end the job: inputs are not served yet
    webhooks.unregister_webhook(product.cp)  # nor would this let it in
    try:
        poll_until(lambda: accepted(team, job), "a job with inputs")
        poll_until(lambda: caller.call("GET", "/jobs/user").status == 200, "the job")
        refused = caller.call("DELETE", "/artifacts/a")
        assert (refused.status, refused.json["code"]) == (409, "conflict")
        assert "'user'" in refused.json["detail"]
        found = team.cluster.get(JOBS, "user", team.namespace)
        ended = {
            "type": "Succeeded", "status": "False", "reason": "Failed", "message": "",
            "lastTransitionTime": "2026-05-04T03:02:01Z",
        }  # fmt: skip
        found["status"] = {"observedGeneration": 1, "conditions": [ended]}
        team.cluster.replace(JOBS, found, subresource="status")
        poll_until(lambda: caller.call("GET", "/jobs/user").json["status"] == "failed", "the job's end")
        assert caller.call("DELETE", "/artifacts/a").status == 204
    finally:
        product.operator.resume()
        product.register_webhook()


def accepted(team: Team, job: dict[str, Any]) -> bool:
    try:
        team.cluster.create(JOBS, job, team.namespace)
    except ApiFailure:
        return False
    return True


TRAVERSALS = [
    "..", "%2e%2e", "..%2f..%2fsecrets", "%252e%252e%252f", "..%5c..%5c", "a%00", "a%0d%0aX-Injected:%201",
    "..%2F..%2F..%2F..%2Fapi%2Fv1%2Fnamespaces%2Fkube-system%2Fsecrets", "%E2%80%AE", "a" * 2000, "a?b", "A",
    "%ff",
]  # fmt: skip
ADDRESSES = [
    ("GET", "/artifacts/{}"), ("HEAD", "/artifacts/{}"), ("PATCH", "/artifacts/{}"),
    ("PUT", "/artifacts/{}"), ("DELETE", "/artifacts/{}"), ("GET", "/artifacts/{}/content"),
    ("PUT", "/artifacts/{}/content"), ("GET", "/artifacts/{}/manifest"), ("GET", "/manifests/{}"),
    ("GET", "/jobs/{}"), ("DELETE", "/jobs/{}"), ("POST", "/jobs/{}/cancel"), ("GET", "/jobs/{}/logs"),
    ("GET", "/quotas/{}"), ("GET", "/job-types/{}"),
]  # fmt: skip


def test_no_name_leads_elsewhere(team: Team) -> None:
    caller = team.caller("admin")
    for name in TRAVERSALS:
        for method, template in ADDRESSES:
            headers = MERGE if method == "PATCH" else {}
            content: Any = {} if method in {"PATCH", "PUT"} else None
            answer = caller.call(method, template.format(name), content, headers=headers)
            assert answer.status in {400, 404, 405, 422}, (method, template, name, answer.data)
            assert "x-injected" not in answer.headers
