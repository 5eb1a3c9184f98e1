"""Logs: live, resumable, honest about their end."""

import asyncio
from typing import Any

import aiohttp
import pytest

from manifestry.adapters.kube import apierrors
from manifestry.core.kube import names
from manifestry_api.jobs import tails
from manifestry_api.routes import logs
from tests.unit.api.routes import site as sites
from tests.unit.api.routes.fakecluster import Log
from tests.unit.api.routes.site import NAMESPACE, Site, condition, pod

TEXT = b"line 1\nline 2\nline 3\n"


@pytest.fixture
async def job(site: Site) -> dict[str, Any]:
    made = await site.call("POST", "/jobs", {"name": "j", "jobType": "render"})
    assert made.status == 202
    found = site.cluster.find(names.JOBS, "j", NAMESPACE)
    assert found is not None
    return found


def start(
    site: Site, job: dict[str, Any], state: str = "running", log: Log | None = None, **more: Any
) -> Log:
    site.cluster.logs["p1"] = log or Log(TEXT)
    site.cluster.put(names.PODS, pod("p1", job, state, **more))
    return site.cluster.logs["p1"]


async def finish(site: Site, job: dict[str, Any], log: Log) -> None:
    await log.end()
    site.cluster.put(names.PODS, pod("p1", job, "terminated"))


async def until(holds: Any) -> None:
    async with asyncio.timeout(5):
        while not holds():  # noqa: ASYNC110 - what is watched has no event
            await asyncio.sleep(0.01)


async def test_what_the_pod_has_written_is_text(site: Site, job: dict[str, Any]) -> None:
    start(site, job)
    answer = await site.call("GET", "/jobs/j/logs")
    assert (answer.status, answer.data) == (200, TEXT)
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert answer.headers["Content-Location"] == "/jobs/j/logs?attempt=1&container=job"
    assert answer.headers["Cache-Control"] == "no-store"


async def test_a_follower_sees_lines_while_they_are_written_and_ends_with_the_container(
    site: Site, job: dict[str, Any]
) -> None:
    log = start(site, job)
    async with site.open("/jobs/j/logs?follow=true") as answer:
        assert await answer.content.readexactly(len(TEXT)) == TEXT
        await log.write(b"more\n")
        assert await answer.content.readexactly(5) == b"more\n"
        await finish(site, job, log)
        assert await answer.content.read() == b""
    await until(lambda: log.readers == 0)


async def test_a_follower_of_a_queued_job_waits_for_its_container(
    site: Site, job: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tails, "HEADERS_WITHIN_SECONDS", 0.05)
    monkeypatch.setattr(tails.Tail.prepare, "__defaults__", (0.05,))
    async with site.open("/jobs/j/logs?follow=true") as answer:
        assert answer.status == 200
        start(site, job, "waiting")
        await asyncio.sleep(0.05)
        log = start(site, job, "running")
        assert await answer.content.readexactly(len(TEXT)) == TEXT
        await finish(site, job, log)
        assert await answer.content.read() == b""


async def test_a_job_that_starts_soon_gets_its_location(site: Site, job: dict[str, Any]) -> None:
    waiting = asyncio.create_task(site.call("GET", "/jobs/j/logs?follow=true"))
    await asyncio.sleep(0.1)
    log = start(site, job)
    await until(lambda: log.readers == 1)
    await finish(site, job, log)
    answer = await waiting
    assert (answer.status, answer.data) == (200, TEXT)
    assert "attempt=1" in answer.headers["Content-Location"]


async def test_a_job_that_is_cancelled_in_the_queue_has_no_log(site: Site, job: dict[str, Any]) -> None:
    waiting = asyncio.create_task(site.call("GET", "/jobs/j/logs?follow=true"))
    await asyncio.sleep(0.1)
    site.cluster.set_status(
        names.JOBS, "j", NAMESPACE,
        {"observedGeneration": 1, "conditions": [condition("Succeeded", "False", "Cancelled")]},
    )  # fmt: skip
    answer = await waiting
    assert (answer.status, answer.json["code"]) == (404, "not-found")
    assert "cancelled" in answer.json["detail"]


async def test_a_job_that_is_deleted_in_the_queue_breaks_a_waiting_stream(
    site: Site, job: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tails.Tail.prepare, "__defaults__", (0.05,))
    async with site.open("/jobs/j/logs?follow=true") as answer:
        assert answer.status == 200
        site.cluster.remove(names.JOBS, "j", NAMESPACE)
        with pytest.raises(aiohttp.ClientPayloadError):
            await answer.content.read()


async def test_a_queued_job_has_no_log_yet(site: Site, job: dict[str, Any]) -> None:
    answer = await site.call("GET", "/jobs/j/logs")
    assert (answer.status, answer.json["code"]) == (409, "conflict")


@pytest.mark.parametrize("given", ["offset", "Last-Event-ID"])
async def test_a_client_goes_on_where_it_was(site: Site, job: dict[str, Any], given: str) -> None:
    start(site, job)
    for seen in (0, 1, 7, 10, len(TEXT)):
        if given == "offset":
            answer = await site.call("GET", f"/jobs/j/logs?offset={seen}")
        else:
            answer = await site.call("GET", "/jobs/j/logs", headers={given: str(seen)})
        assert (answer.status, answer.data) == (200, TEXT[seen:])


async def test_a_log_that_became_shorter_is_never_resumed_in_silence(site: Site, job: dict[str, Any]) -> None:
    start(site, job)
    answer = await site.call("GET", f"/jobs/j/logs?follow=true&offset={len(TEXT) + 1}")
    assert (answer.status, answer.json["code"]) == (416, "range-not-satisfiable")
    assert answer.headers["Content-Range"] == f"bytes */{len(TEXT)}"


@pytest.mark.parametrize("how", ["kubelet", "shutdown", "early end"])
async def test_a_broken_stream_is_visibly_incomplete(
    site: Site, job: dict[str, Any], how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tails, "SETTLE_SECONDS", 0.1)
    log = start(site, job)
    async with site.open("/jobs/j/logs?follow=true") as answer:
        assert await answer.content.readexactly(len(TEXT)) == TEXT
        if how == "kubelet":
            await log.break_off()
        elif how == "early end":
            await log.end()
        else:
            site.world.ports.shutdown.set()
        with pytest.raises(aiohttp.ClientPayloadError):
            await answer.content.read()
    await until(lambda: log.readers == 0)


async def test_a_pod_that_is_deleted_after_its_end_ends_the_stream(site: Site, job: dict[str, Any]) -> None:
    log = start(site, job)
    async with site.open("/jobs/j/logs?follow=true") as answer:
        await answer.content.readexactly(len(TEXT))
        site.cluster.remove(names.PODS, "p1", NAMESPACE)
        await log.end()
        assert await answer.content.read() == b""


async def test_a_follower_that_leaves_gives_its_place_back(site: Site, job: dict[str, Any]) -> None:
    log = start(site, job)
    site.world.app.state.log_followers = logs.Followers(1)
    async with site.open("/jobs/j/logs?follow=true") as answer:
        await answer.content.readexactly(len(TEXT))
        busy = await site.call("GET", "/jobs/j/logs")
        assert (busy.status, busy.json["code"], busy.headers["Retry-After"]) == (503, "busy", "5")
    await until(lambda: log.readers == 0)
    assert (await site.call("GET", "/jobs/j/logs")).status == 200
    assert (await site.call("GET", "/jobs/j/logs?attempt=9")).status == 409
    assert (await site.call("GET", "/jobs/j/logs")).status == 200


async def test_a_replica_that_stops_takes_no_followers(site: Site, job: dict[str, Any]) -> None:
    start(site, job)
    site.world.ports.shutdown.set()
    answer = await site.call("GET", "/jobs/j/logs")
    assert (answer.status, answer.json["code"]) == (503, "busy")


async def test_attempts_are_pods_in_the_order_of_creation(site: Site, job: dict[str, Any]) -> None:
    start(site, job, "terminated", second=1)
    site.cluster.logs["p0"] = Log(b"second try\n")
    site.cluster.put(names.PODS, pod("p0", job, "running", second=2))
    assert (await site.call("GET", "/jobs/j/logs?attempt=1")).data == TEXT
    assert (await site.call("GET", "/jobs/j/logs")).data == b"second try\n"
    assert (await site.call("GET", "/jobs/j/logs?attempt=3")).status == 409


async def test_the_kubelet_gets_what_the_client_asked_for(site: Site, job: dict[str, Any]) -> None:
    start(site, job, "terminated")
    path = "/jobs/j/logs?follow=true&tailLines=5&sinceTime=2026-05-04T03:00:00%2B02:00&container=job"
    assert (await site.call("GET", path)).status == 200
    assert site.cluster.log_calls == [
        {
            "pod": "p1", "container": "job", "follow": False, "limit_bytes": None, "tail_lines": 5,
            "since_time": "2026-05-04T01:00:00Z",
        }
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("refusal", "status", "code"),
    [
        (apierrors.ApiError(400, "BadRequest", "container is waiting to start"), 409, "conflict"),
        (apierrors.NotFoundError(404, "NotFound", "pod not found"), 404, "not-found"),
        (apierrors.UnavailableError(503, "ServiceUnavailable", "no kubelet"), 503, "dependency-unavailable"),
    ],
)
async def test_a_refusal_is_typed_and_never_an_empty_log(
    site: Site, job: dict[str, Any], refusal: Exception, status: int, code: str
) -> None:
    start(site, job, log=Log(refusal=refusal))
    answer = await site.call("GET", "/jobs/j/logs?follow=true")
    assert (answer.status, answer.json["code"]) == (status, code)


@pytest.mark.parametrize(
    ("query", "status", "place"),
    [
        ("tailLines=-1", 422, "tailLines"),
        ("attempt=0", 422, "attempt"),
        ("offset=x", 422, "offset"),
        ("sinceTime=yesterday", 422, "sinceTime"),
        ("sinceTime=2026-05-04T03:00:00", 422, "sinceTime"),
        ("sinceTime=1", 422, "sinceTime"),
        ("sinceTime=0001-01-01T00:00:00%2B23:59", 422, "sinceTime"),
        ("sinceTime=9999-12-31T23:59:59-23:59", 422, "sinceTime"),
        ("offset=5&tailLines=5", 422, "tailLines"),
        ("container=nope", 422, "container"),
        ("folow=true", 422, "folow"),
    ],
)
async def test_bad_queries_name_their_parameter(
    site: Site, job: dict[str, Any], query: str, status: int, place: str
) -> None:
    start(site, job)
    answer = await site.call("GET", f"/jobs/j/logs?{query}")
    assert answer.status == status
    assert answer.json["errors"][0]["parameter"] == place


async def test_a_bad_last_event_id_is_a_bad_request(site: Site, job: dict[str, Any]) -> None:
    assert (await site.call("GET", "/jobs/j/logs", headers={"Last-Event-ID": "x"})).status == 400


async def test_another_tenants_log_is_not_there(site: Site, job: dict[str, Any]) -> None:
    start(site, job)
    answer = await site.call("GET", "/jobs/j/logs", headers={"X-Tenant": "other"})
    assert answer.status == 404
    assert sites.NAMESPACE not in answer.data.decode()
